#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <boost/test/unit_test.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/io/store_as.hpp>

#include "../random_numbers.hpp"
#include "../refused.hpp"

// What the CPU does for the few rows of a decoder in a way of its own, beside the plain one.
namespace distil_xlstm {
namespace {

/// How two maps are made: by one call, by one each, or each by any device's default.
enum class calls { one, each, defaults };

/// y of two maps side by side, of the first `rows` rows of x.
template <Precision P, class T>
std::vector<T> mapped(int threads, calls how, index blocks, index width, index rows,
                      const std::vector<T>& weight, const std::vector<T>& x) {
  device::basic_cpu<P> d(threads);
  const index cols = blocks * width;
  std::vector<T> y(static_cast<std::size_t>(2 * rows * cols), -1);
  const matrix_view<T> both(y.data(), rows, 2 * cols);
  const matrix_view<const T> in(x.data(), rows, cols);
  const std::array maps{
      headwise_arguments<T>{blocks, width, weight.data(), in, both.columns(0, cols)},
      headwise_arguments<T>{blocks, width, weight.data() + cols * width, in, both.columns(cols, cols)}};
  if (how == calls::one) headwise_forward(d, maps);
  for (const auto& map : maps)
    if (how == calls::each)
      headwise_forward(d, map);
    else if (how == calls::defaults)
      distil_xlstm::headwise_forward<device::basic_cpu<P>, T, T>(d, map);
  return y;
}

/// Sums of few rows are P's scalars; `of_many`: what rounding may move those of more by, a number of the sum.
template <Precision P>
void maps_blocks(index width, index blocks, double of_few, double of_many) {
  using T = typename P::scalar;
  const index cols = blocks * width, few = device::cpu::few_rows, most = few + 1;
  const auto weight = random_numbers<T>(2 * cols * width, 1), x = random_numbers<T>(most * cols, 2);
  const auto alone = mapped<P>(2, calls::one, blocks, width, 1, weight, x);
  for (index rows = 1; rows <= most; ++rows) {
    const auto y = mapped<P>(2, calls::one, blocks, width, rows, weight, x);
    double worst = 0;
    for (index r = 0; r < rows; ++r)
      for (index o = 0; o < 2 * cols; ++o) {
        double sum = 0;
        for (index i = 0; i < width; ++i)
          sum += static_cast<double>(weight[static_cast<std::size_t>(o * width + i)]) *
                 static_cast<double>(x[static_cast<std::size_t>(r * cols + o % cols / width * width + i)]);
        worst =
            std::max(worst, std::abs(sum - static_cast<double>(y[static_cast<std::size_t>(r * 2 * cols + o)])));
      }
    BOOST_TEST(worst < (rows > few ? of_many : of_few) * static_cast<double>(width + 8),
               rows << " rows, " << width << " x " << blocks << ": " << worst);
    BOOST_TEST((y == mapped<P>(1, calls::one, blocks, width, rows, weight, x)),
               "threads change " << rows << " rows");
    for (const calls how : {calls::each, calls::defaults})
      BOOST_TEST((y == mapped<P>(2, how, blocks, width, rows, weight, x)),
                 rows << " rows, " << width << " x " << blocks
                      << (how == calls::each ? ": one map rounds otherwise than two"
                                             : ": the CPU rounds otherwise than any device's default"));
    if (rows <= few)
      BOOST_TEST(std::equal(alone.begin(), alone.end(), y.begin()), "a row depends on those beside it");
  }
}

/// Three products of one matrix by `stored` ones, the last by floats where `mixed`, beside one after another.
template <Precision P>
void multiplies_several(index rows, index k, dtype stored, bool mixed) {
  using T = typename P::scalar;
  device::basic_cpu<P> d(2);
  const std::array<index, 3> outs{4, 100, 33};
  std::array<std::vector<T>, 3> y, one_by_one;
  std::array<std::vector<std::byte>, 3> bytes;
  std::array<frozen_matrix, 3> w;
  std::array<matrix_view<T>, 3> c;
  const auto x = random_numbers<T>(rows * k, 3), bias = random_numbers<T>(100, 4);
  const matrix_view<const T> a(x.data(), rows, k);
  for (std::size_t i = 0; i < 3; ++i) {
    const dtype type = mixed && i == 2 ? dtype::f32 : stored;
    bytes[i].resize(static_cast<std::size_t>(outs[i] * row_bytes(type, k)));
    const auto numbers = random_numbers<float>(outs[i] * k, 5 + i);
    BOOST_REQUIRE(io::store_as(type, numbers.data(), outs[i] * k, bytes[i].data()));
    w[i] = {bytes[i].data(), type, outs[i], k};
    y[i].resize(static_cast<std::size_t>(rows * outs[i])), one_by_one[i] = y[i];
    c[i] = {y[i].data(), rows, outs[i]};
    const matrix_view<T> alone(one_by_one[i].data(), rows, outs[i]);
    gemm(d, a, transposed(w[i]), alone);
    if (i == 1) transform(d, alone, math::plus{}, alone, broadcast(bias.data()));
  }
  const broadcast<T> none(nullptr);
  gemm_plus(d, a, std::array{transposed(w[0]), transposed(w[1]), transposed(w[2])},
            std::array{none, broadcast<T>(bias.data()), none}, c);
  BOOST_TEST((y == one_by_one), traits(stored).name << (mixed ? " beside f32, " : ", ") << rows << " x " << k);
}

}  // namespace

BOOST_AUTO_TEST_CASE(blocks_on_a_diagonal) {
  for (const index width : {1, 4, 5, 8, 9, 32, 144})
    for (const index blocks : {index{1}, index{6}, 700 / width}) {
      maps_blocks<fp32>(width, blocks, 1e-6, 1e-6);
      maps_blocks<fp64>(width, blocks, 1e-15, 1e-15);
      maps_blocks<bf16_mixed>(width, blocks, 1e-6, 1e-2);
    }
}

BOOST_AUTO_TEST_CASE(several_products) {
  const auto each_precision = [](index rows, index k, dtype stored, bool mixed) {
    multiplies_several<fp32>(rows, k, stored, mixed);
    multiplies_several<fp64>(rows, k, stored, mixed);
    multiplies_several<bf16_mixed>(rows, k, stored, mixed);
  };
  for (const index rows : {1, 5, 8, 12})
    for (const index k : {96, 97, 4608}) {
      each_precision(rows, k, dtype::f32, false);
      if (k % 32 != 0) continue;
      for (const dtype type : {dtype::q8_0, dtype::q4_0})
        for (const bool mixed : {false, true}) each_precision(rows, k, type, mixed);
    }
}

BOOST_AUTO_TEST_CASE(operands_that_do_not_fit) {
  device::cpu d(1);
  const std::vector<float> numbers(64);
  std::vector<float> out(64);
  const matrix_view<const float> a(numbers.data(), 2, 3), b(numbers.data(), 4, 5);
  const matrix_view<float> c(out.data(), 2, 4);
  const broadcast<float> none(nullptr);
  BOOST_CHECK_EXCEPTION(gemm(d, a, transposed(b), c), error,
                        says("gemm: [2, 3] by [5, 4] does not give [2, 4]"));
  BOOST_CHECK_EXCEPTION(gemm_plus(d, a, std::array{transposed(b)}, std::array{none}, std::array{c}), error,
                        says("gemm_plus: [2, 3] by [5, 4] does not give [2, 4]"));
}

}  // namespace distil_xlstm
