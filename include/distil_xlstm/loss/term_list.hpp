#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/loss/tempered.hpp>
#include <distil_xlstm/loss/term.hpp>

namespace distil_xlstm::loss {

/// What the host knows of a step's terms to arrange their passes. A recorded step serves as long as it stays.
struct term_facts {
  bool active = false;        ///< a weight is not 0
  bool uses_teacher = false;  ///< a term with a weight compares with the teacher, or with the targets
  bool selects = false;       ///< the teacher's largest logits are looked for first
  bool second_pass = false;   ///< a second fold follows the first

  bool operator==(const term_facts&) const = default;  ///< equal: a recorded step still serves
};

namespace detail {
template <int Pass, class V, class Term>
using pass_folds = std::conditional_t<Pass == 0, first_folds_of<V, Term>, second_folds_of<V, Term>>;
template <int Pass, class V, class Term>
using pass_acc = typename accumulators<V, pass_folds<Pass, V, Term>>::type;

/// Whose logits a fold is a softmax of, for terms that know their softmax_factor.
enum class softmax_side { neither, student, teacher };
template <class Contribution>
inline constexpr softmax_side side_of = softmax_side::neither;
template <class V>
inline constexpr softmax_side side_of<contribution<math::log_sum_exp, named_input<student_logit, V>>> =
    softmax_side::student;
template <class V>
inline constexpr softmax_side side_of<
    contribution<math::softmax_mean, named_input<teacher_logit, V>, named_input<student_below_teacher, V>>> =
    softmax_side::teacher;

/// f(std::integral_constant<0>), f(<1>), ... below N.
template <std::size_t N, class F>
constexpr DISTIL_XLSTM_HD void for_each_below(const F& f) {
  [&]<std::size_t... I>(std::index_sequence<I...>) { (f(std::integral_constant<std::size_t, I>{}), ...); }
  (std::make_index_sequence<N>{});
}
template <std::size_t K, std::size_t... X>
inline constexpr std::size_t sum_of_first = [] {
  const std::size_t all[] = {X..., 0};
  std::size_t sum = 0;
  for (int i = 0; i < static_cast<int>(K); ++i) sum += all[i];
  return sum;
}();
}  // namespace detail

/// The weighted sum of a site's terms at one step, numbers only: one pass over the data whatever its length, two
/// where a term has a second, and one for the gradient. A fold that several terms have in common is computed
/// once.
///
/// A fold's index counts the folds of its pass through all terms. `V` is T or a pack of T's.
template <class Site, class T, class... Terms>
class term_list {
  static constexpr std::size_t count = sizeof...(Terms);
  template <std::size_t K>
  using term_at = std::tuple_element_t<K, std::tuple<Terms...>>;

 public:
  using site = Site;                                         ///< logits_site or hidden_site
  using scalar = T;                                          ///< that of every term
  static constexpr index terms = static_cast<index>(count);  ///< how many there are
  /// Whether a term compares with a teacher, whatever its weight.
  static constexpr bool asks_teacher = (detail::asks_teacher<Terms> || ...);
  /// Whether a term may ask for a second pass; facts() says whether one does.
  static constexpr bool two_passes = (detail::TwoPasses<Terms> || ...);
  /// How many terms look at the teacher's largest logits.
  static constexpr int selections = (int{detail::Selects<Terms>} + ... + 0);

  /// Whether all there is to compute are softmaxes and their sums: see `each_softmax`.
  static constexpr bool sums_softmaxes =
      count > 0 && !two_passes && selections == 0 && (detail::SumsSoftmaxes<Terms> && ...);

  /// What the first (0) or second (1) pass accumulates: an aggregate of V's.
  template <class V, int Pass = 0>
  using acc = detail::concatenated<detail::pass_acc<Pass, V, Terms>...>;

  /// How many folds the first pass has.
  static constexpr std::size_t first_folds = detail::size_of<acc<T>>;
  /// Fold J of those that a pass has accumulated.
  template <std::size_t J, class Acc>
  static DISTIL_XLSTM_HD auto& fold_of(Acc& a) {
    return detail::get<J>(a);
  }

  /// What the passes over a row have found: the first's accumulators alone where that is all.
  struct all_results {
    T kth_largest[std::max(selections, 1)];  ///< what `select` found, a number a term that asks
    acc<T> first;                            ///< the first pass
    acc<T, 1> second;                        ///< the second
  };
  /// What `record` writes, and `value` and `grad` read: of a row or of a group.
  using results = std::conditional_t<two_passes || (selections > 0), all_results, acc<T>>;

