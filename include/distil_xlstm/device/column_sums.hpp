#pragma once

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

namespace detail {

/// total[c * step] += sum over rows of value(r, c)
template <class F>
struct column_sums {
  using scalar = typename F::scalar;
  F value;
  scalar* total;
  index step;

  template <class V>
  struct acc {
    V sum;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {V(0)};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    a.sum = a.sum + value.template operator()<V>(r, c);
  }
  DISTIL_XLSTM_HD void merge(acc<scalar>& into, const acc<scalar>& from) const { into.sum += from.sum; }
  template <class V>
  DISTIL_XLSTM_HD void finish(index c, const acc<V>& a) const {
    if (step == 1) {
      math::store<V>(total + c, math::load<V>(total + c) + a.sum);
    } else {
      scalar sums[static_cast<std::size_t>(math::width_of<V>)];
      math::store<V>(sums, a.sum);
      for (index i = 0; i < math::width_of<V>; ++i) total[(c + i) * step] += sums[i];
    }
  }
};

template <class T>
struct column_value {
  using scalar = T;
  matrix_view<const T> x;
  template <class V>
  DISTIL_XLSTM_HD V operator()(index r, index c) const {
    return math::load<V>(x.row(r) + c);
  }
};

}  // namespace detail

/// total[c * step] += sum over rows of value.operator()<V>(r, c), V a scalar or a pack of columns.
template <class D, class F>
void add_column_sums(D& d, index rows, index cols, const F& value, typename F::scalar* total, index step = 1) {
  fold_columns(d, rows, cols, detail::column_sums<F>{value, total, step});
}
/// total[c] += sum over rows of x[r, c].
template <class D, class T>
void add_column_sums(D& d, matrix_view<const T> x, T* total) {
  add_column_sums(d, x.rows, x.cols, detail::column_value<T>{x}, total);
}

}  // namespace distil_xlstm
