#pragma once

#include <cmath>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/fold_into.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/math/numeric.hpp>
#include <distil_xlstm/math/sum.hpp>

namespace distil_xlstm {

/// Rows of x seen as rows * groups short rows of `width`; statistics of each: mean and 1 / sqrt(variance + eps).
template <class T>
struct norm_view {
  /// @{ Short rows of a row, and numbers of each.
  index groups, width;
  /// @}
  /// @{ `subtract_mean` false: the mean counts as 0, an RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467).
  /// `residual_weight`: the scale is 1 + w, else w.
  bool subtract_mean, residual_weight;
  /// @}
  T epsilon;        ///< beside the variance
  const T* weight;  ///< [groups * width]
  /// y goes into products, and dx into those of the block before: a device that rounds their operands may do it at
  /// once.
  bool for_products = false;
  /// @{ The row of x and the column in it where short row r starts.
  DISTIL_XLSTM_HD index row(index r) const { return r / groups; }
  DISTIL_XLSTM_HD index column(index r) const { return r % groups * width; }
  /// @}
  /// What normalised numbers from this column on are multiplied by, a V of them.
  template <class V>
  DISTIL_XLSTM_HD V scale(index column) const {
    return V(residual_weight ? T(1) : T(0)) + math::load<V>(weight + column);
  }
};

/// An operand of `transform_groups`: u = (x - mean) / sqrt(variance + eps), by the statistics that forward left.
template <class T>
struct normalised {
  matrix_view<const T> x;  ///< what was normalised
  const T* statistics;     ///< [x.rows * groups, 2]
  /// u of the element's columns, a V of them.
  template <class V>
  DISTIL_XLSTM_HD V load(const element& e) const {
    const T* s = statistics + 2 * e.group;
    return (math::load<V>(x.row(e.row) + e.column) - V(s[0])) * V(s[1]);
  }
};
/// An operand of `transform_groups`: what u is multiplied by.
template <class T>
struct norm_scale {
  norm_view<T> norm;  ///< whose weight it is
  /// The scale of the element's columns, a V of them.
  template <class V>
  DISTIL_XLSTM_HD V load(const element& e) const {
    return norm.template scale<V>(e.column);
  }
};

namespace detail {

template <class T>
struct norm_mean : fold_into<math::sum, T> {
  norm_view<T> n;
  matrix_view<const T> x;
  T* statistics;  ///< [rows * groups, 2]
  template <class V>
  DISTIL_XLSTM_HD void visit(math::sum<V>& a, index r, index c) const {
    push(a, math::load<V>(x.row(n.row(r)) + n.column(r) + c));
  }
  DISTIL_XLSTM_HD void finish(index r, const math::sum<T>& a) const {
    statistics[2 * r] = a.total / static_cast<T>(n.width);
  }
};

/// The second pass: the biased variance about the mean (two passes lose no digits when the mean is large).
template <class T>
struct norm_variance : fold_into<math::sum, T> {
  norm_view<T> n;
  matrix_view<const T> x;
  T* statistics;
  template <class V>
  DISTIL_XLSTM_HD void visit(math::sum<V>& a, index r, index c) const {
    const V u = math::load<V>(x.row(n.row(r)) + n.column(r) + c) - V(statistics[2 * r]);
    push(a, u * u);
  }
  DISTIL_XLSTM_HD void finish(index r, const math::sum<T>& a) const {
    using std::sqrt;
    statistics[2 * r + 1] = T(1) / sqrt(a.total / static_cast<T>(n.width) + n.epsilon);
  }
};

/// mean(g) and mean(g u) of each short row, g = scale dy, u the normalised x.
template <class T>
struct norm_gradient_means : fold_into<math::two_sums, T> {
  norm_view<T> n;
  matrix_view<const T> x;
  const T* statistics;
  matrix_view<const T> dy;
  T* means;  ///< [rows * groups, 2]
  template <class V>
  DISTIL_XLSTM_HD void visit(math::two_sums<V>& a, index r, index c) const {
    const index row = n.row(r), column = n.column(r) + c;
    const V u = (math::load<V>(x.row(row) + column) - V(statistics[2 * r])) * V(statistics[2 * r + 1]);
    const V g = n.template scale<V>(column) * math::load<V>(dy.row(row) + column);
    push(a, g, g * u);
  }
  DISTIL_XLSTM_HD void finish(index r, const math::two_sums<T>& a) const {
    means[2 * r] = n.subtract_mean ? a.first / static_cast<T>(n.width) : T(0);
    means[2 * r + 1] = a.second / static_cast<T>(n.width);
  }
};

/// dx = (g - mean(g) - u mean(g u)) / sqrt(variance + eps), g = scale dy.
struct norm_input_gradient {
  template <class V>
  DISTIL_XLSTM_HD V operator()(V scale, V u, V dy, V inverse_deviation, V mean_g, V mean_gu) const {
    return inverse_deviation * (scale * dy - mean_g - u * mean_gu);
  }
};

/// dx of a row of few numbers, in double: what a norm over two or three of them passes on of a gradient is a
/// small difference of large ones.
template <class T>
struct narrow_norm_input_gradient {
  using scalar = T;
  static constexpr index widest = 8;
  norm_view<T> n;
  matrix_view<const T> x, dy;
  matrix_view<T> dx;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index) const {
    using std::sqrt;
    const index row = n.row(r), column = n.column(r);
    const T *in = x.row(row) + column, *above = dy.row(row) + column;
    const double each = 1.0 / static_cast<double>(n.width);
    double mean = 0, variance = 0, mean_g = 0, mean_gu = 0, u[widest], g[widest];
    for (index c = 0; n.subtract_mean && c < n.width; ++c) mean += each * static_cast<double>(in[c]);
    for (index c = 0; c < n.width; ++c) {
      u[c] = static_cast<double>(in[c]) - mean;
      variance += each * u[c] * u[c];
    }
    const double rs = 1.0 / sqrt(variance + static_cast<double>(n.epsilon));
    for (index c = 0; c < n.width; ++c) {
      u[c] *= rs;
      g[c] = static_cast<double>(n.template scale<T>(column + c)) * static_cast<double>(above[c]);
      if (n.subtract_mean) mean_g += each * g[c];
      mean_gu += each * g[c] * u[c];
    }
    T* out = dx.row(row) + column;
    for (index c = 0; c < n.width; ++c) out[c] = static_cast<T>(rs * (g[c] - mean_g - u[c] * mean_gu));
  }
};

/// dy u: what a row adds to the gradient of a column's scale.
struct norm_weight_gradient {
  template <class V>
  DISTIL_XLSTM_HD V operator()(V dy, V x, V mean, V inverse_deviation) const {
    return dy * (x - mean) * inverse_deviation;
  }
};

}  // namespace detail

