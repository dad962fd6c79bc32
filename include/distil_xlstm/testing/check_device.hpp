#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/frozen_memory.hpp>
#include <distil_xlstm/math/numeric.hpp>
#include <distil_xlstm/testing/law_report.hpp>
#include <distil_xlstm/testing/on_host.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

namespace distil_xlstm::testing {

namespace detail {

/// Random numbers as a file stores them, and what they are.
struct stored_numbers {
  std::vector<char> bytes;
  std::vector<double> values;
  index rows, cols;
  distil_xlstm::dtype dtype;

  stored_numbers(index r, index c, distil_xlstm::dtype e, rng& random) : rows(r), cols(c), dtype(e) {
    const auto [numbers, block, name] = traits(e);
    bytes.resize(static_cast<std::size_t>(rows * row_bytes(e, cols)));
    values.resize(static_cast<std::size_t>(rows * cols));
    for (char* p = bytes.data(); p < bytes.data() + bytes.size(); p += block) {
      if (numbers == 1) {
        const double x = random.uniform(-1, 1);
        const auto f = static_cast<float>(x);
        const bf16 b(f);
        // A half of any sign and digits, and an exponent that keeps it small.
        const auto h = static_cast<std::uint16_t>((random() & 0x83ffu) | (10 + random.below(5)) << 10);
        const void* from = e == dtype::f64   ? static_cast<const void*>(&x)
                           : e == dtype::f32 ? static_cast<const void*>(&f)
                           : e == dtype::f16 ? static_cast<const void*>(&h)
                                             : static_cast<const void*>(&b);
        std::memcpy(p, from, static_cast<std::size_t>(block));
      } else {
        for (index j = 0; j < block; ++j) p[j] = static_cast<char>(random());
        // The scales, halves: small and finite.
        const std::uint16_t scales[2] = {0x1c00, 0x1800};
        const bool two = e == dtype::q4_1 || e == dtype::q4_k;
        std::memcpy(e == dtype::q6_k ? p + 208 : p, scales, two ? 4 : 2);
      }
    }
    unpack(e, bytes.data(), rows * cols, values.data());
  }
  double operator()(index r, index c) const { return values[static_cast<std::size_t>(r * cols + c)]; }
};

/// The same where a device reads them.
template <class T, class D>
struct placed_numbers : stored_numbers {
  buffer<T, D> memory;
  placed_numbers(D& d, index r, index c, rng& random)
      : stored_numbers(r, c, dtype_of<T>, random), memory(d, r * c) {
    d.upload(memory.data(), bytes.data(), std::ssize(bytes));
  }
  matrix_view<const T> view() const { return {memory.data(), rows, cols}; }
};

/// y[r, c] = x[r, c]² - c
template <class T>
struct try_map {
  using scalar = T;
  matrix_view<const T> x;
  matrix_view<T> y;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    T columns[static_cast<std::size_t>(math::width_of<V>)];
    for (index i = 0; i < math::width_of<V>; ++i) columns[i] = static_cast<T>(c + i);
    const V v = math::load<V>(x.row(r) + c);
    math::store<V>(y.row(r) + c, v * v - math::load<V>(columns));
  }
};
/// out = the sum, and the largest number, of a row or a column.
template <class T>
struct try_fold {
  using scalar = T;
  matrix_view<const T> x;
  T *sum, *largest;
  template <class V>
  struct acc {
    V sum, largest;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {V(0), V(-1e30)};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    using math::max;
    const V v = math::load<V>(x.row(r) + c);
    a.sum = a.sum + v;
    a.largest = max(a.largest, v);
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const {
    into.sum += from.sum;
    into.largest = from.largest > into.largest ? from.largest : into.largest;
  }
  DISTIL_XLSTM_HD void finish(index r, const acc<T>& a) const { sum[r] = a.sum, largest[r] = a.largest; }
};
template <class T>
struct try_column_fold : try_fold<T> {
  template <class V>
  DISTIL_XLSTM_HD void finish(index c, const typename try_fold<T>::template acc<V>& a) const {
    math::store<V>(this->sum + c, a.sum);
    math::store<V>(this->largest + c, a.largest);
  }
};
/// Each row's prefix sums.
template <class T>
struct try_prefix_sums {
  matrix_view<const T> x;
  matrix_view<T> y;
  DISTIL_XLSTM_HD void operator()(index r) const {
    T sum = 0;
    for (index c = 0; c < x.cols; ++c) y.row(r)[c] = sum += x.row(r)[c];
  }
};

/// Runs the verbs of a device one after another, each against the naive loop.
template <class T, class D>
class device_trial {
 public:
  explicit device_trial(D& device) : device_(device) {}
  std::vector<T> results;  ///< all that the verbs gave, in order
  law_report report;       ///< the first that is not the naive loop's

