#pragma once

#include <array>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/op/conv/op.hpp>
#include <distil_xlstm/op/linear/op.hpp>

namespace distil_xlstm {

/// What feeds an mLSTM's memory of its input e: a = SiLU(conv(e)), and three block-diagonal maps, q = Wq a, k = Wk a
/// and v = Wv e, which are stored as S's.
template <class T, class S = T, index Window = dynamic>
struct mlstm_inputs_arguments {
  causal_conv_arguments<T, Window> conv;         ///< of e; gives a
  std::array<headwise_arguments<T, S>, 3> maps;  ///< of a, a and e
};

/// `mlstm_inputs_arguments{conv, maps}` says T, S and Window by itself.
template <class T, class S, index Window>
mlstm_inputs_arguments(const causal_conv_arguments<T, Window>&, const std::array<headwise_arguments<T, S>, 3>&)
    -> mlstm_inputs_arguments<T, S, Window>;

/// Writes a, q, k and v. The default of any device.
template <class D, class T, class S, index Window>
void mlstm_inputs_forward(D& d, const mlstm_inputs_arguments<T, S, Window>& a) {
  causal_conv_forward(d, a.conv);
  headwise_forward(d, a.maps);
}

/// The way back through what feeds an mLSTM's memory, of inner = blocks * width columns:
///
///     q = Wq a    k = Wk a    v = Wv e    block-diagonal, as `headwise_arguments` says
///     i = Wi [q k v] + bi    f = Wf [q k v] + bf
///
/// The gradients by all weights are added to. `S`: what q, k and v are stored as.
template <class T, class S = T>
struct mlstm_inputs_backward_arguments {
  /// @{ Gates of a kind; blocks on the diagonals, and columns of each.
  index heads, blocks, width;
  /// @}
  std::array<const T*, 3> weight;  ///< of q, k, v: [blocks, width, width]
  /// @{ Gradients of those and of their biases, [inner] each, null where there is none.
  std::array<T*, 3> dweight, dbias;
  /// @}
  std::array<const T*, 2> gate_weight;  ///< of i, f: [heads, 3 inner]
  /// @{ Gradients of those and of their biases, [heads] each.
  std::array<T*, 2> dgate_weight, dgate_bias;
  /// @}
  /// @{ As forward had them, [rows, inner].
  matrix_view<const T> a, e;
  /// @}
  matrix_view<const S> qkv;     ///< as forward left them, [rows, 3 inner]
  matrix_view<const T> dgates;  ///< [rows, 2 heads]: of i, then of f
  matrix_view<T> dqkv;          ///< [rows, 3 inner]: what the memory gives; used as scratch
  /// @{ [rows, inner]: da is added to, de is overwritten.
  matrix_view<T> da, de;
  /// @}

  /// Columns of a, e, q, k and v.
  index inner() const { return blocks * width; }
};

namespace detail {

/// dqkv += [di df] [Wi; Wf], and the gradients of both: one pass each over the wide matrices, which thin products
/// only read.
template <class D, class T, class S>
void mlstm_gates_backward(D& d, const mlstm_inputs_backward_arguments<T, S>& a) {
  const auto memory = scratch_matrices<T>(d, 2 * a.heads, 3 * a.inner(), 3 * a.inner());
  const auto [weights, gradients] = memory.views;
  const index each = a.heads * 3 * a.inner(), bytes = each * static_cast<index>(sizeof(T));
  for (std::size_t i = 0; i < 2; ++i)
    d.copy(weights.data + static_cast<index>(i) * each, a.gate_weight[i], bytes);
  gemm(d, a.dgates, weights, a.dqkv, T(1));
  gemm(d, transposed(a.dgates), a.qkv, gradients);
  for (std::size_t i = 0; i < 2; ++i) {
    const index first = static_cast<index>(i) * a.heads;
    const matrix_view<T> total(a.dgate_weight[i], a.heads, 3 * a.inner());
    transform(d, total, math::plus{}, total, gradients.slice(first, a.heads));
  }
  for (std::size_t i = 0; i < 2; ++i)
    add_column_sums(d, a.dgates.columns(static_cast<index>(i) * a.heads, a.heads), a.dgate_bias[i]);
}

}  // namespace detail

/// The gradients. The default of any device.
template <class D, class T, class S>
void mlstm_inputs_backward(D& d, const mlstm_inputs_backward_arguments<T, S>& a) {
  detail::mlstm_gates_backward(d, a);
  for (std::size_t i = 0; i < 3; ++i) {
    const matrix_view<const T> dy = a.dqkv.columns(static_cast<index>(i) * a.inner(), a.inner());
    const bool of_v = i == 2;
    headwise_backward(d, headwise_backward_arguments<T>{a.blocks, a.width, a.weight[i], of_v ? a.e : a.a, dy,
                                                        of_v ? a.de : a.da, T(of_v ? 0 : 1), a.dweight[i]});
    if (a.dbias[i]) add_column_sums(d, dy, a.dbias[i]);
  }
}

}  // namespace distil_xlstm
