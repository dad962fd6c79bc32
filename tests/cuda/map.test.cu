#include "gpu.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/testing/check_device.hpp>

// Maps and folds of rows on the GPU: packs where columns and addresses allow, at any address.
namespace distil_xlstm {
namespace {

template <class T>
std::vector<T> on_host(device::cuda& gpu, const buffer<T, device::cuda>& memory) {
  std::vector<T> out(static_cast<std::size_t>(memory.size()));
  gpu.download(out.data(), memory.data(), memory.size() * static_cast<index>(sizeof(T)));
  return out;
}

/// Everything that a numeric type can do, of x and its neighbour z.
constexpr int operations = 16;
template <class V>
DISTIL_XLSTM_HD V operation(int which, V x, V z) {
  using math::max;
  using math::min;
  using math::select_positive;
  using std::abs;
  using std::erf;
  using std::exp;
  using std::log;
  using std::log1p;
  using std::sqrt;
  using std::tanh;
  switch (which) {
    case 0: return x + z;
    case 1: return x - z;
    case 2: return x * z;
    case 3: return x / (abs(z) + V(1));
    case 4: return -x;
    case 5: return exp(x);
    case 6: return log(abs(x) + V(1));
    case 7: return log1p(abs(x));
    case 8: return tanh(x);
    case 9: return sqrt(abs(x));
    case 10: return erf(x);
    case 11: return max(x, z);
    case 12: return min(x, z);
    case 13: return select_positive(x, z, V(2));
    case 14: return math::sigmoid(x);
    default: return math::log_sigmoid(x);
  }
}
template <class T>
struct try_operation {
  using scalar = T;
  int which;
  matrix_view<const T> x, z;
  matrix_view<T> y;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const V there = math::load_if<V>(r % 3 != 2, z.row(r) + c);
    math::store<V>(y.row(r) + c, operation(which, math::load<V>(x.row(r) + c), there));
  }
};

template <class T>
void maps(double limit) {
  device::cuda gpu;
  rng random(5);
  double worst = 0;
  for (const auto& [rows, cols] :
       {std::pair<index, index>{1, 1}, {3, 5}, {130, 1}, {70, 301}, {2, 20000}, {1000, 64}})
    for (const index padding : {0, 3, 4})
      for (const index offset : {0, 1, 2}) {
        const index stride = cols + padding, all = rows * stride + offset;
        std::vector<T> x(static_cast<std::size_t>(all)), z(x);
        for (auto& v : x) v = static_cast<T>(3 * random.normal());
        for (auto& v : z) v = static_cast<T>(3 * random.normal());
        buffer<T, device::cuda> cx(gpu, all), cz(gpu, all), cy(gpu, all);
        gpu.upload(cx.data(), x.data(), all * static_cast<index>(sizeof(T)));
        gpu.upload(cz.data(), z.data(), all * static_cast<index>(sizeof(T)));
        for (int which = 0; which < operations; ++which) {
          const std::vector<T> nothing(x.size(), std::numeric_limits<T>::quiet_NaN());
          gpu.upload(cy.data(), nothing.data(), all * static_cast<index>(sizeof(T)));
          map(gpu, rows, cols,
              try_operation<T>{which,
                               {cx.data() + offset, rows, cols, stride},
                               {cz.data() + offset, rows, cols, stride},
                               {cy.data() + offset, rows, cols, stride}});
          const auto y = on_host(gpu, cy);
          index wrong = 0;
          for (index i = 0; i < all; ++i) {
            const index r = (i - offset) / stride, c = (i - offset) % stride;
            const bool inside = i >= offset && c < cols;
            const auto at = static_cast<std::size_t>(i);
            if (!inside) {
              wrong += !std::isnan(y[at]);
              continue;
            }
            const double want = operation<double>(which, x[at], r % 3 != 2 ? z[at] : T(0));
            const double e = std::abs(static_cast<double>(y[at]) - want) / (1 + std::abs(want));
            worst = std::max(worst, e);
            wrong += !(e <= limit);
          }
          BOOST_TEST(wrong == 0, wrong << " numbers of operation " << which << " are wrong, rows " << rows
                                       << " cols " << cols << " padding " << padding << " offset " << offset);
        }
      }
  BOOST_TEST_MESSAGE("maps of " << sizeof(T) << " bytes: " << worst);
}

struct sum_and_product {
  template <class V>
  struct both {
    V sum, product;
  };
  template <class V>
  DISTIL_XLSTM_HD both<V> operator()(V x, V z) const {
    return {x + z, x * z};
  }
};

template <class T>
void folds(double limit) {
  device::cuda gpu;
  rng random(6);
  for (const auto& [rows, cols] :
       {std::pair<index, index>{1, 1}, {3, 5}, {130, 1}, {70, 301}, {9, 2048}, {7, 2051}, {2, 49152}})
    for (const index padding : {0, 1, 4})
      for (const index offset : {0, 1}) {
        const index stride = cols + padding, all = rows * stride + offset;
        std::vector<T> x(static_cast<std::size_t>(all));
        for (auto& v : x) v = static_cast<T>(random.normal());
        buffer<T, device::cuda> cx(gpu, all), sum(gpu, rows), largest(gpu, rows);
        gpu.upload(cx.data(), x.data(), all * static_cast<index>(sizeof(T)));
        fold_rows(
            gpu, rows, cols,
            testing::detail::try_fold<T>{{cx.data() + offset, rows, cols, stride}, sum.data(), largest.data()});
        const auto sums = on_host(gpu, sum), most = on_host(gpu, largest);
        for (index r = 0; r < rows; ++r) {
          double s = 0, size = 0, m = -1e30;
          for (index c = 0; c < cols; ++c) {
            const double v = x[static_cast<std::size_t>(offset + r * stride + c)];
            s += v, size += std::abs(v), m = std::max(m, v);
          }
          const auto at = static_cast<std::size_t>(r);
          BOOST_TEST(std::abs(sums[at] - s) <= limit * size,
                     "row " << r << " of [" << rows << ", " << cols << "]");
          BOOST_TEST(most[at] == m);
        }
      }
}

}  // namespace

