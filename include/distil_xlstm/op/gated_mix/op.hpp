#pragma once

#include <type_traits>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/fold_into.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/math/numeric.hpp>
#include <distil_xlstm/math/sum.hpp>

namespace distil_xlstm {

/// Two branches of heads, mixed by a gate of each head: h = o r + (1 - o) w, o = sigmoid(gate). What is written
/// overlaps nothing that is read. `R`: what r is stored as.
template <class T, class R = T>
struct gated_mix_arguments {
  index heads;                ///< heads of `width` columns, side by side
  matrix_view<const T> gate;  ///< [rows, heads], before the sigmoid
  /// @{ [rows, heads * width]
  matrix_view<const R> r;
  matrix_view<const T> w;
  /// @}
};
/// The gradients by r, w and gate, overwritten; and h again, for the gradient of weights that it meets. `H`: what h,
/// dh and dr are stored as.
template <class T, class H = T, class R = T>
struct gated_mix_backward_arguments {
  gated_mix_arguments<T, R> forward;  ///< what forward was given
  matrix_view<const H> dh;            ///< [rows, heads * width]
  /// @{ o dh and (1 - o) dh, [rows, heads * width].
  matrix_view<H> dr;
  matrix_view<T> dw;
  /// @}
  matrix_view<T> dgate;  ///< o (1 - o) dh.(r - w), [rows, heads]
  matrix_view<H> h{};    ///< what forward wrote, [rows, heads * width], or nothing
};

namespace detail {

/// An operand of `transform_groups` with a group for each head: sigmoid of the head's number.
template <class T>
struct head_gate {
  matrix_view<const T> before;  ///< [rows, heads]
  template <class V>
  DISTIL_XLSTM_HD V load(const element& e) const {
    return V(math::sigmoid(before.row(e.row)[e.group - e.row * before.cols]));
  }
};
/// o r + (1 - o) w
struct gated_mix {
  template <class V>
  DISTIL_XLSTM_HD V operator()(V o, V r, V w) const {
    return w + o * (r - w);
  }
};
/// dh - o dh
struct gated_mix_rest {
  template <class V>
  DISTIL_XLSTM_HD V operator()(V o, V dh) const {
    return dh - o * dh;
  }
};
struct gated_mix_gradients {
  template <class V>
  struct gradients {
    V r, w;
  };
  template <class V>
  DISTIL_XLSTM_HD gradients<V> operator()(V o, V dh) const {
    return {o * dh, gated_mix_rest{}(o, dh)};
  }
};
template <class T, class H, class R>
struct gated_mix_gate_gradient : fold_into<math::sum, T> {
  gated_mix_backward_arguments<T, H, R> g;
  index width;
  template <class V>
  DISTIL_XLSTM_HD void visit(math::sum<V>& a, index i, index c) const {
    const index row = i / g.forward.heads, at = i % g.forward.heads * width + c;
    push(a, math::load<V>(g.dh.row(row) + at) *
                (math::load<V>(g.forward.r.row(row) + at) - math::load<V>(g.forward.w.row(row) + at)));
  }
  DISTIL_XLSTM_HD void finish(index i, const math::sum<T>& a) const {
    const index row = i / g.forward.heads, head = i % g.forward.heads;
    const T o = math::sigmoid(g.forward.gate.row(row)[head]);
    g.dgate.row(row)[head] = o * (T(1) - o) * a.total;
  }
};

}  // namespace detail

/// Writes h [rows, heads * width], which may be stored as the device's `operand_t`.
template <class D, class T, class R, class H>
void gated_mix_forward(D& d, const gated_mix_arguments<T, R>& a, matrix_view<H> h) {
  transform_groups(d, a.heads, h, detail::gated_mix{}, detail::head_gate<T>{a.gate}, a.r, a.w);
}
/// The gradients. The default of any device.
template <class D, class T, class H, class R>
void gated_mix_backward(D& d, const gated_mix_backward_arguments<T, H, R>& g) {
  const gated_mix_arguments<T, R>& a = g.forward;
  const index width = g.dh.cols / a.heads;
  if (g.h.data) gated_mix_forward(d, a, g.h);
  fold_rows(d, g.dh.rows * a.heads, width, detail::gated_mix_gate_gradient<T, H, R>{{}, g, width});
  const detail::head_gate<T> gate{a.gate};
  if constexpr (std::is_same_v<H, T>) {
    transform_groups(d, a.heads, outputs{g.dr, g.dw}, detail::gated_mix_gradients{}, gate, g.dh);
  } else {
    transform_groups(d, a.heads, g.dr, math::times{}, gate, g.dh);
    transform_groups(d, a.heads, g.dw, detail::gated_mix_rest{}, gate, g.dh);
  }
}

}  // namespace distil_xlstm