  void run() {
    products();
    batched_products();
    elements();
  }

 private:
  static constexpr double epsilon = static_cast<double>(std::numeric_limits<T>::epsilon());

  /// Device memory with `slack` more numbers a row than needed, which no verb may touch.
  struct output {
    buffer<T, D> memory;
    matrix_view<T> view;
    output(D& d, index rows, index cols, index slack = 3)
        : memory(d, rows * (cols + slack)), view(memory.data(), rows, cols, cols + slack) {
      to_device(d, memory, std::vector<T>(static_cast<std::size_t>(memory.size()), T(0.25)));
    }
  };
  /// `want(r, c)` gives the number and the size by which its error counts.
  template <class Want>
  void compare(const std::string& law, const output& y, double digits, const Want& want) {
    const std::vector<T> numbers = on_host(device_, y.memory);
    for (index r = 0; r < y.view.rows; ++r)
      for (index c = 0; c < y.view.stride; ++c) {
        const T got = numbers[static_cast<std::size_t>(r * y.view.stride + c)];
        results.push_back(got);
        if (!report.ok()) continue;
        const auto [value, size] = c < y.view.cols ? want(r, c) : std::pair{0.25, 0.0};
        report = judge(law, std::abs(static_cast<double>(got) - value), digits * epsilon * size, "row ", r,
                       ", column ", c, " of [", y.view.rows, ", ", y.view.cols, "], scalar of ", sizeof(T),
                       " bytes");
      }
  }

