#include "products.hpp"

#include <array>
#include <string>
#include <vector>

#include <distil_xlstm/device/transform.hpp>

// Products of few rows, which have kernels of their own.
namespace distil_xlstm {

// Where rows begin at 16 bytes, and where they do not.
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

}  // namespace distil_xlstm
