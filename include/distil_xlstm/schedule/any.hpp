#pragma once

#include <string_view>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/schedule/constant.hpp>
#include <distil_xlstm/schedule/cosine.hpp>
#include <distil_xlstm/schedule/delta.hpp>
#include <distil_xlstm/schedule/linear.hpp>
#include <distil_xlstm/schedule/logarithmic.hpp>

namespace distil_xlstm::schedule {

/// The shapes that `any` chooses among.
enum class shape { constant, linear, cosine, logarithmic, delta };

/// A schedule whose shape is chosen when the program runs. Trivially copyable; fields that a shape does not
/// use are ignored (`constant` is `from`).
template <class S>
struct any {
  using scalar = S;                                   ///< as the concept `Schedule` says
  schedule::shape shape = schedule::shape::constant;  ///< which of the fields count
  /// @{
  /// The value at step 0, and that at the end, or the limit.
  S from = 0, to = 0;
  /// @}
  index steps = 0;   ///< linear, cosine: length, 0 = the whole run
  S step = S(0.05);  ///< delta: Delta
  /// @{
  /// As in `schedule::delta`.
  decrement rule = decrement::relative;
  counter k = counter::per_epoch;
  update when = update::paper;
  /// @}

  constexpr any() = default;
  /// A constant, so that a plain number may stand for a schedule.
  constexpr any(S value) : from(value), to(value) {}
  /// @{
  /// The same schedule.
  constexpr any(constant<S> s) : any(s.value) {}
  constexpr any(linear<S> s) : shape(schedule::shape::linear), from(s.from), to(s.to), steps(s.steps) {}
  constexpr any(cosine<S> s) : shape(schedule::shape::cosine), from(s.from), to(s.to), steps(s.steps) {}
  constexpr any(logarithmic<S> s) : shape(schedule::shape::logarithmic), from(s.from), to(s.to) {}
  constexpr any(delta<S> s)
      : shape(schedule::shape::delta),
        from(s.from),
        to(s.to),
        step(s.step),
        rule(s.rule),
        k(s.k),
        when(s.when) {}
  /// @}

  /// By the names of a command line: constant, linear, cosine, logarithmic, delta (= delta-relative, as the
  /// authors' code), delta-constant (as the paper). Throws `error` on any other.
  static any named(std::string_view name, S from, S to) {
    if (name == "constant") return any(from);
    if (name == "linear") return linear<S>{from, to};
    if (name == "cosine") return cosine<S>{from, to};
    if (name == "logarithmic") return logarithmic<S>{from, to};
    if (name == "delta" || name == "delta-relative") return delta<S>{from, to};
    if (name == "delta-constant") {
      delta<S> d{from, to};
      d.rule = decrement::constant;
      return d;
    }
    fail("schedule '", name,
         "' is not known (constant, linear, cosine, logarithmic, delta, delta-relative, delta-constant are)");
  }
  /// The name that `named` takes for this shape.
  constexpr std::string_view name() const {
    switch (shape) {
      case schedule::shape::constant: return "constant";
      case schedule::shape::linear: return "linear";
      case schedule::shape::cosine: return "cosine";
      case schedule::shape::logarithmic: return "logarithmic";
      case schedule::shape::delta: return rule == decrement::relative ? "delta-relative" : "delta-constant";
    }
    return "constant";
  }

  /// As the concept `Schedule` says.
  S at(const clock& c) const {
    switch (shape) {
      case schedule::shape::constant: return from;
      case schedule::shape::linear: return linear<S>{from, to, steps}.at(c);
      case schedule::shape::cosine: return cosine<S>{from, to, steps}.at(c);
      case schedule::shape::logarithmic: return logarithmic<S>{from, to}.at(c);
      case schedule::shape::delta: return delta<S>{from, to, step, rule, k, when}.at(c);
    }
    return from;
  }
};

}  // namespace distil_xlstm::schedule
