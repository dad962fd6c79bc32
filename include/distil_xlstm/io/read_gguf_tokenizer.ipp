#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/read_gguf_tokenizer.hpp>
#include <distil_xlstm/io/tokenizer/special_tokens.hpp>

namespace distil_xlstm::io {

namespace detail {

/// The pre-tokenizer, by llama.cpp's names.
inline std::string_view gguf_pre_tokenizer(const gguf_file& file) {
  static constexpr std::pair<std::string_view, std::string_view> known[] = {
      {"gpt-2", "gpt-2"},      {"default", "gpt-2"},      {"smollm", "smollm"},      {"qwen2", "qwen2"},
      {"llama3", "llama-bpe"}, {"llama-v3", "llama-bpe"}, {"llama-bpe", "llama-bpe"}};
  const auto pre = file.get_string("tokenizer.ggml.pre");
  const auto* family =
      std::find_if(std::begin(known), std::end(known), [&](const auto& k) { return k.first == pre; });
  require(family != std::end(known), file.path(), ": tokenizer.ggml.pre ", printable(pre, 60),
          " is not supported");
  return family->second;
}

inline void read_gguf_tokens(const gguf_file& file, tokenizer_data& d) {
  const auto& tokens = file.get_strings("tokenizer.ggml.tokens");
  d.tokens.assign(tokens.begin(), tokens.end());
  std::vector<std::int32_t> types;
  if (file.find_key("tokenizer.ggml.token_type")) {
    types = file.get_i32s("tokenizer.ggml.token_type");
    require(types.size() == tokens.size(), d.name, ": tokenizer.ggml.token_type has ", types.size(),
            " elements, tokenizer.ggml.tokens ", tokens.size());
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    enum : std::int32_t { normal = 1, unknown, control, user_defined, unused };
    const std::int32_t type = types.empty() ? normal : types[i];
    if (type == unused) {
      d.tokens[i].clear();
    } else if (ends_text(tokens[i])) {  // a control token, whatever its type says
      d.specials.push_back({static_cast<std::int32_t>(i), d.tokens[i], true, false});
    } else if (type == unknown || type == control || type == user_defined) {
      d.specials.push_back({static_cast<std::int32_t>(i), d.tokens[i], type != user_defined, false});
    }
  }
}

inline void read_gguf_merges(const gguf_file& file, tokenizer_data& d) {
  const auto& merges = file.get_strings("tokenizer.ggml.merges");
  d.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto blank = merges[i].find(' ', 1);
    require(blank != merges[i].npos && blank + 1 < merges[i].size(), d.name, ": tokenizer.ggml.merges ", i,
            " is ", printable(merges[i], 80), ", not two tokens");
    d.merges.emplace_back(merges[i].substr(0, blank), merges[i].substr(blank + 1));
  }
}

}  // namespace detail

DISTIL_XLSTM_INLINE tokenizer_data read_gguf_tokenizer(const gguf_file& file) {
  tokenizer_data d;
  d.name = file.path();
  const auto model = file.get_string("tokenizer.ggml.model");
  require(model == "gpt2", d.name, ": tokenizer.ggml.model ", detail::printable(model, 60),
          " is not supported, only gpt2 (byte-level BPE)");
  d.pre = detail::gguf_pre_tokenizer(file);
  // What these two families' own tokenizer.json say, and a GGUF file has no key for.
  d.nfc = d.pre == "qwen2";
  d.ignore_merges = d.pre == "llama-bpe";
  detail::read_gguf_tokens(file, d);
  detail::read_gguf_merges(file, d);
  const auto id = [&](std::string_view key) {
    const auto value = file.get_i64_or(key, -1), size = static_cast<std::int64_t>(d.tokens.size());
    require(value >= -1 && value < size, d.name, ": ", key, " is ", value, ", the vocabulary has ", size);
    return static_cast<std::int32_t>(value);
  };
  d.bos = id("tokenizer.ggml.bos_token_id");
  d.eos = id("tokenizer.ggml.eos_token_id");
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const auto end = id(key); end >= 0) d.end_of_text.push_back(end);
  d.add_bos = file.get_bool_or("tokenizer.ggml.add_bos_token", d.pre == "llama-bpe");
  d.chat_template = file.get_string_or("tokenizer.chat_template", "");
  detail::collect_end_of_text(d);
  return d;
}

}  // namespace distil_xlstm::io
