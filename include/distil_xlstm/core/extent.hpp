#pragma once

#include <cstddef>

#include <distil_xlstm/core/config.hpp>

/// The library: blocks, models, training, and what they are made of.
namespace distil_xlstm {

/// Signed, so that differences and reverse loops are ordinary arithmetic.
using index = std::ptrdiff_t;

/// The value of `Eigen::Dynamic`; and diagnostics print -1 instead of 2^64 - 1.
inline constexpr index dynamic = -1;

/// A size known to the compiler, or (`dynamic`) only to the program.
template <index N = dynamic>
struct extent {
  static_assert(N >= 0,
                "distil_xlstm::extent: a static size must not be negative; write dynamic for one that the "
                "program chooses");
  static constexpr bool is_static = true;  ///< whether the compiler knows the size
  constexpr extent() = default;
  /// N, whatever is given: nothing checks that they are the same.
  DISTIL_XLSTM_HD constexpr explicit extent(index) {}
  /// N.
  DISTIL_XLSTM_HD constexpr operator index() const { return N; }
};

/// A size that only the program knows.
template <>
struct extent<dynamic> {
  static constexpr bool is_static = false;  ///< whether the compiler knows the size
  index value = 0;                          ///< the size
  constexpr extent() = default;
  /// @{ From a number, or from a size that the compiler knows.
  DISTIL_XLSTM_HD constexpr extent(index n) : value(n) {}
  template <index N>
  constexpr extent(extent<N>) : value(N) {}
  /// @}
  /// The size.
  DISTIL_XLSTM_HD constexpr operator index() const { return value; }
};

}  // namespace distil_xlstm
