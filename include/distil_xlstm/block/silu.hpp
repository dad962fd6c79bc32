#pragma once

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/math/activation.hpp>

namespace distil_xlstm {

namespace detail {
/// y = SiLU(x)
template <class T>
struct silu_map {
  using scalar = T;
  matrix_view<const T> x;
  matrix_view<T> y;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const V v = math::load<V>(x.row(r) + c);
    math::store<V>(y.row(r) + c, v * math::sigmoid(v));
  }
};
/// dy *= SiLU'(x)
template <class T>
struct silu_backward_map {
  using scalar = T;
  matrix_view<const T> x;
  matrix_view<T> dy;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    T* p = dy.row(r) + c;
    math::store<V>(p, math::load<V>(p) * math::silu(math::load<V>(x.row(r) + c)).slope);
  }
};
}  // namespace detail

}  // namespace distil_xlstm
