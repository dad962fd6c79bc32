#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>
#include <distil_xlstm/model/load_llama.hpp>

namespace distil_xlstm::testing {

/// A GGUF file in the making: keys and tensors in the order they are given.
class gguf_builder {
 public:
  template <class X>
  static void put(std::string& s, X x) {
    s.append(reinterpret_cast<const char*>(&x), sizeof x);
  }
  static void text(std::string& s, const std::string& t) { put(s, std::uint64_t(t.size())), s += t; }

  /// The value follows, in the form of its type.
  std::string& key(const std::string& name, std::uint32_t type) {
    text(keys_, name), put(keys_, type), ++key_count_;
    return keys_;
  }
  void number(const std::string& name, index n) { put(key(name, 4), std::uint32_t(n)); }
  void real(const std::string& name, double x) { put(key(name, 12), x); }
  void string(const std::string& name, const std::string& t) { text(key(name, 8), t); }
  std::string& array(const std::string& name, std::uint32_t type, std::size_t n) {
    std::string& s = key(name, 9);
    put(s, type), put(s, std::uint64_t(n));
    return s;
  }
  void tensor(const std::string& name, const std::vector<index>& shape, std::uint32_t type,
              const std::string& numbers) {
    text(tensors_, name), put(tensors_, std::uint32_t(shape.size()));
    for (std::size_t i = shape.size(); i-- > 0;) put(tensors_, std::uint64_t(shape[i]));
    put(tensors_, type), put(tensors_, std::uint64_t(data_.size())), ++tensor_count_;
    data_ += numbers;
    data_.resize((data_.size() + 31) / 32 * 32);
  }
  void tensor(const std::string& name, const std::vector<float>& numbers) {
    tensor(name, {std::ssize(numbers)}, 0,
           {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float)});
  }
  std::string bytes() const {
    std::string all = "GGUF";
    put(all, std::uint32_t(3)), put(all, tensor_count_), put(all, key_count_);
    all += keys_ + tensors_;
    all.resize((all.size() + 31) / 32 * 32);
    return all + data_;
  }

 private:
  std::string keys_, tensors_, data_;
  std::uint64_t key_count_ = 0, tensor_count_ = 0;
};

/// What llama.cpp's converter writes as rope_freqs.weight: by wavelengths, in single precision.
inline std::vector<float> llama3_divisors(double theta, index head_dim, const rope_scaling& s) {
  std::vector<float> out;
  for (index i = 0; i < head_dim; i += 2) {
    const float wavelength =
        2 * 3.14159265f * std::pow(float(theta), static_cast<float>(i) / static_cast<float>(head_dim));
    const float smooth = (float(s.original) / wavelength - float(s.low)) / float(s.high - s.low);
    out.push_back(wavelength < float(s.original / s.high)  ? 1
                  : wavelength > float(s.original / s.low) ? float(s.factor)
                                                           : 1 / ((1 - smooth) / float(s.factor) + smooth));
  }
  return out;
}

