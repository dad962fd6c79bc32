#pragma once

#include <distil_xlstm/loss/tempered.hpp>

namespace distil_xlstm::loss {

/// T² KL(softmax(s / T) || softmax(t / T)): student || teacher, mode-seeking. Logged without T².
template <class T>
struct reverse_kl_term : tempered<T> {
  using tempered<T>::tempered;
  /// @name What every logits term has
  /// @{

  /// As the concept `LogitsTerm` says.
  static constexpr const char* name = "reverse_kl";

  template <class V>
  DISTIL_XLSTM_HD auto folds(V student, V teacher) const {
    return fold_list(fold<math::softmax_mean>(this->student_logit(student), this->gap(student, teacher)),
                     fold<math::log_sum_exp>(this->teacher_logit(teacher)));
  }
  DISTIL_XLSTM_HD T value(const target_logits<T>&, const math::softmax_mean<T>& s,
                          const math::log_sum_exp<T>& t) const {
    return t.value() - s.x.value() - s.mean();
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const target_logits<T>&, V student, V teacher, const math::softmax_mean<T>& s,
                         const math::log_sum_exp<T>&) const {
    return V(this->inverse) * s.x.probability(this->logit(student)) *
           (V(s.mean()) - this->gap(student, teacher).value);
  }
  /// @}
};

}  // namespace distil_xlstm::loss
