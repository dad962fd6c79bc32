#include "products.hpp"

#include <array>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

// Products of every kind against the CPU in double.
namespace distil_xlstm {
namespace {

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

}  // namespace distil_xlstm
