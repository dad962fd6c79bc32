#pragma once

#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm::math {

/// A plain running sum, one a lane.
template <class V>
struct sum {
  V total;  ///< of the numbers so far

  /// Of no numbers.
  static DISTIL_XLSTM_HD sum empty() { return {V(0)}; }
};
/// Takes x into `a`.
template <class V>
DISTIL_XLSTM_HD void push(sum<V>& a, V x) {
  a.total = a.total + x;
}
/// a <- a and b
template <class S>
DISTIL_XLSTM_HD void join(sum<S>& a, const sum<S>& b) {
  a.total += b.total;
}

/// Two of them beside each other.
template <class V>
struct two_sums {
  /// @{ Of the numbers so far.
  V first, second;
  /// @}

  /// Of no numbers.
  static DISTIL_XLSTM_HD two_sums empty() { return {V(0), V(0)}; }
};
/// Takes x into the first, y into the second.
template <class V>
DISTIL_XLSTM_HD void push(two_sums<V>& a, V x, V y) {
  a.first = a.first + x, a.second = a.second + y;
}
/// a <- a and b
template <class S>
DISTIL_XLSTM_HD void join(two_sums<S>& a, const two_sums<S>& b) {
  a.first += b.first, a.second += b.second;
}

}  // namespace distil_xlstm::math
