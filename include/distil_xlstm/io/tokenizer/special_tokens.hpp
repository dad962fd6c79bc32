#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>

#include <distil_xlstm/io/tokenizer_data.hpp>

namespace distil_xlstm::io::detail {

/// Makes a token of the vocabulary a special one; what is a control token once stays one.
inline void mark_special(tokenizer_data& d, std::int32_t id, bool control) {
  const auto at = std::find_if(d.specials.begin(), d.specials.end(), [&](const auto& s) { return s.id == id; });
  if (at != d.specials.end()) {
    at->control |= control;
  } else {
    d.specials.push_back({id, d.tokens[static_cast<std::size_t>(id)], control, false});
  }
}

/// The id of a token by its text, or -1.
inline std::int32_t find_token(const tokenizer_data& d, std::string_view text) {
  const auto at = std::find(d.tokens.begin(), d.tokens.end(), text);
  return text.empty() || at == d.tokens.end() ? -1 : static_cast<std::int32_t>(at - d.tokens.begin());
}

/// Whether a token by its text ends a text or a turn: those by which llama.cpp knows it of models with byte-level
/// BPE, whatever their files say.
inline bool ends_text(std::string_view token) {
  static constexpr std::string_view names[] = {
      "<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>",         "<|end|>",
      "<end_of_turn>", "<EOT>",      "_<EOT>",          "[EOT]",      "<end_of_utterance>", "[EOS]"};
  return std::find(std::begin(names), std::end(names), token) != std::end(names);
}

/// Completes `end_of_text`: eos, and the special tokens that end a text by their name. Sorted, each once.
inline void collect_end_of_text(tokenizer_data& d) {
  auto& ends = d.end_of_text;
  if (d.eos >= 0) ends.push_back(d.eos);
  for (const auto& s : d.specials)
    if (ends_text(s.text)) ends.push_back(s.id);
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
}

}  // namespace distil_xlstm::io::detail
