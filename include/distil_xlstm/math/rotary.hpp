#pragma once

#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm::math {

/// What `rotate` gives.
template <class V>
struct rotated_pair {
  /// @{ The rotated numbers.
  V low, high;
  /// @}
};

/// (low, high) rotated by an angle: (low cos - high sin, high cos + low sin). Rotary positions (Su et al. 2021, arXiv
/// 2104.09864) rotate pairs of a query's or key's numbers.
template <class V>
DISTIL_XLSTM_HD rotated_pair<V> rotate(V low, V high, V cosine, V sine) {
  return {low * cosine - high * sine, high * cosine + low * sine};
}

}  // namespace distil_xlstm::math