  term_list() = default;
  /// The sum over k of weights[k] members[k].
  term_list(std::array<T, count> weights, detail::tuple<Terms...> members) : members_(members) {
    std::copy(weights.begin(), weights.end(), weights_);
    arrange();
  }
  /// In the order of the terms.
  std::array<T, count> weights() const {
    std::array<T, count> all{};
    std::copy_n(weights_, count, all.begin());
    return all;
  }
  /// The terms.
  const detail::tuple<Terms...>& members() const { return members_; }
  /// The K-th term, from 0.
  template <std::size_t K>
  DISTIL_XLSTM_HD const term_at<K>& term() const {
    return detail::get<K>(members_);
  }

  /// What is logged. A name that is empty stands for nothing.
  std::array<std::string_view, count> names() const {
    std::array<std::string_view, count> all{};
    detail::for_each_below<count>([&](auto k) {
      if constexpr (detail::Labelled<term_at<k()>>)
        all[k()] = term<k()>().label();
      else
        all[k()] = term_at<k()>::name;
    });
    return all;
  }
  /// A weight of 0 lets the teacher, or the targets, be absent.
  term_facts facts() const { return facts_; }
  /// How many folds the first pass computes.
  int folds() const {
    int n = 0;
    for (std::uint32_t bits = visited_[0]; bits != 0; bits &= bits - 1) ++n;
    return n;
  }

  /// @{
  /// A list as it stands and the list of a step (loss/step_term.hpp) are read alike: the list, what gradients are
  /// multiplied by, and the same with its numbers at hand.
  DISTIL_XLSTM_HD const term_list& operator()() const { return *this; }
  DISTIL_XLSTM_HD T factor() const { return T(1); }
  DISTIL_XLSTM_HD const term_list& at_hand() const { return *this; }
  /// @}

  /// What a pass begins with: every fold's empty().
  template <class V, int Pass = 0>
  static DISTIL_XLSTM_HD acc<V, Pass> init() {
    acc<V, Pass> a;
    detail::for_each_below<folds_of_pass<Pass>>([&](auto j) {
      auto& one = detail::get<decltype(j)::value>(a);
      one = std::remove_reference_t<decltype(one)>::empty();
    });
    return a;
  }
  /// Folds N columns, or packs of columns, into `a`. `before` holds what came before this pass.
  template <int Pass, class V, int N>
  DISTIL_XLSTM_HD void visit(acc<V, Pass>& a, const results& before, const V (&student)[N],
                             const V (&teacher)[N]) const {
    detail::for_each_below<count>([&](auto k) {
      constexpr std::size_t K = decltype(k)::value, size = size_at<Pass, K>, first = offset<Pass, K>;
      if constexpr (size > 0) {
        constexpr std::uint32_t mine = ((std::uint32_t{1} << size) - 1) << first;
        if ((visited_[Pass] & mine) == 0) return;
        detail::pass_folds<Pass, V, term_at<K>> in[N];
        for (int n = 0; n < N; ++n) in[n] = contributions<Pass, K>(before, student[n], teacher[n]);
        detail::for_each_below<size>([&](auto i) {
          constexpr std::size_t I = decltype(i)::value;
          if (!(visited_[Pass] >> (first + I) & 1)) return;
          using column = std::remove_reference_t<decltype(detail::get<I>(in[0]))>;
          column::template add_all<N>(detail::get<first + I>(a),
                                      [&](int n) -> const column& { return detail::get<I>(in[n]); });
        });
      }
    });
  }
  /// One column of the first pass, of terms that select nothing.
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, V student, V teacher) const {
    static_assert(selections == 0);
    const V s[1] = {student}, t[1] = {teacher};
    visit<0>(a, results{}, s, t);
  }
  /// into <- into joined with from: parts of a row, or rows of a group.
  template <int Pass = 0>
  static DISTIL_XLSTM_HD void merge(acc<T, Pass>& into, const acc<T, Pass>& from) {
    detail::for_each_below<folds_of_pass<Pass>>([&](auto j) {
      constexpr std::size_t J = decltype(j)::value;
      join(detail::get<J>(into), detail::get<J>(from));
    });
  }
  /// Gives every fold of the first pass its result: those that were computed once for several.
  DISTIL_XLSTM_HD void share(acc<T>& a) const {
    detail::for_each_below<folds_of_pass<0>>([&](auto j) {
      constexpr std::size_t J = decltype(j)::value;
      detail::for_each_below<J>([&](auto i) {
        constexpr std::size_t I = decltype(i)::value;
        if constexpr (std::is_same_v<decltype(detail::get<I>(a)), decltype(detail::get<J>(a))>)
          if (source_[J] == static_cast<std::int8_t>(I)) detail::get<J>(a) = detail::get<I>(a);
      });
    });
  }
  /// A pass over the row is over: its accumulators become part of r.
  template <int Pass>
  DISTIL_XLSTM_HD void record(results& r, acc<T, Pass> a) const {
    if constexpr (Pass == 1) {
      second_of(r) = a;
    } else {
      share(a);
      if constexpr (std::is_same_v<results, all_results>)
        r.first = a;
      else
        r = a;
    }
  }

