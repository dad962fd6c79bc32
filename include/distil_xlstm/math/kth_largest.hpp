#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::math {

/// The k-th largest of some numbers, by radix: passes over the numbers, each of which counts, among those that
/// begin with the bits found so far, how many have which next eight.
///
///     for (kth_largest<T> search(k); !search.done(); search.advance(counts)) {
///       // counts[b] = how many of the numbers have search.bucket(x) == b, for each of `buckets`
///     }
///
/// T is float or double; NaN is ordered by its bits, beyond the infinities.
template <class T>
class kth_largest {
 public:
  /// As many bits as T has.
  using word = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  static constexpr int buckets = 256;  ///< counts that a pass makes

  /// k = 1: the largest.
  DISTIL_XLSTM_HD explicit kth_largest(index k) : left_(k) {}

  /// Whether no pass is left.
  DISTIL_XLSTM_HD bool done() const { return shift_ < 0; }
  /// The bucket that x counts in, or -1: in none.
  DISTIL_XLSTM_HD int bucket(T x) const {
    const word w = ordered(x);
    return (w & mask_) == found_ ? static_cast<int>(w >> shift_ & 255) : -1;
  }
  /// A pass is over. Where there are fewer numbers than k, it goes on with the least.
  template <class Count>
  DISTIL_XLSTM_HD void advance(const Count* counts) {
    int b = buckets - 1;
    int least = b;
    for (; b >= 0; --b) {
      const index n = static_cast<index>(counts[b]);
      if (n > 0) least = b;
      if (n >= left_) break;
      left_ -= n;
    }
    if (b < 0) b = least, left_ = static_cast<index>(counts[b]);
    found_ |= static_cast<word>(b) << shift_;
    mask_ |= static_cast<word>(255) << shift_;
    shift_ -= 8;
  }
  /// The k-th largest, or the least where there are fewer, once it is `done`.
  DISTIL_XLSTM_HD T value() const { return std::bit_cast<T>(found_ & top ? found_ & ~top : ~found_); }

 private:
  static constexpr word top = word{1} << (8 * sizeof(T) - 1);
  /// Bits that are ordered as the numbers are.
  static DISTIL_XLSTM_HD word ordered(T x) {
    const word w = std::bit_cast<word>(x);
    return w & top ? ~w : w | top;
  }
  index left_;
  word found_ = 0, mask_ = 0;
  int shift_ = 8 * static_cast<int>(sizeof(T)) - 8;
};

}  // namespace distil_xlstm::math
