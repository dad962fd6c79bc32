#include "compare.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <distil_xlstm/op/gated_activation/op.hpp>
#include <distil_xlstm/op/mlstm_layer/op.hpp>
#include <distil_xlstm/op/slstm_layer/op.hpp>

// A token of many texts through an sLSTM's and an mLSTM's layer, on the GPU against the CPU in double.
namespace distil_xlstm {
namespace {

using numbers = std::vector<std::vector<double>>;

/// Of each row a token, of which every third begins a document.
std::vector<std::int32_t> every_third_begins(index rows) {
  std::vector<std::int32_t> start(static_cast<std::size_t>(rows));
  for (std::size_t r = 0; r < start.size(); ++r) start[r] = r % 3 == 1 ? 0 : -1;
  return start;
}

/// A token of each of `rows` sequences, the first of them the same: what `slstm_layer_forward` leaves. All that is
/// multiplied is numbers that bfloat16 holds.
template <class T, class D>
numbers slstm_layer_step(D& d, index rows, index heads, index head, bool documents, bool skips) {
  const index width = heads * head, square = heads * head * head;
  const auto scaled = [&](index n, std::uint64_t seed, double scale) {
    auto x = rounded_numbers(n, seed);
    for (auto& v : x) v *= scale;
    return x;
  };
  auto before = scaled(rows * 4 * width, 1, 1);
  for (std::size_t i = 0; i < before.size(); ++i)  // n is positive
    if (static_cast<index>(i) / width % 4 == 2) before[i] = 1 + std::abs(before[i]);
  const on_device<T, D> w(d, scaled(4 * square, 2, 1. / 16)), r(d, scaled(4 * square, 3, 1. / 16)),
      bias(d, random_numbers(4 * width, 4)), a(d, scaled(rows * width, 5, 1)), x(d, scaled(rows * width, 6, 1)),
      weight(d, random_numbers(width, 7)), skip(d, random_numbers(rows * width, 8)), state(d, before),
      raw(d, rows * 4 * width), states(d, rows * 4 * width), initial(d, rows * 4 * width),
      statistics(d, rows * heads * 2), y(d, rows * width);
  const on_device<std::int32_t, D> start(d, every_third_begins(rows));
  const auto view = [&](const on_device<T, D>& m, index cols) { return matrix_view<T>(m.data(), rows, cols); };
  slstm_layer_forward(
      d, slstm_layer_arguments<T>{{{rows, 1, documents ? start.data() : nullptr},
                                   heads,
                                   head,
                                   r.data(),
                                   bias.data(),
                                   view(raw, 4 * width),
                                   view(states, 4 * width),
                                   initial.data(),
                                   {state.data(), 4 * width}},
                                  {w.data(), w.data() + square, w.data() + 2 * square, w.data() + 3 * square},
                                  view(a, width),
                                  view(x, width),
                                  {heads, head, true, false, T(1e-5), weight.data()},
                                  statistics.data(),
                                  view(y, width),
                                  skips ? matrix_view<const T>(view(skip, width)) : matrix_view<const T>()});
  return {y.numbers(),       states.numbers(),     raw.numbers(),
          initial.numbers(), statistics.numbers(), state.numbers()};
}

/// The same of `mlstm_layer_forward`, where no backward follows.
template <class T, class D>
numbers mlstm_layer_step(D& d, index rows, index heads, index head, index window, bool documents) {
  const index inner = heads * head;
  const auto random = [&](index n, std::uint64_t seed, double spread = 1) {
    return on_device<T, D>(d, random_numbers(n, seed, spread));
  };
  const auto taps = random(inner * window, 1), tap_bias = random(inner, 2), w = random(3 * inner * 4, 3, 0.5),
             wi = random(heads * 3 * inner, 4, 0.03), wf = random(heads * 3 * inner, 5, 0.03),
             bi = random(heads, 6), bf = random(heads, 7), e = random(rows * 2 * inner, 8),
             past = random(rows * (window - 1) * inner, 9), c = random(rows * heads * head * head, 10),
             n = random(rows * inner, 11), m = random(rows * heads, 12);
  const on_device<T, D> before(d, rows * (window - 1) * inner), u(d, rows * inner), a(d, rows * inner),
      qkv(d, rows * 3 * inner), i(d, rows * heads), f(d, rows * heads), h(d, rows * inner);
  const on_device<std::int32_t, D> start(d, every_third_begins(rows));
  const sequence_view seq{rows, 1, documents ? start.data() : nullptr};
  const auto view = [&](const on_device<T, D>& x, index cols) { return matrix_view<T>(x.data(), rows, cols); };
  const auto state = [&](const on_device<T, D>& x, index each) { return batched_state<T>{x.data(), each}; };
  mlstm_layer_forward(
      d, mlstm_layer_arguments<T>{
             {{seq, window, inner, matrix_view<const T>(e.data(), rows, inner, 2 * inner), before.data()},
              taps.data(),
              tap_bias.data(),
              view(u, inner),
              view(a, inner),
              state(past, (window - 1) * inner),
              before.data()},
             4,
             {w.data(), w.data() + inner * 4, w.data() + 2 * inner * 4},
             {},
             {matrix_view<T>(wi.data(), heads, 3 * inner), matrix_view<T>(wf.data(), heads, 3 * inner)},
             {bi.data(), bf.data()},
             view(qkv, 3 * inner),
             {view(i, heads), view(f, heads)},
             mlstm_shape{heads, head, head},
             view(h, inner),
             {state(c, heads * head * head), state(n, inner), state(m, heads)},
             nullptr});
  return {h.numbers(),      a.numbers(),    u.numbers(), qkv.numbers(), i.numbers(), f.numbers(),
          before.numbers(), past.numbers(), c.numbers(), n.numbers(),   m.numbers()};
}

/// A gated product of numbers that bfloat16 holds.
template <class T, class D>
numbers gated_product(D& d, index rows, index width, index n, activation act) {
  const on_device<T, D> x(d, rounded_numbers(rows * width, 1)), w(d, rounded_numbers(2 * n * width, 2)),
      up(d, rows * 2 * n), y(d, rows * n);
  gated_product_forward(d,
                        gated_product_arguments<T, T, matrix_view<const T>>{
                            act, {x.data(), rows, width}, {w.data(), 2 * n, width}, {up.data(), rows, 2 * n}},
                        matrix_view<T>(y.data(), rows, n));
  return {y.numbers()};
}

/// As the CPU's, and the first rows are the same whoever is beside them.
template <class F>
void check_steps(const std::string& what, const std::vector<index>& rows, double limit, const F& results) {
  device::basic_cuda<bf16_mixed> gpu;
  device::cpu cpu(2);
  const auto all = results(gpu, float(), rows.back());
  for (const index n : rows) {
    const auto some = results(gpu, float(), n);
    check_all(what + ", " + std::to_string(n) + " rows", some, results(cpu, double(), n), limit);
    for (std::size_t i = 0; i < some.size(); ++i)
      BOOST_TEST(std::equal(some[i].begin(), some[i].end(), all[i].begin()),
                 what << ", " << n << " rows, result " << i);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_step_of_an_slstm_layer) {
  for (const auto& [heads, head] : {std::array<index, 2>{4, 144}, {3, 40}, {2, 264}})
    for (const bool documents : {false, true})
      check_steps("slstm", {1, 3, 12, 40, 64}, 3e-5,
                  [heads = heads, head = head, documents](auto& d, auto number, index rows) {
                    return slstm_layer_step<decltype(number)>(d, rows, heads, head, documents, !documents);
                  });
}

BOOST_AUTO_TEST_CASE(gated_products) {
  for (const auto& [width, n] : {std::array<index, 2>{768, 1024}, {1024, 40}, {72, 12}, {400, 1056}})
    for (const activation act : {activation::gelu, activation::silu})
      check_steps("gated product", {1, 3, 12, 40, 64}, 3e-5,
                  [width = width, n = n, act](auto& d, auto number, index rows) {
                    return gated_product<decltype(number)>(d, rows, width, n, act);
                  });
}

// What feeds the gates is not rounded.
BOOST_AUTO_TEST_CASE(a_step_of_an_mlstm_layer) {
  for (const auto& [heads, head, window] :
       {std::array<index, 3>{4, 288, 4}, {4, 24, 3}, {1, 520, 2}, {2, 4, 4}, {6, 20, 4}})
    for (const bool documents : {false, true})
      check_steps("mlstm", head > 100 ? std::vector<index>{1, 3, 64} : std::vector<index>{1, 3, 12, 40, 64},
                  1e-4,
                  [heads = heads, head = head, window = window, documents](auto& d, auto number, index rows) {
                    return mlstm_layer_step<decltype(number)>(d, rows, heads, head, window, documents);
                  });
}

}  // namespace distil_xlstm
