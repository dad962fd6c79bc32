#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm::io {

namespace detail {

/// What lies at the start of `s` (not empty): `length` bytes that are one character (`whole`), or the longest
/// beginning of a character there is (at least one byte), cut by the end of `s` (`cut`) or ill-formed.
struct utf8_step {
  std::size_t length;
  bool whole;
  bool cut;
};

inline utf8_step utf8_next(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xc2 || lead > 0xf4) return {1, false, false};
  const std::size_t n = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte also excludes overlong forms, surrogates and what lies above U+10FFFF.
  const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t i = 1; i < n; ++i) {
    if (i == s.size()) return {i, false, true};
    const unsigned b = byte(i);
    if (b < (i == 1 ? low : 0x80) || b > (i == 1 ? high : 0xbf)) return {i, false, false};
  }
  return {n, true, false};
}

}  // namespace detail

/// Offset of the first byte that begins no well-formed UTF-8 character (Unicode 15, table 3-7), or `npos`.
inline std::size_t first_invalid_utf8(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    if (text.size() - at >= 8) {
      std::uint64_t eight;
      std::memcpy(&eight, text.data() + at, 8);
      if ((eight & 0x8080808080808080u) == 0) {
        at += 8;
        continue;
      }
    }
    const auto step = detail::utf8_next(text.substr(at));
    if (!step.whole) return at;
    at += step.length;
  }
  return std::string_view::npos;
}

/// Whether all of it is well-formed.
inline bool is_valid_utf8(std::string_view text) { return first_invalid_utf8(text) == std::string_view::npos; }

/// Bytes at the end of `text` (0 to 3) that begin a character which more bytes could complete.
inline std::size_t incomplete_utf8_tail(std::string_view text) {
  for (std::size_t n = 1; n <= 3 && n <= text.size(); ++n) {
    const std::string_view tail = text.substr(text.size() - n);
    if ((static_cast<unsigned char>(tail[0]) & 0xc0) == 0x80) continue;
    const auto step = detail::utf8_next(tail);
    return step.cut && step.length == n ? n : 0;
  }
  return 0;
}

/// Bytes at the end of `text` that are white space as Python's str.rstrip knows it: Unicode's White_Space and the
/// separators U+001C to U+001F. What is not UTF-8 is none.
inline std::size_t trailing_white_space(std::string_view text) {
  constexpr std::string_view wide[] = {"\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80",
                                       "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84",
                                       "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88",
                                       "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8", "\xe2\x80\xa9",
                                       "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
  const std::size_t size = text.size();
  for (std::size_t n = 1; n > 0; text.remove_suffix(n)) {
    n = 0;
    if (text.empty()) break;
    const char last = text.back();
    if (last == ' ' || (last >= '\t' && last <= '\r') || (last >= '\x1c' && last <= '\x1f')) n = 1;
    for (const auto blank : wide)
      if (text.ends_with(blank)) n = blank.size();
  }
  return size - text.size();
}

/// Appends a code point (below U+110000, no surrogate).
inline void append_utf8(std::string& out, std::uint32_t c) {
  const auto low = [](std::uint32_t bits) { return static_cast<char>(0x80 | (bits & 0x3f)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += {static_cast<char>(0xc0 | c >> 6), low(c)};
  } else if (c < 0x10000) {
    out += {static_cast<char>(0xe0 | c >> 12), low(c >> 6), low(c)};
  } else {
    out += {static_cast<char>(0xf0 | c >> 18), low(c >> 12), low(c >> 6), low(c)};
  }
}

/// `bytes` with every ill-formed part (a maximal subpart, as the Unicode standard advises) as one U+FFFD.
inline std::string replace_invalid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const auto step = detail::utf8_next(bytes);
    if (step.whole) {
      out += bytes.substr(0, step.length);
    } else {
      out += "\xef\xbf\xbd";
    }
    bytes.remove_prefix(step.length);
  }
  return out;
}

}  // namespace distil_xlstm::io
