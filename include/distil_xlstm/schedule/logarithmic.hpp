#pragma once

#include <cmath>

#include <distil_xlstm/schedule/schedule.hpp>

namespace distil_xlstm::schedule {

namespace detail {
/// to + (from - to) / (1 + ln(1 + k)).
template <class S>
S logarithmic_value(S from, S to, index k) {
  return to + (from - to) / (S(1) + std::log1p(static_cast<S>(k)));
}
}  // namespace detail

/// to + (from - to) / (1 + ln(1 + k)), k = the step of the run from 0. `to` is a limit, never reached.
template <class S>
struct logarithmic {
  using scalar = S;  ///< as the concept `Schedule` says
  /// @{
  /// The value at step 0, and the limit.
  S from, to;
  /// @}
  /// As the concept `Schedule` says.
  S at(const clock& c) const { return detail::logarithmic_value(from, to, c.step); }
};
/// Of integers it counts in double.
template <class S>
logarithmic(S, S) -> logarithmic<detail::floating<S>>;

}  // namespace distil_xlstm::schedule
