#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/random_llama.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE void write_random_llama(const std::filesystem::path& folder, llama_config c, dtype stored,
                                            std::uint64_t seed) {
  c.tied = true;
  const llama_family& family =
      find_llama_family(c.model_type, "write_random_llama: model_type " + c.model_type);
  c.output_bias = family.attention_bias && c.qkv_bias;
  c.qkv_bias = family.qkv_bias || c.output_bias;
  c.head_norms = family.head_norms;
  c.check("write_random_llama");
  io::json config = {{"model_type", c.model_type},     {"vocab_size", c.vocabulary},
                     {"hidden_size", c.width},         {"num_hidden_layers", c.layers},
                     {"num_attention_heads", c.heads}, {"num_key_value_heads", c.kv_heads},
                     {"head_dim", c.head_dim},         {"intermediate_size", c.intermediate},
                     {"rms_norm_eps", c.epsilon},      {"rope_theta", c.theta},
                     {"tie_word_embeddings", true}};
  if (c.scaling.type == rope_scaling::kind::linear)
    config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", c.scaling.factor}};
  if (c.scaling.type == rope_scaling::kind::llama3)
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", c.scaling.factor},
                              {"low_freq_factor", c.scaling.low},
                              {"high_freq_factor", c.scaling.high},
                              {"original_max_position_embeddings", c.scaling.original}};
  if (family.attention_bias) config["attention_bias"] = c.output_bias;
  if (family.every_fourth)
    for (index i = 0; i < c.layers; ++i)
      config["no_rope_layers"].push_back(c.rotates.empty() || c.rotates[static_cast<std::size_t>(i)] ? 1 : 0);
  if (family.window > 0) config["sliding_window"] = c.window > 0 ? io::json(c.window) : io::json(nullptr);
  if (c.context > 0) config["max_position_embeddings"] = c.context;
  io::write_text_atomically(folder / "config.json", config.dump());

  const manifest tensors = tensors_of(c);
  rng random(seed);
  std::vector<float> drawn((1 << 20) + 7), numbers(drawn.size());
  for (auto& x : drawn) x = static_cast<float>(random.normal());
  std::size_t next = 0;
  io::safetensors_writer file;
  for (const auto& t : tensors) file.declare(t.name, stored, t.shape);
  file.open(folder / "model.safetensors");
  for (const auto& t : tensors) {
    const bool norm = t.name.find("norm.") != t.name.npos;
    const float mean = norm ? 1 : 0;
    const float deviation = norm                  ? 0.2f
                            : t.shape.size() == 2 ? 1 / std::sqrt(static_cast<float>(t.shape[1]))
                                                  : 1;
    for (index left = t.size, n; left > 0; left -= n) {
      n = std::min<index>(left, std::ssize(numbers));
      for (index i = 0; i < n; ++i, next = (next + 1) % drawn.size())
        numbers[static_cast<std::size_t>(i)] = mean + deviation * drawn[next];
      file.append(numbers.data(), n);
    }
  }
  file.commit();
}

}  // namespace distil_xlstm
