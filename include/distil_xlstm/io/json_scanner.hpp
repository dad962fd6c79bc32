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
  json_scanner(std::string_view text, std::string_view name);

  /// The first character of the next value, which tells its kind; 0 at the end.
  char peek();

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
  [[noreturn]] void twice(std::string_view key) const;
  /// `element()` is called at each value and has to take it.
  template <class F>
  void array(const F& element) {
    list('[', ']', element);
  }

  /// A string under `key` of `where`, or an error that names them.
  std::string string(std::string_view key, std::string_view where);
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
  [[noreturn]] void refuse(std::string_view key, std::string_view where, std::string_view wanted);

  /// Takes any value and gives its text.
  std::string_view skip();
  /// Bytes taken so far.
  std::size_t position() const { return at_; }
  [[noreturn]] void malformed(std::size_t at, std::string_view what) const;
  /// Nothing but blanks may follow.
  void end();

 private:
  static constexpr int deepest = 256;

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_plain(char c) { return c != '"' && c != '\\' && static_cast<unsigned char>(c) >= 0x20; }
  char here() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void take(char c);
  bool literal(std::string_view word);

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

  void number();

  std::string quoted();
  /// What a backslash begins, up to its last character.
  void escape(std::string& out);
  /// Four hexadecimal digits behind a u.
  std::uint32_t code_unit();

  std::string_view text_, name_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace distil_xlstm::io::detail

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/json_scanner.ipp>
#endif