/// Writes a Hugging Face folder's model as llama.cpp's converter would; the embedding in Q8_0 where asked,
/// with a tokenizer where one is given, and what `more` adds.
inline void write_gguf(const std::filesystem::path& folder, const std::filesystem::path& to, bool quantised,
                       const io::tokenizer_data* tokenizer = nullptr,
                       const std::function<void(gguf_builder&)>& more = {}) {
  const auto c = read_llama_config(io::read_json_file(folder / "config.json"), "config.json");
  const io::safetensors_file file(folder / "model.safetensors");
  gguf_builder out;
  const std::string architecture = c.model_type == "mistral" ? "llama" : c.model_type, a = architecture + ".";
  out.string("general.architecture", architecture);
  if (c.window > 0) out.number(a + "attention.sliding_window", c.window);
  out.number(a + "embedding_length", c.width), out.number(a + "block_count", c.layers);
  out.number(a + "attention.head_count", c.heads), out.number(a + "attention.head_count_kv", c.kv_heads);
  out.number(a + "feed_forward_length", c.intermediate), out.number(a + "context_length", c.context);
  out.number(a + "attention.key_length", c.head_dim), out.number(a + "attention.value_length", c.head_dim);
  out.real(a + "attention.layer_norm_rms_epsilon", c.epsilon), out.real(a + "rope.freq_base", c.theta);
  if (c.scaling.type == rope_scaling::kind::linear) {
    out.string(a + "rope.scaling.type", "linear");
    out.real(a + "rope.scaling.factor", c.scaling.factor);
  }
  if (c.scaling.type == rope_scaling::kind::llama3)
    out.tensor("rope_freqs.weight", llama3_divisors(c.theta, c.head_dim, c.scaling));
  if (tokenizer) {
    const auto& d = *tokenizer;
    out.string("tokenizer.ggml.model", "gpt2");
    out.string("tokenizer.ggml.pre", d.pre);
    std::string& tokens = out.array("tokenizer.ggml.tokens", 8, d.tokens.size());
    for (const auto& t : d.tokens) out.text(tokens, t);
    std::string& types = out.array("tokenizer.ggml.token_type", 5, d.tokens.size());
    for (std::size_t i = 0; i < d.tokens.size(); ++i)
      out.put(types,
              std::int32_t(std::any_of(d.specials.begin(), d.specials.end(),
                                       [&](const auto& s) { return s.id == static_cast<std::int32_t>(i); })
                               ? 3
                               : 1));
    std::string& merges = out.array("tokenizer.ggml.merges", 8, d.merges.size());
    for (const auto& [l, r] : d.merges) out.text(merges, l + " " + r);
    out.number("tokenizer.ggml.eos_token_id", d.eos);
  }
  const auto tensor = [&](const std::string& name, const std::string& hf, bool pairs = false, bool q8 = false) {
    const auto& t = file.at(hf);
    const auto v = t.template values<float>();
    std::string data;
    if (q8) {
      for (std::size_t i = 0; i < v.size(); i += 32) {
        out.put(data, std::uint16_t(0x1c00));  // 2^-8
        for (std::size_t j = 0; j < 32; ++j)
          out.put(data, static_cast<std::int8_t>(std::clamp(std::lround(v[i + j] * 256), -127l, 127l)));
      }
    } else {
      const std::size_t rows = static_cast<std::size_t>(t.shape.front()), cols = v.size() / rows,
                        half = static_cast<std::size_t>(c.head_dim / 2);
      for (std::size_t r = 0; r < rows; ++r) {
        // Row 2 i + j of a head is row j * half + i of Hugging Face's.
        const std::size_t w = r % (2 * half), from = pairs ? r - w + (w % 2) * half + w / 2 : r;
        data.append(reinterpret_cast<const char*>(v.data() + from * cols), cols * sizeof(float));
      }
    }
    out.tensor(name, t.shape, q8 ? 8 : 0, data);
  };
  tensor("token_embd.weight", "model.embed_tokens.weight", false, quantised);
  tensor("output_norm.weight", "model.norm.weight");
  if (!c.tied) tensor("output.weight", "lm_head.weight");
  const bool pairs = architecture == "llama" || architecture == "smollm3";
  for (index i = 0; i < c.layers; ++i) {
    const std::string g = "blk." + std::to_string(i) + ".", h = "model.layers." + std::to_string(i) + ".";
    tensor(g + "attn_norm.weight", h + "input_layernorm.weight");
    tensor(g + "ffn_norm.weight", h + "post_attention_layernorm.weight");
    for (const char* x : {"q", "k", "v"}) {
      tensor(g + "attn_" + x + ".weight", h + "self_attn." + x + "_proj.weight", pairs && *x != 'v');
      if (c.qkv_bias)
        tensor(g + "attn_" + x + ".bias", h + "self_attn." + x + "_proj.bias", pairs && *x != 'v');
    }
    tensor(g + "attn_output.weight", h + "self_attn.o_proj.weight");
    if (c.output_bias) tensor(g + "attn_output.bias", h + "self_attn.o_proj.bias");
    for (const char* x : {"q", "k"})
      if (c.head_norms) tensor(g + "attn_" + x + "_norm.weight", h + "self_attn." + x + "_norm.weight");
    for (const char* x : {"gate", "up", "down"})
      tensor(g + "ffn_" + x + ".weight", h + "mlp." + x + "_proj.weight");
  }
  if (more) more(out);
  std::ofstream(to, std::ios::binary) << out.bytes();
}

}  // namespace distil_xlstm::testing
