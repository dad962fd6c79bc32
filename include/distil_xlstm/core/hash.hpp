#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm {

/// FNV-1a of 64 bits (Fowler, Noll, Vo 1991): tells apart what differs by accident, not by an attacker's design.
class fnv_hash {
 public:
  /// Hashes on over these bytes.
  void add(const void* data, std::size_t bytes) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < bytes; ++i) value_ = (value_ ^ p[i]) * 0x100000001b3u;
  }
  /// The text, then its length: "ab", "c" is another than "a", "bc".
  void add(std::string_view text) { add(text.data(), text.size()), add(text.size()); }
  /// The bytes of the number as the machine stores them: of another byte order the hash is another.
  template <class N>
  requires std::is_arithmetic_v<N>
  void add(N number) { add(&number, sizeof number); }
  /// The hash of all that was added so far, which may go on.
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325u;
};

}  // namespace distil_xlstm
