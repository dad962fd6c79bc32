#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/sha256.hpp>
#include <distil_xlstm/io/tokenizer/byte_alphabet.hpp>
#include <distil_xlstm/io/tokenizer/byte_pair_encoder.hpp>
#include <distil_xlstm/io/tokenizer/encoded.hpp>
#include <distil_xlstm/io/tokenizer/normal_form_c.hpp>
#include <distil_xlstm/io/tokenizer/pre_tokenizer.hpp>
#include <distil_xlstm/io/tokenizer/special_finder.hpp>
#include <distil_xlstm/io/tokenizer/word_cache.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>
#include <distil_xlstm/io/utf8.hpp>

namespace distil_xlstm::io {

/// Working memory of `tokenizer::encode`, with the words seen so far. One a thread, for any tokenizers in turn.
class tokenizer_scratch {
  friend class tokenizer;
  detail::word_pattern::scratch match_;
  detail::byte_pair_encoder::scratch merge_;
  detail::word_cache words_;
  std::string normal_;
};

/// A byte-level BPE tokenizer of the GPT-2 / SmolLM2 / Qwen2 / Llama-3 family: special tokens are cut out, the
/// rest is normalised, cut into words by the family's expression, and each word's bytes are merged. Const use
/// from many threads is safe.
class tokenizer {
 public:
  /// Throws `error` naming `data.name` and the token, merge or option that does not fit.
  explicit tokenizer(tokenizer_data data);

  /// What it was made of.
  const tokenizer_data& data() const { return data_; }
  /// Ids are below this; some may have no token.
  index vocab_size() const { return static_cast<index>(data_.tokens.size()); }

  /// The ids of a text; no token is added. Without `parse_special` control tokens written in the text are
  /// ordinary text. Throws `error` naming the byte where the text is not UTF-8 (the caller knows the file).
  encoded encode(std::string_view text, bool parse_special = true) const;
  /// The same, faster over many texts: `scratch` remembers words.
  encoded encode(std::string_view text, bool parse_special, tokenizer_scratch& scratch) const;

  /// The bytes that one id stands for; empty where the id has no token. Throws where it is no id at all.
  std::string_view bytes(std::int32_t id) const { return bytes_[checked_id(id)]; }
  /// Whether it is a special token that a text has only where special tokens are parsed. Throws where it is no id at
  /// all.
  bool is_control(std::int32_t id) const { return special_[checked_id(id)] == control; }
  /// Whether generation stops at it.
  bool is_end_of_text(std::int32_t id) const;
  /// The id of a special token by its text, or -1.
  std::int32_t find_special(std::string_view text) const;
  /// The id that begins a document in a training stream: `<|endoftext|>` where there is one, else bos where the
  /// model expects it, else what ends a document (not a turn); -1 where none is known.
  std::int32_t document_start() const;
  /// The id that ends a document in a training stream, at which generation stops: `<|endoftext|>` or
  /// `<|end_of_text|>` where there is one (eos of a chat model ends a turn), else eos, else another that ends a text;
  /// -1 where none is known.
  std::int32_t document_end() const;
  /// How many control tokens a text spells: `encode` without `parse_special` takes them for text.
  index count_control(std::string_view text) const;

  /// The bytes of a sequence; they need not be whole characters (`replace_invalid_utf8`, `stream_decoder`).
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = false) const;

  /// SHA-256 over what decides about ids: the same for a GGUF file and a tokenizer.json of one tokenizer.
  std::string fingerprint() const;

 private:
  enum kind : std::uint8_t { ordinary, control, literal };

  static tokenizer_data checked(tokenizer_data d);

  static detail::word_pattern pattern_of(const tokenizer_data& d);

  std::size_t checked_id(std::int32_t id) const;

  template <class F>
  static void each_piece(std::string_view text, const detail::special_finder& specials, bool parse_special,
                         encoded& out, F&& between) {
    for (std::size_t at = 0; at < text.size();) {
      const auto hit = specials.next(text, at, parse_special);
      if (hit.at > at) between(text.substr(at, hit.at - at));
      if (hit.id >= 0) out.ids.push_back(hit.id);
      at = hit.at + hit.length;
    }
  }

  void encode_plain(std::string_view text, tokenizer_scratch& scratch, encoded& out) const;

  void encode_word(std::string_view word, tokenizer_scratch& scratch, encoded& out) const;

  tokenizer_data data_;
  detail::word_pattern pattern_;
  detail::byte_pair_encoder encoder_;
  detail::special_finder specials_, specials_after_;
  std::vector<std::string> bytes_;
  std::vector<kind> special_;
  std::uint64_t serial_ = 0;
};

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/tokenizer.ipp>
#endif