// What a transform writes as bfloat16 is the rounded float, in packs and at any address, and nothing beside it.
BOOST_AUTO_TEST_CASE(transforms_that_round) {
  device::cuda gpu;
  rng random(7);
  const bf16 nothing(std::numeric_limits<float>::quiet_NaN());
  for (const auto& [rows, cols] :
       {std::pair<index, index>{1, 1}, {3, 5}, {130, 1}, {70, 301}, {2, 20000}, {1000, 64}, {300, 1536}})
    for (const index padding : {0, 2, 3, 4})
      for (const index offset : {0, 1, 2, 4}) {
        const index stride = cols + padding, all = rows * stride + offset;
        std::vector<float> x(static_cast<std::size_t>(all)), z(x);
        for (auto& v : x) v = static_cast<float>(3 * random.normal());
        for (auto& v : z) v = static_cast<float>(3 * random.normal());
        const std::vector<bf16> empty(x.size(), nothing);
        buffer<float, device::cuda> cx(gpu, all), cz(gpu, all);
        buffer<bf16, device::cuda> one(gpu, all), sum(gpu, all), product(gpu, all);
        gpu.upload(cx.data(), x.data(), all * index{sizeof(float)});
        gpu.upload(cz.data(), z.data(), all * index{sizeof(float)});
        for (const auto* y : {&one, &sum, &product})
          gpu.upload(y->data(), empty.data(), all * index{sizeof(bf16)});
        const auto view = [&, rows = rows, cols = cols](const auto& memory) {
          return matrix_view(memory.data() + offset, rows, cols, stride);
        };
        transform(gpu, view(one), math::plus{}, view(cx), view(cz));
        transform(gpu, outputs{view(sum), view(product)}, sum_and_product{}, view(cx), view(cz));
        const auto a = on_host(gpu, one), s = on_host(gpu, sum), p = on_host(gpu, product);
        index wrong = 0;
        for (index i = 0; i < all; ++i) {
          const auto at = static_cast<std::size_t>(i);
          const bool inside = i >= offset && (i - offset) % stride < cols;
          const bf16 plus = inside ? bf16(x[at] + z[at]) : nothing,
                     times = inside ? bf16(x[at] * z[at]) : nothing;
          wrong += a[at].bits != plus.bits || s[at].bits != plus.bits || p[at].bits != times.bits;
        }
        BOOST_TEST(wrong == 0, wrong << " numbers are wrong, rows " << rows << " cols " << cols << " padding "
                                     << padding << " offset " << offset);
      }
}
BOOST_AUTO_TEST_CASE(maps_in_float) { maps<float>(2e-6); }
BOOST_AUTO_TEST_CASE(maps_in_double) { maps<double>(1e-14); }
BOOST_AUTO_TEST_CASE(folds_of_rows_in_float) { folds<float>(1e-6); }
BOOST_AUTO_TEST_CASE(folds_of_rows_in_double) { folds<double>(1e-14); }

}  // namespace distil_xlstm
