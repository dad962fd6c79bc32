#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text.hpp"

namespace program::jinja {

struct token {
  enum kind_type {
    data,
    variable_begin,
    variable_end,
    block_begin,
    block_end,
    name,
    string,
    integer,
    real,
    op,
    end
  };
  kind_type kind;
  std::string text;
  int line;
};

/// A template's text as tokens, under Jinja's options trim_blocks and lstrip_blocks, which chat templates are
/// written for: a line break right after a block or comment goes, and so do blanks between the beginning of a
/// line and a block or comment.
class lexer {
 public:
  explicit lexer(std::string_view source) : source_(with_plain_line_breaks(source)) {}

  std::vector<token> run() {
    while (at_ < source_.size()) root();
    add(token::end);
    return std::move(tokens_);
  }

 private:
  static std::string with_plain_line_breaks(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
      out += text[i] == '\r' ? '\n' : text[i];
    }
    if (out.ends_with('\n')) out.pop_back();
    return out;
  }

  template <class... What>
  [[noreturn]] void refuse(const What&... what) const {
    fail("line ", line_, ": ", what...);
  }
  void add(token::kind_type kind, std::string text = {}) { tokens_.push_back({kind, std::move(text), line_}); }
  bool next_is(std::string_view what) const { return std::string_view(source_).substr(at_).starts_with(what); }
  void advance(std::size_t n) {
    for (const std::size_t end = at_ + n; at_ < end; ++at_) line_ += source_[at_] == '\n';
  }
  bool accept(std::string_view what) {
    if (!next_is(what)) return false;
    advance(what.size());
    return true;
  }
  /// The number of bytes of blanks at `from`, of which Jinja's \s knows Unicode's, too.
  std::size_t blanks(std::size_t from) const {
    const std::string_view rest = std::string_view(source_).substr(from);
    std::size_t n = 0;
    while (n < rest.size()) {
      const auto c = static_cast<unsigned char>(rest[n]);
      const std::size_t size = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
      if (!is_space(code_points(rest.substr(n, size))[0])) break;
      n += size;
    }
    return n;
  }
  void skip_blanks() { advance(blanks(at_)); }

  /// The text before the tag at `tag`, whose sign of whitespace control is `sign`.
  void data_before(std::size_t tag, char sign, bool variable) {
    std::string text = source_.substr(at_, tag - at_);
    if (sign == '-') {
      text = strip(text, side::right);
    } else if (sign != '+' && !variable) {
      const std::size_t line = text.rfind('\n') + 1;  // 0 where there is no line break
      const bool starts = line > 0 || at_ == 0 || source_[at_ - 1] == '\n';
      if (starts && blanks(at_ + line) >= text.size() - line) text.resize(line);
    }
    if (!text.empty()) add(token::data, std::move(text));
    advance(tag - at_);
  }

  static bool is_sign(char c) { return c == '-' || c == '+'; }
  char sign_at(std::size_t i) const { return i < source_.size() && is_sign(source_[i]) ? source_[i] : '\0'; }

  void root() {
    std::size_t tag = at_;
    const auto opens = [&](std::size_t i) {
      return source_[i] == '{' && i + 1 < source_.size() &&
             (source_[i + 1] == '%' || source_[i + 1] == '{' || source_[i + 1] == '#');
    };
    while (tag < source_.size() && !opens(tag)) ++tag;
    if (tag == source_.size()) {
      add(token::data, source_.substr(at_));
      return advance(tag - at_);
    }
    const char kind = source_[tag + 1], sign = sign_at(tag + 2);
    data_before(tag, sign, kind == '{');
    const std::size_t opening = sign ? 3 : 2;
    if (kind == '#') return advance(opening), comment();
    if (kind == '%' && raw(opening)) return;
    add(kind == '{' ? token::variable_begin : token::block_begin);
    advance(opening);
    inside(kind == '{');
  }

  /// The end of a tag, and what goes after it.
  bool tag_end(std::string_view mark, bool trim) {
    const std::string with_minus = "-" + std::string(mark), with_plus = "+" + std::string(mark);
    if (accept(with_minus)) return skip_blanks(), true;
    if (trim && accept(with_plus)) return true;
    if (!accept(mark)) return false;
    if (trim) accept("\n");
    return true;
  }

  void comment() {
    while (!tag_end("#}", true)) {
      if (at_ == source_.size()) refuse("a comment without its end");
      advance(1);
    }
  }

  /// `{% raw %}` to `{% endraw %}`, if it is that.
  bool raw(std::size_t opening) {
    const std::size_t begin = at_;
    const int line = line_;
    advance(opening);
    skip_blanks();
    if (accept("raw")) {
      skip_blanks();
      const bool minus = accept("-%}");
      if (minus || accept("%}")) {
        if (minus) skip_blanks();
        for (std::size_t tag = source_.find("{%", at_); tag != source_.npos;
             tag = source_.find("{%", tag + 1)) {
          const char sign = sign_at(tag + 2);
          std::size_t name = tag + (sign ? 3 : 2);
          name += blanks(name);
          if (!std::string_view(source_).substr(name).starts_with("endraw")) continue;
          const std::size_t end = name + 6 + blanks(name + 6);
          const auto rest = std::string_view(source_).substr(end);
          if (!rest.starts_with("%}") && !rest.starts_with("-%}") && !rest.starts_with("+%}")) continue;
          data_before(tag, sign, false);
          advance(end - at_);
          return tag_end("%}", true);
        }
        refuse("a raw block without its end");
      }
    }
    at_ = begin;
    line_ = line;
    return false;
  }

