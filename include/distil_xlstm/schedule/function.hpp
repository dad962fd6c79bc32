#pragma once

#include <distil_xlstm/schedule/schedule.hpp>

namespace distil_xlstm::schedule {

/// A function of the clock as a schedule: what a lambda becomes where a weight or a temperature is asked for. It must
/// be a pure function, and trivially copyable: captured numbers are, references and strings are not.
template <class F>
struct function {
  /// That of what F returns; double where it returns an integer.
  using scalar = detail::floating<decltype(std::declval<const F&>()(clock{}))>;
  F f;  ///< called with the clock
  /// As the concept `Schedule` says.
  constexpr scalar at(const clock& c) const { return static_cast<scalar>(f(c)); }
};
/// Of a lambda.
template <class F>
function(F) -> function<F>;

}  // namespace distil_xlstm::schedule