  /// The weighted sum of values. `C` is the site's context: target_logits or hidden_counts.
  template <class C>
  DISTIL_XLSTM_HD T value(const results& r, const C& context) const {
    T total = 0;
    detail::for_each_below<count>([&](auto k) {
      constexpr std::size_t K = decltype(k)::value;
      if (evaluated_ >> K & 1) total += coefficient<K>() * value_of<K>(r, context);
    });
    return total;
  }
  /// g[n] = scale * the gradient at column n, but for the target's own part. The context of one of a step's batches
  /// is step_counts.
  template <class V, int N, class C>
  DISTIL_XLSTM_HD void grad(V (&g)[N], const results& r, const C& context, const V (&student)[N],
                            const V (&teacher)[N], T scale) const {
    for (int n = 0; n < N; ++n) g[n] = V(0);
    detail::for_each_below<count>([&](auto k) {
      constexpr std::size_t K = decltype(k)::value;
      if (weights_[K] == T(0)) return;
      const auto& seen = detail::context_of(term<K>(), context);
      const V c(scale * coefficient<K>() * detail::share_of<T>(term<K>(), context));
      with_results<2, K>(r, [&](const auto&... found) {
        for (int n = 0; n < N; ++n) g[n] = g[n] + c * term<K>().grad(seen, student[n], teacher[n], found...);
      });
    });
  }
  /// The same at one column.
  template <class V, class C>
  DISTIL_XLSTM_HD V grad(const results& r, const C& context, V student, V teacher, T scale = T(1)) const {
    V g[1];
    const V s[1] = {student}, t[1] = {teacher};
    grad(g, r, context, s, t, scale);
    return g[0];
  }
  /// f(J, whether it is the teacher's, 1 / T) of every fold J that the first pass computes, where `sums_softmaxes`.
  template <class F>
  DISTIL_XLSTM_HD void each_softmax(const F& f) const {
    detail::for_each_below<count>([&](auto k) {
      constexpr std::size_t K = decltype(k)::value;
      const auto folds = term<K>().folds(T(0), T(0));
      detail::for_each_below<size_at<0, K>>([&](auto i) {
        constexpr std::size_t I = decltype(i)::value, J = offset<0, K> + I;
        constexpr auto side = detail::side_of<std::remove_cvref_t<decltype(detail::get<I>(folds))>>;
        static_assert(side != detail::softmax_side::neither,
                      "distil_xlstm::loss: a term with a softmax_factor has folds of tempered's inputs only");
        if (visited_[0] >> J & 1)
          f(std::integral_constant<std::size_t, J>{},
            std::bool_constant<side == detail::softmax_side::teacher>{},
            detail::get<I>(folds).inputs.head.parameter);
      });
    });
  }
  /// What the softmaxes of the first pass's folds are multiplied by in the gradient, but for the target's own part. Of
  /// equal folds the first, which alone is computed, has the sum.
  template <std::size_t N>
  DISTIL_XLSTM_HD void softmax_factors(T (&factors)[N]) const {
    static_assert(sums_softmaxes && N == first_folds);
    detail::for_each_below<count>([&](auto k) {
      constexpr std::size_t K = decltype(k)::value;
      for (std::size_t i = 0; i < size_at<0, K>; ++i)
        factors[offset<0, K> + i] = weights_[K] == T(0) ? T(0) : coefficient<K>() * term<K>().softmax_factor(i);
    });
    detail::for_each_below<N>([&](auto j) {
      constexpr std::size_t J = decltype(j)::value;
      detail::for_each_below<J>([&](auto i) {
        constexpr std::size_t I = decltype(i)::value;
        if (source_[J] == static_cast<std::int8_t>(I)) factors[I] += factors[J];
      });
    });
  }
  /// scale * what the gradient at the target's column has besides.
  DISTIL_XLSTM_HD T target_grad(const results& r, const target_logits<T>& row, T scale = T(1)) const {
    T total = 0;
    detail::for_each_below<count>([&](auto k) {
      constexpr std::size_t K = decltype(k)::value;
      if (weights_[K] == T(0)) return;
      with_results<2, K>(r, [&](const auto&... found) {
        total += scale * coefficient<K>() * term<K>().target_grad(row, found...);
      });
    });
    return total;
  }
  /// raw[0 .. terms) += what is logged; returns the weighted value.
  template <class C>
  DISTIL_XLSTM_HD double report(const results& r, const C& context, double* raw) const {
    return report_if(r, context, raw, [](const auto&) { return true; });
  }
  /// The same for hidden terms, of which only those of scope `s` count.
  template <class C>
  DISTIL_XLSTM_HD double report(scope s, const results& r, const C& context, double* raw) const {
    return report_if(r, context, raw, [s](const auto& t) { return t.scope() == s; });
  }
  /// The results of the groups that hidden terms look at.
  DISTIL_XLSTM_HD results choose(const results& row, const results& sequence, const results& batch) const {
    results chosen = batch;
    detail::for_each_below<count>([&](auto k) {
      constexpr std::size_t K = decltype(k)::value;
      const scope s = term<K>().scope();
      if (s == scope::batch) return;
      detail::for_each_below<size_at<0, K>>([&](auto i) {
        constexpr std::size_t J = offset<0, K> + decltype(i)::value;
        detail::get<J>(chosen) = s == scope::row ? detail::get<J>(row) : detail::get<J>(sequence);
      });
    });
    return chosen;
  }
  /// For each term that looks at the teacher's largest logits, kth(k) is the k-th largest of the row.
  template <class Kth>
  DISTIL_XLSTM_HD void select([[maybe_unused]] results& r, [[maybe_unused]] const Kth& kth) const {
    detail::for_each_below<count>([&](auto n) {
      constexpr std::size_t K = decltype(n)::value;
      if constexpr (detail::Selects<term_at<K>>)
        if (const index k = term<K>().largest(); k > 0 && (evaluated_ >> K & 1)) kth_largest_of<K>(r) = kth(k);
    });
  }

