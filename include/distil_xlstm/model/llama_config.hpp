#pragma once

#include <string>

#include <distil_xlstm/block/attention.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/swiglu.hpp>
#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/json.hpp>

namespace distil_xlstm {

/// x + attention(RMS(x)), then x + SwiGLU(RMS(x)), under Hugging Face's names.
using llama_layer = sequential<
    named<"", residual<sequential<named<"input_layernorm", rms_norm<>>, named<"self_attn", attention>>>>,
    named<"", residual<sequential<named<"post_attention_layernorm", rms_norm<>>, named<"mlp", swiglu>>>>>;

/// The shape of a transformer of the Llama and Qwen2 family.
struct llama_config {
  std::string model_type = "llama";  ///< or "qwen2"
  index vocabulary = 0, width = 0, layers = 0;
  index heads = 0, kv_heads = 0;
  index head_dim = 0;      ///< need not be width / heads
  index intermediate = 0;  ///< width of the feed-forward
  double epsilon = 1e-6;   ///< of the norms
  double theta = 10000;    ///< base of the rotary angles
  bool qkv_bias = false;
  bool tied = false;  ///< the head is the embedding
  index context = 0;  ///< tokens that it was trained to see; not enforced

  /// One layer; `capacity` as in `attention`, which does not check it.
  llama_layer layer(index capacity = 0) const {
    const attention mixer{.width = width,
                          .heads = heads,
                          .kv_heads = kv_heads,
                          .head_dim = head_dim,
                          .theta = theta,
                          .bias = qkv_bias,
                          .capacity = capacity,
                          .check_capacity = false};
    return llama_layer{{{sequential{named<"input_layernorm", rms_norm<>>{{width, 1, epsilon}},
                                    named<"self_attn", attention>{mixer}}}},
                       {{sequential{named<"post_attention_layernorm", rms_norm<>>{{width, 1, epsilon}},
                                    named<"mlp", swiglu>{{width, intermediate}}}}}};
  }
  rms_norm<> final_norm() const { return {width, 1, epsilon}; }
  rotary rope() const { return {heads * head_dim, head_dim, theta}; }

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
  }
};

/// Reads a Hugging Face config.json (model types llama and qwen2). What the library does not do is refused by
/// name.
inline llama_config read_llama_config(const io::json& c, const std::string& name) {
  using io::get;
  using io::get_or;
  const auto given = [&](const char* key) { return c.contains(key) && !c.at(key).is_null(); };
  llama_config x;
  x.model_type = get<std::string>(c, "model_type", name);
  require(x.model_type == "llama" || x.model_type == "qwen2", name, ": model_type '",
          io::detail::printable(x.model_type), "' is not supported (llama and qwen2 are)");
  const bool qwen2 = x.model_type == "qwen2";
  x.vocabulary = get<index>(c, "vocab_size", name);
  x.width = get<index>(c, "hidden_size", name);
  x.layers = get<index>(c, "num_hidden_layers", name);
  x.heads = get<index>(c, "num_attention_heads", name);
  x.kv_heads = get_or<index>(c, "num_key_value_heads", name, x.heads);
  x.intermediate = get<index>(c, "intermediate_size", name);
  x.epsilon = get_or<double>(c, "rms_norm_eps", name, 1e-6);
  x.qkv_bias = qwen2;
  x.tied = get_or<bool>(c, "tie_word_embeddings", name, false);
  x.context = get_or<index>(c, "max_position_embeddings", name, qwen2 ? 32768 : 2048);
  if (given("head_dim")) {
    x.head_dim = get<index>(c, "head_dim", name);
  } else {
    require(x.heads > 0 && x.width % x.heads == 0, name, ": num_attention_heads ", x.heads,
            " does not divide hidden_size ", x.width, ", and head_dim is not given");
    x.head_dim = x.width / x.heads;
  }

  x.theta = get_or<double>(c, "rope_theta", name, 10000.0);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!given(key)) continue;
    const io::json& rope = c.at(key);
    require(rope.is_object(), name, ": ", key, " must be an object");
    const auto type =
        get_or<std::string>(rope, "rope_type", name, get_or<std::string>(rope, "type", name, "default"));
    require(type == "default", name, ": ", key, ": rope type '", io::detail::printable(type),
            "' is not supported (default is)");
    for (const auto& [field, value] : rope.items())
      require(
          field == "rope_type" || field == "type" || field == "rope_theta" || field == "partial_rotary_factor",
          name, ": ", key, ": ", io::detail::printable(field), " is not supported");
    require(get_or<double>(rope, "partial_rotary_factor", name, 1.0) == 1.0, name, ": ", key,
            ": partial_rotary_factor other than 1 is not supported");
    x.theta = get_or<double>(rope, "rope_theta", name, x.theta);
  }
  require(get_or<double>(c, "partial_rotary_factor", name, 1.0) == 1.0, name,
          ": partial_rotary_factor other than 1 is not supported");
  require(!get_or<bool>(c, "rope_interleaved", name, false), name, ": rope_interleaved true is not supported");

  const auto act = get_or<std::string>(c, "hidden_act", name, "silu");
  require(act == "silu" || act == "swish", name, ": hidden_act '", io::detail::printable(act),
          "' is not supported (silu is)");
  for (const char* key : {"attention_bias", "mlp_bias"})
    require(!get_or<bool>(c, key, name, false), name, ": ", key, " true is not supported");
  require(!get_or<bool>(c, "use_sliding_window", name, false), name,
          ": use_sliding_window true is not supported");
  if (given("layer_types"))
    for (const auto& type : get<std::vector<std::string>>(c, "layer_types", name))
      require(type == "full_attention", name, ": layer_types: '", io::detail::printable(type),
              "' is not supported (full_attention is)");
  require(!given("quantization_config"), name, ": quantization_config is not supported");
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (!given(key)) continue;
    const auto type = get<std::string>(c, key, name);
    require(type == "float32" || type == "bfloat16" || type == "float16" || type == "float64" || type == "auto",
            name, ": ", key, " '", io::detail::printable(type), "' is not supported");
  }
  x.check(name);
  return x;
}

