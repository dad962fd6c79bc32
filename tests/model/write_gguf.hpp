#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>
#include <distil_xlstm/model/load_llama.hpp>

namespace distil_xlstm::testing {

/// Writes a Hugging Face folder's model as llama.cpp's converter would; the embedding in Q8_0 where asked,
/// with a tokenizer where one is given.
inline void write_gguf(const std::filesystem::path& folder, const std::filesystem::path& to, bool quantised,
                       const io::tokenizer_data* tokenizer = nullptr) {
  const auto c = read_llama_config(io::read_json_file(folder / "config.json"), "config.json");
  const io::safetensors_file file(folder / "model.safetensors");
  std::string head, data;
  std::uint64_t keys = 0, tensors = 0;
  const auto put = [](std::string& s, auto x) { s.append(reinterpret_cast<const char*>(&x), sizeof x); };
  const auto text = [&](std::string& s, const std::string& t) { put(s, std::uint64_t(t.size())), s += t; };
  const auto number = [&](const std::string& key, index n) {
    text(head, key), put(head, std::uint32_t(4)), put(head, std::uint32_t(n)), ++keys;
  };
  const auto real = [&](const std::string& key, double x) {
    text(head, key), put(head, std::uint32_t(12)), put(head, x), ++keys;
  };
  const std::string a = c.model_type + ".";
  text(head, "general.architecture"), put(head, std::uint32_t(8)), text(head, c.model_type), ++keys;
  number(a + "embedding_length", c.width), number(a + "block_count", c.layers);
  number(a + "attention.head_count", c.heads), number(a + "attention.head_count_kv", c.kv_heads);
  number(a + "feed_forward_length", c.intermediate), number(a + "context_length", c.context);
  number(a + "attention.key_length", c.head_dim), number(a + "attention.value_length", c.head_dim);
  real(a + "attention.layer_norm_rms_epsilon", c.epsilon), real(a + "rope.freq_base", c.theta);
  if (tokenizer) {
    const auto key = [&](const char* k, std::uint32_t type) { text(head, k), put(head, type), ++keys; };
    const auto array = [&](const char* k, std::uint32_t type, std::size_t n) {
      key(k, 9), put(head, type), put(head, std::uint64_t(n));
    };
    const auto& d = *tokenizer;
    key("tokenizer.ggml.model", 8), text(head, "gpt2");
    key("tokenizer.ggml.pre", 8), text(head, d.pre);
    array("tokenizer.ggml.tokens", 8, d.tokens.size());
    for (const auto& t : d.tokens) text(head, t);
    array("tokenizer.ggml.token_type", 5, d.tokens.size());
    for (std::size_t i = 0; i < d.tokens.size(); ++i)
      put(head, std::int32_t(std::any_of(d.specials.begin(), d.specials.end(),
                                         [&](const auto& s) { return s.id == static_cast<std::int32_t>(i); })
                                 ? 3
                                 : 1));
    array("tokenizer.ggml.merges", 8, d.merges.size());
    for (const auto& [l, r] : d.merges) text(head, l + " " + r);
    key("tokenizer.ggml.eos_token_id", 4), put(head, std::uint32_t(d.eos));
  }
  const auto tensor = [&](const std::string& name, const std::string& hf, bool pairs = false, bool q8 = false) {
    const auto& t = file.at(hf);
    text(head, name), put(head, std::uint32_t(t.shape.size()));
    for (std::size_t i = t.shape.size(); i-- > 0;) put(head, std::uint64_t(t.shape[i]));
    put(head, std::uint32_t(q8 ? 8 : 0)), put(head, std::uint64_t(data.size())), ++tensors;
    auto v = t.template values<float>();
    if (q8) {
      for (std::size_t i = 0; i < v.size(); i += 32) {
        put(data, std::uint16_t(0x1c00));  // 2^-8
        for (std::size_t j = 0; j < 32; ++j)
          put(data, static_cast<std::int8_t>(std::clamp(std::lround(v[i + j] * 256), -127l, 127l)));
      }
    } else {
      const std::size_t cols = static_cast<std::size_t>(t.shape.back()),
                        half = static_cast<std::size_t>(c.head_dim / 2);
      for (std::size_t r = 0; r < v.size() / cols; ++r) {
        // Row 2 i + j of a head is row j * half + i of Hugging Face's.
        const std::size_t w = r % (2 * half), from = pairs ? r - w + (w % 2) * half + w / 2 : r;
        data.append(reinterpret_cast<const char*>(v.data() + from * cols), cols * sizeof(float));
      }
    }
    data.resize((data.size() + 31) / 32 * 32);
  };
  tensor("token_embd.weight", "model.embed_tokens.weight", false, quantised);
  tensor("output_norm.weight", "model.norm.weight");
  if (!c.tied) tensor("output.weight", "lm_head.weight");
  const bool pairs = c.model_type == "llama";
  for (index i = 0; i < c.layers; ++i) {
    const std::string g = "blk." + std::to_string(i) + ".", h = "model.layers." + std::to_string(i) + ".";
    tensor(g + "attn_norm.weight", h + "input_layernorm.weight");
    tensor(g + "ffn_norm.weight", h + "post_attention_layernorm.weight");
    for (const char* x : {"q", "k", "v"}) {
      tensor(g + "attn_" + x + ".weight", h + "self_attn." + x + "_proj.weight", pairs && *x != 'v');
      if (c.qkv_bias) tensor(g + "attn_" + x + ".bias", h + "self_attn." + x + "_proj.bias");
    }
    tensor(g + "attn_output.weight", h + "self_attn.o_proj.weight");
    for (const char* x : {"gate", "up", "down"})
      tensor(g + "ffn_" + x + ".weight", h + "mlp." + x + "_proj.weight");
  }
  std::string all = "GGUF";
  put(all, std::uint32_t(3)), put(all, tensors), put(all, keys);
  all += head;
  all.resize((all.size() + 31) / 32 * 32);
  std::ofstream(to, std::ios::binary) << all << data;
}

}  // namespace distil_xlstm::testing
