#pragma once

#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm::math {

template <class V>
struct rotated_pair {
  V low, high;
};

/// (low, high) rotated by an angle: (low cos - high sin, high cos + low sin).
template <class V>
DISTIL_XLSTM_HD rotated_pair<V> rotate(V low, V high, V cosine, V sine) {
  return {low * cosine - high * sine, high * cosine + low * sine};
}

}  // namespace distil_xlstm::math
