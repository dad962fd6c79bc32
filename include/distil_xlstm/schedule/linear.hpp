#pragma once

#include <distil_xlstm/schedule/schedule.hpp>

namespace distil_xlstm::schedule {

/// from + (to - from) p, where p is the part of `steps` (0: of the whole run) that is over; `to` ever after.
template <class S>
struct linear {
  using scalar = S;  ///< as the concept `Schedule` says
  /// @{
  /// The value at step 0, and that at the end.
  S from, to;
  /// @}
  index steps = 0;  ///< length; 0: the whole run
  /// As the concept `Schedule` says.
  constexpr S at(const clock& c) const { return from + (to - from) * detail::progress<S>(c, steps); }
};
/// Of integers it counts in double: `linear{1, 0}`.
template <class S>
linear(S, S, index = 0) -> linear<detail::floating<S>>;

}  // namespace distil_xlstm::schedule
