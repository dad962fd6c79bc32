#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include <distil_xlstm/block/feed_forward.hpp>
#include <distil_xlstm/block/mixed.hpp>
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/model/model.hpp>

namespace distil_xlstm {

/// x + mLSTM(LN(x))
using mlstm_block = residual<sequential<named<"xlstm_norm", layer_norm<>>, named<"xlstm", mlstm>>>;
/// x + sLSTM(LN(x)), without the feed-forward
using bare_slstm_block = residual<sequential<named<"xlstm_norm", layer_norm<>>, named<"xlstm", slstm>>>;
/// x + sLSTM(LN(x)), then x + FFN(LN(x))
using slstm_block =
    sequential<named<"", bare_slstm_block>,
               named<"", residual<sequential<named<"ffn_norm", layer_norm<>>, named<"ffn", feed_forward>>>>>;
/// A layer of a student, its kind chosen when the program runs.
using xlstm_layer = mixed<mlstm_block, slstm_block, bare_slstm_block>;

/// xLSTMBlockStack of NX-AI/xlstm.
using xlstm_stack = stack<xlstm_layer>;

/// The shape of a student: the fields of the reference's xLSTMLMModelConfig that change the mathematics.
struct xlstm_config {
  /// @{
  /// What files call the tensors: see `llama_config`.
  static constexpr std::string_view prefix = "xlstm_block_stack", embedding_name = "token_embedding.weight",
                                    head_name = "lm_head.weight";
  /// @}
  /// @{
  /// vocab_size, embedding_dim and num_blocks.
  index vocabulary = 0, width = 0, blocks = 6;
  /// @}
  std::vector<index> slstm_at = {0, 2, 4};  ///< the blocks that are sLSTM; all others are mLSTM
  index context_length = 512;               ///< only written down: any length runs
  /// @{
  /// The stack ends with a norm (add_post_blocks_norm); the head is the embedding (tie_weights); mLSTM's projections
  /// have biases.
  bool post_blocks_norm = true, tied = false, bias = false;
  /// @}

  /// @{
  /// Of mLSTM: num_heads, conv1d_kernel_size and qkv_proj_blocksize.
  index mlstm_heads = 4, mlstm_conv = 4, qkv_block = 4;
  /// @}
  /// @{
  /// What `mlstm_inner` is made of: proj_factor, round_proj_up_dim_up and round_proj_up_to_multiple_of.
  double mlstm_factor = 2.0;
  bool mlstm_round_up = true;
  index mlstm_multiple = 64;
  /// @}

  /// @{
  /// Of sLSTM: num_heads and conv1d_kernel_size; 0: no convolution.
  index slstm_heads = 4, slstm_conv = 4;
  /// @}
  /// @{
  /// Each sLSTM is followed by a gated feed-forward; its projections have biases.
  bool feed_forward = true, feed_forward_bias = false;
  /// @}
  /// @{
  /// What `feed_forward_inner` is made of: proj_factor, round_proj_up_dim_up and round_proj_up_to_multiple_of.
  double feed_forward_factor = 1.3;
  bool feed_forward_round_up = true;
  index feed_forward_multiple = 64;
  /// @}
  activation act = activation::gelu;  ///< of the feed-forward's gate

  /// Reference rounding: the next (or last) multiple of factor * width.
  static index rounded(double factor, index width, index multiple, bool up);
  /// @{
  /// Width between an mLSTM block's projections, and between a feed-forward's.
  index mlstm_inner() const { return rounded(mlstm_factor, width, mlstm_multiple, mlstm_round_up); }
  index feed_forward_inner() const;
  /// @}
  /// Whether `slstm_at` names the block.
  bool is_slstm(index block) const;

  /// The blocks it names. Throws `error` naming the field and both numbers where they do not fit.
  template <class Stack = xlstm_stack>
  Stack stack() const;

  /// Adds what changes the model and no tensor tells.
  void identify(fnv_hash& hash) const;

  /// Numbers of the stack. Allocates no memory for them. Throws `error` as `stack` does.
  template <class Stack = xlstm_stack>
  index trainable() const;
  /// And of the frozen embedding and head, too.
  template <class Stack = xlstm_stack>
  index total() const {
    return trainable<Stack>() + vocabulary * width * (tied ? 1 : 2);
  }
};

/// The student that a method gives a teacher. `paper`: six blocks of 16 heads; `heuristic`: half the teacher's
/// layers, its heads rounded up to a multiple of four; both with q, k, v blocks of 32 and a feed-forward
/// of 1.7.
xlstm_config xlstm_architecture(std::string_view name, index vocabulary, index width, index layers, index heads,
                                bool tied);

/// The student that a config.json of NX-AI/xlstm (Family A) describes: sLSTM and mLSTM blocks chosen when the
/// program runs, in the reference's names and layouts. `load_xlstm` reads one, `save_xlstm` writes it.
template <class T, class D>
using xlstm = model<xlstm_config, T, D>;

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
namespace distil_xlstm {
extern template xlstm_stack xlstm_config::stack() const;
extern template index xlstm_config::trainable<xlstm_stack>() const;
}  // namespace distil_xlstm
#endif
#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/xlstm.ipp>
#endif
