#pragma once

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/loss/alignment_term.hpp>
#include <distil_xlstm/loss/cross_entropy.hpp>
#include <distil_xlstm/loss/jsd.hpp>
#include <distil_xlstm/loss/kl.hpp>
#include <distil_xlstm/loss/objective.hpp>
#include <distil_xlstm/loss/reverse_kl.hpp>
#include <distil_xlstm/loss/skew_kl.hpp>
#include <distil_xlstm/loss/top_k_kl.hpp>
#include <distil_xlstm/loss/tvd.hpp>
#include <distil_xlstm/schedule/arithmetic.hpp>

namespace distil_xlstm {

/// What a user writes: `alpha * kl(T) + (1 - alpha - beta) * cross_entropy() + beta * frobenius()`, where
/// alpha, beta and T are numbers or schedules.
///
/// Minimal definition:
///
///     is_objective_expression              any type: a mark
///     at<T>(clock) -> loss::objective      the objective at the clock's step, in the scalar T
///
/// It is trivially copyable: it holds its schedules and terms by value.
///
/// Laws (testing/check_expression.hpp): at() is linear: (w * e).at(c) weighs every term of e.at(c) with
/// w.at(c), (a + b).at(c) fuses both.
///
/// Models: the functions of loss/expression.hpp, `loss::term` of a user's own, their sums and multiples;
/// loss::distillation.
template <class E>
concept ObjectiveExpression = std::is_trivially_copyable_v<E> && requires {
  typename E::is_objective_expression;
};

namespace loss {

namespace detail {

template <template <class> class Term>
struct plain_expression {
  using is_objective_expression = void;
  template <class T = float>
  auto at(const schedule::clock&) const {
    return lift<T>(Term<T>{});
  }
};

/// Term<T>(temperature, parameters...)
template <template <class> class Term, Schedule S, class... X>
struct tempered_expression {
  using is_objective_expression = void;
  S temperature;
  tuple<X...> parameters;
  template <class T = float>
  auto at(const schedule::clock& c) const {
    const auto t = temperature.at(c);
    require(t > 0, "loss: a temperature of ", t, " at step ", c.step, " is not positive");
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return lift<T>(Term<T>(static_cast<T>(t), get<I>(parameters)...));
    }
    (std::index_sequence_for<X...>{});
  }
};
template <template <class> class Term, class X, class... P>
constexpr auto tempered_by(X temperature, P... parameters) {
  auto s = schedule::as_schedule(temperature);
  return tempered_expression<Term, decltype(s), P...>{s, make_tuple(parameters...)};
}
/// A divergence from a mixture, in which the teacher's share, or the student's, is strictly between 0 and 1.
template <template <class> class Term, class X>
constexpr auto mixture_expression(const char* name, double share, X temperature) {
  require(share > 0 && share < 1, "loss::", name, ": ", share, " is not between 0 and 1");
  return tempered_by<Term>(temperature, share);
}

template <template <class> class Term>
struct hidden_expression {
  using is_objective_expression = void;
  layers compares;
  template <class T = float>
  auto at(const schedule::clock&) const {
    return lift<T>(Term<T>{}, compares);
  }
};

struct frobenius_expression {
  using is_objective_expression = void;
  layers compares;
  scope groups;
  template <class T = float>
  auto at(const schedule::clock&) const {
    return lift<T>(frobenius_term<T>(groups), compares);
  }
};

struct alignment_expression {
  using is_objective_expression = void;
  alignment form;
  template <class T = float>
  auto at(const schedule::clock&) const {
    return lift<T>(alignment_term<T>{form}, layers_of(form));
  }
};

template <NamedTerm Term>
struct term_expression {
  using is_objective_expression = void;
  Term term;
  layers compares;
  template <class T = typename Term::scalar>
  auto at(const schedule::clock&) const {
    return lift<T>(term, compares);
  }
};

template <Schedule W, ObjectiveExpression E>
struct multiple {
  using is_objective_expression = void;
  W weight;
  E expression;
  template <class T = float>
  auto at(const schedule::clock& c) const {
    const auto o = expression.template at<T>(c);
    const T w = static_cast<T>(weight.at(c));
    return make_objective(scale(w, o.logits), scale(w, o.hidden), o.compares);
  }
};

template <ObjectiveExpression A, ObjectiveExpression B>
struct sum {
  using is_objective_expression = void;
  A a;
  B b;
  template <class T = float>
  auto at(const schedule::clock& c) const {
    const auto x = a.template at<T>(c);
    const auto y = b.template at<T>(c);
    return make_objective(fuse(x.logits, y.logits), fuse(x.hidden, y.hidden),
                          common_layers(x.compares, y.compares));
  }
};

template <class...>
inline constexpr bool never = false;
template <class Term, class Site>
inline constexpr bool at_site = [] {
  if constexpr (requires { typename Term::site; })
    return std::same_as<typename Term::site, Site>;
  else
    return false;
}();
}  // namespace detail

// Who uses this namespace has the arithmetic of schedules, too, for those in a namespace of one's own.
using schedule::operator-, schedule::operator+, schedule::operator*, schedule::operator/;

/// -log softmax(s)[target].
constexpr auto cross_entropy() { return detail::plain_expression<cross_entropy_term>{}; }
/// @name Terms at a temperature
/// T is a number, a schedule or a lambda of the clock; p = softmax(teacher / T), q = softmax(student / T). What is
/// logged has no T².
/// @{

/// T² KL(teacher || student) = T² KL(p || q).
template <class X>
constexpr auto kl(X temperature) {
  static_assert(
      NumberOrSchedule<X>,
      "distil_xlstm::loss::kl(T): T is a number or a schedule; write kl(2.0) or kl(schedule::linear{4.0, "
      "1.0})");
  if constexpr (NumberOrSchedule<X>) return detail::tempered_by<kl_term>(temperature);
}
/// T² KL(student || teacher) = T² KL(q || p).
template <class X>
constexpr auto reverse_kl(X temperature) {
  static_assert(NumberOrSchedule<X>,
                "distil_xlstm::loss::reverse_kl(T): T is a number or a schedule; write reverse_kl(2.0) or "
                "reverse_kl(schedule::linear{4.0, 1.0})");
  if constexpr (NumberOrSchedule<X>) return detail::tempered_by<reverse_kl_term>(temperature);
}
/// T² (beta KL(p || m) + (1 - beta) KL(q || m)), m = beta p + (1 - beta) q. Throws `error` unless 0 < beta < 1.
template <NumberOrSchedule X = double>
constexpr auto jsd(double beta, X temperature = X(1)) {
  return detail::mixture_expression<jsd_term>("jsd", beta, temperature);
}
/// T² KL(p || a p + (1 - a) q). Throws `error` unless 0 < a < 1.
template <NumberOrSchedule X = double>
constexpr auto skew_kl(double a, X temperature = X(1)) {
  return detail::mixture_expression<skew_kl_term>("skew_kl", a, temperature);
}
/// T² KL(q || (1 - a) q + a p). Throws `error` unless 0 < a < 1.
template <NumberOrSchedule X = double>
constexpr auto skew_reverse_kl(double a, X temperature = X(1)) {
  return detail::mixture_expression<skew_reverse_kl_term>("skew_reverse_kl", a, temperature);
}
/// T² sum |p - q| / 2.
template <NumberOrSchedule X = double>
constexpr auto tvd(X temperature = X(1)) {
  return detail::tempered_by<tvd_term>(temperature);
}
/// T² KL(p || q) over the teacher's k largest logits: see top_k_kl_term. Throws `error` unless k > 0.
template <NumberOrSchedule X = double>
constexpr auto top_k_kl(index k, tail rest = tail::one_class, X temperature = X(1)) {
  require(k > 0, "loss::top_k_kl: k is ", k, ", not positive");
  return detail::tempered_by<top_k_kl_term>(temperature, k, rest);
}
/// @}

/// Mean over groups of ||h_s - target||_F, / sqrt(numbers), over what is compared: see frobenius_term.
constexpr auto frobenius(layers compares = layers::average, scope groups = scope::batch) {
  return detail::frobenius_expression{compares, groups};
}
/// Mean over rows of 1 - cos(h_s, target).
constexpr auto cosine(layers compares = layers::average) {
  return detail::hidden_expression<cosine_term>{compares};
}
/// Mean of (h_s - target)².
constexpr auto mse(layers compares = layers::average) { return detail::hidden_expression<mse_term>{compares}; }
/// An alignment chosen at run time.
constexpr auto term(alignment form) { return detail::alignment_expression{form}; }
/// A term of one's own; a hidden term says what it compares.
template <class Term>
constexpr auto term(Term t, layers compares = layers::average) {
  constexpr bool logits = detail::at_site<Term, logits_site>, hidden = detail::at_site<Term, hidden_site>;
  static_assert(logits || hidden,
                "distil_xlstm::loss::term(t): t says nothing of where it acts; write `using site = "
                "distil_xlstm::loss::logits_site;` or hidden_site in it");
  static_assert(
      !logits || LogitsTerm<Term>,
      "distil_xlstm::loss::term(t): a term at logits_site needs scalar, folds, value, grad and target_grad, as "
      "loss/term.hpp says");
  static_assert(
      !logits || detail::KnowsItsTeacher<Term>,
      "distil_xlstm::loss::term(t): write `static constexpr bool uses_teacher = true;` (or false) in t");
  static_assert(!hidden || HiddenTerm<Term>,
                "distil_xlstm::loss::term(t): a term at hidden_site needs scalar, folds, value and grad, as "
                "loss/term.hpp "
                "says");
  static_assert(
      !hidden || detail::Scoped<Term>,
      "distil_xlstm::loss::term(t): a term at hidden_site needs a function `loss::scope scope() const`");
  static_assert(
      detail::Named<Term>,
      "distil_xlstm::loss::term(t): write `static constexpr const char* name = \"...\";` in t; it is what "
      "is logged");
  if constexpr (NamedTerm<Term>) return detail::term_expression<Term>{t, hidden ? compares : layers::none};
}

/// weight * every term of e, at every step.
template <NumberOrSchedule W, ObjectiveExpression E>
constexpr auto operator*(W weight, E e) {
  auto w = schedule::as_schedule(weight);
  return detail::multiple<decltype(w), E>{w, e};
}
/// All terms of both; its `at` throws `error` where their hidden terms compare different layers.
template <ObjectiveExpression A, ObjectiveExpression B>
constexpr auto operator+(A a, B b) {
  return detail::sum<A, B>{a, b};
}

/// @name What objectives do not have
/// @{

/// A compile-time error that says what to write.
template <class W, ObjectiveExpression E>
requires(!NumberOrSchedule<W> && !ObjectiveExpression<W>) void operator*(const W&, const E&) {
  static_assert(
      detail::never<W>,
      "distil_xlstm::loss: weight * term: the weight is a number or a schedule; write 0.5 * kl(2.0), or "
      "loss::term(t) for a term of your own");
}
template <ObjectiveExpression E, class W>
void operator*(const E&, const W&) {
  static_assert(
      detail::never<W>,
      "distil_xlstm::loss: term * weight: a weight stands on the left and terms have no product; write 0.5 "
      "* kl(2.0)");
}
template <ObjectiveExpression E, class W>
void operator/(const E&, const W&) {
  static_assert(detail::never<W>,
                "distil_xlstm::loss: terms are not divided; write 0.5 * kl(2.0) for kl(2.0) / 2");
}
template <class A, class B>
requires(ObjectiveExpression<A> != ObjectiveExpression<B>) void operator+(const A&, const B&) {
  static_assert(
      detail::never<A>,
      "distil_xlstm::loss: a + b: only terms are summed; write 0.5 * kl(2.0) + 0.5 * cross_entropy(), or "
      "loss::term(t) for a term of your own");
}
template <class A, class B>
requires(ObjectiveExpression<A> || ObjectiveExpression<B>) void operator-(const A&, const B&) {
  static_assert(detail::never<A>,
                "distil_xlstm::loss: a - b: terms are summed with weights; write a + -1.0 * b");
}
/// @}

namespace detail {
// So that they are found beside the library's own expressions.
using loss::operator*, loss::operator+, loss::operator-, loss::operator/;
}  // namespace detail

}  // namespace loss
}  // namespace distil_xlstm
