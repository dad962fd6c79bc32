#pragma once

#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm::math {

/// A plain running sum, one a lane.
template <class V>
struct sum {
  V total;

  static DISTIL_XLSTM_HD sum empty() { return {V(0)}; }
};
template <class V>
DISTIL_XLSTM_HD void push(sum<V>& a, V x) {
  a.total = a.total + x;
}
template <class S>
DISTIL_XLSTM_HD void join(sum<S>& a, const sum<S>& b) {
  a.total += b.total;
}

}  // namespace distil_xlstm::math
