#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/tokenizer.hpp>

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE tokenizer::tokenizer(tokenizer_data data)
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

DISTIL_XLSTM_INLINE encoded tokenizer::encode(std::string_view text, bool parse_special) const {
  tokenizer_scratch scratch;
  return encode(text, parse_special, scratch);
}

DISTIL_XLSTM_INLINE encoded tokenizer::encode(std::string_view text, bool parse_special,
                                              tokenizer_scratch& scratch) const {
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

DISTIL_XLSTM_INLINE bool tokenizer::is_end_of_text(std::int32_t id) const {
  return std::find(data_.end_of_text.begin(), data_.end_of_text.end(), id) != data_.end_of_text.end();
}

DISTIL_XLSTM_INLINE std::int32_t tokenizer::find_special(std::string_view text) const {
  for (const auto& s : data_.specials)
    if (s.text == text) return s.id;
  return -1;
}

DISTIL_XLSTM_INLINE std::int32_t tokenizer::document_start() const {
  if (const auto id = find_special("<|endoftext|>"); id >= 0) return id;
  return data_.add_bos && data_.bos >= 0 ? data_.bos : document_end();
}

DISTIL_XLSTM_INLINE std::int32_t tokenizer::document_end() const {
  for (const char* name : {"<|endoftext|>", "<|end_of_text|>"})
    if (const auto id = find_special(name); id >= 0 && is_end_of_text(id)) return id;
  if (data_.eos >= 0 && is_end_of_text(data_.eos)) return data_.eos;
  return data_.end_of_text.empty() ? data_.eos : data_.end_of_text.front();
}

DISTIL_XLSTM_INLINE index tokenizer::count_control(std::string_view text) const {
  index count = 0;
  for (const auto* specials : {&specials_, &specials_after_})
    for (std::size_t at = 0; at < text.size();) {
      const auto hit = specials->next(text, at, true);
      count += hit.id >= 0 && is_control(hit.id);
      at = hit.at + hit.length;
    }
  return count;
}

DISTIL_XLSTM_INLINE std::string tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::string out;
  for (const auto id : ids)
    if (!(skip_special && is_control(id))) out += bytes(id);
  return out;
}

DISTIL_XLSTM_INLINE std::string tokenizer::fingerprint() const {
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

DISTIL_XLSTM_INLINE tokenizer_data tokenizer::checked(tokenizer_data d) {
  constexpr std::size_t most = std::size_t{1} << 30;
  require(!d.tokens.empty(), d.name, ": the vocabulary is empty");
  require(d.tokens.size() < most && d.merges.size() < most, d.name, ": ", d.tokens.size(), " tokens and ",
          d.merges.size(), " merges are too many");
  const auto size = static_cast<std::int64_t>(d.tokens.size());
  for (std::size_t i = 0; i < d.tokens.size(); ++i)
    require(is_valid_utf8(d.tokens[i]), d.name, ": token ", i, " is not valid UTF-8");
  std::vector<bool> seen(d.tokens.size());
  for (const auto& s : d.specials) {
    require(s.id >= 0 && s.id < size, d.name, ": the special token ", detail::printable(s.text, 80), " has id ",
            s.id, ", the vocabulary ", size);
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

DISTIL_XLSTM_INLINE detail::word_pattern tokenizer::pattern_of(const tokenizer_data& d) {
  const auto* p = detail::find_pre_tokenizer(d.pre);
  require(p, d.name, ": the pre-tokenizer ", detail::printable(d.pre, 60), " is not supported");
  return detail::word_pattern(p->pcre);
}

DISTIL_XLSTM_INLINE std::size_t tokenizer::checked_id(std::int32_t id) const {
  require(id >= 0 && id < vocab_size(), data_.name, ": there is no token ", id, ", the vocabulary has ",
          vocab_size());
  return static_cast<std::size_t>(id);
}

DISTIL_XLSTM_INLINE void tokenizer::encode_plain(std::string_view text, tokenizer_scratch& scratch,
                                                 encoded& out) const {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t n = pattern_.word_length(text, at, scratch.match_);
    encode_word(text.substr(at, n), scratch, out);
    at += n;
  }
}

DISTIL_XLSTM_INLINE void tokenizer::encode_word(std::string_view word, tokenizer_scratch& scratch,
                                                encoded& out) const {
  const bool cached = word.size() <= detail::word_cache::longest_word;
  if (cached && scratch.words_.find(word, out)) return;
  const std::size_t ids = out.ids.size(), dropped = out.dropped_bytes;
  encoder_.encode(word, scratch.merge_, out);
  if (cached) scratch.words_.store(word, out, ids, dropped);
}

}  // namespace distil_xlstm::io
