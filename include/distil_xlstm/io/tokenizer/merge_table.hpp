#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm::io::detail {

/// The best merge of two neighbours, by rank; an open-addressing table from the pair of ids.
class merge_table {
 public:
  struct merge {
    std::uint32_t rank = none;
    std::int32_t id = -1;
  };
  static constexpr std::uint32_t none = ~std::uint32_t{0};

  explicit merge_table(std::size_t merges = 0) {
    while (std::size_t{1} << bits_ < 2 * merges + 2) ++bits_;
    slots_.resize(std::size_t{1} << bits_);
  }
  /// A pair that is listed twice counts at its later place, as in Hugging Face's tokenizers.
  void insert(std::int32_t left, std::int32_t right, merge m) {
    const std::uint64_t k = key(left, right);
    slots_[place(k)] = {k, m};
  }
  merge find(std::int32_t left, std::int32_t right) const { return slots_[place(key(left, right))].value; }

 private:
  static constexpr std::uint64_t empty = ~std::uint64_t{0};
  struct slot {
    std::uint64_t key = empty;
    merge value;
  };
  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  /// Where the key is, or would be.
  std::size_t place(std::uint64_t k) const {
    const std::uint64_t hash = (k ^ k >> 29) * 0x9e3779b97f4a7c15u;
    for (std::size_t i = hash >> (64 - bits_);; i = (i + 1) & (slots_.size() - 1))
      if (slots_[i].key == k || slots_[i].key == empty) return i;
  }
  unsigned bits_ = 4;
  std::vector<slot> slots_;
};

}  // namespace distil_xlstm::io::detail
