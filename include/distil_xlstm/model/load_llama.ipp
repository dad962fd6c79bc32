#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/json_object.hpp>
#include <distil_xlstm/model/load_llama.hpp>

namespace distil_xlstm {

namespace detail {

inline bool is_given(const io::json& c, const char* key) { return c.contains(key) && !c.at(key).is_null(); }

/// What the layers rotate, and by which angles.
inline void read_positions(llama_config& x, const io::json& c, const llama_family& family,
                           const std::string& name) {
  using io::get_or;
  x.theta = get_or<double>(c, "rope_theta", name, family.theta);
  const char* read = nullptr;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!is_given(c, key)) continue;
    const rope_scaling scaling = read_rope_scaling(c.at(key), key, name);
    const auto theta = get_or<double>(c.at(key), "rope_theta", name, x.theta);
    require(!read || (scaling == x.scaling && theta == x.theta), name, ": ", read, " and ", key, " differ");
    x.scaling = scaling, x.theta = theta, read = key;
  }
  require(get_or<double>(c, "partial_rotary_factor", name, 1.0) == 1.0, name,
          ": partial_rotary_factor other than 1 is not supported");
  require(!get_or<bool>(c, "rope_interleaved", name, false), name, ": rope_interleaved true is not supported");

  if (family.every_fourth) {
    const auto step = get_or<index>(c, "no_rope_layer_interval", name, 4);
    require(step > 0, name, ": no_rope_layer_interval ", step, " must be positive");
    const auto listed = get_or<std::vector<index>>(c, "no_rope_layers", name, {});
    require(!is_given(c, "no_rope_layers") || std::ssize(listed) >= x.layers, name,
            ": no_rope_layers speaks of ", listed.size(), " of ", x.layers, " layers");
    for (const index each : listed)
      require(each == 0 || each == 1, name, ": no_rope_layers: ", each, " is not supported (0 and 1 are)");
    for (index i = 0; i < std::min(x.layers, x.most_layers); ++i)
      x.rotates.push_back(is_given(c, "no_rope_layers") ? listed[static_cast<std::size_t>(i)] == 1
                                                        : (i + 1) % step != 0);
  } else {
    require(!is_given(c, "no_rope_layers"), name, ": no_rope_layers is not supported for ", x.model_type);
  }
}

/// What the layers compute otherwise is refused.
inline void require_supported(const io::json& c, const llama_family& family, const std::string& name) {
  using io::get;
  using io::get_or;
  const auto act = get_or<std::string>(c, "hidden_act", name, "silu");
  require(act == "silu" || act == "swish", name, ": hidden_act '", io::detail::printable(act),
          "' is not supported (silu is)");
  for (const char* key : {"attention_bias", "mlp_bias"})
    require((family.attention_bias && key[0] == 'a') || !get_or<bool>(c, key, name, false), name, ": ", key,
            " true is not supported");
  require(!get_or<bool>(c, "use_sliding_window", name, false), name,
          ": use_sliding_window true is not supported");
  if (is_given(c, "layer_types"))
    for (const auto& type : get<std::vector<std::string>>(c, "layer_types", name))
      require(type == "full_attention", name, ": layer_types: '", io::detail::printable(type),
              "' is not supported (full_attention is)");
  require(!is_given(c, "quantization_config"), name, ": quantization_config is not supported");
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (!is_given(c, key)) continue;
    const auto type = get<std::string>(c, key, name);
    require(type == "float32" || type == "bfloat16" || type == "float16" || type == "float64" || type == "auto",
            name, ": ", key, " '", io::detail::printable(type), "' is not supported");
  }
}

}  // namespace detail

DISTIL_XLSTM_INLINE llama_config read_llama_config(const io::json& c, const std::string& name) {
  using io::get;
  using io::get_or;
  const auto given = [&](const char* key) { return detail::is_given(c, key); };
  llama_config x;
  x.model_type = get<std::string>(c, "model_type", name);
  const llama_family& family =
      find_llama_family(x.model_type, name + ": model_type '" + io::detail::printable(x.model_type) + "'");
  x.vocabulary = get<index>(c, "vocab_size", name);
  x.width = get<index>(c, "hidden_size", name);
  x.layers = get<index>(c, "num_hidden_layers", name);
  x.heads = get<index>(c, "num_attention_heads", name);
  x.kv_heads = get_or<index>(c, "num_key_value_heads", name, x.heads);
  x.intermediate = get<index>(c, "intermediate_size", name);
  x.epsilon = get_or<double>(c, "rms_norm_eps", name, 1e-6);
  x.qkv_bias = family.qkv_bias;
  if (family.attention_bias) x.qkv_bias = x.output_bias = get_or<bool>(c, "attention_bias", name, false);
  x.head_norms = family.head_norms;
  x.tied = get_or<bool>(c, "tie_word_embeddings", name, family.tied);
  x.context = get_or<index>(c, "max_position_embeddings", name, family.context);
  if (given("head_dim") || (family.head_dim > 0 && !c.contains("head_dim"))) {
    x.head_dim = get_or<index>(c, "head_dim", name, family.head_dim);
  } else {
    require(x.heads > 0 && x.width % x.heads == 0, name, ": num_attention_heads ", x.heads,
            " does not divide hidden_size ", x.width, ", and head_dim is not given");
    x.head_dim = x.width / x.heads;
  }
  detail::read_positions(x, c, family, name);
  if (family.window > 0 && (given("sliding_window") || !c.contains("sliding_window"))) {
    x.window = get_or<index>(c, "sliding_window", name, family.window);
    require(x.window > 0, name, ": sliding_window ", x.window, " must be positive");
    if (x.window >= x.context) x.window = 0;  // sees all that it was made for
    require(x.window == 0 || !given("layer_types"), name, ": layer_types beside sliding_window ", x.window,
            " is not supported");
  }
  detail::require_supported(c, family, name);
  x.check(name);
  return x;
}

