#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/utf8.hpp>

namespace distil_xlstm::io::detail {

/// Reads JSON (RFC 8259) from front to back and builds no tree: for headers whose members are known, so that who
/// only reads a tensor file need not compile a JSON library, and under `parse_json`. Strict: an `error` in one line
/// that begins with `name` where the text is malformed, nested more than 256 deep, or an object gives a key
/// twice. Each call takes the next value; `text` and `name` must outlive the scanner.
class json_scanner {
 public:
  json_scanner(std::string_view text, std::string_view name) : text_(text), name_(name) {
    if (const auto bad = first_invalid_utf8(text); bad != text.npos) malformed(bad, "not UTF-8");
    if (const auto nul = text.find('\0'); nul != text.npos) malformed(nul, "a NUL");
  }

  /// The first character of the next value, which tells its kind; 0 at the end.
  char peek() {
    while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != std::string_view::npos) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  /// `member(key)` is called at each value and has to take it.
  template <class F>
  void object(const F& member) {
    std::set<std::string> keys;
    members([&](std::string&& name) {
      const auto [key, fresh] = keys.insert(std::move(name));
      if (!fresh) twice(*key);
      member(*key);
    });
  }
  /// As `object`, for who keeps the keys and looks himself whether one is given `twice`.
  template <class F>
  void members(const F& member) {
    list('{', '}', [&] {
      if (peek() != '"') malformed(at_, "a key is expected");
      std::string key = quoted();
      take(':');
      member(std::move(key));
    });
  }
  [[noreturn]] void twice(std::string_view key) const {
    fail(name_, ": the key \"", printable(key), "\" is given twice");
  }
  /// `element()` is called at each value and has to take it.
  template <class F>
  void array(const F& element) {
    list('[', ']', element);
  }

  /// A string under `key` of `where`, or an error that names them.
  std::string string(std::string_view key, std::string_view where) {
    if (peek() != '"') refuse(key, where, "a string");
    return quoted();
  }
  /// A whole number, likewise.
  template <class T>
  T integer(std::string_view key, std::string_view where) {
    static_assert(std::is_integral_v<T>);
    const std::size_t begin = at_ + (peek(), 0);
    const std::string_view digits = skip();
    T value{};
    const char *first = digits.data(), *last = first + digits.size();
    const auto [end, code] = std::from_chars(first, last, value);
    if (code == std::errc() && end == last) return value;
    at_ = begin;
    const bool whole = digits.find_first_not_of("-0123456789") == digits.npos;
    refuse(key, where,
           !whole                ? "an integer"
           : std::is_signed_v<T> ? "an integer in range"
                                 : "a non-negative integer in range");
  }
  [[noreturn]] void refuse(std::string_view key, std::string_view where, std::string_view wanted) {
    fail(where, ": ", printable(key), " must be ", wanted, ", not ", printable(skip(), 60));
  }

  /// Takes any value and gives its text.
  std::string_view skip() {
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
  /// Bytes taken so far.
  std::size_t position() const { return at_; }
  [[noreturn]] void malformed(std::size_t at, std::string_view what) const {
    fail(name_, ": not valid JSON at byte ", at, ": ", what);
  }
  /// Nothing but blanks may follow.
  void end() {
    if (peek() != '\0' || at_ < text_.size()) malformed(at_, "more follows");
  }

 private:
  static constexpr int deepest = 256;

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_plain(char c) { return c != '"' && c != '\\' && static_cast<unsigned char>(c) >= 0x20; }
  char here() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void take(char c) {
    if (peek() != c || at_ == text_.size()) malformed(at_, std::string(1, c) + " is expected");
    ++at_;
  }
  bool literal(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  template <class F>
  void list(char open, char close, const F& element) {
    require(depth_ < deepest, name_, ": JSON nested more than ", deepest, " deep");
    ++depth_;
    take(open);
    if (peek() != close) {
      element();
      while (peek() == ',') ++at_, element();
    }
    take(close);
    --depth_;
  }

  void number() {
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

  std::string quoted() {
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
  /// What a backslash begins, up to its last character.
  void escape(std::string& out) {
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
  /// Four hexadecimal digits behind a u.
  std::uint32_t code_unit() {
    std::uint32_t value = 0;
    const std::string_view digits = text_.substr(at_ + 1, 4);
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (code != std::errc() || digits.size() < 4 || end != digits.data() + 4)
      malformed(at_, "four hexadecimal digits are expected");
    at_ += 4;
    return value;
  }

  std::string_view text_, name_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace distil_xlstm::io::detail
