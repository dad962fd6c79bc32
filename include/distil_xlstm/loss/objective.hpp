#pragma once

#include <array>
#include <concepts>
#include <string_view>

#include <distil_xlstm/loss/layers.hpp>
#include <distil_xlstm/loss/term.hpp>

namespace distil_xlstm::loss {

/// No term at this site: nothing is folded and nothing is asked for.
template <class Site, class T>
struct none {
  using site = Site;
  using scalar = T;
  static constexpr index terms = 0;
  static constexpr bool asks_teacher = false;
  static constexpr std::array<std::string_view, 0> names() { return {}; }
  static constexpr bool uses_teacher() { return false; }
  static constexpr bool active() { return false; }
};

namespace detail {
template <class Term, class A, class C>
DISTIL_XLSTM_HD typename Term::scalar raw_of(const Term& t, const A& a, const C& context) {
  if constexpr (requires { t.raw(a, context); })
    return t.raw(a, context);
  else
    return t.value(a, context);
}
}  // namespace detail

/// weight * term; it also knows what to log. `C` is the site's context: target_logits or hidden_counts.
template <NamedTerm Term>
struct weighted {
  using site = typename Term::site;
  using scalar = typename Term::scalar;
  template <class V>
  using acc = typename Term::template acc<V>;
  static constexpr index terms = 1;
  /// Whether it compares with a teacher, whatever its weight.
  static constexpr bool asks_teacher = [] {
    if constexpr (std::same_as<site, logits_site>)
      return Term::uses_teacher;
    else
      return true;
  }();

  scalar weight;
  Term term;

  static constexpr std::array<std::string_view, 1> names() { return {Term::name}; }
  /// A weight of 0 lets the teacher, or the targets, be absent.
  constexpr bool active() const { return weight != scalar(0); }
  constexpr bool uses_teacher() const { return asks_teacher && active(); }

  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return term.template init<V>();
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, V student, V teacher) const {
    term.template visit<V>(a, student, teacher);
  }
  DISTIL_XLSTM_HD void merge(acc<scalar>& into, const acc<scalar>& from) const { term.merge(into, from); }
  template <class C>
  DISTIL_XLSTM_HD scalar value(const acc<scalar>& a, const C& context) const {
    return weight * term.value(a, context);
  }
  template <class V, class C>
  DISTIL_XLSTM_HD V grad(const acc<scalar>& a, const C& context, V student, V teacher) const {
    return V(weight) * term.template grad<V>(a, context, student, teacher);
  }
  template <class C>
  DISTIL_XLSTM_HD scalar target_grad(const acc<scalar>& a, const C& context) const {
    return weight * term.target_grad(a, context);
  }
  /// raw[0 .. terms) += what is logged; returns the weighted value.
  template <class C>
  DISTIL_XLSTM_HD double report(const acc<scalar>& a, const C& context, double* raw) const {
    *raw += static_cast<double>(detail::raw_of(term, a, context));
    return static_cast<double>(value(a, context));
  }
  /// The same for hidden terms, of which only those of scope `s` count.
  template <class C>
  DISTIL_XLSTM_HD double report(scope s, const acc<scalar>& a, const C& context, double* raw) const {
    return term.scope() == s ? report(a, context, raw) : 0.0;
  }
  /// The accumulator of the group that this term looks at.
  DISTIL_XLSTM_HD acc<scalar> choose(const acc<scalar>& row, const acc<scalar>& sequence,
                                     const acc<scalar>& batch) const {
    const scope s = term.scope();
    return s == scope::row ? row : s == scope::sequence ? sequence : batch;
  }
};

/// The sum of two terms is the product of their folds: one pass, whatever the length of the sum.
template <class A, class B>
requires std::same_as<typename A::site, typename B::site> &&
    std::same_as<typename A::scalar, typename B::scalar>
struct fused {
  using site = typename A::site;
  using scalar = typename A::scalar;
  template <class V>
  struct acc {
    typename A::template acc<V> a;
    typename B::template acc<V> b;
  };
  static constexpr index terms = A::terms + B::terms;
  static constexpr bool asks_teacher = A::asks_teacher || B::asks_teacher;

  A left;
  B right;

