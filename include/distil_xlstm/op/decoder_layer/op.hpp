#pragma once

#include <concepts>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/op/attention/op.hpp>
#include <distil_xlstm/op/norm/op.hpp>

namespace distil_xlstm {

/// A whole layer of a frozen decoder, of which nothing is kept for a backward; y may be x:
///
///     y = x + Wo attention(rotate(q), rotate(k), v) + bo,  q, k, v = W RMS(x) + b
///     y += Wdown (SiLU(Wgate u) * (Wup u)),  u = RMS(y)
///
/// Where there are norms of the heads, q and k go through them before they are rotated. A document that began before
/// the call counts from the call's first token, unless there is a memory of its keys and values.
template <class T>
struct decoder_layer_arguments {
  sequence_view seq;      ///< of the call
  attention_shape shape;  ///< sizes of the attention
  /// @{ The RMS norms, of d numbers: before the attention, and before the feed-forward.
  norm_view<T> attention_norm, feed_forward_norm;
  /// @}
  /// @{ [heads * width, d], [kv_heads * width, d] twice, [d, heads * width].
  frozen_matrix q, k, v, o;
  /// @}
  /// @{ A number for each row of q, k, v, o; or null.
  const T *q_bias, *k_bias, *v_bias, *o_bias;
  /// @}
  /// @{ Of one head; weight null: none.
  norm_view<T> q_norm, k_norm;
  /// @}
  /// @{ [inner, d] twice, [d, inner].
  frozen_matrix gate, up, down;
  /// @}
  bool rotates;  ///< false: there are no angles
  /// @{ [rows, width / 2], of the tokens' positions.
  matrix_view<const T> cosines, sines;
  /// @}
  matrix_view<const T> x;  ///< [rows, d]
  matrix_view<T> y;        ///< [rows, d]
  /// @{ Keys (rotated) and values of the document so far, and [1] how many tokens those are: the call goes on from
  /// them, and adds its own. Without data there is no such memory.
  batched_state<T> keys{}, values{}, position{};
  /// @}
  index capacity = 0;  ///< tokens that such a memory holds
};

/// A device that has a way of its own through a whole layer. Others, and this one where `has_decoder_layer`
/// says no, run the layer's blocks, which remain the oracle.
template <class D, class T>
concept DecoderDevice = requires(D& d, const decoder_layer_arguments<T>& a) {
  { has_decoder_layer(d, a) } -> std::convertible_to<bool>;
  decoder_layer_forward(d, a);
};

}  // namespace distil_xlstm
