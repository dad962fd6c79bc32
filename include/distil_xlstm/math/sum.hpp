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

/// Two of them beside each other.
template <class V>
struct two_sums {
  V first, second;

  static DISTIL_XLSTM_HD two_sums empty() { return {V(0), V(0)}; }
};
template <class V>
DISTIL_XLSTM_HD void push(two_sums<V>& a, V x, V y) {
  a.first = a.first + x, a.second = a.second + y;
}
template <class S>
DISTIL_XLSTM_HD void join(two_sums<S>& a, const two_sums<S>& b) {
  a.first += b.first, a.second += b.second;
}

}  // namespace distil_xlstm::math
