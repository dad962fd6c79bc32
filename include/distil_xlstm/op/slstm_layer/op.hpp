#pragma once

#include <array>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/op/linear/op.hpp>
#include <distil_xlstm/op/norm/op.hpp>
#include <distil_xlstm/op/slstm/op.hpp>

namespace distil_xlstm {

/// An sLSTM's cell with what feeds it and what follows it:
///
///     raw = [Wi a, Wf a, Wz x, Wo x]    y = skip + norm(h)    each W [heads, head_dim, head_dim], block-diagonal
template <class T>
struct slstm_layer_arguments {
  slstm_arguments<T> cell;         ///< whose `raw` is overwritten first
  std::array<const T*, 4> weight;  ///< of i, f, z, o
  /// @{ [rows, width].
  matrix_view<const T> a, x;
  /// @}
  norm_view<T> norm;               ///< of h
  T* statistics;                   ///< as `norm_forward` leaves them
  matrix_view<T> y;                ///< [rows, width]
  matrix_view<const T> skip = {};  ///< [rows, width]; without data there is none
};

/// Writes all of it. The default of any device.
template <class D, class T>
void slstm_layer_forward(D& d, const slstm_layer_arguments<T>& a) {
  const index width = a.cell.width();
  std::array<headwise_arguments<T>, 4> gates;
  for (std::size_t i = 0; i < 4; ++i)
    gates[i] = {a.cell.heads, a.cell.head_dim, a.weight[i], i < 2 ? a.a : a.x,
                a.cell.raw.columns(static_cast<index>(i) * width, width)};
  headwise_forward(d, gates);
  slstm_forward(d, a.cell);
  norm_forward(d, a.norm, matrix_view<const T>(a.cell.states.columns(0, width)), a.statistics, a.y, a.skip);
}

}  // namespace distil_xlstm
