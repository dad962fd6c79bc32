#pragma once

#include <cstddef>

#include <distil_xlstm/loss/tempered.hpp>

namespace distil_xlstm::loss {

/// -log softmax(s)[target], in nats.
template <class T>
struct cross_entropy_term : tempered<T> {
  /// @name What every logits term has
  /// @{

  /// As the concept `LogitsTerm` says.
  static constexpr const char* name = "ce";
  static constexpr bool uses_teacher = false;

  template <class V>
  DISTIL_XLSTM_HD auto folds(V student, V) const {
    return fold_list(  // of a factor that is known to be 1, so that none is left
        fold<math::log_sum_exp>(named_input<detail::student_logit, V>{math::clamp_min(student), T(1)}));
  }
  DISTIL_XLSTM_HD T value(const target_logits<T>& row, const math::log_sum_exp<T>& s) const {
    return s.value() - math::clamp_min(row.student);
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const target_logits<T>&, V student, V, const math::log_sum_exp<T>& s) const {
    return s.probability(math::clamp_min(student));
  }
  DISTIL_XLSTM_HD T softmax_factor(std::size_t) const { return T(1); }
  DISTIL_XLSTM_HD T target_grad(const target_logits<T>&, const math::log_sum_exp<T>&) const { return T(-1); }
  /// @}
};

}  // namespace distil_xlstm::loss
