#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <boost/test/unit_test.hpp>
#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/io/store_as.hpp>

// What the CPU does for the few rows of a decoder in a way of its own, beside the plain one.
namespace distil_xlstm {
namespace {

std::vector<float> random_numbers(index n, std::uint64_t seed) {
  rng random(seed);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& one : x) one = static_cast<float>(random.normal());
  return x;
}

/// y of two maps side by side, of the first `rows` rows of x.
std::vector<float> mapped(int threads, index blocks, index width, index rows, const std::vector<float>& weight,
                          const std::vector<float>& x) {
  device::cpu d(threads);
  const index cols = blocks * width;
  std::vector<float> y(static_cast<std::size_t>(2 * rows * cols), -1);
  const matrix_view<float> both(y.data(), rows, 2 * cols);
  const matrix_view<const float> in(x.data(), rows, cols);
  headwise_forward(
      d, std::array{headwise_arguments<float>{blocks, width, weight.data(), in, both.columns(0, cols)},
                    headwise_arguments<float>{blocks, width, weight.data() + cols * width, in,
                                              both.columns(cols, cols)}});
  return y;
}

}  // namespace

BOOST_AUTO_TEST_CASE(blocks_on_a_diagonal) {
  for (const index width : {1, 4, 5, 9, 32, 144})
    for (const index blocks : {index{1}, index{6}, 700 / width}) {
      const index cols = blocks * width, most = device::cpu::few_rows + 1;
      const auto weight = random_numbers(2 * cols * width, 1), x = random_numbers(most * cols, 2);
      for (index rows = 1; rows <= most; ++rows) {
        const auto y = mapped(2, blocks, width, rows, weight, x);
        double worst = 0;
        for (index r = 0; r < rows; ++r)
          for (index o = 0; o < 2 * cols; ++o) {
            double sum = 0;
            for (index i = 0; i < width; ++i)
              sum += static_cast<double>(weight[static_cast<std::size_t>(o * width + i)]) *
                     static_cast<double>(x[static_cast<std::size_t>(r * cols + o % cols / width * width + i)]);
            worst = std::max(
                worst, std::abs(sum - static_cast<double>(y[static_cast<std::size_t>(r * 2 * cols + o)])));
          }
        BOOST_TEST(worst < 1e-6 * static_cast<double>(width + 8), width << " x " << blocks << ": " << worst);
        BOOST_TEST(y == mapped(1, blocks, width, rows, weight, x));
        if (rows > device::cpu::few_rows) continue;
        const auto alone = mapped(2, blocks, width, 1, weight, x);
        BOOST_TEST(std::equal(alone.begin(), alone.end(), y.begin()), "a row depends on those beside it");
      }
    }
}

BOOST_AUTO_TEST_CASE(several_products) {
  device::cpu d(2);
  const index k = 96;
  for (const dtype type : {dtype::f32, dtype::q8_0, dtype::q4_0})
    for (const bool mixed : {false, true})
      for (const index rows : {1, 5, 12}) {
        const std::array<index, 3> outs{4, 100, 33};
        std::array<std::vector<float>, 3> numbers, y, one_by_one;
        std::array<std::vector<std::byte>, 3> bytes;
        std::array<frozen_matrix, 3> w;
        std::array<matrix_view<float>, 3> c;
        const auto x = random_numbers(rows * k, 3), bias = random_numbers(100, 4);
        const matrix_view<const float> a(x.data(), rows, k);
        for (std::size_t i = 0; i < 3; ++i) {
          const dtype stored = mixed && i == 2 ? dtype::f32 : type;
          numbers[i] = random_numbers(outs[i] * k, 5 + i);
          bytes[i].resize(static_cast<std::size_t>(outs[i] * row_bytes(stored, k)));
          BOOST_REQUIRE(io::store_as(stored, numbers[i].data(), outs[i] * k, bytes[i].data()));
          w[i] = {bytes[i].data(), stored, outs[i], k};
          y[i].resize(static_cast<std::size_t>(rows * outs[i])), one_by_one[i] = y[i];
          c[i] = {y[i].data(), rows, outs[i]};
          const matrix_view<float> alone(one_by_one[i].data(), rows, outs[i]);
          gemm(d, a, transposed(w[i]), alone);
          if (i == 1) transform(d, alone, math::plus{}, alone, broadcast(bias.data()));
        }
        const broadcast<float> none(nullptr);
        gemm_plus(d, a, std::array{transposed(w[0]), transposed(w[1]), transposed(w[2])},
                  std::array{none, broadcast<float>(bias.data()), none}, c);
        BOOST_TEST((y == one_by_one), traits(type).name << " of " << rows << " rows");
      }
}

}  // namespace distil_xlstm
