#pragma once

#include <distil_xlstm/loss/term.hpp>
#include <distil_xlstm/math/log_sum_exp.hpp>

namespace distil_xlstm::loss {

/// -log softmax(s)[target], in nats.
template <class T>
struct cross_entropy_term {
  using site = logits_site;
  using scalar = T;
  static constexpr const char* name = "ce";
  static constexpr bool uses_teacher = false;

  template <class V>
  struct acc {
    math::log_sum_exp<V> student;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {math::log_sum_exp<V>::empty()};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, V student, V) const {
    push(a.student, math::clamp_min(student));
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const { join(into.student, from.student); }

  DISTIL_XLSTM_HD T value(const acc<T>& a, const target_logits<T>& row) const {
    return a.student.value() - math::clamp_min(row.student);
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const acc<T>& a, const target_logits<T>&, V student, V) const {
    return a.student.probability(student);
  }
  DISTIL_XLSTM_HD T target_grad(const acc<T>&, const target_logits<T>&) const { return T(-1); }
};

}  // namespace distil_xlstm::loss
