#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include <distil_xlstm/schedule/clock.hpp>

namespace distil_xlstm {

/// A number that depends on the training step.
///
/// Minimal definition:
///
///     scalar                 a floating type, the value's
///     at(clock) -> scalar    the value at the clock's step; beyond a run's end, too
///
/// Laws (testing/check_schedule.hpp): at() is a pure function of the clock; the value is trivially copyable
/// (it is saved with a run); 1 - (1 - s) is s.
///
/// Models: everything in schedule/, arithmetic of schedules and numbers, and what a user writes. A schedule in a
/// namespace of one's own finds the arithmetic where it derives from `schedule::arithmetic`, or after
/// `using namespace distil_xlstm::loss;`.
template <class S>
concept Schedule = std::is_trivially_copyable_v<S> && std::floating_point<typename S::scalar> &&
    requires(const S s, schedule::clock c) {
  { s.at(c) } -> std::same_as<typename S::scalar>;
};

/// Weights, temperatures and learning rates that change as training goes on: models of Schedule, their arithmetic,
/// and the clock that they read.
namespace schedule {

/// For a schedule of one's own to derive from: then `1 - s` and its like are found, whatever namespace it is in.
struct arithmetic {};

}  // namespace schedule

namespace schedule::detail {

/// A function of the clock, such as a lambda that captures numbers.
template <class F>
concept ClockFunction =
    std::is_trivially_copyable_v<F> && std::is_class_v<F> && !Schedule<F> && requires(const F f, clock c) {
  requires std::is_arithmetic_v<decltype(f(c))>;
};

}  // namespace schedule::detail

/// What may stand where a weight or a temperature is asked for: a number, a schedule, or a lambda of the clock.
template <class S>
concept NumberOrSchedule = std::is_arithmetic_v<S> || Schedule<S> || schedule::detail::ClockFunction<S>;

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
