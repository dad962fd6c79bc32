#pragma once

#include <concepts>
#include <type_traits>

#include <distil_xlstm/schedule/clock.hpp>

namespace distil_xlstm {

/// A number that depends on the training step.
///
/// Minimal definition: `scalar`, a floating type, and `at(clock) -> scalar`.
/// Laws (testing/check_schedule.hpp): at() is a pure function of the clock; the value is trivially copyable
/// (it is saved with a run); 1 - (1 - s) is s.
/// Models: everything in schedule/, and arithmetic of schedules and numbers.
template <class S>
concept Schedule = std::is_trivially_copyable_v<S> && std::floating_point<typename S::scalar> &&
    requires(const S s, schedule::clock c) {
  { s.at(c) } -> std::same_as<typename S::scalar>;
};

/// What may stand where a weight or a temperature is asked for.
template <class S>
concept NumberOrSchedule = std::is_arithmetic_v<S> || Schedule<S>;

namespace schedule::detail {

/// Schedules written with integers, as in `linear{1, 0}`, count in double.
template <class S>
using floating = std::conditional_t<std::is_floating_point_v<S>, S, double>;

/// The part of `length` that is over, in [0, 1]; a length of 0 stands for the whole run.
template <class S>
constexpr S progress(const clock& c, index length) {
  const index n = length > 0 ? length : c.total_steps;
  if (c.step <= 0) return S(0);
  return c.step >= n ? S(1) : static_cast<S>(c.step) / static_cast<S>(n);
}

}  // namespace schedule::detail
}  // namespace distil_xlstm
