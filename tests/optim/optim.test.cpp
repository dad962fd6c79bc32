#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/optim/adamw.hpp>
#include <distil_xlstm/optim/gradient_norm.hpp>

#include "../random_numbers.hpp"

namespace distil_xlstm::optim {

/// Two steps by hand: p = 1, g = 0.5 then -1, lr = 0.1, wd = 0.01, default betas.
BOOST_AUTO_TEST_CASE(a_trace_by_hand) {
  device::cpu cpu(1);
  double p = 1, m = 0, v = 0, g = 0.5;
  adamw_state<double> state{&m, &v};
  const adamw h{.weight_decay = 0.01};
  const double lr = 0.1;
  step(cpu, h, lr, &p, &g, state, 1);
  BOOST_TEST(m == 0.05, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(v == 0.00025, boost::test_tools::tolerance(1e-12));
  // m / (1 - 0.9) = 0.5, sqrt(v / (1 - 0.999)) = 0.5
  BOOST_TEST(p == 0.999 - 0.1 * 0.5 / (0.5 + 1e-8), boost::test_tools::tolerance(1e-14));
  const double before = p;
  g = -1;
  step(cpu, h, lr, &p, &g, state, 1);
  BOOST_TEST(state.step == 2);
  BOOST_TEST(m == -0.055, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(v == 0.00124975, boost::test_tools::tolerance(1e-12));
  const double root = std::sqrt(0.00124975 / (1 - 0.999 * 0.999));
  BOOST_TEST(p == before * 0.999 + 0.1 * (0.055 / 0.19) / (root + 1e-8), boost::test_tools::tolerance(1e-13));
}

BOOST_AUTO_TEST_CASE_TEMPLATE(arenas_ranges_and_clipping, T, decltype(std::tuple<float, double>{})) {
  constexpr index n = 10007;
  const std::vector<parameter_range> ranges{
      {0, 100, true, 0.5}, {112, 5000, true}, {5120, 77, false, 2}, {5200, 4807, true, 0}};
  const adamw h{.weight_decay = 0.1};
  const double clip = 0.25;
  device::cpu cpu(2);
  auto p = random_numbers<T>(n, 1);
  std::vector<T> m(n, T(0)), v(n, T(0));
  std::vector<double> q(p.begin(), p.end()), a(n, 0), b(n, 0);
  adamw_state<T> state{m.data(), v.data()};
  for (int t = 1; t <= 5; ++t) {
    const auto g = random_numbers<T>(n, 10 + static_cast<std::uint64_t>(t));
    const double lr = 1e-2 / t;
    step(cpu, h, lr, p.data(), g.data(), state, n, ranges, clip);
    for (std::size_t i = 0; i < n; ++i) {
      const bool decays = i < 5120 || i >= 5200;
      const double rate = lr * (i < 112 ? 0.5 : i < 5120 ? 1 : i < 5200 ? 2 : 0);
      const double x = clip * static_cast<double>(g[i]);
      if (decays) q[i] *= 1 - rate * 0.1;
      a[i] = 0.9 * a[i] + 0.1 * x;
      b[i] = 0.999 * b[i] + 0.001 * x * x;
      q[i] -= rate * (a[i] / (1 - std::pow(0.9, t))) / (std::sqrt(b[i] / (1 - std::pow(0.999, t))) + 1e-8);
    }
  }
  double worst = 0;
  for (std::size_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(static_cast<double>(p[i]) - q[i]));
  BOOST_TEST(worst < (sizeof(T) == 8 ? 1e-13 : 2e-6));
  BOOST_CHECK_THROW(step(cpu, h, 1e-2, p.data(), p.data(), state, 5300, ranges), error);
  const std::vector<parameter_range> overlapping{{0, 100, true}, {50, 100, true}};
  BOOST_CHECK_THROW(step(cpu, h, 1e-2, p.data(), p.data(), state, n, overlapping), error);
}

/// The numbers of a step in memory, and stretches of equal decay as a table: what a GPU's step reads.
BOOST_AUTO_TEST_CASE(steps_that_wait_for_nobody) {
  constexpr index n = 5003;
  const std::vector<parameter_range> ranges{{0, 7, true}, {7, 0, false}, {7, 2000, true}, {2016, 900, false}};
  const adamw h{.weight_decay = 0.1};
  device::cpu cpu(2);
  auto p = random_numbers<float>(n, 1), q = p;
  std::vector<float> m(n, 0), v(n, 0), a(n, 0), b(n, 0);
  adamw_state<float> state{m.data(), v.data()};
  std::int64_t count = 0;
  adamw_scalars<float> numbers{};
  double norm[2];
  for (int t = 1; t <= 3; ++t) {
    auto g = random_numbers<float>(n, 10 + static_cast<std::uint64_t>(t));
    const double lr = 1e-2 / t;
    squared_norm(cpu, g.data(), n, norm);
    step(cpu, h, lr, p.data(), g.data(), state, n, ranges, clip_factor(std::sqrt(norm[0]), 3.0));
    prepare_step(cpu, h, &lr, 3.0, norm, &count, &numbers);
    step(cpu, h, &numbers, q.data(), g.data(), a.data(), b.data(), n, ranges);
    BOOST_TEST(p == q);
    BOOST_TEST(m == a);
    BOOST_TEST(v == b);
    g[44] = INFINITY;
    squared_norm(cpu, g.data(), n, norm);
    prepare_step(cpu, h, &lr, 3.0, norm, &count, &numbers);
    step(cpu, h, &numbers, q.data(), g.data(), a.data(), b.data(), n, ranges);
    BOOST_TEST(p == q);
    BOOST_TEST(count == t);
  }

  detail::many_runs<float> runs{};
  const adamw_scalars<float> scalars{1, 0.5f, 3, 1};
  for (const index end : {3, 40, 41, 100}) {
    runs.decays[runs.count] = runs.count % 2 == 1, runs.rates[runs.count] = runs.count == 3 ? 0.5f : 1.0f;
    runs.ends[runs.count++] = end;
  }
  using V = device::pack<float>;
  for (index i = 0; i < 84; ++i) {
    float keep[16], step[16];
    const auto f = runs.factors<V>(i, scalars);
    math::store<V>(keep, f.keep), math::store<V>(step, f.step_size);
    for (index j = 0; j < 16; ++j) {
      const index at = i + j;
      BOOST_TEST(keep[j] == (at >= 3 && at < 40 ? 0.5f : at >= 41 ? 0.75f : 1.0f));
      BOOST_TEST(step[j] == (at >= 41 ? 1.5f : 3.0f));
      BOOST_TEST(runs.factors<float>(at, scalars).keep == keep[j]);
      BOOST_TEST(runs.factors<float>(at, scalars).step_size == step[j]);
    }
  }
}

BOOST_AUTO_TEST_CASE(norms) {
  auto g = random_numbers<float>(100003, 3);
  double sum = 0;
  for (float x : g) sum += static_cast<double>(x) * static_cast<double>(x);
  double one = 0;
  for (int threads : {1, 2, 4}) {
    device::cpu cpu(threads);
    const auto got = global_norm(cpu, g.data(), static_cast<index>(g.size()));
    BOOST_TEST(got.value == std::sqrt(sum), boost::test_tools::tolerance(1e-13));
    BOOST_TEST(got.first_non_finite == -1);
    if (one == 0) one = got.value;
    BOOST_TEST(got.value == one);
  }
  device::cpu cpu(2);
  BOOST_TEST(global_norm(cpu, g.data(), 0).value == 0);
  g[0] = 3e38f;  // its square leaves float, not double
  BOOST_TEST(global_norm(cpu, g.data(), 100003).finite());
  g[70001] = std::numeric_limits<float>::infinity();
  BOOST_TEST(!global_norm(cpu, g.data(), 100003).finite());
  BOOST_TEST(global_norm(cpu, g.data(), 100003).first_non_finite == 70001);
  g[555] = std::nanf("");
  BOOST_TEST(global_norm(cpu, g.data(), 100003).first_non_finite == 555);

  BOOST_TEST(clip_factor(0.5, 1.0) == 1.0);
  BOOST_TEST(clip_factor(4.0, 1.0) == 1.0 / 4.000001, boost::test_tools::tolerance(1e-14));
  BOOST_TEST(clip_factor(4.0, 0.0) == 1.0);
}

}  // namespace distil_xlstm::optim
