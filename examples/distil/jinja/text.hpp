#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/from_chars.hpp>

/// What Python's str and float do. Texts are valid UTF-8; their elements are code points.
namespace program::jinja {

using distil_xlstm::fail;
using distil_xlstm::require;

inline std::u32string code_points(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const std::size_t length = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    char32_t point = length == 1 ? c : c & (0xffu >> (length + 1));
    for (std::size_t k = 1; k < length; ++k)
      point = point << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3f);
    out += point;
    i += length;
  }
  return out;
}

inline void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xc0 | c >> 6);
  } else {
    if (c < 0x10000) {
      put(0xe0 | c >> 12);
    } else {
      put(0xf0 | c >> 18);
      put(0x80 | (c >> 12 & 0x3f));
    }
    put(0x80 | (c >> 6 & 0x3f));
  }
  put(0x80 | (c & 0x3f));
}

inline std::string utf8(std::u32string_view points) {
  std::string out;
  out.reserve(points.size());
  for (const char32_t c : points) append_utf8(out, c);
  return out;
}

inline std::size_t length(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

inline bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

/// str.isspace of one character; a regular expression's \s is the same.
inline bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

/// What str.splitlines breaks at.
inline bool is_line_break(char32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

enum class side { left = 1, right = 2, both = 3 };

/// str.strip, lstrip and rstrip: of blanks, or of any of the given characters.
inline std::string strip(std::string_view text, side where = side::both,
                         const std::optional<std::string_view>& characters = {}) {
  const std::u32string points = code_points(text), set = code_points(characters.value_or(""));
  const auto goes = [&](char32_t c) { return characters ? set.find(c) != set.npos : is_space(c); };
  std::size_t begin = 0, end = points.size();
  if (where != side::right)
    while (begin < end && goes(points[begin])) ++begin;
  if (where != side::left)
    while (begin < end && goes(points[end - 1])) --end;
  return utf8(std::u32string_view(points).substr(begin, end - begin));
}

/// str.split(None, most): words between blanks, at most `most` splits where it is not negative.
inline std::vector<std::string> split_words(std::string_view text, std::int64_t most) {
  const std::u32string points = code_points(text);
  std::vector<std::string> out;
  std::size_t at = 0;
  const auto skip = [&] {
    while (at < points.size() && is_space(points[at])) ++at;
  };
  for (skip(); at < points.size(); skip()) {
    const bool rest = most >= 0 && std::ssize(out) >= most;
    std::size_t end = at;
    while (end < points.size() && (rest || !is_space(points[end]))) ++end;
    while (rest && is_space(points[end - 1])) --end;
    out.push_back(utf8(std::u32string_view(points).substr(at, end - at)));
    if (rest) break;
    at = end;
  }
  return out;
}

/// str.split(separator, most) and, from the right, str.rsplit.
inline std::vector<std::string> split(std::string_view text, std::string_view separator, std::int64_t most,
                                      bool from_right = false) {
  require(!separator.empty(), "an empty separator");
  std::vector<std::string> out;
  while (most < 0 || std::ssize(out) < most) {
    const std::size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == text.npos) break;
    const std::string_view before = text.substr(0, at), after = text.substr(at + separator.size());
    out.emplace_back(from_right ? after : before);
    text = from_right ? before : after;
  }
  out.emplace_back(text);
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

inline std::vector<std::string> split_lines(std::string_view text, bool with_ends = false) {
  const std::u32string points = code_points(text);
  std::vector<std::string> out;
  for (std::size_t begin = 0, end = 0; begin < points.size(); begin = end) {
    while (end < points.size() && !is_line_break(points[end])) ++end;
    const std::size_t last = end;
    if (end < points.size())
      end += points[end] == '\r' && end + 1 < points.size() && points[end + 1] == '\n' ? 2 : 1;
    out.push_back(utf8(std::u32string_view(points).substr(begin, (with_ends ? end : last) - begin)));
  }
  return out;
}

inline std::size_t occurrences(std::string_view text, std::string_view part) {
  require(!part.empty(), "occurrences of an empty text are not supported");
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

inline std::string replace(std::string_view text, std::string_view from, std::string_view to,
                           std::int64_t most) {
  require(!from.empty(), "replacing an empty text is not supported");
  std::string out;
  for (std::int64_t n = 0; most < 0 || n < most; ++n) {
    const std::size_t at = text.find(from);
    if (at == text.npos) break;
    (out += text.substr(0, at)) += to;
    text.remove_prefix(at + from.size());
  }
  return out += text;
}

/// Characters whose other case is several characters, or depends on the text around, are refused.
inline std::string lower(std::string_view text) {
  std::u32string points = code_points(text);
  for (char32_t& c : points) {
    require(c != 0x130 && c != 0x3a3, "the lower case of U+0130 and U+03A3 is not supported");
    c = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
  }
  return utf8(points);
}
inline void need_simple_upper_case(char32_t c) {
  const bool simple = c != 0xdf && c != 0x149 && c != 0x1f0 && c != 0x390 && c != 0x3b0 && c != 0x587 &&
                      !(c >= 0x1c4 && c <= 0x1cc) && !(c >= 0x1f1 && c <= 0x1f3) &&
                      !(c >= 0x10d0 && c <= 0x10ff) && !(c >= 0x1e96 && c <= 0x1e9a) &&
                      !(c >= 0x1f50 && c <= 0x1fff) && !(c >= 0xfb00 && c <= 0xfb17);
  require(simple, "the upper case of a character that becomes several is not supported");
}
inline std::string upper(std::string_view text) {
  std::u32string points = code_points(text);
  for (char32_t& c : points) {
    need_simple_upper_case(c);
    c = static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
  }
  return utf8(points);
}
inline std::string capitalized(std::string_view text) {
  const std::u32string points = code_points(text);
  const std::u32string_view all = points;
  return upper(utf8(all.substr(0, 1))) + lower(utf8(all.substr(std::min<std::size_t>(1, all.size()))));
}

/// Each word's first letter in upper case, the others in lower case. `starts` says after which character a word
/// begins: str.title and the filter differ there.
template <class Starts>
std::string titled(std::string_view text, const Starts& starts) {
  require(is_ascii(text), "the title case of characters beyond ASCII is not supported");
  std::string out(text);
  bool first = true;
  for (char& c : out) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter) c = static_cast<char>(first ? c & ~0x20 : c | 0x20);
    first = starts(c, letter);
  }
  return out;
}

/// repr of a str.
inline std::string repr_text(std::string_view text) {
  const char mark = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  std::string out(1, mark);
  for (const char32_t c : code_points(text)) {
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
    const bool hidden = category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
                        category == UTF8PROC_CATEGORY_CS || category == UTF8PROC_CATEGORY_CO ||
                        category == UTF8PROC_CATEGORY_CN || category == UTF8PROC_CATEGORY_ZL ||
                        category == UTF8PROC_CATEGORY_ZP || (category == UTF8PROC_CATEGORY_ZS && c != ' ');
    if (c == static_cast<char32_t>(mark) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (hidden) {
      char escape[12];
      std::snprintf(escape, sizeof escape,
                    c < 0x100     ? "\\x%02x"
                    : c < 0x10000 ? "\\u%04x"
                                  : "\\U%08x",
                    static_cast<unsigned>(c));
      out += escape;
    } else {
      append_utf8(out, c);
    }
  }
  return out + mark;
}

/// repr of a float: the fewest digits that read back as the same.
inline std::string float_text(double x) {
  if (std::isnan(x)) return "nan";
  if (std::isinf(x)) return x < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto digits = [&](std::chars_format form) {
    return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, x, form).ptr);
  };
  std::string out = digits(std::chars_format::scientific);
  const int exponent = std::stoi(out.substr(out.find('e') + 1));
  if (exponent < -4 || exponent >= 16) return out;
  out = digits(std::chars_format::fixed);
  return out.find('.') == out.npos ? out + ".0" : out;
}

