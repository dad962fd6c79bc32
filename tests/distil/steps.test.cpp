#define BOOST_TEST_MODULE steps
#include <boost/test/unit_test.hpp>

#include <filesystem>
#include <tuple>

#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/steps.hpp"

namespace distil_xlstm {

/// Eight steps of the reference: losses, gradient norms, which tensors decay, final weights.
BOOST_AUTO_TEST_CASE_TEMPLATE(training_steps_of_the_reference, T, decltype(std::tuple<float, double>{})) {
  using limits = testing::tolerance<T>;
  device::cpu cpu(2);
  const auto errors =
      testing::step_errors<T>(cpu, std::filesystem::path(DISTIL_XLSTM_TEST_DATA) / "golden/steps");
  BOOST_TEST(errors.size() > 50u);
  for (const auto& e : errors) {
    const double limit = e.name.starts_with("final ") ? limits::trained_weights : limits::training_steps;
    BOOST_TEST(e.error <= limit, e.name << ": off by " << e.error << ", at most " << limit);
  }
}

}  // namespace distil_xlstm
