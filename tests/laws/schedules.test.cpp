#include <boost/test/unit_test.hpp>

#include <distil_xlstm/schedule/any.hpp>
#include <distil_xlstm/schedule/learning_rate.hpp>
#include <distil_xlstm/testing/check_schedule.hpp>

// The laws of Schedule, over every shape.
namespace distil_xlstm::schedule {
namespace {

template <Schedule S>
void check(const char* what, const S& s, double low, double high) {
  const auto report = testing::check_schedule(s, low, high);
  BOOST_TEST(report.ok(), what << ": " << report.text);
}

/// A schedule that goes beyond its end, and one that is another in each copy.
struct overshoots {
  using scalar = double;
  double at(const clock& c) const {
    return 1 - 1.1 * static_cast<double>(c.step) / static_cast<double>(c.total_steps);
  }
};
struct counts_calls {
  using scalar = double;
  mutable double calls = 0;
  double at(const clock&) const { return calls += 1e-9; }
};

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(shapes, T, decltype(std::tuple<float, double>{})) {
  check("constant", constant<T>{T(0.3)}, 0.3, 0.3);
  check("linear", linear<T>{T(0.8), T(0.5)}, 0.5, 0.8);
  check("linear of a length of its own", linear<T>{T(1), T(4), 17}, 1, 4);
  check("cosine", cosine<T>{T(2), T(1)}, 1, 2);
  check("cosine, rising", cosine<T>{T(-1), T(1), 1000}, -1, 1);
  check("logarithmic", logarithmic<T>{T(0.8), T(0.5)}, 0.5, 0.8);
  for (const auto rule : {decrement::relative, decrement::constant})
    for (const auto k : {counter::per_epoch, counter::global})
      for (const auto when : {update::paper, update::code, update::code_stale}) {
        const delta<T> d{T(2), T(1), T(0.05), rule, k, when};
        check("delta", d, 1, 2);
        check("any delta", any<T>(d), 1, 2);
      }
  for (const auto* name : {"constant", "linear", "cosine", "logarithmic", "delta", "delta-constant"})
    check(name, any<T>::named(name, T(0.8), T(0.5)), 0.5, 0.8);
  for (const auto after : {annealing::constant, annealing::cosine})
    for (const bool zero_start : {false, true})
      check("learning_rate",
            learning_rate<T>{
                .peak = T(0.5), .floor = T(0.1), .warmup = 20, .after = after, .zero_start = zero_start},
            0, 0.5);
  check("arithmetic", 1 - linear<T>{T(0.8), T(0.5)} - constant<T>{T(0.1)}, 0.1, 0.4);
}

BOOST_AUTO_TEST_CASE(faults_are_found_under_their_law) {
  BOOST_TEST(testing::check_schedule(linear{2.0, 1.0}, 1.5, 2).law == "values lie between their bounds");
  BOOST_TEST(testing::check_schedule(overshoots{}, 0, 1).law == "values lie between their bounds");
  BOOST_TEST(testing::check_schedule(counts_calls{}, 0, 1).law == "a schedule is a function of the clock");
  BOOST_TEST(testing::check_schedule(linear{2.0, 1.0}, 1.5, 2).text.find("step 151 of 300") !=
             std::string::npos);
}

}  // namespace distil_xlstm::schedule
