#pragma once

#include <concepts>
#include <string_view>
#include <type_traits>
#include <utility>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/loss/fold.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

/// Objectives of training. Terms over logits and over hidden states (LogitsTerm, HiddenTerm) are written as `kl(T)`,
/// `cross_entropy()` or `frobenius()`, weighted and summed (ObjectiveExpression); `head` and `align` compute the
/// values and gradients of those of a step.
namespace loss {

/// Where terms of logits act: a row of the student's beside the teacher's. Terms of one site share one pass over the
/// data.
struct logits_site {};
/// Where terms of hidden states act: the student's beside their targets.
struct hidden_site {};

/// A row's logits at its target token.
template <class T>
struct target_logits {
  /// @{
  /// As the heads give them, not divided by a temperature. Where no weight asks for the teacher, it is the student's
  /// own.
  T student, teacher;
  /// @}
};

/// Over how much a hidden term's accumulators are merged before its value is taken: each row for itself, the
/// rows of a sequence, or all rows of a tensor. The term is the mean over these groups.
enum class scope { row, sequence, batch };

/// How much takes part in a hidden term; excluded rows count nowhere.
template <class T>
struct hidden_counts {
  /// @{
  /// Groups of each scope, over all pairs of tensors.
  T rows, sequences, batches;
  /// @}
  T numbers;  ///< rows times width