/// float(text) where it is a number; what Python calls inf and nan is refused.
inline std::optional<double> parse_float(std::string_view text) {
  std::string plain = strip(text);
  const std::string word = is_ascii(plain) ? lower(plain) : plain;
  require(word.find("inf") == word.npos && word.find("nan") == word.npos, "infinity and nan are not supported");
  require(plain.find('_') == plain.npos, "underscores in a number that is read from a text are not supported");
  if (plain.starts_with('+') && !plain.starts_with("+-")) plain.erase(0, 1);
  double x = 0;
  const auto [end, status] = distil_xlstm::from_chars(plain.data(), plain.data() + plain.size(), x);
  if (plain.empty() || end != plain.data() + plain.size()) return {};
  require(status == std::errc(), "a number out of the range of double precision");
  return x;
}

/// int(text) where it is one.
inline std::optional<std::int64_t> parse_int(std::string_view text) {
  std::string plain = strip(text);
  require(plain.find('_') == plain.npos, "underscores in a number that is read from a text are not supported");
  if (plain.starts_with('+') && !plain.starts_with("+-")) plain.erase(0, 1);
  std::int64_t x = 0;
  const auto [end, status] = std::from_chars(plain.data(), plain.data() + plain.size(), x);
  if (plain.empty() || end != plain.data() + plain.size()) return {};
  require(status == std::errc(), "an integer beyond 64 bits");
  return x;
}

}  // namespace program::jinja
