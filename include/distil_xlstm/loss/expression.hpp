#pragma once

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/loss/any_alignment.hpp>
#include <distil_xlstm/loss/cross_entropy.hpp>
#include <distil_xlstm/loss/kl.hpp>
#include <distil_xlstm/loss/objective.hpp>
#include <distil_xlstm/loss/reverse_kl.hpp>
#include <distil_xlstm/schedule/arithmetic.hpp>

namespace distil_xlstm {

/// What a user writes: `alpha * kl(T) + (1 - alpha - beta) * cross_entropy() + beta * frobenius()`, where
/// alpha, beta and T are numbers or schedules. `.at<T>(clock)` gives the `loss::objective` of that step, in the
/// scalar T.
///
/// Laws (testing/check_expression.hpp): at() is linear: (w * e).at(c) weighs every term of e.at(c) with
/// w.at(c), (a + b).at(c) fuses both.
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
  constexpr auto at(const schedule::clock&) const {
    return lift<T>(Term<T>{});
  }
};

template <template <class> class Term, Schedule S>
struct tempered_expression {
  using is_objective_expression = void;
  S temperature;
  template <class T = float>
  constexpr auto at(const schedule::clock& c) const {
    const auto t = temperature.at(c);
    require(t > 0, "loss: a temperature of ", t, " at step ", c.step, " is not positive");
    return lift<T>(Term<T>(static_cast<T>(t)));
  }
};
template <template <class> class Term, class X>
constexpr auto tempered(X temperature) {
  auto s = schedule::as_schedule(temperature);
  return tempered_expression<Term, decltype(s)>{s};
}

struct frobenius_expression {
  using is_objective_expression = void;
  loss::scope groups;
  template <class T = float>
  constexpr auto at(const schedule::clock&) const {
    return lift<T>(frobenius_term<T>(groups));
  }
};

struct alignment_expression {
  using is_objective_expression = void;
  alignment form;
  template <class T = float>
  constexpr auto at(const schedule::clock&) const {
    return lift<T>(any_alignment<T>{form});
  }
};

template <NamedTerm Term>
struct term_expression {
  using is_objective_expression = void;
  Term term;
  template <class T = typename Term::scalar>
  constexpr auto at(const schedule::clock&) const {
    return lift<T>(term);
  }
};

template <Schedule W, ObjectiveExpression E>
struct multiple {
  using is_objective_expression = void;
  W weight;
  E expression;
  template <class T = float>
  constexpr auto at(const schedule::clock& c) const {
    const auto o = expression.template at<T>(c);
    const T w = static_cast<T>(weight.at(c));
    return make_objective(scale(w, o.logits), scale(w, o.hidden));
  }
};

template <ObjectiveExpression A, ObjectiveExpression B>
struct sum {
  using is_objective_expression = void;
  A a;
  B b;
  template <class T = float>
  constexpr auto at(const schedule::clock& c) const {
    const auto x = a.template at<T>(c);
    const auto y = b.template at<T>(c);
    return make_objective(fuse(x.logits, y.logits), fuse(x.hidden, y.hidden));
  }
};

}  // namespace detail

/// -log softmax(s)[target].
constexpr auto cross_entropy() { return detail::plain_expression<cross_entropy_term>{}; }
/// T² KL(teacher || student) at temperature T.
template <NumberOrSchedule X>
constexpr auto kl(X temperature) {
  return detail::tempered<kl_term>(temperature);
}
/// T² KL(student || teacher) at temperature T.
template <NumberOrSchedule X>
constexpr auto reverse_kl(X temperature) {
  return detail::tempered<reverse_kl_term>(temperature);
}
/// Mean over groups of ||h_s - target||_F, / sqrt(numbers): see frobenius_term for the forms.
constexpr auto frobenius(scope groups = scope::batch) { return detail::frobenius_expression{groups}; }
/// Mean over rows of 1 - cos(h_s, target).
constexpr auto cosine() { return detail::plain_expression<cosine_term>{}; }
/// Mean of (h_s - target)².
constexpr auto mse() { return detail::plain_expression<mse_term>{}; }
/// An alignment chosen at run time.
constexpr auto align_by(alignment form) { return detail::alignment_expression{form}; }
/// A term of one's own.
template <NamedTerm Term>
constexpr auto term(Term t) {
  return detail::term_expression<Term>{t};
}

template <NumberOrSchedule W, ObjectiveExpression E>
constexpr auto operator*(W weight, E e) {
  auto w = schedule::as_schedule(weight);
  return detail::multiple<decltype(w), E>{w, e};
}
template <ObjectiveExpression A, ObjectiveExpression B>
constexpr auto operator+(A a, B b) {
  return detail::sum<A, B>{a, b};
}
namespace detail {
// So that they are found beside the library's own expressions.
using loss::operator*, loss::operator+;
}  // namespace detail

}  // namespace loss
}  // namespace distil_xlstm
