#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/read_gguf_tokenizer.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/tokenizer/special_tokens.hpp>
#include <distil_xlstm/io/write_gguf_tokenizer.hpp>

namespace distil_xlstm::io {

namespace detail {

inline void put_gguf_tokenizer(gguf_writer& file, const tokenizer_data& d, index vocabulary) {
  enum : std::int32_t { normal = 1, control = 3, user_defined, unused };
  std::vector<std::string> tokens = d.tokens, merges;
  tokens.resize(std::max(tokens.size(), static_cast<std::size_t>(vocabulary)));
  std::vector<std::int32_t> types(tokens.size(), normal);
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i].empty()) tokens[i] = "[PAD" + std::to_string(i) + "]", types[i] = unused;
  for (const auto& s : d.specials) types[static_cast<std::size_t>(s.id)] = s.control ? control : user_defined;
  for (const auto& [left, right] : d.merges) merges.push_back(left + " " + right);
  file.string("tokenizer.ggml.model", "gpt2");
  file.string("tokenizer.ggml.pre", d.pre);
  file.strings("tokenizer.ggml.tokens", tokens);
  file.i32s("tokenizer.ggml.token_type", types);
  file.strings("tokenizer.ggml.merges", merges);
  const auto id = [&](std::string_view key, std::int32_t n) {
    if (n >= 0) file.u32(key, static_cast<std::uint32_t>(n));
  };
  id("tokenizer.ggml.bos_token_id", d.bos);
  id("tokenizer.ggml.eos_token_id", d.eos);
  file.boolean("tokenizer.ggml.add_bos_token", d.add_bos);
  // Those that eos and their names do not tell.
  tokenizer_data told = d;
  told.end_of_text.clear();
  collect_end_of_text(told);
  std::vector<std::int32_t> ends;
  std::set_difference(d.end_of_text.begin(), d.end_of_text.end(), told.end_of_text.begin(),
                      told.end_of_text.end(), std::back_inserter(ends));
  constexpr const char* keys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
  for (std::size_t i = 0; i < std::min(std::size(keys), ends.size()); ++i) id(keys[i], ends[i]);
  if (!d.chat_template.empty()) file.string("tokenizer.chat_template", d.chat_template);
}

/// What tells one tokenizer from another, in words; empty: nothing.
inline std::string_view difference(const tokenizer_data& a, const tokenizer_data& b) {
  const auto flags = [](const tokenizer_data& d) {
    std::vector<std::pair<std::int32_t, bool>> out;
    for (const auto& s : d.specials) out.emplace_back(s.id, s.control);
    std::sort(out.begin(), out.end());
    return out;
  };
  const auto normalized = [](const special_token& s) { return s.normalized; };
  if (std::any_of(a.specials.begin(), a.specials.end(), normalized))
    return "special tokens that are looked for after normalisation";
  if (flags(a) != flags(b)) return "which special tokens are control tokens";
  if (a.end_of_text != b.end_of_text) return "which tokens end a text";
  if (a.bos != b.bos || a.eos != b.eos || a.add_bos != b.add_bos) return "the tokens that begin and end a text";
  if (a.nfc != b.nfc || a.ignore_merges != b.ignore_merges) return "its normalisation";
  if (tokenizer(a).fingerprint() != tokenizer(b).fingerprint()) return "its tokens and merges";
  return {};
}

}  // namespace detail

DISTIL_XLSTM_INLINE void write_gguf_tokenizer(gguf_writer& file, const tokenizer_data& d, index vocabulary) {
  tokenizer_data sorted = d;
  detail::collect_end_of_text(sorted);
  // Read back: a key that is not there is better seen here than by who uses the file.
  gguf_writer alone;
  detail::put_gguf_tokenizer(alone, sorted, vocabulary);
  const std::string keys = alone.header();
  const gguf_file back(std::as_bytes(std::span(keys)), d.name);
  const auto lost = detail::difference(sorted, read_gguf_tokenizer(back));
  require(lost.empty(), d.name, ": GGUF's keys cannot say ", lost);
  detail::put_gguf_tokenizer(file, sorted, vocabulary);
}

}  // namespace distil_xlstm::io