 private:
  template <int Pass, std::size_t K>
  static constexpr std::size_t size_at = detail::size_of<detail::pass_folds<Pass, T, term_at<K>>>;
  template <int Pass, std::size_t K>
  static constexpr std::size_t offset =
      detail::sum_of_first<K, detail::size_of<detail::pass_folds<Pass, T, Terms>>...>;
  template <int Pass>
  static constexpr std::size_t folds_of_pass = detail::size_of<acc<T, Pass>>;
  /// Which selection term K's is.
  template <std::size_t K>
  static constexpr int selection =
      static_cast<int>(detail::sum_of_first<K, std::size_t{detail::Selects<Terms>}...>);

  // Parts of results that have them.
  template <class R>
  static DISTIL_XLSTM_HD const acc<T>& first_of(const R& r) {
    if constexpr (std::is_same_v<R, all_results>)
      return r.first;
    else
      return r;
  }
  template <class R>
  static DISTIL_XLSTM_HD auto& second_of(R& r) {
    if constexpr (std::is_same_v<std::remove_const_t<R>, all_results>)
      return r.second;
    else
      return r;  // of which nothing is asked
  }
  template <std::size_t K, class R>
  static DISTIL_XLSTM_HD auto& kth_largest_of(R& r) {
    return r.kth_largest[selection<K>];
  }
  /// f of what term K sees after so many passes: the selection, then its own folds' results.
  template <int Passes, std::size_t K, class F>
  static DISTIL_XLSTM_HD auto with_results(const results& r, const F& f) {
    return [&]<std::size_t... I, std::size_t... J>(std::index_sequence<I...>, std::index_sequence<J...>) {
      const auto& first = first_of(r);
      if constexpr (detail::Selects<term_at<K>>)
        return f(kth_largest_of<K>(r), detail::get<offset<0, K> + I>(first)...,
                 detail::get<offset<1, K> + J>(second_of(r))...);
      else
        return f(detail::get<offset<0, K> + I>(first)..., detail::get<offset<1, K> + J>(second_of(r))...);
    }
    (std::make_index_sequence<(Passes > 0 ? size_at<0, K> : 0)>{},
     std::make_index_sequence<(Passes > 1 ? size_at<1, K> : 0)>{});
  }
  template <int Pass, std::size_t K, class V>
  DISTIL_XLSTM_HD auto contributions(const results& before, V student, V teacher) const {
    if constexpr (Pass == 1)
      return with_results<1, K>(
          before, [&](const auto&... found) { return term<K>().second_folds(student, teacher, found...); });
    else if constexpr (detail::Selects<term_at<K>>)
      return term<K>().folds(student, teacher, kth_largest_of<K>(before));
    else
      return term<K>().folds(student, teacher);
  }
  template <std::size_t K, class C>
  DISTIL_XLSTM_HD T value_of(const results& r, const C& context) const {
    return with_results<2, K>(r, [&](const auto&... found) { return term<K>().value(context, found...); });
  }
  /// weight * scale
  template <std::size_t K>
  DISTIL_XLSTM_HD T coefficient() const {
    if constexpr (detail::Scaled<term_at<K>>)
      return weights_[K] * term<K>().scale();
    else
      return weights_[K];
  }
  template <class C, class Takes>
  DISTIL_XLSTM_HD double report_if(const results& r, const C& context, double* raw, const Takes& takes) const {
    double total = 0;
    detail::for_each_below<count>([&](auto k) {
      constexpr std::size_t K = decltype(k)::value;
      if (!(evaluated_ >> K & 1) || !takes(term<K>())) return;
      const T value = value_of<K>(r, context);
      raw[K] += static_cast<double>(value);
      total += static_cast<double>(coefficient<K>() * value);
    });
    return total;
  }

