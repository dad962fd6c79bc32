#include <boost/test/unit_test.hpp>

#include <filesystem>
#include <tuple>

#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/steps.hpp"

namespace distil_xlstm {

/// Eight steps of constant weights, ten as the authors' code takes them: losses, gradient norms, what schedules
/// say, which tensors decay, final weights.
BOOST_AUTO_TEST_CASE_TEMPLATE(training_steps_of_the_reference, T, decltype(std::tuple<float, double>{})) {
  using limits = testing::tolerance<T>;
  device::cpu cpu(2);
  const auto folder = std::filesystem::path(DISTIL_XLSTM_TEST_DATA) / "golden/steps";
  for (const char* log : {"steps.json", "code.json"}) {
    const auto errors = testing::step_errors<T>(cpu, folder / log);
    BOOST_TEST(errors.size() > 50u);
    for (const auto& e : errors) {
      const bool late = std::string_view(log) == "code.json" && testing::last_norm(e.name);
      const double limit = e.name.starts_with("final ") ? limits::trained_weights
                           : late                       ? limits::last_norms
                                                        : limits::training_steps;
      BOOST_TEST(e.error <= limit, log << " " << e.name << ": off by " << e.error << ", at most " << limit);
    }
  }
}

/// The tensors that decay are those of the reference's optimiser groups: the name holds "weight", and not "norm".
BOOST_AUTO_TEST_CASE(weight_decay_is_that_of_the_reference) {
  device::cpu cpu(1);
  index students = 0, decayed = 0;
  const auto folder = std::filesystem::path(DISTIL_XLSTM_TEST_DATA) / "golden/student";
  for (const auto& f : std::filesystem::directory_iterator(folder)) {
    if (!std::filesystem::exists(f.path() / "config.json")) continue;
    ++students;
    const auto student = load_xlstm<float>(cpu, f.path());
    for (const auto& e : student.names()) {
      const bool expected = e.name.find("weight") != e.name.npos && e.name.find("norm") == e.name.npos;
      BOOST_TEST((e.decay == weight_decay::yes) == expected, f.path().filename() << " " << e.name);
      decayed += expected;
    }
  }
  BOOST_TEST(students >= 20);
  BOOST_TEST(decayed > 100);
}

}  // namespace distil_xlstm