  void inside(bool variable) {
    const std::string_view end = variable ? "}}" : "%}";
    std::string open;  // brackets; a tag ends outside them
    for (;;) {
      skip_blanks();
      if (at_ == source_.size()) refuse("a tag without its end");
      if (open.empty()) {
        const int line = line_;
        if (tag_end(end, !variable)) {
          tokens_.push_back({variable ? token::variable_end : token::block_end, {}, line});
          return;
        }
      }
      const char c = source_[at_];
      if (is_digit(c)) {
        number();
      } else if (is_letter(c)) {
        std::size_t n = 1;
        while (at_ + n < source_.size() && (is_letter(source_[at_ + n]) || is_digit(source_[at_ + n]))) ++n;
        add(token::name, source_.substr(at_, n));
        advance(n);
      } else if (c == '\'' || c == '"') {
        string();
      } else {
        operation(open);
      }
    }
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

  void operation(std::string& open) {
    for (const std::string_view two : {"//", "**", "==", "!=", ">=", "<="})
      if (next_is(two)) return add(token::op, std::string(two)), advance(2);
    const char c = source_[at_];
    if (std::string_view("+-*/%~[](){}<>=.:|,;").find(c) == std::string_view::npos)
      refuse("unexpected ", c > ' ' && c < 0x7f ? std::string(1, c) : "character beyond ASCII", " in a tag");
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (!open.ends_with(c)) refuse("unexpected ", c);
      open.pop_back();
    }
    add(token::op, std::string(1, c));
    advance(1);
  }

  void number() {
    const auto digits = [&](std::size_t from) {
      std::size_t n = from;
      while (n < source_.size() && is_digit(source_[n])) ++n;
      return n - from;
    };
    std::size_t n = digits(at_);
    bool real = false;
    const bool after_point = at_ > 0 && source_[at_ - 1] == '.';
    const auto is = [&](std::size_t i, std::string_view set) {
      return at_ + i < source_.size() && set.find(source_[at_ + i]) != set.npos;
    };
    if (is(n, "_") || (n == 1 && source_[at_] == '0' && is(n, "xXoObB")))
      refuse("only plain decimal numbers are supported");
    if (!after_point) {
      if (is(n, ".") && digits(at_ + n + 1) > 0) n += 1 + digits(at_ + n + 1), real = true;
      if (is(n, "eE")) {
        const std::size_t sign = is(n + 1, "+-") ? 1 : 0;
        if (const std::size_t more = digits(at_ + n + 1 + sign)) n += 1 + sign + more, real = true;
      }
    }
    if (!real && n > 1 && source_[at_] == '0') refuse("a number that begins with 0");
    add(real ? token::real : token::integer, source_.substr(at_, n));
    advance(n);
  }

  /// With Python's escapes.
  void string() {
    const char mark = source_[at_];
    const int line = line_;
    std::string out;
    advance(1);
    const auto here = [&] {
      if (at_ == source_.size()) refuse("a text without its closing quote");
      return source_[at_];
    };
    while (here() != mark) {
      if (source_[at_] != '\\') {
        out += source_[at_];
        advance(1);
        continue;
      }
      advance(1);
      const char c = here();
      static constexpr std::string_view letters = "\\'\"abfnrtv", meaning = "\\'\"\a\b\f\n\r\t\v";
      if (const auto i = letters.find(c); i != letters.npos) {
        out += meaning[i];
        advance(1);
      } else if (c == '\n') {
        advance(1);
      } else if (c == 'x' || c == 'u' || c == 'U') {
        advance(1);
        append_utf8(out, hexadecimal(c == 'x' ? 2 : c == 'u' ? 4 : 8));
      } else if (is_digit(c) || c == 'N') {
        refuse("the escape \\", c, " is not supported");
      } else {
        out += '\\';
      }
    }
    advance(1);
    tokens_.push_back({token::string, std::move(out), line});
  }
  char32_t hexadecimal(int count) {
    char32_t out = 0;
    for (; count > 0; --count, advance(1)) {
      const char c = at_ < source_.size() ? source_[at_] : '\0', low = static_cast<char>(c | 0x20);
      if (!is_digit(c) && !(low >= 'a' && low <= 'f')) refuse("an escape without its hexadecimal digits");
      out = out << 4 | static_cast<char32_t>(is_digit(c) ? c - '0' : low - 'a' + 10);
    }
    if (out > 0x10ffff || (out >= 0xd800 && out < 0xe000)) refuse("an escape that is no character");
    return out;
  }

  std::string source_;
  std::size_t at_ = 0;
  int line_ = 1;
  std::vector<token> tokens_;
};

}  // namespace program::jinja
