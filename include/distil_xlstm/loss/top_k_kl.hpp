#pragma once

#include <distil_xlstm/loss/divergence.hpp>

namespace distil_xlstm::loss {

/// What becomes of the tokens that are not among the teacher's k largest.
enum class tail {
  one_class,  ///< together they are one class more
  ignored     ///< they are left out, and both softmaxes are over the k alone
};

/// T² KL(teacher || student) at temperature T over the teacher's k largest logits, K; those that tie with the
/// k-th belong to them, and K is the whole row where it has no more than k. Logged without T².
///
/// With p and q the teacher's and the student's softmax over the whole row:
///
///     one_class: sum over K of p log(p / q), + P log(P / Q), with P and Q the sums of p and q outside K
///     ignored:   the same sum over K alone, of p and q that are softmaxes over K; no gradient outside K
template <class T>
struct top_k_kl_term : tempered<T> {
  /// @{
  /// What a fold gives.
  using lse = math::log_sum_exp<T>;
  using mean = math::softmax_mean<T>;
  /// @}
  static constexpr const char* name = "top_k_kl";  ///< as the concept `LogitsTerm` says
  index k = 1;                                     ///< how many of the teacher's logits count, beside ties
  loss::tail rest = loss::tail::one_class;         ///< what becomes of the others

  /// At temperature t, k = largest > 0.
  constexpr top_k_kl_term(T t, index largest, loss::tail outside) : tempered<T>(t), k(largest), rest(outside) {}
  /// @name What every logits term has
  /// @{

  /// As the concept `LogitsTerm` says.
  DISTIL_XLSTM_HD index largest() const { return k; }

  /// Inside and outside of K: what is not there is a logit of probability 0.
  template <class V>
  DISTIL_XLSTM_HD auto folds(V student, V teacher, T kth) const {
    using math::select_positive;
    const V out = V(kth) - teacher, s = this->logit(student), t = this->logit(teacher),
            none = V(T(math::logit_floor));
    return fold_list(fold<math::log_sum_exp>(select_positive(out, none, s)),
                     fold<math::softmax_mean>(select_positive(out, none, t), select_positive(out, V(0), t - s)),
                     fold<math::log_sum_exp>(select_positive(out, s, none)),
                     fold<math::log_sum_exp>(select_positive(out, t, none)));
  }
  DISTIL_XLSTM_HD T value(const target_logits<T>&, T, const lse& s, const mean& t, const lse& s_out,
                          const lse& t_out) const {
    if (rest == loss::tail::ignored) return t.mean() - t.x.value() + s.value();
    const lse p = joined(t.x, t_out);
    return share(t.x, p) * t.mean() + share(t_out, p) * (t_out.value() - s_out.value()) +
           joined(s, s_out).value() - p.value();
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const target_logits<T>&, V student, V teacher, T kth, const lse& s, const mean& t,
                         const lse& s_out, const lse& t_out) const {
    using math::select_positive;
    const bool one_class = rest == loss::tail::one_class;
    const lse all_s = one_class ? joined(s, s_out) : s, all_t = one_class ? joined(t.x, t_out) : t.x;
    const V q = all_s.probability(this->logit(student)), p = all_t.probability(this->logit(teacher));
    const T outside = one_class ? T(1) - detail::ratio(share(t_out, all_t), share(s_out, all_s)) : T(0);
    return V(this->inverse) * select_positive(V(kth) - teacher, V(outside) * q, q - p);
  }
  /// @}

 private:
  static DISTIL_XLSTM_HD lse joined(lse a, const lse& b) {
    join(a, b);
    return a;
  }
  /// The sum of a part's probabilities.
  static DISTIL_XLSTM_HD T share(const lse& part, const lse& whole) {
    using std::exp;
    return exp(part.max - whole.max) * part.sum / whole.sum;
  }
};

}  // namespace distil_xlstm::loss
