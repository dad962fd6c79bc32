#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>
#include <utility>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/tokenizer/collect_ends.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>

namespace distil_xlstm::io {

/// The tokenizer of a GGUF file. Throws `error` naming the file and what is not of this family.
inline tokenizer_data read_gguf_tokenizer(const gguf_file& file) {
  tokenizer_data d;
  d.name = file.path();
  const auto model = file.get_string("tokenizer.ggml.model");
  require(model == "gpt2", d.name, ": tokenizer.ggml.model ", detail::printable(model, 60),
          " is not supported, only gpt2 (byte-level BPE)");
  const auto pre = file.get_string("tokenizer.ggml.pre");
  static constexpr std::pair<std::string_view, std::string_view> known[] = {
      {"gpt-2", "gpt-2"},      {"default", "gpt-2"},      {"smollm", "smollm"},      {"qwen2", "qwen2"},
      {"llama3", "llama-bpe"}, {"llama-v3", "llama-bpe"}, {"llama-bpe", "llama-bpe"}};
  const auto* family =
      std::find_if(std::begin(known), std::end(known), [&](const auto& k) { return k.first == pre; });
  require(family != std::end(known), d.name, ": tokenizer.ggml.pre ", detail::printable(pre, 60),
          " is not supported");
  d.pre = family->second;
  // What these two families' own tokenizer.json say, and a GGUF file has no key for.
  d.nfc = d.pre == "qwen2";
  d.ignore_merges = d.pre == "llama-bpe";

  const auto& tokens = file.get_strings("tokenizer.ggml.tokens");
  d.tokens.assign(tokens.begin(), tokens.end());
  if (file.find_key("tokenizer.ggml.token_type")) {
    enum : std::int32_t { unknown = 2, control = 3, user_defined = 4, unused = 5 };
    const auto types = file.get_i32s("tokenizer.ggml.token_type");
    require(types.size() == tokens.size(), d.name, ": tokenizer.ggml.token_type has ", types.size(),
            " elements, tokenizer.ggml.tokens ", tokens.size());
    for (std::size_t i = 0; i < types.size(); ++i) {
      if (types[i] == unused) {
        d.tokens[i].clear();
      } else if (types[i] == unknown || types[i] == control || types[i] == user_defined) {
        d.specials.push_back({static_cast<std::int32_t>(i), d.tokens[i], types[i] != user_defined, false});
      }
    }
  }
  const auto& merges = file.get_strings("tokenizer.ggml.merges");
  d.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto blank = merges[i].find(' ', 1);
    require(blank != merges[i].npos && blank + 1 < merges[i].size(), d.name, ": tokenizer.ggml.merges ", i,
            " is ", detail::printable(merges[i], 80), ", not two tokens");
    d.merges.emplace_back(merges[i].substr(0, blank), merges[i].substr(blank + 1));
  }
  const auto id = [&](std::string_view key) {
    const auto value = file.get_i64_or(key, -1);
    require(value >= -1 && value < static_cast<std::int64_t>(tokens.size()), d.name, ": ", key, " is ", value,
            ", the vocabulary has ", tokens.size());
    return static_cast<std::int32_t>(value);
  };
  d.bos = id("tokenizer.ggml.bos_token_id");
  d.eos = id("tokenizer.ggml.eos_token_id");
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const auto end = id(key); end >= 0) d.end_of_text.push_back(end);
  d.add_bos = file.get_bool_or("tokenizer.ggml.add_bos_token", false);
  d.chat_template = file.get_string_or("tokenizer.chat_template", "");
  detail::collect_ends(d);
  return d;
}

}  // namespace distil_xlstm::io
