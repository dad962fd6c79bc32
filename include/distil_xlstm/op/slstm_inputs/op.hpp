#pragma once

#include <array>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/op/linear/op.hpp>
#include <distil_xlstm/op/slstm/op.hpp>

namespace distil_xlstm {

/// The way back from the gradients of an sLSTM's gates i~, f~, z~, o~ through what they are sums of: R h' + b and
///
///     Wi a    Wf a    Wz x    Wo x    each of them [heads, head_dim, head_dim], block-diagonal
///
/// The gradients by all weights are added to.
template <class T>
struct slstm_inputs_backward_arguments {
  slstm_backward_arguments<T> cell;  ///< after `slstm_backward`, whose `raw` are those gradients
  std::array<const T*, 4> weight;    ///< of i, f, z, o
  std::array<T*, 4> dweight;         ///< likewise
  /// @{ [heads, 4 head_dim, head_dim] and [4 width].
  T *drecurrent, *dbias;
  /// @}
  /// @{ As forward had them, [rows, width].
  matrix_view<const T> a, x;
  /// @}
  /// @{ [rows, width]: overwritten, and the sum of both where they are one.
  matrix_view<T> da, dx;
  /// @}
  matrix_view<T> previous;  ///< [rows, width], to work with; may be da
};

namespace detail {
/// Whether what gate `gate` gives is added to what is there, from i on.
template <class T>
bool slstm_adds(const slstm_inputs_backward_arguments<T>& a, std::size_t gate) {
  return gate % 2 == 1 || (gate == 2 && a.da.data == a.dx.data);
}
}  // namespace detail

/// The gradients. The default of any device.
template <class D, class T>
void slstm_inputs_backward(D& d, const slstm_inputs_backward_arguments<T>& a) {
  const index heads = a.cell.heads, head = a.cell.head_dim, width = a.cell.width();
  const matrix_view<const T> draw = a.cell.raw;
  map(d, a.x.rows, width, detail::slstm_previous_h<T>{a.cell, a.previous});
  for (index gate = 0; gate < 4; ++gate)
    gemm_batched(d, heads, transposed(draw.columns(gate * width, head)), head, a.previous.columns(0, head),
                 head, matrix_view<T>(a.drecurrent + gate * head * head, head, head), 4 * head * head, T(1));
  add_column_sums(d, draw, a.dbias);
  for (std::size_t gate = 0; gate < 4; ++gate) {
    const matrix_view<const T> dy = draw.columns(static_cast<index>(gate) * width, width);
    headwise_backward(d, headwise_backward_arguments<T>{
                             heads, head, a.weight[gate], gate < 2 ? a.a : a.x, dy, gate < 2 ? a.da : a.dx,
                             T(detail::slstm_adds(a, gate) ? 1 : 0), a.dweight[gate]});
  }
}

}  // namespace distil_xlstm
