#pragma once

#include <cmath>
#include <numbers>

#include <distil_xlstm/schedule/schedule.hpp>

namespace distil_xlstm::schedule {

/// to + (from - to) (1 + cos(pi p)) / 2, where p is the part of `steps` (0: of the whole run) that is over.
template <class S>
struct cosine {
  using scalar = S;  ///< as the concept `Schedule` says
  /// @{
  /// The value at step 0, and that at the end.
  S from, to;
  /// @}
  index steps = 0;  ///< length; 0: the whole run
  /// As the concept `Schedule` says.
  S at(const clock& c) const {
    return to + (from - to) * (S(1) + std::cos(std::numbers::pi_v<S> * detail::progress<S>(c, steps))) / S(2);
  }
};
/// Of integers it counts in double.
template <class S>
cosine(S, S, index = 0) -> cosine<detail::floating<S>>;

}  // namespace distil_xlstm::schedule