  /// The groups of a scope: what a term divides by for its mean.
  DISTIL_XLSTM_HD T groups(scope s) const {
    return s == scope::row ? rows : s == scope::sequence ? sequences : batches;
  }
};

/// The counts for one of the batches of a step: a group of rows or of a sequence is one of the whole step's, a batch
/// is a whole by itself, and counts as `share` in the mean over batches.
template <class T>
struct step_counts {
  /// @{
  /// What takes part in the whole step, and in this batch.
  hidden_counts<T> step, batch;
  /// @}
  T share;  ///< 1 / the batches of the step
};

namespace detail {

/// What a term counts with, and what its gradient is multiplied by besides: a hidden term of one of a step's batches
/// by its scope; any other as it is given.
template <class Term, class C>
DISTIL_XLSTM_HD const C& context_of(const Term&, const C& context) {
  return context;
}
template <class Term, class T>
DISTIL_XLSTM_HD const hidden_counts<T>& context_of(const Term& t, const step_counts<T>& n) {
  return t.scope() == scope::batch ? n.batch : n.step;
}
template <class T, class Term, class C>
DISTIL_XLSTM_HD T share_of(const Term&, const C&) {
  return T(1);
}
template <class T, class Term>
DISTIL_XLSTM_HD T share_of(const Term& t, const step_counts<T>& n) {
  return t.scope() == scope::batch ? n.share : T(1);
}

/// A term whose passes see, before all else, the teacher's k-th largest logit of the row: largest() is k.
template <class Term>
concept Selects = requires(const Term t) {
  { t.largest() } -> std::convertible_to<index>;
};
// Concepts, and no requires-expressions where they are asked: in device code nvcc 13 finds the latter unsatisfied
// where they name a member template of the class around them.

/// A term whose value and gradients are multiplied by scale(), which is not in what is logged.
template <class Term>
concept Scaled = requires(const Term t) {
  t.scale();
};
/// A term chosen at run time: what it is called, whether it compares with a teacher, which folds it takes.
template <class Term>
concept Labelled = requires(const Term t) {
  t.label();
};
template <class Term>
concept ChoosesTeacher = requires(const Term t) {
  t.compares();
};
template <class Term>
concept ChoosesFolds = requires(const Term t) {
  t.takes(0, std::size_t{0});
};
/// A term whose gradient is a sum of softmaxes, the factors of which it knows.
template <class Term>
concept SumsSoftmaxes = requires(const Term t) {
  t.softmax_factor(std::size_t{0});
};
/// A term with a second pass over the row.
template <class Term>
concept TwoPasses = requires {
  typename Term::second_pass;
};

/// What a column brings to a term's first pass, and to its second, whose `results` are those before it.
template <class Term, class V>
DISTIL_XLSTM_HD auto first_folds(const Term& t, V student, V teacher,
                                 [[maybe_unused]] typename Term::scalar kth_largest) {
  if constexpr (Selects<Term>)
    return t.folds(student, teacher, kth_largest);
  else
    return t.folds(student, teacher);
}
template <class V, class Term>
using first_folds_of = decltype(first_folds(std::declval<const Term&>(), std::declval<V>(), std::declval<V>(),
                                            std::declval<typename Term::scalar>()));
template <class V, class Term>
using first_acc = typename accumulators<V, first_folds_of<V, Term>>::type;

/// All that value and grad see: the selection, then the results of the first pass, then those of the second.
template <class Term>
using before_second = concatenated<std::conditional_t<Selects<Term>, tuple<typename Term::scalar>, tuple<>>,
                                   first_acc<typename Term::scalar, Term>>;

template <class V, class Term, class Results>
struct second_folds_type {
  using type = tuple<>;
};
template <class V, class Term, class... R>
requires TwoPasses<Term>
struct second_folds_type<V, Term, tuple<R...>> {
  using type = decltype(std::declval<const Term&>().second_folds(std::declval<V>(), std::declval<V>(),
                                                                 std::declval<const R&>()...));
};
template <class V, class Term>
using second_folds_of = typename second_folds_type<V, Term, before_second<Term>>::type;
template <class V, class Term>
using second_acc = typename accumulators<V, second_folds_of<V, Term>>::type;
template <class Term>
using results_of = concatenated<before_second<Term>, second_acc<typename Term::scalar, Term>>;

/// Whether a term compares with a teacher, whatever its weight: hidden terms always do.
template <class Term>
inline constexpr bool asks_teacher = [] {
  if constexpr (requires { Term::uses_teacher; })
    return bool{Term::uses_teacher};
  else
    return std::same_as<typename Term::site, hidden_site>;
}();

template <class F>
concept Folds = std::is_trivially_copyable_v<F> && std::floating_point<typename F::scalar> && requires {
  typename results_of<F>;
};

template <class F, class Results>
inline constexpr bool has_logits_functions = false;
template <class F, class... R>
inline constexpr bool has_logits_functions<F, tuple<R...>> = requires(const F f,
                                                                      target_logits<typename F::scalar> row,
                                                                      typename F::scalar x, const R&... r) {
  { f.value(row, r...) } -> std::same_as<typename F::scalar>;
  { f.grad(row, x, x, r...) } -> std::same_as<typename F::scalar>;
  { f.target_grad(row, r...) } -> std::same_as<typename F::scalar>;
};
template <class F, class Results>
inline constexpr bool has_hidden_functions = false;
template <class F, class... R>
inline constexpr bool has_hidden_functions<F, tuple<R...>> = requires(const F f,
                                                                      hidden_counts<typename F::scalar> n,
                                                                      typename F::scalar x, const R&... r) {
  { f.value(n, r...) } -> std::same_as<typename F::scalar>;
  { f.grad(n, x, x, r...) } -> std::same_as<typename F::scalar>;
};

}  // namespace detail
}  // namespace loss