  /// Decides what is computed: a term that no weight asks for, and that alone would need the teacher, is not; and
  /// of equal folds the first is.
  void arrange() {
    static_assert(folds_of_pass<0> <= 32 && folds_of_pass<1> <= 32 && count <= 32,
                  "distil_xlstm::loss: a sum has at most 32 terms, and 32 folds in a pass");
    std::fill(std::begin(source_), std::end(source_), std::int8_t{-1});
    detail::for_each_below<count>([&](auto k) {
      const bool active = weights_[k()] != T(0);
      facts_.active |= active;
      facts_.uses_teacher |= active && compares<k()>();
    });
    const auto all = [&]<std::size_t... K>(std::index_sequence<K...>) {
      return detail::concatenate(detail::first_folds(term<K>(), T(0), T(0), T(0))...);
    }
    (std::make_index_sequence<count>{});
    detail::for_each_below<count>([&](auto k) {
      constexpr std::size_t K = k();
      if (compares<K>() && !facts_.uses_teacher) return;
      evaluated_ |= std::uint32_t{1} << K;
      if constexpr (detail::Selects<term_at<K>>) facts_.selects |= term<K>().largest() > 0;
      detail::for_each_below<size_at<0, K>>([&](auto i) {
        constexpr std::size_t J = offset<0, K> + i();
        if (!takes<K>(0, i())) return;
        detail::for_each_below<J>([&](auto earlier) {
          constexpr std::size_t I = earlier();
          if constexpr (std::is_same_v<decltype(detail::get<I>(all)), decltype(detail::get<J>(all))>)
            if (source_[J] < 0 && (visited_[0] >> I & 1) && detail::get<I>(all).equals(detail::get<J>(all)))
              source_[J] = static_cast<std::int8_t>(I);
        });
        if (source_[J] < 0) visited_[0] |= std::uint32_t{1} << J;
      });
      detail::for_each_below<size_at<1, K>>([&](auto i) {
        if (takes<K>(1, i())) visited_[1] |= std::uint32_t{1} << (offset<1, K> + i());
      });
    });
    facts_.second_pass = visited_[1] != 0;
  }
  /// Whether term K asks for the teacher.
  template <std::size_t K>
  bool compares() const {
    if constexpr (detail::ChoosesTeacher<term_at<K>>)
      return term<K>().compares();
    else
      return detail::asks_teacher<term_at<K>>;
  }
  template <std::size_t K>
  bool takes(int pass, std::size_t fold) const {
    if constexpr (detail::ChoosesFolds<term_at<K>>)
      return term<K>().takes(pass, fold);
    else
      return true;
  }

  T weights_[std::max<std::size_t>(count, 1)] = {};
  detail::tuple<Terms...> members_;
  term_facts facts_;
  std::uint32_t evaluated_ = 0;    ///< bit K: term K has a value
  std::uint32_t visited_[2] = {};  ///< bit j: the pass computes fold j
  std::int8_t source_[std::max<std::size_t>(detail::size_of<acc<T>>, 1)] =
      {};  ///< the fold that has fold j's result
};

namespace detail {
/// The `term_list` of what `head` and `align` take: itself, or a step's.
template <class Terms>
using list_of = std::remove_cvref_t<decltype(std::declval<const Terms&>()())>;
}  // namespace detail

}  // namespace distil_xlstm::loss