/// Reads the keys of a GGUF file (architectures llama and qwen2).
inline llama_config read_llama_config(const io::gguf_file& file) {
  const std::string& name = file.path();
  llama_config x;
  x.model_type = file.get_string("general.architecture");
  require(x.model_type == "llama" || x.model_type == "qwen2", name, ": general.architecture '",
          io::detail::printable(x.model_type), "' is not supported (llama and qwen2 are)");
  const std::string a = x.model_type + ".";
  const auto size = [&](const std::string& key) { return static_cast<index>(file.get_i64(a + key)); };
  const auto size_or = [&](const std::string& key, index otherwise) {
    return static_cast<index>(file.get_i64_or(a + key, otherwise));
  };
  x.width = size("embedding_length");
  x.layers = size("block_count");
  x.heads = size("attention.head_count");
  x.kv_heads = size_or("attention.head_count_kv", x.heads);
  x.intermediate = size("feed_forward_length");
  x.epsilon = file.get_f64_or(a + "attention.layer_norm_rms_epsilon", 1e-5);
  x.theta = file.get_f64_or(a + "rope.freq_base", 10000.0);
  x.context = size_or("context_length", 0);
  x.qkv_bias = x.model_type == "qwen2";
  x.tied = !file.find("output.weight");
  const io::tensor_info& embedding = file.at("token_embd.weight");
  require(embedding.shape.size() == 2, name, ": tensor token_embd.weight has ", embedding.shape.size(),
          " dimensions instead of 2");
  x.vocabulary = embedding.shape[0];
  require(size_or("vocab_size", x.vocabulary) == x.vocabulary, name, ": ", a, "vocab_size is ",
          size_or("vocab_size", 0), ", token_embd.weight has ", x.vocabulary, " rows");
  require(x.heads > 0, name, ": ", a, "attention.head_count is ", x.heads);
  x.head_dim = size_or("attention.key_length", x.width / x.heads);
  for (const char* key : {"attention.value_length", "rope.dimension_count"})
    require(size_or(key, x.head_dim) == x.head_dim, name, ": ", a, key, " is ", size_or(key, 0),
            ", a head has ", x.head_dim, ": that is not supported");
  const auto scaling = file.get_string_or(a + "rope.scaling.type", "none");
  require(scaling == "none", name, ": ", a, "rope.scaling.type '", io::detail::printable(scaling),
          "' is not supported (none is)");
  for (const char* key : {"expert_count", "attention.sliding_window"})
    require(size_or(key, 0) == 0, name, ": ", a, key, " of ", size_or(key, 0), " is not supported");
  require(file.get_f64_or(a + "rope.scale_linear", 1.0) == 1.0, name, ": ", a,
          "rope.scale_linear other than 1 is not supported");
  x.check(name);
  return x;
}

}  // namespace distil_xlstm
