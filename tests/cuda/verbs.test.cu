#include "compare.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/block/causal_conv1d.hpp>
#include <distil_xlstm/block/embedding.hpp>
#include <distil_xlstm/block/headwise_linear.hpp>
#include <distil_xlstm/block/swiglu.hpp>
#include <distil_xlstm/op/sampling/op.hpp>
#include <distil_xlstm/testing/check_device.hpp>

// The GPU's verbs, and blocks that are little more, against the CPU in double.
namespace distil_xlstm {
namespace {

template <class T>
struct element_of {
  matrix_view<const T> x;
  template <class V>
  DISTIL_XLSTM_HD V operator()(index r, index c) const {
    return math::load<V>(x.row(r) + c);
  }
};

/// The verbs that take functors; NaN where nothing was to be written.
template <class T, class D>
struct functor_results {
  std::vector<double> mapped, row_sums, row_largest, column_sums, column_largest, prefix, added;
  functor_results(D& d, index rows, index cols, index slack) {
    const index stride = cols + slack;
    const on_device<T, D> x(d, random_numbers(rows * stride, 7)), y(d, rows * cols), z(d, rows * cols);
    const on_device<T, D> rs(d, rows), rl(d, rows), cs(d, cols), cl(d, cols),
        total(d, random_numbers(3 * cols, 8));
    const matrix_view<const T> view(x.data(), rows, cols, stride);
    map(d, rows, cols, testing::detail::try_map<T>{view, {y.data(), rows, cols}});
    fold_rows(d, rows, cols, testing::detail::try_fold<T>{view, rs.data(), rl.data()});
    fold_columns(d, rows, cols, testing::detail::try_column_fold<T>{{view, cs.data(), cl.data()}});
    add_column_sums(d, rows, cols, element_of<T>{view}, total.data(), 3);
    parallel_for(d, rows, testing::detail::try_prefix_sums<T>{view, {z.data(), rows, cols}});
    mapped = y.numbers(), prefix = z.numbers(), row_sums = rs.numbers(), row_largest = rl.numbers();
    column_sums = cs.numbers(), column_largest = cl.numbers(), added = total.numbers();
  }
};

/// Documents of about 5 tokens.
std::vector<double> starts(index batch, index time) {
  std::vector<double> s;
  for (index b = 0; b < batch; ++b)
    for (index t = 0, now = b % 2 ? 0 : -1; t < time; ++t) {
      if ((t + b) % 5 == 3) now = t;
      s.push_back(static_cast<double>(now));
    }
  return s;
}

template <class T, class D>
std::vector<std::vector<double>> convolution(D& d, index batch, index time, index width, index window,
                                             bool documents) {
  const index rows = batch * time, slack = width % 4 == 0 && width != 60 ? 4 : 3;
  const on_device<std::int32_t, D> start(d, starts(batch, time));
  const sequence_view seq{batch, time, documents ? start.data() : nullptr};
  const on_device<T, D> w(d, random_numbers(width * window, 1)), b(d, random_numbers(width, 2)),
      x(d, random_numbers(rows * (width + slack), 3)), dy(d, random_numbers(rows * width, 4)),
      past(d, random_numbers(batch * (window - 1) * width, 5)), before(d, batch * (window - 1) * width),
      y(d, rows * width), silu(d, random_numbers(rows * width, 9)), dx(d, random_numbers(rows * width, 6)),
      dw(d, random_numbers(width * window, 7)), db(d, random_numbers(width, 8)), more(d, rows * width),
      beside(d, random_numbers(rows * width, 10)), alone(d, rows * width);
  const causal_conv1d block{width, window};
  const conv_params<const T*> p{w.data(), b.data()};
  const conv_params<T*> g{dw.data(), db.data()};
  const conv_state<T> s{{past.data(), (window - 1) * width}};
  const conv_tape<T> k{before.data()};
  const matrix_view<const T> in(x.data(), rows, width, width + slack), dout(dy.data(), rows, width);
  const matrix_view<T> activated(documents ? silu.data() : nullptr, rows, width);
  const auto whole = [&](const on_device<T, D>& m) { return matrix_view<T>(m.data(), rows, width); };
  block.forward(d, seq, p, s, k, in, whole(y), activated);
  block.backward(d, seq, p, g, k, in, dout, whole(dx), whole(dx));
  // dout as the gradient of SiLU(y).
  block.backward(d, seq, p, g, k, in, dout, whole(more), whole(beside), true);
  block.backward(d, seq, p, g, k, in, dout, whole(alone));
  return {y.numbers(),    silu.numbers(),  past.numbers(), before.numbers(), dx.numbers(),
          more.numbers(), alone.numbers(), dw.numbers(),   db.numbers()};
}

template <class T, class D>
std::vector<std::vector<double>> headwise(D& d, index rows, index blocks, index width) {
  const index n = blocks * width;
  const on_device<T, D> w(d, random_numbers(n * width, 1)), b(d, random_numbers(n, 2)),
      x(d, random_numbers(rows * n, 3)), dy(d, random_numbers(rows * n, 4)), y(d, rows * n), dx(d, rows * n),
      dw(d, random_numbers(n * width, 5)), db(d, random_numbers(n, 6));
  const headwise_linear block{blocks, width, true};
  const headwise_params<const T*> p{w.data(), b.data()};
  const headwise_params<T*> g{dw.data(), db.data()};
  const matrix_view<const T> in(x.data(), rows, n), dout(dy.data(), rows, n);
  block.forward(d, p, in, matrix_view<T>(y.data(), rows, n));
  block.backward(d, p, g, in, dout, matrix_view<T>(dx.data(), rows, n));
  return {y.numbers(), dx.numbers(), dw.numbers(), db.numbers()};
}

/// y, the gradients, and y again of a gated activation, stored as S; `beside` numbers lie between rows.
template <class S, class D>
std::vector<std::vector<double>> gated(D& d, activation act, index rows, index cols, index beside,
                                       index offset) {
  using numbers = on_device<S, D>;
  const index stride = cols + beside, all = offset + rows * stride;
  // What bfloat16 holds, and gates that are far out.
  auto gates = rounded_numbers(all, 1);
  for (std::size_t i = 0; i < gates.size(); i += 7) gates[i] *= 64;
  const numbers gate(d, gates), value(d, rounded_numbers(all, 2)), dy(d, rounded_numbers(all, 3)), y(d, all),
      dgate(d, all), dvalue(d, all), again(d, all);
  const auto view = [&](const numbers& m) { return matrix_view<S>(m.data() + offset, rows, cols, stride); };
  const gated_activation_arguments<S> a{act, view(gate), view(value)};
  gated_activation_forward(d, a, view(y));
  const gated_activation_backward_arguments<S> g{a, view(dy), view(dgate), view(dvalue)};
  gated_activation_backward(d, g);
  std::vector results{y.numbers(), dgate.numbers(), dvalue.numbers()};
  auto with = g;
  with.y = view(again);
  gated_activation_backward(d, with);
  gated_activation_forward(d, a, view(gate));
  for (const auto* m : {&dgate, &dvalue, &again}) results.push_back(m->numbers());
  results.push_back(gate.numbers());
  // Nothing is written beside.
  for (std::size_t i = 0; i < results.size(); ++i)
    for (index j = 0; j < all; ++j) {
      if (j >= offset && (j - offset) % stride < cols) continue;
      double& x = results[i][static_cast<std::size_t>(j)];
      const double before = i + 1 == results.size() ? gates[static_cast<std::size_t>(j)] : std::nan("");
      if (std::isnan(before) ? std::isnan(x) : x == before) x = 0;
    }
  return results;
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(functors, T, decltype(std::tuple<float, double>{})) {
  device::cuda gpu;
  device::cpu cpu(2);
  const double digits = sizeof(T) == 8 ? 1e-13 : 1e-5;
  for (const auto& [rows, cols] : {std::pair<index, index>{1, 1},
                                   {3, 5},
                                   {130, 1},
                                   {70, 301},
                                   {2, 20000},
                                   {4097, 7},
                                   {100001, 4},
                                   {1000, 33},
                                   {511, 32},
                                   {3000, 576},
                                   {64, 2304},
                                   {7, 49153},
                                   {20000, 9},
                                   {5, 2048},
                                   {40, 2049}})
    for (const index slack : {0, 3}) {
      const functor_results<T, device::cuda> got(gpu, rows, cols, slack);
      const functor_results<double, device::cpu> want(cpu, rows, cols, slack);
      const std::string shape = " of " + std::to_string(rows) + " x " + std::to_string(cols);
      check_close(("map" + shape).c_str(), got.mapped, want.mapped, digits);
      check_close(("row sums" + shape).c_str(), got.row_sums, want.row_sums, digits);
      check_close(("largest of rows" + shape).c_str(), got.row_largest, want.row_largest, 0);
      check_close(("column sums" + shape).c_str(), got.column_sums, want.column_sums, digits);
      check_close(("largest of columns" + shape).c_str(), got.column_largest, want.column_largest, 0);
      check_close(("added column sums" + shape).c_str(), got.added, want.added, digits);
      check_close(("parallel_for" + shape).c_str(), got.prefix, want.prefix, digits);
      const functor_results<T, device::cuda> again(gpu, rows, cols, slack);
      BOOST_TEST(got.row_sums == again.row_sums);
      BOOST_TEST(got.column_sums == again.column_sums);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(convolutions, T, decltype(std::tuple<float, double>{})) {
  device::cuda gpu;
  device::cpu cpu(2);
  for (const auto& [batch, time, width] : {std::array<index, 3>{1, 1, 5},
                                           {3, 2, 33},
                                           {2, 40, 64},
                                           {2, 19, 60},
                                           {5, 1, 8},
                                           {19, 1, 132},
                                           {7, 2, 140},
                                           {4, 65, 576},
                                           {3, 300, 132},
                                           {3, 7, 1153}})
    for (const index window : {2, 3, 4, 7})
      for (const bool documents : {false, true})
        check_all("convolution of width " + std::to_string(width) + ", window " + std::to_string(window),
                  convolution<T>(gpu, batch, time, width, window, documents),
                  convolution<double>(cpu, batch, time, width, window, documents),
                  sizeof(T) == 8 ? 1e-13 : 2e-6);
}

// In bfloat16, eight numbers a thread where addresses allow it.
BOOST_AUTO_TEST_CASE(gated_activations) {
  device::basic_cuda<bf16_mixed> gpu;
  device::cpu cpu(2);
  for (const auto act : {activation::silu, activation::gelu})
    for (const auto& [rows, cols] :
         {std::array<index, 2>{1, 8}, {300, 64}, {3, 1536}, {70, 264}, {5, 20}, {9, 27}})
      for (const index beside : {0, 8, 3})
        for (const index offset : {0, 8, 1}) {
          const auto want = gated<double>(cpu, act, rows, cols, beside, offset);
          const auto check = [&, rows = rows, cols = cols](const auto& got, double digits) {
            index wrong = 0;
            for (std::size_t i = 0; i < want.size(); ++i)
              for (std::size_t j = 0; j < want[i].size(); ++j)
                wrong += !(std::abs(got[i][j] - want[i][j]) <= digits * std::abs(want[i][j]) + 1e-5);
            BOOST_TEST(wrong == 0, wrong << " numbers are wrong, " << name_of(act) << " of " << rows
                                         << " rows of " << cols << ", beside " << beside << ", offset "
                                         << offset);
          };
          check(gated<bf16>(gpu, act, rows, cols, beside, offset), std::ldexp(1.0, -8) + 1e-4);
          check(gated<float>(gpu, act, rows, cols, beside, offset), 1e-5);
        }
}

BOOST_AUTO_TEST_CASE(headwise_maps) {
  device::cuda gpu;
  device::basic_cuda<bf16_mixed> rounding;
  device::cpu cpu(2);
  for (const auto& [rows, blocks, width] : {std::array<index, 3>{1, 1, 1},
                                            {5, 6, 3},
                                            {33, 288, 4},
                                            {70, 7, 5},
                                            {40, 4, 144},
                                            {80, 4, 144},
                                            {9, 36, 16}}) {
    const auto want = headwise<double>(cpu, rows, blocks, width);
    const std::string what = std::to_string(blocks) + " blocks of " + std::to_string(width);
    check_all(what + ", double", headwise<double>(gpu, rows, blocks, width), want, 1e-13);
    check_all(what + ", float", headwise<float>(gpu, rows, blocks, width), want, 2e-6);
    check_all(what + ", bf16", headwise<float>(rounding, rows, blocks, width), want, 2e-2);
  }
}

// In one launch, where it has them.
BOOST_AUTO_TEST_CASE_TEMPLATE(headwise_maps_beside_one_another, P, float_precisions) {
  using D = device::basic_cuda<P>;
  D gpu;
  for (const auto& [rows, blocks, width] : {std::array<index, 3>{1, 288, 4},
                                            {64, 288, 4},
                                            {1, 4, 144},
                                            {64, 4, 144},
                                            {70, 4, 144},
                                            {5, 36, 32},
                                            {3, 6, 3}}) {
    const index count = rows, each = width, n = blocks * width, size = count * n;
    const on_device<float, D> x(gpu, random_numbers(2 * size, 1)), w(gpu, random_numbers(3 * n * each, 2)),
        y(gpu, 3 * size), alone(gpu, 3 * size);
    const auto arguments = [&, blocks = blocks](const on_device<float, D>& to, index i) {
      return headwise_arguments<float>{blocks, each, w.data() + i * n * each,
                                       matrix_view<const float>(x.data() + i / 2 * n, count, n, 2 * n),
                                       matrix_view<float>(to.data() + i * n, count, n, 3 * n)};
    };
    headwise_forward(gpu, std::array{arguments(y, 0), arguments(y, 1), arguments(y, 2)});
    for (const index i : {0, 1, 2}) headwise_forward(gpu, arguments(alone, i));
    BOOST_TEST((y.numbers() == alone.numbers()), rows << " rows, " << blocks << " blocks of " << width);
  }
}

// As the default does: the first of equals, and none that is not finite.
BOOST_AUTO_TEST_CASE(the_likeliest_token) {
  using D = device::cuda;
  D gpu;
  for (const auto& [rows, cols, slack] :
       {std::array<index, 3>{1, 49152, 0}, {7, 49155, 1}, {3, 5, 3}, {64, 4097, 0}, {5, 30000, 4}}) {
    auto x = random_numbers(rows * (cols + slack), 1);
    const auto at = [&, cols = cols, slack = slack](index r, index c) -> double& {
      return x[static_cast<std::size_t>(r * (cols + slack) + c)];
    };
    for (index c = 0; c < cols; c += 3) at(0, c) = INFINITY, at(rows - 1, cols - 1 - c) = NAN;
    at(0, cols - 1) = at(0, cols / 2) = at(0, cols / 2 + 1) = 9;
    if (rows > 2)
      for (index c = 0; c < cols; ++c) at(1, c) = -INFINITY, at(2, c) = c == 4 ? -3e38 : NAN;
    const on_device<float, D> logits(gpu, x), highest(gpu, rows), want_highest(gpu, rows);
    const on_device<std::int32_t, D> ids(gpu, std::vector<double>(static_cast<std::size_t>(rows), 7)),
        want(gpu, ids.numbers());
    const matrix_view<const float> view(logits.data(), rows, cols, cols + slack);
    choose_likeliest(gpu, view, ids.data(), highest.data());
    distil_xlstm::choose_likeliest<D, float>(gpu, view, want.data(), want_highest.data());
    BOOST_TEST((ids.numbers() == want.numbers()), rows << " rows of " << cols);
    BOOST_TEST((highest.numbers() == want_highest.numbers()));
    choose_likeliest<fp32, float>(gpu, view, want.data(), nullptr);
    BOOST_TEST((ids.numbers() == want.numbers()));
  }
}

// Row after row, whatever the device: the sums are the same to the last bit.
BOOST_AUTO_TEST_CASE_TEMPLATE(gradients_of_an_embedding, T, decltype(std::tuple<float, double>{})) {
  device::basic_cuda<bf16_mixed> gpu;
  device::cpu cpu(2);
  const auto table = [](auto& d, index rows, index cols, index vocabulary, index slack) {
    using D = std::remove_reference_t<decltype(d)>;
    rng random(5);
    std::vector<double> ids;
    for (index r = 0; r < rows; ++r) {  // small ids come often
      const double u = random.uniform();
      ids.push_back(std::floor(u * u * u * static_cast<double>(vocabulary)));
    }
    const on_device<std::int32_t, D> id(d, ids);
    const on_device<T, D> dx(d, random_numbers(rows * (cols + slack), 1)),
        total(d, random_numbers(vocabulary * cols, 2));
    embed_backward(d, id.data(), matrix_view<const T>(dx.data(), rows, cols, cols + slack),
                   matrix_view<T>(total.data(), vocabulary, cols));
    return total.numbers();
  };
  for (const auto& [rows, cols, vocabulary] : {std::array<index, 3>{1, 1, 1},
                                               {5, 7, 3},
                                               {33, 128, 1},
                                               {300, 129, 1000},
                                               {2000, 64, 50},
                                               {4100, 576, 3000}})
    for (const index slack : {0, 3}) {
      const auto got = table(gpu, rows, cols, vocabulary, slack),
                 want = table(cpu, rows, cols, vocabulary, slack);
      BOOST_TEST((got == want), rows << " rows of " << cols << ", " << vocabulary << " ids");
    }
}

}  // namespace distil_xlstm
