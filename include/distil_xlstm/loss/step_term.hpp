#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/loss/term.hpp>

namespace distil_xlstm::loss {

/// What changes from step to step in a site's term: its weights and temperatures, and what gradients (not
/// values) are multiplied by.
template <class Term>
struct term_coefficients {
  Term term;
  typename Term::scalar factor;
};

namespace detail {
template <class Term>
struct numbers_here {
  term_coefficients<Term> numbers;
  DISTIL_XLSTM_HD const term_coefficients<Term>& operator()() const { return numbers; }
  constexpr bool active() const { return numbers.term.active(); }
  constexpr bool uses_teacher() const { return numbers.term.uses_teacher(); }
};
template <class Term>
struct numbers_there {
  const term_coefficients<Term>* numbers;
  bool acts, asks_teacher;
  DISTIL_XLSTM_HD const term_coefficients<Term>& operator()() const { return *numbers; }
  constexpr bool active() const { return acts; }
  constexpr bool uses_teacher() const { return asks_teacher; }
};

/// A site's term as a step has it, with the numbers that `Numbers` gives: what `head` and `align` take.
template <class Term, class Numbers>
struct step_term {
  using site = typename Term::site;
  using scalar = typename Term::scalar;
  template <class V>
  using acc = typename Term::template acc<V>;
  static constexpr index terms = Term::terms;

  Numbers numbers;

  static constexpr auto names() { return Term::names(); }
  constexpr bool active() const { return numbers.active(); }
  constexpr bool uses_teacher() const { return numbers.uses_teacher(); }
  /// The same with its numbers at hand: what a kernel begins with.
  DISTIL_XLSTM_HD step_term<Term, numbers_here<Term>> at_hand() const { return {{numbers()}}; }

  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return numbers().term.template init<V>();
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, V student, V teacher) const {
    numbers().term.template visit<V>(a, student, teacher);
  }
  DISTIL_XLSTM_HD void merge(acc<scalar>& into, const acc<scalar>& from) const {
    numbers().term.merge(into, from);
  }
  template <class V, class C>
  DISTIL_XLSTM_HD V grad(const acc<scalar>& a, const C& context, V student, V teacher) const {
    const auto& n = numbers();
    return V(n.factor) * n.term.template grad<V>(a, context, student, teacher);
  }
  template <class C>
  DISTIL_XLSTM_HD scalar target_grad(const acc<scalar>& a, const C& context) const {
    const auto& n = numbers();
    return n.factor * n.term.target_grad(a, context);
  }
  template <class C>
  DISTIL_XLSTM_HD double report(const acc<scalar>& a, const C& context, double* raw) const {
    return numbers().term.report(a, context, raw);
  }
  template <class C>
  DISTIL_XLSTM_HD double report(scope s, const acc<scalar>& a, const C& context, double* raw) const {
    return numbers().term.report(s, a, context, raw);
  }
  DISTIL_XLSTM_HD acc<scalar> choose(const acc<scalar>& row, const acc<scalar>& sequence,
                                     const acc<scalar>& batch) const {
    return numbers().term.choose(row, sequence, batch);
  }
};

}  // namespace detail

/// The term with the numbers that `host` has now, as `head` and `align` take it. A device whose memory is not
/// the host's reads them from `there`, a copy of `host` in its memory: so the same calls do for every step of a
/// schedule, as long as active() and uses_teacher() stay.
template <class D, class Term>
constexpr auto step_term(const term_coefficients<Term>& host, const term_coefficients<Term>* there) {
  if constexpr (Term::terms == 0)
    return host.term;
  else if constexpr (D::host_memory)
    return detail::step_term<Term, detail::numbers_here<Term>>{{host}};
  else
    return detail::step_term<Term, detail::numbers_there<Term>>{
        {there, host.term.active(), host.term.uses_teacher()}};
}

}  // namespace distil_xlstm::loss
