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
  explicit tokenizer(tokenizer_data data)
      : data_(checked(std::move(data))), pattern_(pattern_of(data_)), encoder_(data_) {
    bytes_.reserve(data_.tokens.size());
    for (const auto& t : data_.tokens) bytes_.push_back(detail::token_bytes(t));
    special_.resize(data_.tokens.size());
    for (const auto& s : data_.specials) {
      const auto id = static_cast<std::size_t>(s.id);
      special_[id] = s.control ? control : literal;
      bytes_[id] = s.text;
      std::string memory;
      const bool later = s.normalized && data_.nfc;
      (s.normalized ? specials_after_ : specials_)
          .insert(later ? std::string(detail::normal_form_c(s.text, memory)) : s.text, s.id, s.control);
    }
    static std::atomic<std::uint64_t> serials{0};
    serial_ = ++serials;
  }

  const tokenizer_data& data() const { return data_; }
  /// Ids are below this; some may have no token.
  index vocab_size() const { return static_cast<index>(data_.tokens.size()); }

  /// The ids of a text; no token is added. Without `parse_special` control tokens written in the text are
  /// ordinary text. Throws `error` naming the byte where the text is not UTF-8 (the caller knows the file).
  encoded encode(std::string_view text, bool parse_special = true) const {
    tokenizer_scratch scratch;
    return encode(text, parse_special, scratch);
  }
  /// The same, faster over many texts: `scratch` remembers words.
  encoded encode(std::string_view text, bool parse_special, tokenizer_scratch& scratch) const {
    const std::size_t bad = first_invalid_utf8(text);
    require(bad == std::string_view::npos, "not valid UTF-8 at byte ", bad);
    scratch.words_.belong_to(serial_);
    encoded out;
    out.ids.reserve(text.size() / 4 + 1);
    each_piece(text, specials_, parse_special, out, [&](std::string_view piece) {
      if (data_.nfc) piece = detail::normal_form_c(piece, scratch.normal_);
      each_piece(piece, specials_after_, parse_special, out,
                 [&](std::string_view plain) { encode_plain(plain, scratch, out); });
    });
    return out;
  }

  /// The bytes that one id stands for; empty where the id has no token. Throws where it is no id at all.
  std::string_view bytes(std::int32_t id) const { return bytes_[checked_id(id)]; }
  bool is_control(std::int32_t id) const { return special_[checked_id(id)] == control; }
  bool is_end_of_text(std::int32_t id) const {
    return std::find(data_.end_of_text.begin(), data_.end_of_text.end(), id) != data_.end_of_text.end();
  }
  /// The id of a special token by its text, or -1.
  std::int32_t find_special(std::string_view text) const {
    for (const auto& s : data_.specials)
      if (s.text == text) return s.id;
    return -1;
  }
  /// The id that begins a document in a training stream: <|endoftext|> where there is one, else bos where the
  /// model expects it, else what ends a document (not a turn); -1 where none is known.
  std::int32_t document_start() const {
    if (const auto id = find_special("<|endoftext|>"); id >= 0) return id;
    return data_.add_bos && data_.bos >= 0 ? data_.bos : document_end();
  }
  /// The id that ends a document in a training stream, at which generation stops: <|endoftext|> or <|end_of_text|> where
  /// there is one (eos of a chat model ends a turn), else eos, else another that ends a text; -1 where none is known.
  std::int32_t document_end() const {
    for (const char* name : {"<|endoftext|>", "<|end_of_text|>"})
      if (const auto id = find_special(name); id >= 0 && is_end_of_text(id)) return id;
    if (data_.eos >= 0 && is_end_of_text(data_.eos)) return data_.eos;
    return data_.end_of_text.empty() ? data_.eos : data_.end_of_text.front();
  }
  /// How many control tokens a text spells: `encode` without `parse_special` takes them for text.
  index count_control(std::string_view text) const {
    index count = 0;
    for (const auto* specials : {&specials_, &specials_after_})
      for (std::size_t at = 0; at < text.size();) {
        const auto hit = specials->next(text, at, true);
        count += hit.id >= 0 && is_control(hit.id);
        at = hit.at + hit.length;
      }
    return count;
  }

  /// The bytes of a sequence; they need not be whole characters (`replace_invalid_utf8`, `stream_decoder`).
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = false) const {
    std::string out;
    for (const auto id : ids)
      if (!(skip_special && is_control(id))) out += bytes(id);
    return out;
  }

  /// SHA-256 over what decides about ids: the same for a GGUF file and a tokenizer.json of one tokenizer.
  std::string fingerprint() const {
    sha256 hash;
    const auto text = [&](std::string_view s) {
      const std::string size = std::to_string(s.size()) + ":";
      hash.update(size.data(), size.size()).update(s.data(), s.size());
    };
    const auto number = [&](auto n) { text(std::to_string(n)); };
    text("distil_xlstm tokenizer 1");
    text(data_.pre);
    number(data_.nfc ? 1 : 0);
    number(data_.ignore_merges ? 1 : 0);
    // `unknown` decides about nothing where every byte has a token, and shows in byte_ids() where not.
    for (const auto id : encoder_.byte_ids()) number(id);
    std::vector<std::pair<std::int32_t, std::string_view>> specials;
    for (const auto& s : data_.specials) specials.emplace_back(s.id, s.text);
    std::sort(specials.begin(), specials.end());
    number(specials.size());
    for (const auto& [id, s] : specials) number(id), text(s);
    for (std::size_t i = 0; i < data_.tokens.size(); ++i)
      if (special_[i] == ordinary && !data_.tokens[i].empty()) number(i), text(data_.tokens[i]);
    number(data_.merges.size());
    for (const auto& [left, right] : data_.merges) text(left), text(right);
    return hash.hex();
  }

 private:
  enum kind : std::uint8_t { ordinary, control, literal };

  static tokenizer_data checked(tokenizer_data d) {
    constexpr std::size_t most = std::size_t{1} << 30;
    require(!d.tokens.empty(), d.name, ": the vocabulary is empty");
    require(d.tokens.size() < most && d.merges.size() < most, d.name, ": ", d.tokens.size(), " tokens and ",
            d.merges.size(), " merges are too many");
    const auto size = static_cast<std::int64_t>(d.tokens.size());
    for (std::size_t i = 0; i < d.tokens.size(); ++i)
      require(is_valid_utf8(d.tokens[i]), d.name, ": token ", i, " is not valid UTF-8");
    std::vector<bool> seen(d.tokens.size());
    for (const auto& s : d.specials) {
      require(s.id >= 0 && s.id < size, d.name, ": the special token ", detail::printable(s.text, 80),
              " has id ", s.id, ", the vocabulary ", size);
      require(!seen[static_cast<std::size_t>(s.id)], d.name, ": two special tokens have the id ", s.id);
      seen[static_cast<std::size_t>(s.id)] = true;
      require(!s.text.empty() && s.text == d.tokens[static_cast<std::size_t>(s.id)], d.name,
              ": the special token ", detail::printable(s.text, 80), " is ",
              detail::printable(d.tokens[static_cast<std::size_t>(s.id)], 80), " in the vocabulary");
    }
    const auto in_range = [&](std::int64_t id, const char* what) {
      require(id >= -1 && id < size, d.name, ": the ", what, " id is ", id, ", the vocabulary has ", size);
    };
    in_range(d.unknown, "unknown token's");
    in_range(d.bos, "bos");
    in_range(d.eos, "eos");
    for (const auto id : d.end_of_text) in_range(id, "end-of-text");
    return d;
  }

  static detail::word_pattern pattern_of(const tokenizer_data& d) {
    const auto* p = detail::find_pre_tokenizer(d.pre);
    require(p, d.name, ": the pre-tokenizer ", detail::printable(d.pre, 60), " is not supported");
    return detail::word_pattern(p->pcre);
  }

  std::size_t checked_id(std::int32_t id) const {
    require(id >= 0 && id < vocab_size(), data_.name, ": there is no token ", id, ", the vocabulary has ",
            vocab_size());
    return static_cast<std::size_t>(id);
  }

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

  void encode_plain(std::string_view text, tokenizer_scratch& scratch, encoded& out) const {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t n = pattern_.word_length(text, at, scratch.match_);
      encode_word(text.substr(at, n), scratch, out);
      at += n;
    }
  }

  void encode_word(std::string_view word, tokenizer_scratch& scratch, encoded& out) const {
    const bool cached = word.size() <= detail::word_cache::longest_word;
    if (cached && scratch.words_.find(word, out)) return;
    const std::size_t ids = out.ids.size(), dropped = out.dropped_bytes;
    encoder_.encode(word, scratch.merge_, out);
    if (cached) scratch.words_.store(word, out, ids, dropped);
  }

  tokenizer_data data_;
  detail::word_pattern pattern_;
  detail::byte_pair_encoder encoder_;
  detail::special_finder specials_, specials_after_;
  std::vector<std::string> bytes_;
  std::vector<kind> special_;
  std::uint64_t serial_ = 0;
};

}  // namespace distil_xlstm::io
