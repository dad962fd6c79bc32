#pragma once

#include <cstddef>

#include <distil_xlstm/loss/tempered.hpp>

namespace distil_xlstm::loss {

/// T² KL(softmax(t / T) || softmax(s / T)): forward, teacher || student, with Hinton's factor. Logged without
/// T².
template <class T>
struct kl_term : tempered<T> {
  using tempered<T>::tempered;
  /// @name What every logits term has
  /// @{

  /// As the concept `LogitsTerm` says.
  static constexpr const char* name = "kl";

  template <class V>
  DISTIL_XLSTM_HD auto folds(V student, V teacher) const {
    return fold_list(fold<math::log_sum_exp>(this->student_logit(student)),
                     fold<math::softmax_mean>(this->teacher_logit(teacher), this->gap(student, teacher)));
  }
  DISTIL_XLSTM_HD T value(const target_logits<T>&, const math::log_sum_exp<T>& s,
                          const math::softmax_mean<T>& t) const {
    return t.mean() - t.x.value() + s.value();
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const target_logits<T>&, V student, V teacher, const math::log_sum_exp<T>& s,
                         const math::softmax_mean<T>& t) const {
    return V(this->inverse) * (s.probability(this->logit(student)) - t.x.probability(this->logit(teacher)));
  }
  DISTIL_XLSTM_HD T softmax_factor(std::size_t fold) const {
    return fold == 0 ? this->inverse : -this->inverse;
  }
  /// @}
};

}  // namespace distil_xlstm::loss
