#include "gpu.hpp"

#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/steps.hpp"

// Whole training steps on the GPU, the live teacher included, against the reference's in float64.
namespace distil_xlstm {

BOOST_AUTO_TEST_CASE_TEMPLATE(training_steps_of_the_reference, T, decltype(std::tuple<float, double>{})) {
  using limits = testing::tolerance<T>;
  device::cuda gpu;
  for (const char* log : {"steps.json", "code.json"}) {
    const auto errors =
        testing::step_errors<T>(gpu, std::filesystem::path(DISTIL_XLSTM_TEST_DATA) / "golden/steps" / log);
    BOOST_TEST(errors.size() > 50u);
    for (const auto& e : errors) {
      const bool late = std::string_view(log) == "code.json" && testing::last_norm(e.name);
      const double limit = e.name.starts_with("final ") ? limits::trained_weights
                           : late                       ? limits::last_norms
                                                        : limits::training_steps;
      BOOST_TEST(e.error <= limit, log << ": " << e.name << ": off by " << e.error << ", at most " << limit);
    }
    const auto w = testing::worst(errors);
    BOOST_TEST_MESSAGE(log << ": " << w.error << " in " << w.name);
  }
}

}  // namespace distil_xlstm
