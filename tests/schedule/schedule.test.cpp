#include <boost/test/unit_test.hpp>

#include <cmath>

#include <distil_xlstm/schedule/any.hpp>
#include <distil_xlstm/schedule/arithmetic.hpp>
#include <distil_xlstm/schedule/learning_rate.hpp>

namespace distil_xlstm::schedule {

static_assert(Schedule<constant<double>> && Schedule<linear<float>> && Schedule<cosine<double>>);
static_assert(Schedule<logarithmic<double>> && Schedule<delta<double>> && Schedule<learning_rate<float>>);
static_assert(Schedule<any<double>> && Schedule<any<float>>);
static_assert(!Schedule<double> && NumberOrSchedule<int> && !NumberOrSchedule<const char*>);
static_assert(std::same_as<decltype(linear{1, 0})::scalar, double>);

namespace {
constexpr clock in_epoch(index epoch, index k) { return {epoch * 312 + k, 3120, 312}; }
auto near(double digits) { return boost::test_tools::tolerance(digits); }
}  // namespace

BOOST_AUTO_TEST_CASE(clock_counts_epochs_and_restarts) {
  const clock c{1000, 3120, 312};
  BOOST_TEST(c.epoch() == 3);
  BOOST_TEST(c.step_in_epoch() == 64);
  const auto job = c.restarted(2);
  BOOST_TEST(job.step == 376);
  BOOST_TEST(job.total_steps == 624);
  BOOST_TEST(clock{7}.epoch() == 0);
}

// The published values of alpha 0.8 -> 0.5 and T 2 -> 1 with Delta = 0.05 and 312 steps an epoch, to their four
// digits.
BOOST_AUTO_TEST_CASE(delta_rule_of_the_code) {
  const delta alpha{0.8, 0.5}, temperature{2.0, 1.0};
  const double ks[] = {0, 1, 10, 100, 311}, a[] = {.8, .6772, .5883, .5534, .5445},
               t[] = {2, 1.5906, 1.2943, 1.1781, 1.1483};
  for (int i = 0; i < 5; ++i) {
    BOOST_TEST(std::abs(alpha.at(in_epoch(0, static_cast<index>(ks[i]))) - a[i]) < 5e-5);
    BOOST_TEST(std::abs(temperature.at(in_epoch(0, static_cast<index>(ks[i]))) - t[i]) < 5e-5);
  }
  BOOST_TEST(alpha.at(in_epoch(1, 0)) == 0.76, near(1e-12));
  BOOST_TEST(std::abs(alpha.base(4) - 0.6516) < 5e-5);
  BOOST_TEST(std::abs(alpha.base(9) - 0.5042) < 5e-5);
  BOOST_TEST(alpha.base(10) == 0.5);
  BOOST_TEST(alpha.base(1000000) == 0.5);
  BOOST_TEST(temperature.base(1) == 1.9, near(1e-12));
  BOOST_TEST(temperature.base(2) == 1.805, near(1e-12));
  BOOST_TEST(std::abs(temperature.base(9) - 1.2605) < 5e-5);
}

BOOST_AUTO_TEST_CASE(delta_rule_of_the_paper) {
  const delta alpha{0.8, 0.5, 0.05, decrement::constant}, temperature{2.0, 1.0, 0.05, decrement::constant};
  for (index e = 0; e < 7; ++e) BOOST_TEST(alpha.base(e) == 0.8 - 0.05 * static_cast<double>(e), near(1e-12));
  BOOST_TEST(alpha.base(7) == 0.5);
  BOOST_TEST(temperature.base(9) == 1.55, near(1e-12));
}

BOOST_AUTO_TEST_CASE(delta_counters_and_updates) {
  delta d{0.8, 0.5, 0.05, decrement::relative, counter::global, update::paper};
  BOOST_TEST(d.at(in_epoch(1, 3)) == logarithmic<double>({0.76, 0.5}).at({315}), near(1e-12));
  d.k = counter::per_epoch;
  d.when = update::code;
  BOOST_TEST(d.at(in_epoch(0, 0)) == 0.8);
  BOOST_TEST(d.at(in_epoch(0, 1)) == 0.8);
  BOOST_TEST(d.at(in_epoch(0, 2)) == logarithmic<double>({0.8, 0.5}).at({1}));
  BOOST_TEST(d.at(in_epoch(1, 0)) == 0.76, near(1e-12));
  d.when = update::code_stale;
  BOOST_TEST(d.at(in_epoch(0, 0)) == 0.8);
  BOOST_TEST(d.at(in_epoch(1, 0)) == logarithmic<double>({0.8, 0.5}).at({311}));
  BOOST_TEST(d.at(in_epoch(1, 1)) == 0.76, near(1e-12));
}

BOOST_AUTO_TEST_CASE(plain_shapes) {
  const clock start{0, 100}, half{50, 100}, end{100, 100}, past{500, 100};
  const linear l{4.0, 1.0};
  BOOST_TEST(l.at(start) == 4.0);
  BOOST_TEST(l.at(half) == 2.5);
  BOOST_TEST(l.at(past) == 1.0);
  BOOST_TEST((linear{4.0, 1.0, 200}.at(half)) == 3.25);
  const cosine c{1.0, 0.2};
  BOOST_TEST(c.at(start) == 1.0);
  BOOST_TEST(c.at(half) == 0.6, near(1e-12));
  BOOST_TEST(c.at(end) == 0.2, near(1e-12));
  BOOST_TEST(linear<double>({1, 0}).at({0, 0}) == 1.0);
}

static_assert(Schedule<decltype(1 - linear{0.6, 0.2} - any<double>(0.1))>);
static_assert(std::same_as<decltype(1.0 - linear{0.5f, 0.f})::scalar, float>);

BOOST_AUTO_TEST_CASE(any_is_the_shape_it_names) {
  const clock c = in_epoch(3, 17);
  BOOST_TEST(any<double>::named("constant", 2, 1).at(c) == 2);
  BOOST_TEST(any<double>::named("linear", 2, 1).at(c) == (linear{2.0, 1.0}.at(c)));
  BOOST_TEST(any<double>::named("cosine", 2, 1).at(c) == (cosine{2.0, 1.0}.at(c)));
  BOOST_TEST(any<double>::named("logarithmic", 2, 1).at(c) == (logarithmic{2.0, 1.0}.at(c)));
  BOOST_TEST(any<double>::named("delta", 2, 1).at(c) == (delta{2.0, 1.0}.at(c)));
  BOOST_TEST(any<double>::named("delta-constant", 2, 1).at(c) ==
             (delta{2.0, 1.0, 0.05, decrement::constant}.at(c)));
  for (auto name : {"constant", "linear", "cosine", "logarithmic", "delta-relative", "delta-constant"})
    BOOST_TEST(any<double>::named(name, 2, 1).name() == name);
  BOOST_CHECK_THROW(any<double>::named("increasing", 2, 1), error);
}

BOOST_AUTO_TEST_CASE(learning_rates) {
  const learning_rate<double> lr{.peak = 2e-4, .warmup = 10};
  BOOST_TEST(lr.at({0, 110}) == 2e-5, near(1e-12));
  BOOST_TEST(lr.at({9, 110}) == 2e-4, near(1e-12));
  BOOST_TEST(lr.at({10, 110}) == 2e-4, near(1e-12));
  BOOST_TEST(lr.at({60, 110}) == 1e-4, near(1e-12));
  BOOST_TEST(std::abs(lr.at({110, 110})) < 1e-18);
  const learning_rate<double> hf{.peak = 2e-4, .warmup = 10, .zero_start = true};
  BOOST_TEST(hf.at({0, 110}) == 0);
  BOOST_TEST(hf.at({5, 110}) == 1e-4, near(1e-12));
  const learning_rate<double> flat{.peak = 1e-3, .after = annealing::constant};
  BOOST_TEST(flat.at({0, 10}) == 1e-3);
  BOOST_TEST(flat.at({99, 10}) == 1e-3);
  BOOST_TEST((annealing_named("cosine") == annealing::cosine));
  BOOST_CHECK_THROW(annealing_named("wsd"), error);
}

}  // namespace distil_xlstm::schedule