  /// c = beta c + a b, where at(r, p) and bt(p, c) are the operands' numbers.
  template <class A, class B, class At, class Bt>
  void product(const std::string& what, index m, index n, index k, A a, B b, T beta, const At& at, const Bt& bt,
               double rounding = 0) {
    output y(device_, m, n);
    gemm(device_, a, b, y.view, beta);
    compare("gemm is the naive product (" + what + ")", y,
            8 + std::sqrt(static_cast<double>(k)) + rounding / epsilon, [&](index r, index c) {
              double sum = 0.25 * static_cast<double>(beta), size = std::abs(sum);
              for (index p = 0; p < k; ++p) sum += at(r, p) * bt(p, c), size += std::abs(at(r, p) * bt(p, c));
              return std::pair{sum, size};
            });
  }
  void products() {
    using operand = placed_numbers<T, D>;
    // Several tasks a product, odd remainders, and the single row of a decoder.
    const index sizes[][3] = {{1, 1, 1}, {1, 600, 70}, {5, 7, 3}, {33, 65, 130}, {600, 40, 17}};
    for (const auto& [m, n, k] : sizes)
      for (const T beta : {T(0), T(1), T(-0.5)}) {
        const operand a(device_, m, k, random_), b(device_, k, n, random_), at(device_, k, m, random_),
            bt(device_, n, k, random_);
        const auto swapped = [](const stored_numbers& x) { return [&x](index r, index c) { return x(c, r); }; };
        product("plain", m, n, k, a.view(), b.view(), beta, a, b);
        product("transposed right", m, n, k, a.view(), transposed(bt.view()), beta, a, swapped(bt));
        product("transposed left", m, n, k, transposed(at.view()), b.view(), beta, swapped(at), b);
        product("transposed both", m, n, k, transposed(at.view()), transposed(bt.view()), beta, swapped(at),
                swapped(bt));
      }
    for (const dtype type : {dtype::f64, dtype::f32, dtype::bf16, dtype::f16, dtype::q4_0, dtype::q4_1,
                             dtype::q5_0, dtype::q8_0, dtype::q4_k, dtype::q6_k})
      for (const auto& [m, n, k] : {std::array<index, 3>{1, 65, 512}, {9, 34, 256}}) {
        const operand a(device_, m, k, random_);
        const stored_numbers w(n, k, type, random_);
        const operand dy(device_, m, n, random_);
        frozen_memory<T, D> memory(device_);
        const frozen_matrix frozen = memory.keep(frozen_matrix{w.bytes.data(), type, n, k});
        const std::string what = std::string("frozen ") + traits(type).name;
        double rounding = 0;
        if constexpr (std::is_same_v<T, float> && requires { D::multiplies_stored(type); })
          if (traits(type).block_size > 1 && D::multiplies_stored(type) && m <= D::few_rows)
            rounding = tolerance<float>::rows_of_8_bits;
        product(
            what + ", transposed", m, n, k, a.view(), transposed(frozen), T(0), a,
            [&](index p, index c) { return w(c, p); }, rounding);
        product(what, m, k, n, dy.view(), frozen, T(1), dy, w);
      }
  }
  void batched_products() {
    const index count = 5, m = 7, n = 6, k = 9;
    const placed_numbers<T, D> a(device_, count * m, k, random_), b(device_, count * n, k, random_);
    for (const T beta : {T(0), T(1)}) {
      output y(device_, count * m, n);
      gemm_batched(device_, count, a.view().slice(0, m), m * k, transposed(b.view().slice(0, n)), n * k,
                   y.view.slice(0, m), m * y.view.stride, beta);
      compare("gemm_batched is many products", y, 8 + std::sqrt(static_cast<double>(k)), [&](index r, index c) {
        double sum = 0.25 * static_cast<double>(beta), size = std::abs(sum);
        for (index p = 0; p < k; ++p) {
          const double term = a(r, p) * b(r / m * n + c, p);
          sum += term, size += std::abs(term);
        }
        return std::pair{sum, size};
      });
    }
  }
  void elements() {
    const index sizes[][2] = {{1, 1}, {3, 5}, {130, 1}, {70, 301}, {2, 20000}};
    for (const auto& size : sizes) {
      const index rows = size[0], cols = size[1];
      const placed_numbers<T, D> x(device_, rows, cols, random_);
      const auto view = x.view();
      output y(device_, rows, cols);
      map(device_, rows, cols, try_map<T>{view, y.view});
      compare("map is the loop over elements", y, 2, [&](index r, index c) {
        const double v = x(r, c) * x(r, c) - static_cast<double>(c);
        return std::pair{v, 1 + static_cast<double>(c)};
      });

      output sums(device_, 1, rows), largest(device_, 1, rows);
      fold_rows(device_, rows, cols, try_fold<T>{view, sums.view.data, largest.view.data});
      compare("fold_rows is the loop over columns", sums, 8 + std::sqrt(static_cast<double>(cols)),
              [&](index, index r) { return sum_of(cols, [&](index c) { return x(r, c); }); });
      compare("fold_rows is the loop over columns", largest, 0,
              [&](index, index r) { return largest_of(cols, [&](index c) { return x(r, c); }); });

      output column_sums(device_, 1, cols), column_largest(device_, 1, cols);
      fold_columns(device_, rows, cols,
                   try_column_fold<T>{{view, column_sums.view.data, column_largest.view.data}});
      compare("fold_columns is the loop over rows", column_sums, 8 + std::sqrt(static_cast<double>(rows)),
              [&](index, index c) { return sum_of(rows, [&](index r) { return x(r, c); }); });
      compare("fold_columns is the loop over rows", column_largest, 0,
              [&](index, index c) { return largest_of(rows, [&](index r) { return x(r, c); }); });

      output prefix(device_, rows, cols);
      parallel_for(device_, rows, try_prefix_sums<T>{view, prefix.view});
      std::vector<double> before(static_cast<std::size_t>(rows)), absolute = before;
      compare("parallel_for is the loop over tasks", prefix, 1 + static_cast<double>(cols),
              [&](index r, index c) {
                const auto i = static_cast<std::size_t>(r);
                before[i] += x(r, c), absolute[i] += std::abs(x(r, c));
                return std::pair{before[i], absolute[i]};
              });
    }
  }
  template <class F>
  static std::pair<double, double> sum_of(index n, const F& f) {
    double sum = 0, size = 0;
    for (index i = 0; i < n; ++i) sum += f(i), size += std::abs(f(i));
    return {sum, size};
  }
  template <class F>
  static std::pair<double, double> largest_of(index n, const F& f) {
    double largest = -1e30;
    for (index i = 0; i < n; ++i) largest = std::max(largest, f(i));
    return {largest, 1};
  }

  D& device_;
  rng random_{1};
};

}  // namespace detail

/// Tries a device's verbs against the naive loops, in the scalar T.
template <class T, Device D>
law_report check_device(D& device) {
  detail::device_trial<T, D> trial(device);
  trial.run();
  return trial.report;
}

/// Two devices give the same numbers, bit by bit: one with another number of workers, for instance.
template <class T, Device A, Device B>
law_report check_same_results(A& a, B& b) {
  detail::device_trial<T, A> x(a);
  detail::device_trial<T, B> y(b);
  x.run(), y.run();
  for (std::size_t i = 0; i < x.results.size(); ++i)
    if (std::memcmp(&x.results[i], &y.results[i], sizeof(T)) != 0)
      return detail::judge("results do not depend on the number of workers", INFINITY, 0, "number ", i, " of ",
                           x.results.size());
  return {};
}

}  // namespace distil_xlstm::testing