/// statistics [x.rows * groups, 2]: mean (0 where none is subtracted) and 1 / sqrt(variance + eps) of each
/// short row. The default of any device, as are the next two.
template <class D, class T>
void norm_statistics(D& d, const norm_view<T>& n, matrix_view<const T> x, T* statistics) {
  const index rows = x.rows * n.groups;
  if (n.subtract_mean)
    fold_rows(d, rows, n.width, detail::norm_mean<T>{{}, n, x, statistics});
  else
    fill(d, matrix_view<T>(statistics, rows, 1, 2));
  fold_rows(d, rows, n.width, detail::norm_variance<T>{{}, n, x, statistics});
}
/// The statistics, and y = f(scale, u, ...) with u = (x - mean) / sqrt(variance + eps) and operands as
/// `transform_groups` takes them; y may be stored as the device's `operand_t`. The default of any device.
template <class D, class T, class Y, class F, class... Xs>
void norm_transform(D& d, const norm_view<T>& n, matrix_view<const T> x, T* statistics, matrix_view<Y> y,
                    const F& f, const Xs&... operands) {
  norm_statistics(d, n, x, statistics);
  transform_groups(d, n.groups, y, f, norm_scale<T>{n}, normalised<T>{x, statistics}, operands...);
}
/// The statistics, and y = scale (x - mean) / sqrt(variance + eps), which may be stored as the device's `operand_t`;
/// y = skip + that, where `skip`, which is not y, has data.
template <class D, class T, class Y>
void norm_forward(D& d, const norm_view<T>& n, matrix_view<const T> x, T* statistics, matrix_view<Y> y,
                  const_view<T> skip = {}) {
  norm_statistics(d, n, x, statistics);
  transform_groups(d, n.groups, y, math::times{}, norm_scale<T>{n}, normalised<T>{x, statistics});
  if (skip.data) transform(d, y, math::plus{}, y, skip);
}
/// dx [rows, groups * width] (overwritten) from dy, by the statistics that forward left, and `skip`, which is no part
/// of dx, added to it where that has data; dw [groups * width] += sum over rows of dy (x - mean) / sqrt(variance +
/// eps).
template <class D, class T>
void norm_backward(D& d, const norm_view<T>& n, matrix_view<const T> x, const T* statistics,
                   matrix_view<const T> dy, T* dw, matrix_view<T> dx, const_view<T> skip = {}) {
  const index rows = x.rows * n.groups;
  for (index a = 0; a < n.groups; ++a) {
    const index first = a * n.width, step = 2 * n.groups;
    add_column_sums(d, dw + first, detail::norm_weight_gradient{}, dy.columns(first, n.width),
                    x.columns(first, n.width), per_group<T>{statistics + 2 * a, step},
                    per_group<T>{statistics + 2 * a + 1, step});
  }
  if (n.width <= detail::narrow_norm_input_gradient<T>::widest) {
    map(d, rows, 1, detail::narrow_norm_input_gradient<T>{n, x, dy, dx});
  } else {
    auto means = d.template scratch<T>(2 * rows);
    fold_rows(d, rows, n.width, detail::norm_gradient_means<T>{{}, n, x, statistics, dy, means.data()});
    transform_groups(d, n.groups, dx, detail::norm_input_gradient{}, norm_scale<T>{n},
                     normalised<T>{x, statistics}, dy, per_group<T>{statistics + 1, 2},
                     per_group<T>{means.data(), 2}, per_group<T>{means.data() + 1, 2});
  }
  if (skip.data) transform(d, dx, math::plus{}, dx, skip);
}

}  // namespace distil_xlstm