/// A term of the objective over a row of logits: standard folds over (student, teacher), a value of their
/// results, and a pointwise gradient.
///
/// Minimal definition, where T = scalar, V = T or a pack of T (a column a lane), and r... = the folds' results, in
/// their order, over T:
///
///     site = logits_site
///     scalar                      T, a floating type: that of the objective
///     name                        what it is logged by: a constant that converts to std::string_view
///     uses_teacher                a constant: whether it reads the teacher's logits. Where no term with a weight
///                                 does, the teacher may be absent, and terms that read it are not computed
///     folds(V student, V teacher) -> fold_list(fold<Kind>(x...), ...)
///                                 what a column brings, of both sides' logits; see `loss::fold`
///     value(target_logits<T>, r...) -> T
///                                 the row's loss
///     grad(target_logits<T>, V student, V teacher, r...) -> V
///                                 d value / d student at a column, but for ...
///     target_grad(target_logits<T>, r...) -> T
///                                 ... what the target's column has besides
///
/// Optional:
///
///     scale() -> T                multiplies value and gradient in the objective, not what is logged
///     second_pass = void, and second_folds(V student, V teacher, r...) -> fold_list(...)
///                                 a second pass over the row, which sees the results r... of the first; those of
///                                 both follow in value, grad and target_grad
///     largest() -> index          k: the teacher's k-th largest logit of the row comes as an argument before r...,
///                                 and after student and teacher in folds; 0: it is not looked for
///     label() -> std::string_view
///                                 what it is logged by instead of name, chosen when the program runs; empty: it
///                                 is not logged
///     compares() -> bool          whether it reads the teacher's logits, chosen when the program runs
///     takes(int pass, std::size_t fold) -> bool
///                                 whether pass 0 or 1 computes its fold of this index; the result of one that is
///                                 not computed is empty()
///     softmax_factor(std::size_t fold) -> T
///                                 where all folds are `tempered`'s log_sum_exp(student_logit) or
///                                 softmax_mean(teacher_logit, gap), and there is neither largest nor second_pass:
///                                 grad is the sum over the folds of factor times softmax(first input), and value
///                                 asks of results value() and mean() alone. A device may compute it so, and faster
///
/// Laws (testing/check_term.hpp): folds of parts of a row, joined, are those of the row; grad + target_grad is
/// the derivative of value; over packs as over scalars.
///
/// Models: loss::cross_entropy_term, kl_term, reverse_kl_term, jsd_term, skew_kl_term, skew_reverse_kl_term,
/// tvd_term, top_k_kl_term, any_logits_term.
template <class F>
concept LogitsTerm = std::same_as<typename F::site, loss::logits_site> && loss::detail::Folds<F> &&
    loss::detail::has_logits_functions<F, loss::detail::results_of<F>>;

/// A term over pairs of hidden states: folds over (student, target) numbers of a row, joined over its scope.
///
/// Minimal definition, where T and V are those of LogitsTerm, and r... = the folds' results over a whole group:
///
///     site = hidden_site
///     scalar                      T
///     name                        what it is logged by
///     folds(V student, V target) -> fold_list(fold<Kind>(x...), ...)
///                                 what a number brings, in one pass
///     scope() -> loss::scope      what a group is: a row, a sequence or a batch
///     value(hidden_counts<T>, r...) -> T
///                                 one group's share of the term: the term is the sum over groups
///     grad(hidden_counts<T>, V student, V target, r...) -> V
///                                 d value / d student at a number
///
/// Optional, as in LogitsTerm: scale, label, takes.
///
/// Laws: as in LogitsTerm.
///
/// Models: loss::frobenius_term, cosine_term, mse_term, alignment_term.
template <class F>
concept HiddenTerm = std::same_as<typename F::site, loss::hidden_site> && loss::detail::Folds<F> &&
    loss::detail::has_hidden_functions<F, loss::detail::results_of<F>>;

namespace loss::detail {
template <class F>
concept Named = requires {
  { F::name } -> std::convertible_to<std::string_view>;
};
/// A logits term that says whether it reads the teacher's numbers.
template <class F>
concept KnowsItsTeacher = requires {
  { F::uses_teacher } -> std::convertible_to<bool>;
};
/// A hidden term that says over how much it is merged.
template <class F>
concept Scoped = requires(const F f) {
  { f.scope() } -> std::same_as<loss::scope>;
};
}  // namespace loss::detail

/// A term with a name of its own: what `loss::term` takes; sums and multiples of terms have several.
template <class F>
concept NamedTerm = loss::detail::Named<F> &&
    ((LogitsTerm<F> && loss::detail::KnowsItsTeacher<F>) || (HiddenTerm<F> && loss::detail::Scoped<F>));

}  // namespace distil_xlstm
