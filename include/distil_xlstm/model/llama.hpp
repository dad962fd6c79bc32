#pragma once

#include <string>
#include <string_view>

#include <distil_xlstm/block/decoder_layer.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/model/model.hpp>

namespace distil_xlstm {

/// What lies between embedding and head, under Hugging Face's names.
using llama_stack = stack<decoder_layer, dynamic, named<"norm", rms_norm<>>, "layers">;

/// The shape of a transformer of the Llama and Qwen2 family.
struct llama_config {
  static constexpr std::string_view prefix = "model", embedding_name = "model.embed_tokens.weight",
                                    head_name = "lm_head.weight";
  std::string model_type = "llama";  ///< or "qwen2"
  index vocabulary = 0, width = 0, layers = 0;
  index heads = 0, kv_heads = 0;
  index head_dim = 0;      ///< need not be width / heads
  index intermediate = 0;  ///< width of the feed-forward
  double epsilon = 1e-6;   ///< of the norms
  double theta = 10000;    ///< base of the rotary angles
  rope_scaling scaling{};  ///< of their frequencies
  bool qkv_bias = false;
  bool tied = false;  ///< the head is the embedding
  index context = 0;  ///< tokens that it was trained to see; not enforced

  llama_stack stack() const {
    const attention mixer{.width = width,
                          .heads = heads,
                          .kv_heads = kv_heads,
                          .head_dim = head_dim,
                          .theta = theta,
                          .scaling = scaling,
                          .bias = qkv_bias};
    llama_stack s{repeated(layers, decoder_layer{mixer, intermediate, epsilon, false}), true, epsilon};
    s.blocks.blocks.front().first = true;
    return s;
  }

  /// Throws `error` beginning with `name` unless the numbers make a model.
  void check(const std::string& name) const {
    require(vocabulary > 0 && width > 0 && layers > 0 && heads > 0 && kv_heads > 0 && intermediate > 0 &&
                head_dim > 0,
            name, ": vocabulary ", vocabulary, ", width ", width, ", layers ", layers, ", heads ", heads,
            " and ", kv_heads, " of ", head_dim, " and feed-forward ", intermediate, " must be positive");
    require(vocabulary <= (1 << 28) && width <= (1 << 20) && layers <= 4096 && heads <= (1 << 16) &&
                head_dim <= (1 << 16) && intermediate <= (1 << 24),
            name, ": vocabulary ", vocabulary, ", width ", width, ", layers ", layers, ", heads ", heads,
            " of ", head_dim, " or feed-forward ", intermediate, " is too large");
    require(heads % kv_heads == 0, name, ": ", kv_heads, " key heads do not divide the ", heads, " heads");
    require(head_dim % 2 == 0, name, ": a head of ", head_dim, " has no pairs for the rotary embedding");
    require(epsilon > 0 && theta > 0, name, ": the norms' epsilon ", epsilon, " and the rotary base ", theta,
            " must be positive");
    require(scaling.factor > 0 && scaling.low > 0 && scaling.low < scaling.high && scaling.original > 0, name,
            ": rotary scaling by the factor ", scaling.factor, " from ", scaling.low, " to ", scaling.high,
            " turns over ", scaling.original, " tokens is not possible");
  }
};

/// The teacher: a frozen transformer of the Llama and Qwen2 family. `load_llama` reads one.
template <class T, class D>
using llama = model<llama_config, T, D, frozen>;

}  // namespace distil_xlstm
