#pragma once

#include <cmath>
#include <string>

#include <distil_xlstm/block/mlstm_v2.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/block/swiglu.hpp>
#include <distil_xlstm/io/json.hpp>

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

/// True for a config.json of Hugging Face's model type xlstm.
inline bool is_xlstm_7b_config(const io::json& c) {
  return c.is_object() && !c.contains("xlstm_cfg") && c.contains("model_type") && c.at("model_type") == "xlstm";
}

/// Reads a Hugging Face config.json of model type xlstm; what is not given is as there. What the library does
/// not do is refused by name; fields that choose kernels or the types of numbers change nothing here.
inline xlstm_7b_config read_xlstm_7b_config(const io::json& c, const std::string& name) {
  using io::get;
  using io::get_or;
  const auto given = [&](const char* key) { return c.contains(key) && !c.at(key).is_null(); };
  const auto type = get<std::string>(c, "model_type", name);
  require(type == "xlstm", name, ": model_type '", io::detail::printable(type), "' is not xlstm");
  xlstm_7b_config x;
  const auto either = [&](const char* key, const char* also, index otherwise) {
    const index n = get_or<index>(c, key, name, get_or<index>(c, also, name, otherwise));
    require(get_or<index>(c, also, name, n) == n, name, ": ", key, " is ", n, ", ", also, " is ",
            get_or<index>(c, also, name, n));
    return n;
  };
  x.vocabulary = get_or<index>(c, "vocab_size", name, x.vocabulary);
  x.width = either("hidden_size", "embedding_dim", x.width);
  x.blocks = either("num_hidden_layers", "num_blocks", x.blocks);
  x.heads = get_or<index>(c, "num_heads", name, x.heads);
  x.query_factor = get_or<double>(c, "qk_dim_factor", name, x.query_factor);
  x.value_factor = get_or<double>(c, "v_dim_factor", name, x.value_factor);
  x.feed_forward_factor = get_or<double>(c, "ffn_proj_factor", name, x.feed_forward_factor);
  x.feed_forward_multiple = get_or<index>(c, "ffn_round_up_to_multiple_of", name, x.feed_forward_multiple);
  x.norm_epsilon = get_or<double>(c, "norm_eps", name, x.norm_epsilon);
  x.cell_epsilon = get_or<double>(c, "eps", name, x.cell_epsilon);
  x.tied = get_or<bool>(c, "tie_word_embeddings", name, false);
  const auto cap = [&](const char* key, double& to) {
    if (!c.contains(key)) return;
    to = given(key) ? get<double>(c, key, name) : 0;
    require(!given(key) || (to > 0 && std::isfinite(to)), name, ": ", key, " of ", to,
            " is not possible (null is none)");
  };
  cap("gate_soft_cap", x.gate_cap);
  cap("output_logit_soft_cap", x.logit_cap);
  require(!get_or<bool>(c, "use_bias", name, false), name, ": use_bias true is not supported");
  const auto mode = get_or<std::string>(c, "weight_mode", name, "single");
  require(mode == "single" || mode == "fused", name, ": weight_mode '", io::detail::printable(mode),
          "' is not supported (single and fused are)");
  x.fused = mode == "fused";
  require(!given("quantization_config"), name, ": quantization_config is not supported");
  x.check(name);
  return x;
}

}  // namespace distil_xlstm