  static constexpr auto names() {
    std::array<std::string_view, static_cast<std::size_t>(terms)> all{};
    std::size_t n = 0;
    for (auto s : A::names()) all[n++] = s;
    for (auto s : B::names()) all[n++] = s;
    return all;
  }
  constexpr bool active() const { return left.active() || right.active(); }
  constexpr bool uses_teacher() const { return left.uses_teacher() || right.uses_teacher(); }

  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {left.template init<V>(), right.template init<V>()};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& s, V student, V teacher) const {
    left.template visit<V>(s.a, student, teacher);
    right.template visit<V>(s.b, student, teacher);
  }
  DISTIL_XLSTM_HD void merge(acc<scalar>& into, const acc<scalar>& from) const {
    left.merge(into.a, from.a);
    right.merge(into.b, from.b);
  }
  template <class C>
  DISTIL_XLSTM_HD scalar value(const acc<scalar>& s, const C& context) const {
    return left.value(s.a, context) + right.value(s.b, context);
  }
  template <class V, class C>
  DISTIL_XLSTM_HD V grad(const acc<scalar>& s, const C& context, V student, V teacher) const {
    return left.template grad<V>(s.a, context, student, teacher) +
           right.template grad<V>(s.b, context, student, teacher);
  }
  template <class C>
  DISTIL_XLSTM_HD scalar target_grad(const acc<scalar>& s, const C& context) const {
    return left.target_grad(s.a, context) + right.target_grad(s.b, context);
  }
  template <class C>
  DISTIL_XLSTM_HD double report(const acc<scalar>& s, const C& context, double* raw) const {
    return left.report(s.a, context, raw) + right.report(s.b, context, raw + A::terms);
  }
  template <class C>
  DISTIL_XLSTM_HD double report(scope g, const acc<scalar>& s, const C& context, double* raw) const {
    return left.report(g, s.a, context, raw) + right.report(g, s.b, context, raw + A::terms);
  }
  DISTIL_XLSTM_HD acc<scalar> choose(const acc<scalar>& row, const acc<scalar>& sequence,
                                     const acc<scalar>& batch) const {
    return {left.choose(row.a, sequence.a, batch.a), right.choose(row.b, sequence.b, batch.b)};
  }
};

/// A whole objective at one step: numbers only, at most one (fused) term a site.
template <class Logits, class Hidden>
struct objective {
  using scalar = typename Logits::scalar;
  static constexpr bool asks_teacher = Logits::asks_teacher || Hidden::asks_teacher;
  Logits logits;
  Hidden hidden;
  layers compares = layers::none;  ///< what all its hidden terms look at
};

namespace detail {
template <class T>
inline constexpr bool is_none = false;
template <class Site, class T>
inline constexpr bool is_none<none<Site, T>> = true;

template <class T, class Term>
constexpr auto lift(Term t, layers compares = layers::none) {
  static_assert(
      std::same_as<typename Term::scalar, T>,
      "distil_xlstm::loss: a term's scalar must be that of the objective; make the term a template on its "
      "scalar, or write at<float>() for terms of float");
  if constexpr (std::same_as<typename Term::site, logits_site>)
    return objective<weighted<Term>, none<hidden_site, T>>{{T(1), t}, {}};
  else
    return objective<none<logits_site, T>, weighted<Term>>{{}, {T(1), t}, compares};
}

template <class Site, class T>
constexpr auto scale(T, none<Site, T> t) {
  return t;
}
template <class T, class Term>
constexpr auto scale(T w, weighted<Term> t) {
  t.weight *= w;
  return t;
}
template <class T, class A, class B>
constexpr auto scale(T w, fused<A, B> t) {
  return fused<A, B>{scale(w, t.left), scale(w, t.right)};
}

template <class A, class B>
constexpr auto fuse(A a, B b) {
  if constexpr (is_none<A>)
    return b;
  else if constexpr (is_none<B>)
    return a;
  else
    return fused<A, B>{a, b};
}

template <class L, class H>
constexpr auto make_objective(L l, H h, layers compares) {
  return objective<L, H>{l, h, compares};
}
}  // namespace detail

}  // namespace distil_xlstm::loss
