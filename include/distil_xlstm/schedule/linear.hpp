#pragma once

#include <distil_xlstm/schedule/schedule.hpp>

namespace distil_xlstm::schedule {

/// from + (to - from) p, where p is the part of `steps` (0: of the whole run) that is over; `to` ever after.
template <class S>
struct linear {
  using scalar = S;
  S from, to;
  index steps = 0;
  constexpr S at(const clock& c) const { return from + (to - from) * detail::progress<S>(c, steps); }
};
template <class S>
linear(S, S, index = 0) -> linear<detail::floating<S>>;

}  // namespace distil_xlstm::schedule
