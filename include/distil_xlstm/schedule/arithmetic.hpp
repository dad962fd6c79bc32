#pragma once

#include <functional>
#include <type_traits>
#include <utility>

#include <distil_xlstm/schedule/constant.hpp>

namespace distil_xlstm::schedule {

/// Two schedules joined by an operation: what `1 - s`, `1 - a - b`, `s * c` and `a + b` are.
template <class Operation, Schedule A, Schedule B>
struct combined {
  using scalar = std::common_type_t<typename A::scalar, typename B::scalar>;  ///< the wider of both
  A a;                                                                        ///< the left one
  B b;                                                                        ///< the right one
  /// As the concept `Schedule` says.
  constexpr scalar at(const clock& c) const {
    return Operation{}(static_cast<scalar>(a.at(c)), static_cast<scalar>(b.at(c)));
  }
};

namespace detail {
template <class A, class B>
concept AnyScheduled =
    NumberOrSchedule<A> && NumberOrSchedule<B> && !(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>);

/// The scalar of the first that has one; a plain number takes it over.
template <class A, class B>
constexpr auto scalar_beside() {
  using S = std::conditional_t<std::is_arithmetic_v<A>, B, A>;
  return typename decltype(as_schedule(std::declval<S>()))::scalar{};
}
template <class Operation, class A, class B>
constexpr auto combine(A a, B b) {
  using S = decltype(scalar_beside<A, B>());
  auto x = as_schedule<S>(a);
  auto y = as_schedule<S>(b);
  return combined<Operation, decltype(x), decltype(y)>{x, y};
}
}  // namespace detail

/// @name Arithmetic of schedules
/// @{

/// The difference, sum or product at every step: of two schedules, or of one and a number or a lambda of the clock.
template <class A, class B>
requires detail::AnyScheduled<A, B>
constexpr auto operator-(A a, B b) { return detail::combine<std::minus<>>(a, b); }
template <class A, class B>
requires detail::AnyScheduled<A, B>
constexpr auto operator+(A a, B b) { return detail::combine<std::plus<>>(a, b); }
template <class A, class B>
requires detail::AnyScheduled<A, B>
constexpr auto operator*(A a, B b) { return detail::combine<std::multiplies<>>(a, b); }
/// @}

/// @name What schedules do not have
/// @{

/// A compile-time error that says what to write.
template <class A, class B>
requires(Schedule<A> || Schedule<B>) void operator/(const A&, const B&) {
  static_assert(sizeof(A) == 0, "distil_xlstm::schedule: schedules have +, - and *; write 0.5 * s for s / 2");
}
template <Schedule A>
void operator-(const A&) {
  static_assert(sizeof(A) == 0, "distil_xlstm::schedule: schedules have no sign; write -1 * s for -s");
}
/// @}

}  // namespace distil_xlstm::schedule
