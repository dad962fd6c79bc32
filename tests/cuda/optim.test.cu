#include "compare.hpp"

#include <distil_xlstm/optim/adamw.hpp>
#include <distil_xlstm/optim/gradient_norm.hpp>

// The optimiser on the GPU against the CPU in double.
namespace distil_xlstm::optim {
namespace {

/// Parameters and moments after three steps, one after another; `in_memory`: nothing on the host takes part.
template <class T, class D>
std::vector<double> steps(D& d, index n, std::span<const parameter_range> ranges, bool in_memory) {
  const adamw h{.weight_decay = 0.1};
  const on_device<T, D> p(d, random_numbers(n, 1));
  const std::vector<double> zeros(static_cast<std::size_t>(n), 0.0);
  const on_device<T, D> m(d, zeros), v(d, zeros);
  adamw_state<T> state{m.data(), v.data()};
  const buffer<std::int64_t, D> count(d, 1);
  const buffer<adamw_scalars<T>, D> numbers(d, 1);
  const buffer<double, D> norm(d, 2), rate(d, 1);
  for (std::uint64_t t = 1; t <= 3; ++t) {
    const on_device<T, D> g(d, random_numbers(n, 10 + t));
    const double lr = 1e-2 / static_cast<double>(t);
    if (in_memory) {
      d.upload(rate.data(), &lr, sizeof lr);
      squared_norm(d, g.data(), n, norm.data());
      prepare_step(d, h, rate.data(), 3.0, norm.data(), count.data(), numbers.data());
      step(d, h, numbers.data(), p.data(), g.data(), m.data(), v.data(), n, ranges);
    } else {
      step(d, h, lr, p.data(), g.data(), state, n, ranges, clip_factor(global_norm(d, g.data(), n).value, 3.0));
    }
  }
  if (in_memory) {
    // Another one, which a gradient that is no number keeps from happening.
    const double bad[] = {std::nan(""), 0.0};
    d.upload(norm.data(), bad, sizeof bad);
    const on_device<T, D> g(d, n);
    prepare_step(d, h, rate.data(), 3.0, norm.data(), count.data(), numbers.data());
    step(d, h, numbers.data(), p.data(), g.data(), m.data(), v.data(), n, ranges);
  }
  auto all = p.numbers();
  for (const auto* x : {&m, &v}) {
    const auto more = x->numbers();
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(steps_of_adamw, T, decltype(std::tuple<float, double>{})) {
  device::cuda gpu;
  device::cpu cpu(2);
  const std::vector<parameter_range> none{},
      some{{0, 7, true}, {7, 0, false}, {7, 2000, true}, {2016, 900, false}};
  std::vector<parameter_range> many;
  for (index i = 0; i < 700; ++i)
    many.push_back({16 * i + i % 3, 10 + i % 4, i % 2 == 0, i % 5 == 0 ? 0.5 : 1});
  const double most = sizeof(T) == 8 ? 1e-14 : 1e-6;
  for (const index n : {index{1}, index{5003}, index{300001}})
    for (const auto& ranges : {none, some, many}) {
      if (!ranges.empty() && ranges.back().offset + ranges.back().size > n) continue;
      const auto want = steps<double>(cpu, n, ranges, false);
      check_close("adamw", steps<T>(gpu, n, ranges, false), want, most);
      check_close("adamw, numbers in memory", steps<T>(gpu, n, ranges, true), want, most);
    }
}

BOOST_AUTO_TEST_CASE(a_recorded_step) {
  constexpr index n = 70001;
  const std::vector<parameter_range> ranges{{0, 700, true}, {704, 2000, false}, {2704, 900, true}};
  device::cuda gpu;
  const adamw h{.weight_decay = 0.1};
  const std::vector<double> zeros(n, 0.0);
  const buffer<double, device::cuda> norm(gpu, 2), rate(gpu, 1);
  const auto run = [&](bool recorded) {
    const on_device<float, device::cuda> p(gpu, random_numbers(n, 1)), g(gpu, random_numbers(n, 2)),
        m(gpu, zeros), v(gpu, zeros);
    const buffer<std::int64_t, device::cuda> count(gpu, 1);
    const buffer<adamw_scalars<float>, device::cuda> numbers(gpu, 1);
    const auto work = [&] {
      squared_norm(gpu, g.data(), n, norm.data());
      prepare_step(gpu, h, rate.data(), 3.0, norm.data(), count.data(), numbers.data());
      step(gpu, h, numbers.data(), p.data(), g.data(), m.data(), v.data(), n, ranges);
    };
    device::cuda::graph graph{};
    if (recorded) graph = gpu.record(work);
    for (const double lr : {1e-2, 5e-3, 2e-3}) {
      gpu.upload(rate.data(), &lr, sizeof lr);
      if (recorded)
        gpu.launch(graph);
      else
        work();
    }
    const auto all = p.numbers();
    if (recorded) gpu.discard(graph);
    return all;
  };
  const auto want = run(false);  // and its scratch memory is there
  BOOST_TEST(run(true) == want, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(norms) {
  device::cuda gpu;
  device::cpu cpu(2);
  for (const index n : {1, 4095, 4097, 100003, 3000000}) {
    auto x = random_numbers(n, 3);
    const auto both = [&] {
      const on_device<float, device::cuda> a(gpu, x);
      const on_device<float, device::cpu> b(cpu, x);
      const auto got = global_norm(gpu, a.data(), n), want = global_norm(cpu, b.data(), n);
      BOOST_TEST(got.first_non_finite == want.first_non_finite);
      BOOST_TEST(got.finite() == want.finite());
      if (want.finite()) BOOST_TEST(got.value == want.value, boost::test_tools::tolerance(1e-12));
      BOOST_TEST((got.value == global_norm(gpu, a.data(), n).value || !got.finite()));
    };
    both();
    x[static_cast<std::size_t>(n - 1)] = std::numeric_limits<double>::infinity();
    both();
    x[static_cast<std::size_t>(n / 2)] = std::nan("");
    both();
  }
}

}  // namespace distil_xlstm::optim
