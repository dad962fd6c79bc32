#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm::io {

/// A token that is found in the text as it is written, before anything else is done to the text.
struct special_token {
  std::int32_t id = -1;     ///< its place in `tokenizer_data::tokens`
  std::string text;         ///< as it is written
  bool control = true;      ///< found only where the caller asks for special tokens to be parsed
  bool normalized = false;  ///< looked for after the normalisation of the text, not before
};

/// A byte-level BPE tokenizer as plain data, whichever file it came from.
struct tokenizer_data {
  std::string name = "tokenizer";  ///< what errors call it: the file
  /// By id: in GPT-2's byte-to-unicode alphabet, special tokens literally; empty where an id has no token.
  std::vector<std::string> tokens;
  std::vector<std::pair<std::string, std::string>> merges;  ///< best first
  std::vector<special_token> specials;                      ///< each of them in `tokens`, too
  std::string pre = "gpt-2";   ///< the pre-tokenizer: "gpt-2", "smollm", "qwen2" or "llama-bpe"
  bool nfc = false;            ///< the text is brought to Unicode's normal form C
  bool ignore_merges = false;  ///< a word that is a token needs no merges
  std::int32_t unknown = -1;   ///< stands for a byte without a token; -1: such bytes are dropped
  /// @{
  /// Ids of the tokens that begin and end a text; -1: there is none.
  std::int32_t bos = -1, eos = -1;
  /// @}
  bool add_bos = false;                   ///< the model expects `bos` before a text; `encode` never adds it
  std::vector<std::int32_t> end_of_text;  ///< ids at which generation stops
  std::string chat_template;              ///< in Jinja; empty: none
};

}  // namespace distil_xlstm::io
