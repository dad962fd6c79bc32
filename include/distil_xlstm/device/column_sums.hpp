#pragma once

#include <cstddef>

#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/fold_into.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/math/sum.hpp>

namespace distil_xlstm {

namespace detail {

/// f(x...) of an element, for a verb that sums.
template <class F, class Xs>
struct value_of {
  F f;
  Xs x;
  template <class V>
  DISTIL_XLSTM_HD V operator()(index r, index c) const {
    return x.template apply<V>(f, element{r, c, r});
  }
};

/// total[c * step] += sum over rows of value(r, c)
template <class T, class F>
struct column_sums : fold_into<math::sum, T> {
  F value;
  T* total;
  index step;
  template <class V>
  DISTIL_XLSTM_HD void visit(math::sum<V>& a, index r, index c) const {
    push(a, value.template operator()<V>(r, c));
  }
  template <class V>
  DISTIL_XLSTM_HD void finish(index c, const math::sum<V>& a) const {
    if (step == 1) {
      math::store<V>(total + c, math::load<V>(total + c) + a.total);
    } else {
      T sums[static_cast<std::size_t>(math::width_of<V>)];
      math::store<V>(sums, a.total);
      for (index i = 0; i < math::width_of<V>; ++i) total[(c + i) * step] += sums[i];
    }
  }
};

}  // namespace detail

/// total[c * step] += sum over rows of `value.operator()<V>(r, c)`, V a scalar or a pack of columns.
template <class D, class T, class F>
void add_column_sums(D& d, index rows, index cols, const F& value, T* total, index step = 1) {
  fold_columns(d, rows, cols, detail::column_sums<T, F>{{}, value, total, step});
}
/// total[c] += sum over rows of f(x[r, c], more[r, c]...), of operands as `transform` takes them.
template <class D, class T, class F, class U, class... Xs>
void add_column_sums(D& d, T* total, const F& f, matrix_view<U> x, const Xs&... more) {
  (detail::require_fit(x, more), ...);
  const auto all = detail::operands_of(x, more...);
  add_column_sums(d, x.rows, x.cols, detail::value_of<F, std::remove_const_t<decltype(all)>>{f, all}, total);
}
/// total[c] += sum over rows of x[r, c].
template <class D, class T>
void add_column_sums(D& d, const_view<T> x, T* total) {
  add_column_sums(d, total, math::identity{}, x);
}

}  // namespace distil_xlstm
