#include "compare.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/block/attention.hpp>
#include <distil_xlstm/block/causal_conv1d.hpp>
#include <distil_xlstm/block/embedding.hpp>
#include <distil_xlstm/block/headwise_linear.hpp>
#include <distil_xlstm/block/hybrid_attention.hpp>
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/swiglu.hpp>
#include <distil_xlstm/device/rounded_weights.hpp>
#include <distil_xlstm/model/memory.hpp>
#include <distil_xlstm/op/sampling/op.hpp>
#include <distil_xlstm/testing/check_device.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

// The GPU's verbs, and blocks that are little more, against the CPU in double.
namespace distil_xlstm {
namespace {

/// A matrix of `rows` by `cols` inside a wider one, from its column `offset` on.
template <class T, class D>
struct operand {
  on_device<T, D> memory;
  index rows, cols, offset, stride;
  operand(D& d, index r, index c, std::uint64_t seed, index o, index s, bool rounded)
      : memory(d, numbers(r * s, seed, rounded)), rows(r), cols(c), offset(o), stride(s) {}
  static std::vector<double> numbers(index n, std::uint64_t seed, bool rounded) {
    auto x = random_numbers(n, seed);
    if (rounded)
      for (auto& v : x) v = bf16(static_cast<float>(v));
    return x;
  }
  matrix_view<const T> view() const { return {memory.data() + offset, rows, cols, stride}; }
};

struct product_shape {
  index m, n, k, slack, offset;
};

/// c of c = beta c + a b, for the four ways to turn the operands, one after another. They are stored as A's and B's;
/// `rounded`: of numbers that bfloat16 holds. `plus`: the same of beta 1 by `gemm_plus`.
template <class T, class A = T, class B = T, class D>
std::vector<double> products(D& d, product_shape s, double beta, bool rounded = false, bool plus = false) {
  const auto side = [&]<class S>(S, index r, index c, std::uint64_t seed) {
    return operand<S, D>(d, r, c, seed, s.offset, c + s.slack, rounded);
  };
  const auto a = side(A(), s.m, s.k, 1), at = side(A(), s.k, s.m, 3);
  const auto b = side(B(), s.k, s.n, 2), bt = side(B(), s.n, s.k, 4);
  std::vector<double> all;
  const auto run = [&](auto left, auto right) {
    const on_device<T, D> c(d, random_numbers(s.m * (s.n + s.slack), 5)),
        addend(d, random_numbers(s.m * (s.n + s.slack), 5));
    const auto view = [&](const on_device<T, D>& m) {
      return matrix_view<T>(m.data() + s.offset, s.m, s.n, s.n + s.slack);
    };
    if (plus)
      gemm_plus(d, left, right, view(addend), view(c));
    else
      gemm(d, left, right, view(c), static_cast<T>(beta));
    const auto numbers = c.numbers();
    all.insert(all.end(), numbers.begin(), numbers.end());
  };
  run(a.view(), b.view());
  run(a.view(), transposed(bt.view()));
  run(transposed(at.view()), b.view());
  run(transposed(at.view()), transposed(bt.view()));
  return all;
}

/// A product with a frozen matrix, both ways.
template <class T, class D, class Stored>
std::vector<double> frozen_products(D& d, product_shape s, dtype type, bool rounded) {
  const auto w = random_numbers(s.n * s.k, 1);
  const std::vector<Stored> stored(w.begin(), w.end());
  std::vector<bf16> beside;
  for (double x : w) beside.push_back(bf16(static_cast<float>(x)));
  const auto place = [&]<class U>(const std::vector<U>& x) {
    buffer<U, D> memory(d, static_cast<index>(x.size()));
    d.upload(memory.data(), x.data(), memory.size() * static_cast<index>(sizeof(U)));
    return memory;
  };
  const auto weight = place(stored);
  const auto copy = place(beside);
  const frozen_matrix m{weight.data(), type, s.n, s.k, rounded ? copy.data() : nullptr};
  const on_device<T, D> x(d, random_numbers(s.m * s.k, 2)), dy(d, random_numbers(s.m * s.n, 3));
  const on_device<T, D> y(d, s.m * s.n), dx(d, s.m * s.k);
  gemm(d, matrix_view<const T>(x.data(), s.m, s.k), transposed(m), matrix_view<T>(y.data(), s.m, s.n));
  gemm(d, matrix_view<const T>(dy.data(), s.m, s.n), m, matrix_view<T>(dx.data(), s.m, s.k));
  auto all = y.numbers();
  const auto more = dx.numbers();
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

template <class T, class D>
std::vector<double> batched_products(D& d, index count, product_shape s, bool one_left, double beta) {
  const on_device<T, D> a(d, random_numbers(count * s.m * s.k, 1)), b(d, random_numbers(count * s.n * s.k, 2)),
      c(d, random_numbers(count * s.m * s.n, 3));
  gemm_batched(d, count, matrix_view<const T>(a.data(), s.m, s.k), one_left ? 0 : s.m * s.k,
               transposed(matrix_view<const T>(b.data(), s.n, s.k)), s.n * s.k,
               matrix_view<T>(c.data(), s.m, s.n), s.m * s.n, static_cast<T>(beta));
  return c.numbers();
}

constexpr product_shape shapes[] = {{1, 1, 1, 0, 0},     {1, 600, 70, 3, 0},  {5, 7, 3, 5, 1},
                                    {33, 65, 130, 8, 4}, {600, 40, 17, 0, 0}, {64, 576, 576, 0, 0},
                                    {17, 48, 64, 4, 4},  {130, 96, 72, 5, 3}};

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
      dw(d, random_numbers(width * window, 7)), db(d, random_numbers(width, 8)),
      more(d, random_numbers(rows * width, 10));
  const causal_conv1d block{width, window};
  const conv_params<const T*> p{w.data(), b.data()};
  const conv_params<T*> g{dw.data(), db.data()};
  const conv_state<T> s{{past.data(), (window - 1) * width}};
  const conv_tape<T> k{before.data()};
  const matrix_view<const T> in(x.data(), rows, width, width + slack), dout(dy.data(), rows, width);
  const matrix_view<T> activated(documents ? silu.data() : nullptr, rows, width);
  block.forward(d, seq, p, s, k, in, matrix_view<T>(y.data(), rows, width), activated);
  block.backward(d, seq, p, g, k, in, dout, matrix_view<T>(dx.data(), rows, width), true);
  // dout as the gradient of SiLU(y).
  block.backward(d, seq, p, g, k, in, dout, matrix_view<T>(more.data(), rows, width), T(0.5),
                 matrix_view<const T>(y.data(), rows, width));
  return {y.numbers(),  silu.numbers(), past.numbers(), before.numbers(),
          dx.numbers(), more.numbers(), dw.numbers(),   db.numbers()};
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
  auto gates = operand<S, D>::numbers(all, 1, true);
  for (std::size_t i = 0; i < gates.size(); i += 7) gates[i] *= 64;
  const numbers gate(d, gates), value(d, operand<S, D>::numbers(all, 2, true)),
      dy(d, operand<S, D>::numbers(all, 3, true)), y(d, all), dgate(d, all), dvalue(d, all), again(d, all);
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

void check_all(const std::string& what, const std::vector<std::vector<double>>& got,
               const std::vector<std::vector<double>>& want, double most) {
  for (std::size_t i = 0; i < got.size(); ++i)
    check_close((what + ", result " + std::to_string(i)).c_str(), got[i], want[i], most);
}

}  // namespace

BOOST_AUTO_TEST_CASE(products_of_all_kinds) {
  device::cuda gpu;
  device::basic_cuda<bf16_mixed> rounding;
  device::cpu cpu(2);
  const auto frozen = [&]<class D>(D& d, const product_shape& s, const std::string& shape, bool rounded,
                                   const std::vector<double>& want, double most) {
    check_close(("frozen f32 " + shape).c_str(), frozen_products<float, D, float>(d, s, dtype::f32, rounded),
                want, most);
    check_close(("frozen f64 " + shape).c_str(), frozen_products<float, D, double>(d, s, dtype::f64, rounded),
                want, most);
    check_close(("frozen f32 in double " + shape).c_str(),
                frozen_products<double, D, float>(d, s, dtype::f32, rounded), want, 1e-14);
  };
  for (const auto& s : shapes) {
    const std::string shape = std::to_string(s.m) + " x " + std::to_string(s.n) + " x " + std::to_string(s.k);
    for (const double beta : {0.0, 1.0, -0.5}) {
      const auto want = products<double>(cpu, s, beta);
      check_close(("double product " + shape).c_str(), products<double>(gpu, s, beta), want, 1e-14);
      check_close(("float product " + shape).c_str(), products<float>(gpu, s, beta), want,
                  testing::cuda_tolerance::product.fp32);
      check_close(("bf16 product " + shape).c_str(), products<float>(rounding, s, beta), want,
                  testing::cuda_tolerance::product.bf16);
    }
    const auto sum = products<double>(cpu, s, 1);
    check_close(("double sum on the CPU " + shape).c_str(), products<double>(cpu, s, 1, false, true), sum,
                1e-14);
    check_close(("double sum " + shape).c_str(), products<double>(gpu, s, 1, false, true), sum, 1e-14);
    check_close(("float sum " + shape).c_str(), products<float>(gpu, s, 1, false, true), sum,
                testing::cuda_tolerance::product.fp32);
    check_close(("bf16 sum " + shape).c_str(), products<float>(rounding, s, 1, false, true), sum,
                testing::cuda_tolerance::product.bf16);
    const auto want = frozen_products<double, device::cpu, double>(cpu, s, dtype::f64, false);
    for (const bool rounded : {false, true}) {
      frozen(gpu, s, shape, rounded, want, testing::cuda_tolerance::product.fp32);
      frozen(rounding, s, shape, rounded, want, testing::cuda_tolerance::product.bf16);
    }
  }
}

// Weights that are held are rounded once, and products give the same bits.
BOOST_AUTO_TEST_CASE(products_of_weights_that_are_held) {
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;
  struct map_of_rows {
    index rows, in, out, at;  // at: of the weight's first number
  };
  constexpr index heads = 3;
  D gpu;
  for (const auto& [rows, in, out, at] : {map_of_rows{300, 64, 48, 0},
                                          {300, 64, 48, 16},
                                          {300, 64, 48, 4},
                                          {300, 64, 27, 0},
                                          {300, 20, 48, 0},
                                          {301, 96, 24, 8},
                                          {40, 64, 48, 16},
                                          {5, 64, 48, 0},
                                          {1024, 576, 576, 16},
                                          {1024, 576, 192, 48},
                                          {1024, 576, 960, 32},
                                          {1024, 576, 3072, 16},
                                          {1024, 1536, 576, 80}}) {
    const index all = at + in * out + 16, part = out / heads;
    const auto first = random_numbers(all, 1), second = random_numbers(all, 2);
    auto doubled = first;
    for (double& x : doubled) x *= 2;
    const numbers w(gpu, first), twice(gpu, doubled), x(gpu, random_numbers(rows * in, 3)),
        dy(gpu, random_numbers(rows * out, 4)), y(gpu, rows * out), dx(gpu, rows * in), sum(gpu, rows * out);
    const matrix_view<const float> weight(w.data() + at, out, in), above(dy.data(), rows, out),
        below(x.data(), rows, in), head(weight.data, part, in);
    const auto forward = [&, rows = rows, out = out] {
      gemm(gpu, below, transposed(weight), matrix_view<float>(y.data(), rows, out));
      return y.numbers();
    };
    const auto backward = [&, rows = rows, in = in] {
      gemm(gpu, above, weight, matrix_view<float>(dx.data(), rows, in));
      return dx.numbers();
    };
    const auto parts = [&, rows = rows, in = in, out = out] {  // one below another
      gemm_batched(gpu, heads, below, 0, transposed(head), part * in,
                   matrix_view<float>(y.data(), rows, part, out), part);
      return y.numbers();
    };
    const auto plus = [&, rows = rows, out = out] {
      gemm_plus(gpu, below, transposed(weight), above, matrix_view<float>(sum.data(), rows, out));
      return sum.numbers();
    };
    const auto results = [&] { return std::vector{forward(), backward(), parts(), plus()}; };
    const std::string what = std::to_string(rows) + " rows, " + std::to_string(in) + " to " +
                             std::to_string(out) + ", from number " + std::to_string(at);
    rounded_weights<float, D> rounded(gpu, all);
    const auto held_results = [&] {
      rounded.round(gpu, w.data());
      const auto held = rounded.hold(gpu, w.data());
      return results();
    };
    const auto before = results();
    BOOST_TEST((held_results() == before), what);
    BOOST_TEST((results() == before), what);
    // Another copy would be seen, by all products but those that round no weights, or need zeros beside them.
    const auto twice_of = [](std::vector<double> numbers) {
      for (double& n : numbers) n *= 2;
      return numbers;
    };
    {
      rounded.round(gpu, twice.data());
      const auto held = rounded.hold(gpu, w.data());
      const bool found = in % 8 == 0 && out % 8 == 0 && at % 8 == 0;
      BOOST_TEST((forward() == (found && rows > 64 ? twice_of(before[0]) : before[0])), what);
      BOOST_TEST((backward() == (found && rows > 16 ? twice_of(before[1]) : before[1])), what);
      BOOST_TEST((parts() == (found && rows > 64 ? twice_of(before[2]) : before[2])), what);
      BOOST_TEST(((plus() == before[3]) == !(found && rows > 64)), what);
      // Nothing writes what is held.
      const matrix_view<float> written(w.data() + at, out, in);
      BOOST_CHECK_THROW(gpu.copy(w.data(), twice.data(), 4), error);
      BOOST_CHECK_THROW(transform(gpu, written, math::identity{}, weight), error);
      BOOST_CHECK_THROW(gemm(gpu, transposed(above), below, written), error);
    }
    const std::vector<float> others(second.begin(), second.end());
    gpu.upload(w.data(), others.data(), w.bytes());
    const auto after = results();
    BOOST_TEST((after != before), what);
    BOOST_TEST((held_results() == after), what);
  }
}

// Operands that are bfloat16 already, beside others that are, or that hold the same numbers as floats.
BOOST_AUTO_TEST_CASE_TEMPLATE(products_of_bf16_operands, P, float_precisions) {
  device::basic_cuda<P> gpu;
  device::cpu cpu(2);
  for (const auto& s : shapes)
    for (const double beta : {0.0, 1.0, -0.5}) {
      const std::string shape = std::to_string(s.m) + " x " + std::to_string(s.n) + " x " + std::to_string(s.k);
      const auto want = products<double>(cpu, s, beta, true);
      const auto check = [&](const char* what, const std::vector<double>& got) {
        check_close((what + shape).c_str(), got, want, 1e-5);  // tensor cores' sums; rounding would be 1e-3
      };
      check("both, ", products<float, bf16, bf16>(gpu, s, beta, true));
      check("left, ", products<float, bf16, float>(gpu, s, beta, true));
      check("right, ", products<float, float, bf16>(gpu, s, beta, true));
      check("neither, ", products<float>(gpu, s, beta, true));
      if (beta == 0) {  // into bfloat16, rounded once
        const double half_a_digit = std::ldexp(1.0, -8) + 1e-5;
        check_close(("result, " + shape).c_str(), products<bf16>(gpu, s, beta, true), want, half_a_digit);
        check_close(("result of floats, " + shape).c_str(), products<bf16, float, float>(gpu, s, beta, true),
                    want, half_a_digit);
      }
      if (beta == 1) check("both and a sum, ", products<float, bf16, bf16>(gpu, s, 1, true, true));
    }
}

// A width that is no multiple of 8: products of even sizes take the place of odd ones, and write nothing beside.
BOOST_AUTO_TEST_CASE(gradients_of_a_narrow_map) {
  const auto run = []<class T, class D>(D& d, T, index rows, index in, index out) {
    const index beside = 5 * in;
    const on_device<T, D> w(d, random_numbers(out * in, 1)), b(d, random_numbers(out, 2)),
        x(d, random_numbers(rows * in, 3)), dy(d, random_numbers(rows * out, 4)), y(d, rows * out),
        dx(d, random_numbers(rows * in, 5)), dw(d, random_numbers(out * in + beside, 6)),
        db(d, random_numbers(out, 7));
    const linear<> map{in, out, true};
    const linear_params<matrix_view<T>, T*> p{{w.data(), out, in}, b.data()},
        g{{dw.data(), out, in}, db.data()};
    const matrix_view<const T> rows_in(x.data(), rows, in), above(dy.data(), rows, out);
    map.forward(d, p, rows_in, matrix_view<T>(y.data(), rows, out));
    map.backward(d, p, g, rows_in, above, matrix_view<T>(dx.data(), rows, in), T(1));
    return std::vector{y.numbers(), dx.numbers(), dw.numbers(), db.numbers()};
  };
  device::basic_cuda<bf16_mixed> gpu;
  device::cpu cpu(2);
  for (const auto& [rows, in, out] :
       {std::array<index, 3>{500, 64, 27}, {501, 64, 27}, {77, 30, 19}, {1000, 27, 64}, {4096, 576, 27}}) {
    const auto got = run(gpu, float(), rows, in, out), want = run(cpu, double(), rows, in, out);
    check_all(std::to_string(rows) + " rows, " + std::to_string(in) + " to " + std::to_string(out), got, want,
              1e-2);
    for (std::size_t i = static_cast<std::size_t>(out * in); i < got[2].size(); ++i)
      BOOST_TEST(got[2][i] == want[2][i]);
  }
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

// With products in bfloat16 all that the tape holds is rounded, too; weights may lie one behind the other or not.
BOOST_AUTO_TEST_CASE(a_feed_forward_rounds_what_it_makes) {
  const auto run = []<class T, class D>(D& d, T, const swiglu& block, index rows, index apart) {
    using numbers = on_device<T, D>;
    const index size = block.width * block.inner, all = 3 * size + apart, across = rows * block.inner;
    const numbers w(d, random_numbers(all, 1, 0.3)), x(d, random_numbers(rows * block.width, 2)),
        dy(d, random_numbers(rows * block.width, 3)), gate(d, across), up(d, across), y(d, rows * block.width),
        dx(d, rows * block.width), g(d, random_numbers(all, 4));
    const auto weights = [&](T* at) {
      const auto one = [&](T* first, index out, index in) {
        return linear_params<matrix_view<T>, T*>{{first, out, in}};
      };
      return swiglu_params<matrix_view<T>, T*>{one(at, block.inner, block.width),
                                               one(at + size + apart, block.inner, block.width),
                                               one(at + 2 * size + apart, block.width, block.inner)};
    };
    const swiglu_tape<T> k{{gate.data(), rows, block.inner}, {up.data(), rows, block.inner}, {}};
    const matrix_view<const T> in(x.data(), rows, block.width), above(dy.data(), rows, block.width);
    block.forward(d, sequence_view{1, rows}, weights(w.data()), no_state{}, k, in,
                  matrix_view<T>(y.data(), rows, block.width));
    block.backward(d, sequence_view{1, rows}, weights(w.data()), weights(g.data()), k, in, above,
                   matrix_view<T>(dx.data(), rows, block.width));
    std::vector results{y.numbers(), dx.numbers(), g.numbers()};
    if constexpr (std::is_same_v<operand_t<D, T>, bf16>) {
      std::vector<bf16> kept(static_cast<std::size_t>(2 * across));
      d.download(kept.data(), gate.data(), 2 * across * index{sizeof(bf16)});
      results.emplace_back(kept.begin(), kept.end());
    } else {
      const auto gates = gate.numbers(), ups = up.numbers();
      auto& both = results.emplace_back();
      for (index r = 0; r < rows; ++r)
        for (const auto& m : {gates, ups})
          both.insert(both.end(), m.begin() + r * block.inner, m.begin() + (r + 1) * block.inner);
    }
    return results;
  };
  device::basic_cuda<bf16_mixed> gpu;
  device::cpu cpu(2);
  for (const auto& [rows, width, inner] :
       {std::array<index, 3>{40, 48, 80}, {300, 64, 192}, {33, 20, 27}, {2, 8, 16}})
    for (const index apart : {0, 8}) {
      const swiglu block{width, inner};
      const auto got = run(gpu, float(), block, rows, apart);
      check_all(std::to_string(rows) + " rows, " + std::to_string(width) + " to " + std::to_string(inner), got,
                run(cpu, double(), block, rows, apart), testing::cuda_tolerance::feed_forward);
      BOOST_TEST((run(gpu, float(), block, rows, apart) == got));
    }
}

// A norm for products gives what they would have rounded themselves.
BOOST_AUTO_TEST_CASE(a_norm_rounds_for_products) {
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;
  D gpu;
  for (const auto& [rows, width] : {std::array<index, 2>{64, 40}, {64, 576}, {63, 40}, {64, 42}, {3, 40}}) {
    const index n = 48;
    const numbers x(gpu, random_numbers(rows * width, 1)), weight(gpu, random_numbers(width, 2)),
        w(gpu, random_numbers(n * width, 3)), statistics(gpu, 2 * rows), u(gpu, rows * width);
    const auto mapped = [&, rows = rows, width = width](bool for_products, bool written) {
      const rms_norm<> block{width, 1, 1e-6, for_products};
      const numbers y(gpu, rows * n);
      const matrix_view<float> normed(u.data(), rows, width);
      block.forward(gpu, norm_params<float*>{weight.data()}, norm_tape<float>{statistics.data()},
                    matrix_view<const float>(x.data(), rows, width), normed);
      if (written)
        transform(gpu, normed.columns(3, 1), math::times{}, normed.columns(3, 1), normed.columns(4, 1));
      gemm(gpu, matrix_view<const float>(normed), transposed(matrix_view<const float>(w.data(), n, width)),
           matrix_view<float>(y.data(), rows, n));
      return y.numbers();
    };
    for (const bool written : {false, true})
      BOOST_TEST((mapped(true, written) == mapped(false, written)), rows << " rows of " << width);
  }
}

// A norm's gradient, with what is added to it, as well.
BOOST_AUTO_TEST_CASE(a_norms_gradient_rounds_for_products) {
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;
  D gpu;
  for (const auto& [rows, width] : {std::array<index, 2>{64, 40}, {64, 576}, {63, 40}, {64, 42}, {3, 40}}) {
    const index n = 48;
    const numbers x(gpu, random_numbers(rows * width, 1)), weight(gpu, random_numbers(width, 2)),
        w(gpu, random_numbers(n * width, 3)), dy(gpu, random_numbers(rows * width, 4)),
        skip(gpu, random_numbers(rows * width, 5)), statistics(gpu, 2 * rows), u(gpu, rows * width),
        dw(gpu, random_numbers(width, 6));
    const auto wide = [&, rows = rows, width = width](const numbers& m) {
      return matrix_view<float>(m.data(), rows, width);
    };
    const auto mapped = [&, rows = rows, width = width](bool for_products) {
      const rms_norm<> block{width, 1, 1e-6, for_products};
      const norm_params<float*> p{weight.data()}, g{dw.data()};
      const norm_tape<float> k{statistics.data()};
      const numbers y(gpu, rows * n);
      block.forward(gpu, p, k, wide(x), wide(u));
      block.backward(gpu, p, g, k, wide(x), wide(dy), wide(u), wide(skip));
      gemm(gpu, matrix_view<const float>(wide(u)), transposed(matrix_view<const float>(w.data(), n, width)),
           matrix_view<float>(y.data(), rows, n));
      return y.numbers();
    };
    BOOST_TEST((mapped(true) == mapped(false)), rows << " rows of " << width);
  }
}

// A norm's rows that products alone read are stored as their operand, and what comes of it is the same; the residual's
// sums lie in a product and in the norm's gradient.
BOOST_AUTO_TEST_CASE(a_residual_is_as_its_parts_are) {
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;
  D gpu;
  constexpr index rows = 72, width = 96, inner = 160, size = width + 3 * width * inner;
  const residual block{sequential{rms_norm<>{width, 1, 1e-6, true}, swiglu{width, inner}}};
  const sequence_view seq{1, rows};
  layout<float> measure;
  block.tape(measure, seq);
  const numbers weights(gpu, random_numbers(size, 1, 0.2)), x(gpu, random_numbers(rows * width, 2)),
      dy(gpu, random_numbers(rows * width, 3)), g(gpu, random_numbers(size, 4)),
      g2(gpu, random_numbers(size, 4)), y(gpu, rows * width), dx(gpu, rows * width), y2(gpu, rows * width),
      dx2(gpu, rows * width), u(gpu, rows * width), du(gpu, rows * width), tape(gpu, measure.size()),
      tape2(gpu, measure.size());
  const auto wide = [&](const numbers& m) { return matrix_view<float>(m.data(), rows, width); };
  const auto bound = [&](const numbers& m) {
    layout<float> l(m.data());
    return block.params(l);
  };
  layout<float> l(tape.data()), l2(tape2.data());
  const auto k = block.tape(l, seq), k2 = block.tape(l2, seq);
  const auto p = bound(weights), q = bound(g), q2 = bound(g2);
  block.forward(gpu, seq, p, std::tuple(no_state{}, no_state{}), k, wide(x), wide(y));
  block.backward(gpu, seq, p, q, k, wide(x), wide(dy), wide(dx));

  const auto& [norm, feed] = block.inner.blocks;
  const auto& feeding = std::get<1>(k2).inner;
  norm.forward(gpu, std::get<0>(p), std::get<0>(k2).inner, wide(x), wide(u));
  feed.forward(gpu, seq, std::get<1>(p), no_state{}, feeding, wide(u), wide(y2));
  transform(gpu, wide(y2), math::plus{}, wide(y2), wide(x));
  feed.backward(gpu, seq, std::get<1>(p), std::get<1>(q2), feeding, wide(u), matrix_view<const float>(wide(dy)),
                wide(du));
  norm.backward(gpu, std::get<0>(p), std::get<0>(q2), std::get<0>(k2).inner, wide(x), wide(du), wide(dx2));
  transform(gpu, wide(dx2), math::plus{}, wide(dx2), wide(dy));
  check_close("y", y.numbers(), y2.numbers(), 1e-5);
  check_close("dx", dx.numbers(), dx2.numbers(), 1e-6);
  BOOST_TEST((g.numbers() == g2.numbers()));
}

// The gradients of q, k and v by one product, where their weights lie one below another, or by one each.
BOOST_AUTO_TEST_CASE(weights_of_attention_lie_together_or_apart) {
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;
  D gpu;
  const attention block{.width = 96, .heads = 2, .kv_heads = 1, .head_dim = 32};
  const sequence_view seq{2, 36};
  layout<float> weights, tape;
  block.params(weights), block.tape(tape, seq);
  const index size = seq.rows() * block.width;
  const numbers w(gpu, random_numbers(weights.size(), 1, 0.2)), x(gpu, random_numbers(size, 2)),
      dy(gpu, random_numbers(size, 3));
  const auto wide = [&](const numbers& m) { return matrix_view<float>(m.data(), seq.rows(), block.width); };
  const auto gradients = [&](bool apart) {
    const numbers elsewhere(gpu, w.numbers()), g(gpu, random_numbers(weights.size(), 4)),
        memory(gpu, tape.size()), y(gpu, size), dx(gpu, size);
    const auto bound = [&](const numbers& m) {
      layout<float> l(m.data());
      return block.params(l);
    };
    layout<float> l(memory.data());
    const auto k = block.tape(l, seq);
    auto p = bound(w);
    if (apart) p.k_proj = bound(elsewhere).k_proj;
    block.forward(gpu, seq, p, attention_state<float>{}, k, wide(x), wide(y));
    block.backward(gpu, seq, p, bound(g), k, wide(x), wide(dy), wide(dx));
    auto all = dx.numbers();
    const auto more = g.numbers();
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  check_close("gradients", gradients(false), gradients(true), 1e-5);
}

/// y, dx and the gradients of `block` over a tape that knows or does not how small operands are, and the tape's size.
/// Nothing is written behind the tape.
template <class B, class D>
std::pair<std::vector<double>, index> over_tape(D& gpu, const B& block, sequence_view seq, bool half) {
  using numbers = on_device<float, D>;
  constexpr index guard = 1 << 16;
  constexpr double untouched = 0.25;
  const auto described = [&](layout<float> l) {
    l.half_operands(half);
    auto k = block.tape(l, seq);
    return std::pair{std::move(k), l.size()};
  };
  layout<float> measure;
  block.params(measure);
  const index taken = described(layout<float>()).second, size = seq.rows() * block.width_in();
  const numbers tape(gpu, std::vector<double>(static_cast<std::size_t>(taken + guard), untouched)),
      w(gpu, random_numbers(measure.size(), 1, 0.2)), g(gpu, random_numbers(measure.size(), 4)),
      x(gpu, random_numbers(size, 2)), dy(gpu, random_numbers(size, 3)), y(gpu, size), dx(gpu, size);
  const auto k = described(layout<float>(tape.data())).first;
  layout<float> weights(w.data()), gradients(g.data());
  const auto p = block.params(weights), q = block.params(gradients);
  state_memory<B, float, D> state(gpu, block, seq.batch, 0);
  const auto wide = [&](const numbers& m) {
    return matrix_view<float>(m.data(), seq.rows(), block.width_in());
  };
  block.forward(gpu, seq, p, state.views(), k, matrix_view<const float>(wide(x)), wide(y));
  block.backward(gpu, seq, p, q, k, matrix_view<const float>(wide(x)), matrix_view<const float>(wide(dy)),
                 wide(dx));
  const auto left = tape.numbers();
  BOOST_TEST(std::all_of(left.begin() + taken, left.end(), [](double n) { return n == untouched; }));
  std::vector<double> all;
  for (const numbers* m : {&y, &dx, &g}) {
    const auto more = m->numbers();
    all.insert(all.end(), more.begin(), more.end());
  }
  return {all, taken};
}

// A tape that knows how small operands are has less memory, and holds the same.
BOOST_AUTO_TEST_CASE(a_tape_of_half_operands) {
  device::basic_cuda<bf16_mixed> gpu;
  const rms_norm<> norm{.width = 96, .groups = 1, .epsilon = 1e-5, .for_products = true};
  hybrid_attention hybrid;
  hybrid.base.width = 96, hybrid.base.heads = 2, hybrid.base.kv_heads = 1, hybrid.base.head_dim = 64;
  hybrid.base.window = 16;
  const auto check = [&](const char* what, const auto& block) {
    for (const index time : {128, 300}) {
      const auto [want, whole] = over_tape(gpu, block, {2, time}, false);
      const auto [got, size] = over_tape(gpu, block, {2, time}, true);
      BOOST_TEST(size < whole, what << ": " << size << " of " << whole);
      BOOST_TEST((got == want), what << " of " << time);
      BOOST_TEST(std::all_of(got.begin(), got.end(), [](double n) { return std::isfinite(n); }), what);
    }
  };
  check("mLSTM", mlstm{.width = 96, .heads = 2, .inner = 288});
  check("mLSTM with biases", mlstm{.width = 96, .heads = 2, .inner = 192, .bias = true});
  check("SwiGLU", sequential{norm, swiglu{96, 161}});
  check("a hybrid", sequential{norm, hybrid});
}

/// Doubles a matrix.
struct doubled {
  using scalar = float;
  matrix_view<float> x;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    math::store<V>(x.row(r) + c, V(2) * math::load<V>(x.row(r) + c));
  }
};

/// Each number and one, from where another block wrote it.
struct passed_on {
  const float* in;
  float* out;
  index n;
  DISTIL_XLSTM_HD void operator()(index i) const { out[i] = in[(i + 1037) % n] + 1; }
};

struct twice {
  template <class V>
  struct both {
    V first, second;
  };
  template <class V>
  DISTIL_XLSTM_HD both<V> operator()(V x) const {
    return {x + x, x + x};
  }
};

// An operand's copy in bfloat16 serves the products that follow one another, and no product after a write.
BOOST_AUTO_TEST_CASE(a_product_sees_what_was_written_before_it) {
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;
  constexpr index m = 64, n = 48, k = 40;
  D gpu, fresh;
  const numbers x(gpu, random_numbers(m * k, 1)), other(gpu, random_numbers(m * k, 2)),
      w(gpu, random_numbers(k * n, 3)), square(gpu, random_numbers(k * k, 4)), y(gpu, m * n);
  const matrix_view<float> rows(x.data(), m, k);
  const auto product = [&] {
    gemm(gpu, matrix_view<const float>(rows), matrix_view<const float>(w.data(), k, n),
         matrix_view<float>(y.data(), m, n));
  };
  const std::vector<float> host(static_cast<std::size_t>(m * k), 0.5f);
  const auto check = [&](const char* what, const auto& write) {
    product();
    write();
    product();
    const numbers there(fresh, x.numbers()), weight(fresh, w.numbers()), want(fresh, m * n);
    gemm(fresh, matrix_view<const float>(there.data(), m, k), matrix_view<const float>(weight.data(), k, n),
         matrix_view<float>(want.data(), m, n));
    BOOST_TEST((y.numbers() == want.numbers()), what);
  };
  check("map", [&] { map(gpu, m, k, doubled{rows}); });
  check("transform", [&] { transform(gpu, rows, math::plus{}, rows, rows); });
  check("transform of a column", [&] {
    const auto last = rows.columns(k - 1, 1);
    transform(gpu, outputs{matrix_view<float>(y.data(), m, 1), last}, twice{}, last);
  });
  check("copy", [&] { gpu.copy(x.data(), other.data(), x.bytes()); });
  check("product", [&] {
    gemm(gpu, matrix_view<const float>(other.data(), m, k), matrix_view<const float>(square.data(), k, k),
         rows);
  });
  check("upload", [&] { gpu.upload(x.data(), host.data(), x.bytes()); });
  const auto graph = gpu.record([&] { map(gpu, m, k, doubled{rows}); });
  check("graph", [&] { gpu.launch(graph); });
  gpu.discard(graph);
}

// Kernels that start while others run, one by one and recorded: each reads what those before it wrote, and writes
// what they have read.
BOOST_AUTO_TEST_CASE(kernels_wait_for_one_another) {
  device::cuda gpu;
  constexpr index n = 20000, launches = 20, kernels = 100;
  std::vector<double> first(n);
  for (std::size_t i = 0; i < first.size(); ++i) first[i] = static_cast<double>(i);
  const on_device<float, device::cuda> a(gpu, first), b(gpu, n);
  const auto chain = [&] {
    for (index k = 0; k < kernels; k += 2) {
      parallel_for(gpu, n, passed_on{a.data(), b.data(), n});
      parallel_for(gpu, n, passed_on{b.data(), a.data(), n});
    }
  };
  chain();
  const auto graph = gpu.record(chain);
  for (index i = 1; i < launches; ++i) gpu.launch(graph);
  const auto got = a.numbers();
  gpu.discard(graph);
  index wrong = 0;
  for (index i = 0; i < n; ++i)
    wrong += got[static_cast<std::size_t>(i)] !=
             static_cast<double>((i + 1037 * kernels * launches) % n + kernels * launches);
  BOOST_TEST(wrong == 0);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(batches_of_products, P, float_precisions) {
  device::basic_cuda<P> gpu;
  device::cpu cpu(2);
  for (const auto& s : shapes)
    for (const bool one_left : {false, true}) {
      const auto want = batched_products<double>(cpu, 5, s, one_left, 1);
      check_close("batch in float", batched_products<float>(gpu, 5, s, one_left, 1), want,
                  is_bf16<P> ? 1e-2 : 3e-6);
      check_close("batch in double", batched_products<double>(gpu, 5, s, one_left, 1), want, 1e-14);
    }
}

// In a kernel of their own where rows begin at 16 bytes.
BOOST_AUTO_TEST_CASE(products_of_few_rows) {
  device::basic_cuda<bf16_mixed> gpu;
  device::cpu cpu(2);
  std::vector<index> counts{31, 32, 33, 63, 64, 65};
  for (index m = 1; m <= 17; ++m) counts.push_back(m);
  for (const auto& [n, k] : {std::array<index, 2>{20, 40}, {49, 264}, {2120, 72}, {7, 2312}})
    for (const index m : counts)
      for (const double beta : {0.0, -0.5}) {
        const product_shape s{m, n, k, 8, 8};
        const std::string shape = std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k);
        const auto want = products<double>(cpu, s, beta, true);
        const auto check = [&](const char* what, const std::vector<double>& got) {
          check_close((what + shape).c_str(), got, want, 1e-5);
        };
        check("both, ", products<float, bf16, bf16>(gpu, s, beta, true));
        check("left, ", products<float, bf16, float>(gpu, s, beta, true));
        check("right, ", products<float, float, bf16>(gpu, s, beta, true));
        check("neither, ", products<float>(gpu, s, beta, true));
      }
}
// To the last bit, and whether an operand is rounded in memory or on the way; what is added is added to that.
BOOST_AUTO_TEST_CASE(a_row_is_the_same_however_many_there_are) {
  using D = device::basic_cuda<bf16_mixed>;
  D gpu;
  for (const auto& [n, k] : {std::array<index, 2>{4, 3456}, {40, 264}, {2304, 144}}) {
    const index out = n, in = k, most = 64;
    const auto xs = random_numbers(most * in, 1), ws = random_numbers(out * in, 2);
    const on_device<float, D> x(gpu, xs), w(gpu, ws), bias(gpu, random_numbers(out, 3)),
        skip(gpu, random_numbers(most * out, 4));
    const on_device<bf16, D> narrow_x(gpu, xs), narrow_w(gpu, ws);
    const auto product = [&]<class X, class W>(const on_device<X, D>& left, const on_device<W, D>& right,
                                               index rows) {
      const on_device<float, D> y(gpu, rows * out);
      gemm(gpu, matrix_view<const X>(left.data(), rows, in),
           transposed(matrix_view<const W>(right.data(), out, in)), matrix_view<float>(y.data(), rows, out));
      return y.numbers();
    };
    const auto want = product(x, w, most);
    for (index rows = 1; rows <= most; ++rows) {
      const std::vector<double> first(want.begin(), want.begin() + rows * out);
      BOOST_TEST((product(x, w, rows) == first), rows << " rows to " << out);
      BOOST_TEST((product(narrow_x, w, rows) == first), rows << " rounded rows to " << out);
      BOOST_TEST((product(x, narrow_w, rows) == first), rows << " rows to " << out << ", rounded");
      BOOST_TEST((product(narrow_x, narrow_w, rows) == first),
                 rows << " rounded rows to " << out << ", rounded");
    }
    for (const index rows : {1, 16, 40, 64}) {
      const auto m = [&](const on_device<float, D>& memory) {
        return matrix_view<float>(memory.data(), rows, out);
      };
      const on_device<float, D> y(gpu, rows * out), z(gpu, rows * out), a(gpu, rows * out), b(gpu, rows * out);
      const matrix_view<const float> left(x.data(), rows, in);
      const auto right = transposed(matrix_view<const float>(w.data(), out, in));
      gemm(gpu, left, right, m(y));
      transform(gpu, m(z), math::plus{}, m(y), broadcast<float>(bias.data()));
      gemm_plus(gpu, left, std::array{right, right},
                std::array{broadcast<float>(bias.data()), broadcast<float>(bias.data())},
                std::array{m(a), m(b)});
      BOOST_TEST((a.numbers() == z.numbers()));
      BOOST_TEST((b.numbers() == z.numbers()));
      transform(gpu, m(z), math::plus{}, m(y), m(skip));
      gemm_plus(gpu, left, right, m(skip), m(a));
      BOOST_TEST((a.numbers() == z.numbers()));
    }
  }
}

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

}  // namespace distil_xlstm
