#pragma once

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/math/activation.hpp>

namespace distil_xlstm {

/// y = act(gate) value, element by element; stored as S, which may be bf16. y may be gate or value.
template <class S>
struct gated_activation_arguments {
  activation act;  ///< of the gate
  /// @{ [rows, cols]
  matrix_view<const S> gate, value;
  /// @}
};
/// The gradients by gate and value, stored as G and overwritten; and y again.
template <class S, class G = S>
struct gated_activation_backward_arguments {
  gated_activation_arguments<S> forward;  ///< what forward was given
  matrix_view<const S> dy;                ///< [rows, cols]
  /// @{ dy value act'(gate) and dy act(gate), [rows, cols].
  matrix_view<G> dgate, dvalue;
  /// @}
  matrix_view<G> y{};  ///< what forward wrote, [rows, cols], or nothing
};

/// y = act(gate) value of [gate, value] = x Wᵀ, where no backward follows.
template <class T, class X, class Matrix>
struct gated_product_arguments {
  activation act;          ///< of the gate
  matrix_view<const X> x;  ///< [rows, k], which may be stored as the device's `operand_t`
  Matrix weight;           ///< W [2 n, k], the gate's rows first
  matrix_view<T> up;       ///< [rows, 2 n]: may be written
};

namespace detail {
/// y = act(gate) value
struct gated_activation {
  activation act;
  template <class V>
  DISTIL_XLSTM_HD V operator()(V gate, V value) const {
    return math::activate(act, gate).value * value;
  }
};
/// Its gradients, and y again.
struct gated_activation_again {
  activation act;
  template <class V>
  struct gradients {
    V gate, value, y;
  };
  template <class V>
  DISTIL_XLSTM_HD gradients<V> operator()(V gate, V value, V dy) const {
    const auto a = math::activate(act, gate);
    return {dy * value * a.slope, dy * a.value, a.value * value};
  }
};
/// Its gradients alone.
struct gated_activation_backward {
  activation act;
  template <class V>
  struct gradients {
    V gate, value;
  };
  template <class V>
  DISTIL_XLSTM_HD gradients<V> operator()(V gate, V value, V dy) const {
    const auto all = gated_activation_again{act}(gate, value, dy);
    return {all.gate, all.value};
  }
};
}  // namespace detail

/// Writes y. The default of any device.
template <class D, class S, class Y>
void gated_activation_forward(D& d, const gated_activation_arguments<S>& a, matrix_view<Y> y) {
  transform(d, y, detail::gated_activation{a.act}, a.gate, a.value);
}
/// Writes y [rows, n]. The default of any device.
template <class D, class T, class X, class Matrix>
void gated_product_forward(D& d, const gated_product_arguments<T, X, Matrix>& a, matrix_view<T> y) {
  gemm(d, a.x, transposed(a.weight), a.up);
  const matrix_view<const T> up = a.up;
  gated_activation_forward(
      d, gated_activation_arguments<T>{a.act, up.columns(0, y.cols), up.columns(y.cols, y.cols)}, y);
}
/// The gradients. The default of any device.
template <class D, class S, class G>
void gated_activation_backward(D& d, const gated_activation_backward_arguments<S, G>& g) {
  const gated_activation_arguments<S>& a = g.forward;
  if (g.y.data)
    transform(d, outputs{g.dgate, g.dvalue, g.y}, detail::gated_activation_again{a.act}, a.gate, a.value, g.dy);
  else
    transform(d, outputs{g.dgate, g.dvalue}, detail::gated_activation_backward{a.act}, a.gate, a.value, g.dy);
}

}  // namespace distil_xlstm
