#pragma once

#include <array>
#include <type_traits>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/op/conv/op.hpp>
#include <distil_xlstm/op/linear/op.hpp>
#include <distil_xlstm/op/mlstm/op.hpp>
#include <distil_xlstm/op/mlstm_inputs/op.hpp>

namespace distil_xlstm {

/// An mLSTM's memory with what feeds it, of `inner` columns:
///
///     a = SiLU(conv(e))    q = Wq a + bq    k = Wk a + bk    v = Wv e + bv    block-diagonal
///     i = Wi [q k v] + bi    f = Wf [q k v] + bf
///
/// `S`: what q, k and v are stored as, where they have no biases; else T. `Matrix`: what Wi and Wf are.
template <class T, class S = T, class Matrix = matrix_view<T>, class Conv = causal_conv_arguments<T>>
struct mlstm_layer_arguments {
  Conv conv;    ///< `causal_conv_arguments` of e; `activated` is a
  index width;  ///< columns of a block of Wq, Wk, Wv
  /// @{ Of q, k, v: [inner / width, width, width]; [inner] or null.
  std::array<const T*, 3> weight, bias;
  /// @}
  std::array<Matrix, 2> gate_weight;    ///< of i, f: [heads, 3 inner]
  std::array<const T*, 2> gate_bias;    ///< likewise: [heads]
  matrix_view<S> qkv;                   ///< [rows, 3 inner]: q, k, v side by side
  std::array<matrix_view<T>, 2> gates;  ///< i, f: [rows, heads]
  /// @{ As `mlstm_arguments` has them.
  mlstm_shape shape;
  matrix_view<T> h;
  mlstm_state<T> state;
  T* chunk_states;
  /// @}

  /// Columns of e, a, q, k and v.
  index inner() const { return conv.in.width; }
  /// Those of q, k or v.
  matrix_view<S> part(std::size_t i) const { return qkv.columns(static_cast<index>(i) * inner(), inner()); }
  /// What the memory itself reads and writes.
  mlstm_arguments<T, S> cell() const {
    return {conv.in.seq, shape, part(0), part(1), part(2), gates[0], gates[1], h, state, chunk_states};
  }
};

/// Writes all of it. The default of any device.
template <class D, class T, class S, class Matrix, class Conv>
void mlstm_layer_forward(D& d, const mlstm_layer_arguments<T, S, Matrix, Conv>& a) {
  std::array<headwise_arguments<T, S>, 3> maps;
  for (std::size_t i = 0; i < 3; ++i)
    maps[i] = {a.inner() / a.width, a.width, a.weight[i],
               i < 2 ? matrix_view<const T>(a.conv.activated) : a.conv.in.x, a.part(i)};
  mlstm_inputs_forward(d, mlstm_inputs_arguments{a.conv, maps});
  for (std::size_t i = 0; i < 3; ++i) {
    if (!a.bias[i]) continue;
    if constexpr (std::is_same_v<T, S>)
      transform(d, a.part(i), math::plus{}, a.part(i), broadcast(a.bias[i]));
    else
      fail("mlstm: a bias is added to numbers that are not rounded");
  }
  gemm_plus(d, matrix_view<const S>(a.qkv),
            std::array{transposed(a.gate_weight[0]), transposed(a.gate_weight[1])},
            std::array{broadcast(a.gate_bias[0]), broadcast(a.gate_bias[1])}, a.gates);
  mlstm_forward(d, a.cell());
}

}  // namespace distil_xlstm
