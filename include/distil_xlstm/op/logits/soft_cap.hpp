#pragma once

#include <cmath>

#include <distil_xlstm/device/transform.hpp>

namespace distil_xlstm {

namespace detail {
struct soft_cap_function {
  double cap;
  template <class V>
  DISTIL_XLSTM_HD V operator()(V x) const {
    using std::tanh;
    return V(cap) * tanh(x / V(cap));
  }
};
struct soft_cap_gradient {
  double cap;
  template <class V>
  DISTIL_XLSTM_HD V operator()(V y, V dy) const {
    const V part = y / V(cap);
    return dy * (V(1) - part * part);
  }
};
}  // namespace detail

/// x <- cap tanh(x / cap), which is x where x is small and never beyond the cap (Gemma 2, arXiv 2408.00118). A
/// cap of 0 is none.
template <class D, class T>
void soft_cap(D& d, matrix_view<T> x, double cap) {
  if (cap > 0) transform(d, x, detail::soft_cap_function{cap}, x);
}
/// The gradient of what went in takes the place of that of `y`, which came out.
template <class D, class T>
void soft_cap_backward(D& d, const_view<T> y, matrix_view<T> dy, double cap) {
  if (cap > 0) transform(d, dy, detail::soft_cap_gradient{cap}, y, dy);
}

}  // namespace distil_xlstm
