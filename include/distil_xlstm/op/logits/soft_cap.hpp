#pragma once

#include <cmath>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

namespace detail {
template <class T>
struct soft_cap_map {
  using scalar = T;
  matrix_view<T> x;
  T cap;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    using std::tanh;
    T* p = x.row(r) + c;
    math::store<V>(p, V(cap) * tanh(math::load<V>(p) / V(cap)));
  }
};
template <class T>
struct soft_cap_backward_map {
  using scalar = T;
  matrix_view<const T> y;
  matrix_view<T> dy;
  T cap;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    T* p = dy.row(r) + c;
    const V part = math::load<V>(y.row(r) + c) / V(cap);
    math::store<V>(p, math::load<V>(p) * (V(1) - part * part));
  }
};
}  // namespace detail

/// x <- cap tanh(x / cap), which is x where x is small and never beyond the cap (Gemma 2, arXiv 2408.00118). A
/// cap of 0 is none.
template <class D, class T>
void soft_cap(D& d, matrix_view<T> x, double cap) {
  if (cap > 0) map(d, x.rows, x.cols, detail::soft_cap_map<T>{x, static_cast<T>(cap)});
}
/// The gradient of what went in takes the place of that of `y`, which came out.
template <class D, class T>
void soft_cap_backward(D& d, matrix_view<const T> y, matrix_view<T> dy, double cap) {
  if (cap > 0) map(d, y.rows, y.cols, detail::soft_cap_backward_map<T>{y, dy, static_cast<T>(cap)});
}

}  // namespace distil_xlstm
