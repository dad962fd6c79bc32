#pragma once

#include <distil_xlstm/schedule/function.hpp>

namespace distil_xlstm::schedule {

/// The same value at every step.
template <class S>
struct constant {
  using scalar = S;  ///< as the concept `Schedule` says
  S value;           ///< at every step
  /// As the concept `Schedule` says.
  constexpr S at(const clock&) const { return value; }
};
/// Of integers it counts in double.
template <class S>
constant(S) -> constant<detail::floating<S>>;

/// A number as a constant schedule; a lambda as a `function`; a schedule as it is.
template <class S = double, NumberOrSchedule X>
constexpr auto as_schedule(X x) {
  if constexpr (std::is_arithmetic_v<X>)
    return constant<S>{static_cast<S>(x)};
  else if constexpr (detail::ClockFunction<X>)
    return function<X>{x};
  else
    return x;
}

}  // namespace distil_xlstm::schedule
