#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm::io::detail {

/// GPT-2's bijection of bytes and printable characters: the code point that stands for each byte.
inline const std::array<std::uint16_t, 256>& byte_alphabet() {
  static const auto table = [] {
    std::array<std::uint16_t, 256> t{};
    std::uint16_t next = 256;
    for (unsigned b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      t[b] = printable ? static_cast<std::uint16_t>(b) : next++;
    }
    return t;
  }();
  return table;
}

/// A byte as its character of the alphabet, in UTF-8 (all are below U+0800).
inline std::string alphabet_character(unsigned char byte) {
  const unsigned c = byte_alphabet()[byte];
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
}

/// The bytes that a token in the alphabet stands for; a token with any other character stands for itself.
inline std::string token_bytes(std::string_view token) {
  static const auto inverse = [] {
    std::array<std::int16_t, 0x800> t;
    t.fill(-1);
    for (unsigned b = 0; b < 256; ++b) t[byte_alphabet()[b]] = static_cast<std::int16_t>(b);
    return t;
  }();
  std::string out;
  for (std::size_t i = 0; i < token.size();) {
    unsigned c = static_cast<unsigned char>(token[i++]);
    if (c >= 0x80) {
      if (c < 0xc0 || c >= 0xe0 || i == token.size()) return std::string(token);
      c = (c & 0x1f) << 6 | (static_cast<unsigned char>(token[i++]) & 0x3f);
    }
    if (inverse[c] < 0) return std::string(token);
    out += static_cast<char>(inverse[c]);
  }
  return out;
}

}  // namespace distil_xlstm::io::detail
