#pragma once

#include <concepts>
#include <string_view>
#include <type_traits>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {
namespace loss {

/// Where terms act. Terms of one site share one pass over the data.
struct logits_site {};  ///< a row of student logits beside the teacher's
struct hidden_site {};  ///< student hidden states beside their targets

/// A row's logits at its target token.
template <class T>
struct target_logits {
  T student, teacher;
};

/// Over how much a hidden term's accumulators are merged before its value is taken: each row for itself, the
/// rows of a sequence, or all rows of a tensor. The term is the mean over these groups.
enum class scope { row, sequence, batch };

/// How much takes part in a hidden term; excluded rows count nowhere.
template <class T>
struct hidden_counts {
  T rows, sequences, batches;  ///< groups of each scope, over all pairs of tensors
  T numbers;                   ///< rows times width

  DISTIL_XLSTM_HD T groups(scope s) const {
    return s == scope::row ? rows : s == scope::sequence ? sequences : batches;
  }
};

namespace detail {
template <class F>
concept Fold = std::is_trivially_copyable_v<F> && std::floating_point<typename F::scalar> &&
    requires(const F f, typename F::template acc<typename F::scalar> a, typename F::scalar x) {
  { f.template init<typename F::scalar>() } -> std::same_as<decltype(a)>;
  f.template visit<typename F::scalar>(a, x, x);
  f.merge(a, a);
};
}  // namespace detail

}  // namespace loss

/// A term of the objective over a row of logits: a fold over (student, teacher), and a pointwise gradient.
///
/// Minimal definition (T = scalar, V = T or a pack of T):
///   site = logits_site; scalar; name; uses_teacher
///   template <class V> struct acc         an aggregate of V's
///   init<V>(), visit<V>(acc&, V student, V teacher), merge(acc<T>&, const acc<T>&)
///   value(acc<T>, target_logits<T>) -> T                  the row's loss
///   grad<V>(acc<T>, target_logits<T>, V student, V teacher) -> V   d value / d student, but for ...
///   target_grad(acc<T>, target_logits<T>) -> T            ... what the target's column has besides
/// Optional: raw(acc<T>, target_logits<T>) -> T, what is logged (value where absent).
/// Laws (testing/check_term.hpp): merge is associative with init() as identity; visiting a then b equals
/// merging the two visits; grad + target_grad is the derivative of value; over packs as over scalars.
/// Models: loss::cross_entropy_term, kl_term, reverse_kl_term, and weighted and fused of these.
template <class F>
concept LogitsTerm = std::same_as<typename F::site, loss::logits_site> && loss::detail::Fold<F> &&
    requires(const F f, typename F::template acc<typename F::scalar> a,
             loss::target_logits<typename F::scalar> row, typename F::scalar x) {
  { f.value(a, row) } -> std::same_as<typename F::scalar>;
  { f.template grad<typename F::scalar>(a, row, x, x) } -> std::same_as<typename F::scalar>;
  { f.target_grad(a, row) } -> std::same_as<typename F::scalar>;
};

/// A term over pairs of hidden states: a fold over (student, target) numbers of a row, merged over its scope.
///
/// Minimal definition: site = hidden_site; scalar; name; acc, init, visit, merge as in LogitsTerm;
///   scope() -> loss::scope
///   value(acc<T>, hidden_counts<T>) -> T        one group's share of the term: the term is the sum over groups
///   grad<V>(acc<T>, hidden_counts<T>, V student, V target) -> V    acc is the whole group's
/// Optional: raw. Laws: as in LogitsTerm.
/// Models: loss::frobenius_term, cosine_term, mse_term, alignment_term, and weighted and fused of these.
template <class F>
concept HiddenTerm = std::same_as<typename F::site, loss::hidden_site> && loss::detail::Fold<F> &&
    requires(const F f, typename F::template acc<typename F::scalar> a,
             loss::hidden_counts<typename F::scalar> n, typename F::scalar x) {
  { f.value(a, n) } -> std::same_as<typename F::scalar>;
  { f.template grad<typename F::scalar>(a, n, x, x) } -> std::same_as<typename F::scalar>;
};

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
