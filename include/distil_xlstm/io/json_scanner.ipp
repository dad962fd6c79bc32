#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/json_scanner.hpp>

namespace distil_xlstm::io::detail {

DISTIL_XLSTM_INLINE json_scanner::json_scanner(std::string_view text, std::string_view name)
    : text_(text), name_(name) {
  if (const auto bad = first_invalid_utf8(text); bad != text.npos) malformed(bad, "not UTF-8");
  if (const auto nul = text.find('\0'); nul != text.npos) malformed(nul, "a NUL");
}

DISTIL_XLSTM_INLINE char json_scanner::peek() {
  while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != std::string_view::npos) ++at_;
  return at_ < text_.size() ? text_[at_] : '\0';
}

[[noreturn]] DISTIL_XLSTM_INLINE void json_scanner::twice(std::string_view key) const {
  fail(name_, ": the key \"", printable(key), "\" is given twice");
}

DISTIL_XLSTM_INLINE std::string json_scanner::string(std::string_view key, std::string_view where) {
  if (peek() != '"') refuse(key, where, "a string");
  return quoted();
}

[[noreturn]] DISTIL_XLSTM_INLINE void json_scanner::refuse(std::string_view key, std::string_view where,
                                                           std::string_view wanted) {
  fail(where, ": ", printable(key), " must be ", wanted, ", not ", printable(skip(), 60));
}

DISTIL_XLSTM_INLINE std::string_view json_scanner::skip() {
  const char c = peek();
  const std::size_t begin = at_;
  if (c == '{') {
    object([this](const std::string&) { skip(); });
  } else if (c == '[') {
    array([this] { skip(); });
  } else if (c == '"') {
    quoted();
  } else if (c == '-' || is_digit(c)) {
    number();
  } else if (!literal("true") && !literal("false") && !literal("null")) {
    malformed(at_, "a value is expected");
  }
  return text_.substr(begin, at_ - begin);
}

[[noreturn]] DISTIL_XLSTM_INLINE void json_scanner::malformed(std::size_t at, std::string_view what) const {
  fail(name_, ": not valid JSON at byte ", at, ": ", what);
}

DISTIL_XLSTM_INLINE void json_scanner::end() {
  if (peek() != '\0' || at_ < text_.size()) malformed(at_, "more follows");
}

DISTIL_XLSTM_INLINE void json_scanner::take(char c) {
  if (peek() != c || at_ == text_.size()) malformed(at_, std::string(1, c) + " is expected");
  ++at_;
}

DISTIL_XLSTM_INLINE bool json_scanner::literal(std::string_view word) {
  if (!text_.substr(at_).starts_with(word)) return false;
  at_ += word.size();
  return true;
}

DISTIL_XLSTM_INLINE void json_scanner::number() {
  const auto digits = [this] {
    if (!is_digit(here())) malformed(at_, "a digit is expected");
    while (is_digit(here())) ++at_;
  };
  if (here() == '-') ++at_;
  if (here() == '0') {
    ++at_;
  } else {
    digits();
  }
  if (here() == '.') ++at_, digits();
  if (here() == 'e' || here() == 'E') {
    ++at_;
    if (here() == '+' || here() == '-') ++at_;
    digits();
  }
}

DISTIL_XLSTM_INLINE std::string json_scanner::quoted() {
  std::string out;
  for (++at_;; ++at_) {
    const std::size_t plain = at_;
    while (at_ < text_.size() && is_plain(text_[at_])) ++at_;
    out += text_.substr(plain, at_ - plain);
    if (at_ == text_.size()) malformed(at_, "a string does not end");
    const char c = text_[at_];
    if (c == '"') break;
    if (c != '\\') malformed(at_, "a control character in a string");
    escape(out);
  }
  ++at_;
  return out;
}

DISTIL_XLSTM_INLINE void json_scanner::escape(std::string& out) {
  static constexpr std::string_view letters = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
  ++at_;
  if (here() == 'u') {
    std::uint32_t c = code_unit();
    if (c >= 0xd800 && c < 0xdc00 && text_.substr(at_ + 1, 2) == "\\u") {
      at_ += 2;
      const std::uint32_t low = code_unit();
      if (low < 0xdc00 || low > 0xdfff) malformed(at_, "half a surrogate pair");
      c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    if (c >= 0xd800 && c < 0xe000) malformed(at_, "half a surrogate pair");
    append_utf8(out, c);
    return;
  }
  const auto which = at_ < text_.size() ? letters.find(here()) : letters.npos;
  if (which == letters.npos) malformed(at_, "an unknown escape");
  out += meant[which];
}

DISTIL_XLSTM_INLINE std::uint32_t json_scanner::code_unit() {
  std::uint32_t value = 0;
  const std::string_view digits = text_.substr(at_ + 1, 4);
  const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (code != std::errc() || digits.size() < 4 || end != digits.data() + 4)
    malformed(at_, "four hexadecimal digits are expected");
  at_ += 4;
  return value;
}

}  // namespace distil_xlstm::io::detail
