#pragma once

#include <cstddef>

#include <distil_xlstm/core/config.hpp>

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
  static constexpr bool is_static = true;
  constexpr extent() = default;
  DISTIL_XLSTM_HD constexpr explicit extent(index) {}
  DISTIL_XLSTM_HD constexpr operator index() const { return N; }
};

template <>
struct extent<dynamic> {
  static constexpr bool is_static = false;
  index value = 0;
  constexpr extent() = default;
  DISTIL_XLSTM_HD constexpr extent(index n) : value(n) {}
  template <index N>
  constexpr extent(extent<N>) : value(N) {}
  DISTIL_XLSTM_HD constexpr operator index() const { return value; }
};

}  // namespace distil_xlstm
