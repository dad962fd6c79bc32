#pragma once

#include <cmath>
#include <string>
#include <string_view>

#include <distil_xlstm/block/mlstm_v2.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/block/swiglu.hpp>
#include <distil_xlstm/model/model.hpp>

namespace distil_xlstm {

/// SwiGLU under the names of xLSTMLarge.
using xlstm_7b_ffn = basic_swiglu<"proj_up_gate", "proj_up", "proj_down">;
/// x + mLSTM(RMS(x)), then x + SwiGLU(RMS(x)), under Hugging Face's names.
using xlstm_7b_layer =
    sequential<named<"", residual<sequential<named<"norm_mlstm", rms_norm<>>, named<"mlstm_layer", mlstm_v2>>>>,
               named<"", residual<sequential<named<"norm_ffn", rms_norm<>>, named<"ffn", xlstm_7b_ffn>>>>>;
/// What lies between embedding and head.
using xlstm_7b_stack = stack<xlstm_7b_layer, dynamic, named<"out_norm", rms_norm<>>>;

/// The shape of an xLSTM-7B-like model (NX-AI's xLSTMLarge, Hugging Face's model type xlstm).
struct xlstm_7b_config {
  /// @{
  /// What files call the tensors: see `llama_config`.
  static constexpr std::string_view prefix = "backbone", embedding_name = "backbone.embeddings.weight",
                                    head_name = "lm_head.weight";
  /// @}
  /// @{
  /// Tokens that there are, numbers of a hidden state, blocks, and heads of each.
  index vocabulary = 50304, width = 4096, blocks = 32, heads = 8;
  /// @}
  /// @{
  /// Widths of q, k and of v, in widths of the model.
  double query_factor = 0.5, value_factor = 1.0;
  /// @}
  /// @{
  /// What `feed_forward` is made of: ffn_proj_factor and ffn_round_up_to_multiple_of.
  double feed_forward_factor = 2.667;
  index feed_forward_multiple = 64;
  /// @}
  /// @{
  /// Soft caps of the gates and of the logits; 0: none.
  double gate_cap = 15, logit_cap = 30;
  /// @}
  /// @{
  /// Epsilons of the norms (norm_eps) and of the cell's normaliser (eps).
  double norm_epsilon = 1e-6, cell_epsilon = 1e-6;
  /// @}
  bool fused = false;  ///< files hold q, k, v and gates, and the two up projections, end to end in one tensor
  bool tied = false;   ///< the head is the embedding, unless a file has a head of its own

  /// @{
  /// Widths of q and k, and of v, all heads together.
  index query() const { return static_cast<index>(static_cast<double>(width) * query_factor); }
  index value() const { return static_cast<index>(static_cast<double>(width) * value_factor); }
  /// @}
  /// Inner width of the feed-forward, rounded as by the reference: up to a multiple, but a product less than one
  /// above a multiple stays there.
  index feed_forward() const;

  /// The blocks and the final norm, of numbers that `check` has passed.
  template <class Stack = xlstm_7b_stack>
  Stack stack() const;

  /// Adds what changes the model and no tensor tells, each number as a float.
  void identify(fnv_hash& hash) const;

  /// Numbers of the whole model; one matrix where embedding and head are tied. Allocates no memory for them.
  template <class Stack = xlstm_7b_stack>
  index total() const;

  /// Throws `error` beginning with `name` unless the numbers make a model.
  void check(const std::string& name) const;
};

/// A frozen recurrent language model like xLSTM-7B. `load_xlstm_7b` reads one. To train one, put its
/// `config().stack()` into a `model`.
template <class T, class D>
using xlstm_7b = model<xlstm_7b_config, T, D, frozen>;

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
namespace distil_xlstm {
extern template xlstm_7b_stack xlstm_7b_config::stack() const;
extern template index xlstm_7b_config::total<xlstm_7b_stack>() const;
}  // namespace distil_xlstm
#endif
#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/xlstm_7b.ipp>
#endif
