#pragma once

#include <distil_xlstm/schedule/schedule.hpp>

namespace distil_xlstm::schedule {

/// The same value at every step.
template <class S>
struct constant {
  using scalar = S;
  S value;
  constexpr S at(const clock&) const { return value; }
};
template <class S>
constant(S) -> constant<detail::floating<S>>;

/// A number as a constant schedule; a schedule as it is.
template <class S = double, NumberOrSchedule X>
constexpr auto as_schedule(X x) {
  if constexpr (std::is_arithmetic_v<X>)
    return constant<S>{static_cast<S>(x)};
  else
    return x;
}

}  // namespace distil_xlstm::schedule
