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
using xlstm_7b_stack = stack<xlstm_7b_layer, dynamic, named<"out_norm", rms_norm<>>>;

/// The shape of an xLSTM-7B-like model (NX-AI's xLSTMLarge, Hugging Face's model type xlstm).
struct xlstm_7b_config {
  static constexpr std::string_view prefix = "backbone", embedding_name = "backbone.embeddings.weight",
                                    head_name = "lm_head.weight";
  index vocabulary = 50304, width = 4096, blocks = 32, heads = 8;
  double query_factor = 0.5, value_factor = 1.0;  ///< widths of q, k and of v, in widths of the model
  double feed_forward_factor = 2.667;
  index feed_forward_multiple = 64;
  double gate_cap = 15, logit_cap = 30;  ///< soft caps; 0: none
  double norm_epsilon = 1e-6, cell_epsilon = 1e-6;
  bool fused = false;  ///< files hold q, k, v and gates, and the two up projections, end to end in one tensor
  bool tied = false;   ///< the head is the embedding, unless a file has a head of its own

  index query() const { return static_cast<index>(static_cast<double>(width) * query_factor); }
  index value() const { return static_cast<index>(static_cast<double>(width) * value_factor); }
  /// As the reference rounds: up to a multiple, but a product less than one above a multiple stays there.
  index feed_forward() const {
    const auto m = static_cast<double>(feed_forward_multiple);
    const double x = static_cast<double>(width) * feed_forward_factor + m - 1;
    return static_cast<index>(std::round(x - std::fmod(x, m)));
  }

  xlstm_7b_stack stack() const {
    const mlstm_v2 cell{.width = width,
                        .heads = heads,
                        .query = query(),
                        .value = value(),
                        .gate_cap = gate_cap,
                        .norm_epsilon = norm_epsilon,
                        .cell_epsilon = cell_epsilon,
                        .block_count = blocks};
    const rms_norm<> before{width, 1, norm_epsilon};
    const xlstm_7b_ffn ffn{width, feed_forward()};
    const xlstm_7b_layer layer{
        {{sequential{named<"norm_mlstm", rms_norm<>>{before}, named<"mlstm_layer", mlstm_v2>{cell}}}},
        {{sequential{named<"norm_ffn", rms_norm<>>{before}, named<"ffn", xlstm_7b_ffn>{ffn}}}}};
    return {repeated(blocks, layer), true, norm_epsilon};
  }

  /// Numbers of the whole model; one matrix where embedding and head are tied. Allocates nothing.
  index total() const {
    manifest names;
    layout<float> measure(nullptr, &names);
    stack().params(measure);
    index n = vocabulary * width * (tied ? 1 : 2);
    for (const auto& e : names) n += e.size;
    return n;
  }

  /// Throws `error` beginning with `name` unless the numbers make a model.
  void check(const std::string& name) const {
    require(vocabulary > 0 && width > 0 && blocks > 0 && heads > 0, name, ": vocab_size ", vocabulary,
            ", hidden_size ", width, ", num_hidden_layers ", blocks, " and num_heads ", heads,
            " must be positive");
    require(vocabulary <= (1 << 28) && width <= (1 << 20) && blocks <= 4096 && heads <= (1 << 16), name,
            ": vocab_size ", vocabulary, ", hidden_size ", width, ", num_hidden_layers ", blocks,
            " or num_heads ", heads, " is too large");
    for (const double factor : {query_factor, value_factor, feed_forward_factor})
      require(factor > 0 && factor <= 1024, name, ": a factor of ", factor,
              " (qk_dim_factor, v_dim_factor, ffn_proj_factor) is not possible");
    require(feed_forward_multiple > 0 && feed_forward_multiple <= (1 << 20) && feed_forward() > 0, name,
            ": ffn_round_up_to_multiple_of ", feed_forward_multiple, " is not possible");
    require(query() > 0 && query() % heads == 0 && value() > 0 && value() % heads == 0, name, ": num_heads ",
            heads, " does not divide the width ", query(), " of the queries or ", value(), " of the values");
    require(norm_epsilon > 0 && cell_epsilon > 0, name, ": norm_eps ", norm_epsilon, " and eps ", cell_epsilon,
            " must be positive");
  }
};

/// A frozen recurrent language model like xLSTM-7B. `load_xlstm_7b` reads one. To train one, put its
/// `config().stack()` into a `model`.
template <class T, class D>
using xlstm_7b = model<xlstm_7b_config, T, D, frozen>;

}  // namespace distil_xlstm