DISTIL_XLSTM_INLINE io::json write_llama_config(const llama_config& c) {
  const llama_family& family =
      find_llama_family(c.model_type, "write_llama_config: model_type " + c.model_type);
  using io::detail::json_object;
  io::json config = json_object({{"model_type", c.model_type},
                                 {"vocab_size", c.vocabulary},
                                 {"hidden_size", c.width},
                                 {"num_hidden_layers", c.layers},
                                 {"num_attention_heads", c.heads},
                                 {"num_key_value_heads", c.kv_heads},
                                 {"head_dim", c.head_dim},
                                 {"intermediate_size", c.intermediate},
                                 {"rms_norm_eps", c.epsilon},
                                 {"rope_theta", c.theta},
                                 {"tie_word_embeddings", c.tied}});
  if (c.scaling.type == rope_scaling::kind::linear)
    config["rope_scaling"] = json_object({{"rope_type", "linear"}, {"factor", c.scaling.factor}});
  if (c.scaling.type == rope_scaling::kind::llama3)
    config["rope_scaling"] = json_object({{"rope_type", "llama3"},
                                          {"factor", c.scaling.factor},
                                          {"low_freq_factor", c.scaling.low},
                                          {"high_freq_factor", c.scaling.high},
                                          {"original_max_position_embeddings", c.scaling.original}});
  if (family.attention_bias) config["attention_bias"] = c.output_bias;
  if (family.every_fourth)
    for (index i = 0; i < c.layers; ++i)
      config["no_rope_layers"].push_back(c.rotates.empty() || c.rotates[static_cast<std::size_t>(i)] ? 1 : 0);
  if (family.window > 0) config["sliding_window"] = c.window > 0 ? io::json(c.window) : io::json(nullptr);
  if (c.context > 0) config["max_position_embeddings"] = c.context;
  return config;
}

DISTIL_XLSTM_INLINE llama_config read_llama_config(const io::gguf_file& file) {
  const std::string& name = file.path();
  llama_config x;
  x.model_type = file.get_string("general.architecture");
  const llama_family& family = find_llama_family(
      x.model_type, name + ": general.architecture '" + io::detail::printable(x.model_type) + "'");
  require(x.model_type != "mistral", name,
          ": general.architecture 'mistral' is not supported (Mistral's is llama)");
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
  x.qkv_bias = family.qkv_bias || (family.attention_bias && file.find("blk.0.attn_q.bias"));
  x.output_bias = family.attention_bias && file.find("blk.0.attn_output.bias");
  x.head_norms = family.head_norms;
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
  x.scaling = detail::read_rope_scaling(file, x.model_type, x.head_dim, x.theta);
  // No key says which layers are without rotary positions.
  if (family.every_fourth)
    for (index i = 1; i <= std::min(x.layers, x.most_layers); ++i) x.rotates.push_back(i % 4 != 0);
  x.window = size_or("attention.sliding_window", 0);
  require(x.window == 0 || x.model_type == "llama", name, ": ", a, "attention.sliding_window of ", x.window,
          " is not supported");
  if (x.context > 0 && x.window >= x.context) x.window = 0;  // sees all that it was made for
  require(size_or("expert_count", 0) == 0, name, ": ", a, "expert_count of ", size_or("expert_count", 0),
          " is not supported");
  x.check(name);
  return x;
}

}  // namespace distil_xlstm

namespace distil_xlstm::detail {

DISTIL_XLSTM_INLINE std::string gguf_name(const std::string& name) {
  static const std::map<std::string, std::string> parts = {
      {"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
      {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},       {"model.embed_tokens", "token_embd"},
      {"model.norm", "output_norm"},       {"lm_head", "output"},
  };
  const std::string_view prefix = "model.layers.";
  const auto end = name.rfind('.');
  if (!name.starts_with(prefix)) return parts.at(name.substr(0, end)) + name.substr(end);
  const auto dot = name.find('.', prefix.size());
  return "blk." + name.substr(prefix.size(), dot - prefix.size()) + "." +
         parts.at(name.substr(dot + 1, end - dot - 1)) + name.substr(end);
}

DISTIL_XLSTM_INLINE llama_files::llama_files(const std::filesystem::path& where) : path(where.string()) {
  if (std::filesystem::is_directory(where)) {
    const auto file = where / "config.json";
    config = read_llama_config(io::read_json_file(file), file.string());
    folder = io::tensor_folder(where);
  } else {
    folder = io::tensor_folder(where);
    config = read_llama_config(*folder.gguf());
  }
  const bool gguf = folder.gguf() != nullptr;
  io::tensor_match match;
  for (const auto& [name, t] : folder.tensors()) match.offer(name, *t);
  for (const auto& e : tensors_of(config))
    found[e.name] = match.take(gguf ? gguf_name(e.name) : e.name, e.shape);
  match.ignore_if([&](const std::string& name) {
    return (config.tied && name == config.head_name) || name.ends_with("rotary_emb.inv_freq");
  });
  if (gguf) match.ignore("rope_freqs.weight");  // the configuration's
  match.finish(path);
}

}  // namespace distil_xlstm::detail
