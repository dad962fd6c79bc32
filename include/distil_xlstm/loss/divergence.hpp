#pragma once

#include <distil_xlstm/loss/tempered.hpp>

namespace distil_xlstm::loss {

namespace detail {
/// A probability, or what stands for one that vanishes: its inverse and its logarithm are finite.
template <class V>
DISTIL_XLSTM_HD V not_zero(V p) {
  using math::max;
  return max(p, V(sizeof(math::scalar_of<V>) == 4 ? 1e-30 : 1e-300));
}
/// a / b of probabilities, where b vanishes no earlier than a does; its logarithm is 0 where both vanish.
template <class V>
DISTIL_XLSTM_HD V ratio(V a, V b) {
  return a / not_zero(b);
}
template <class V>
DISTIL_XLSTM_HD V log_ratio(V a, V b) {
  using std::log;
  return log(not_zero(a) / not_zero(b));
}
}  // namespace detail

/// T² sum f(p, q) over the vocabulary, where p is the teacher's and q the student's softmax at temperature T.
/// Logged without T².
///
/// `Form` has a name, value(x, p, q, m) = f and slope(x, p, q, m) = df/dq up to a constant, with the mixture
/// m = x p + (1 - x) q. The first pass finds p and q, the second the sum of f and the slope's mean under q, as the
/// gradient is q (slope - mean) / T.
template <class T, class Form>
struct divergence_term : tempered<T> {
  using lse = math::log_sum_exp<T>;  ///< what a fold of the first pass gives
  using sum = math::sum<T>;          ///< what one of the second gives
  /// @{
  /// As the concept `LogitsTerm` says.
  using second_pass = void;
  static constexpr const char* name = Form::name;
  /// @}
  T share;  ///< x

  /// At temperature t; forms that have no mixture take no x.
  constexpr explicit divergence_term(T t, double x = 0) : tempered<T>(t), share(static_cast<T>(x)) {}

  /// @name What every logits term has
  /// @{

  /// As the concept `LogitsTerm` says.
  template <class V>
  DISTIL_XLSTM_HD auto folds(V student, V teacher) const {
    return fold_list(fold<math::log_sum_exp>(this->student_logit(student)),
                     fold<math::log_sum_exp>(this->teacher_logit(teacher)));
  }
  template <class V>
  DISTIL_XLSTM_HD auto second_folds(V student, V teacher, const lse& s, const lse& t) const {
    const V x(share), q = s.probability(this->logit(student)), p = t.probability(this->logit(teacher)),
                      m = x * p + (V(1) - x) * q;
    return fold_list(fold<math::sum>(Form::value(x, p, q, m)), fold<math::sum>(q * Form::slope(x, p, q, m)));
  }
  DISTIL_XLSTM_HD T value(const target_logits<T>&, const lse&, const lse&, const sum& f, const sum&) const {
    return f.total;
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const target_logits<T>&, V student, V teacher, const lse& s, const lse& t, const sum&,
                         const sum& mean) const {
    const V x(share), q = s.probability(this->logit(student)), p = t.probability(this->logit(teacher));
    return V(this->inverse) * q * (Form::slope(x, p, q, x * p + (V(1) - x) * q) - V(mean.total));
  }
  /// @}
};

}  // namespace distil_xlstm::loss
