#pragma once

#include <distil_xlstm/loss/term.hpp>
#include <distil_xlstm/math/log_sum_exp.hpp>

namespace distil_xlstm::loss {

/// T² KL(softmax(t / T) || softmax(s / T)): forward, teacher || student, with Hinton's factor. Logged without
/// T².
template <class T>
struct kl_term {
  using site = logits_site;
  using scalar = T;
  static constexpr const char* name = "kl";
  static constexpr bool uses_teacher = true;

  T temperature, inverse;
  constexpr explicit kl_term(T t = T(1)) : temperature(t), inverse(T(1) / t) {}

  template <class V>
  struct acc {
    math::log_sum_exp<V> student;
    math::softmax_mean<V> teacher;  ///< mean of t - s under the teacher
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {math::log_sum_exp<V>::empty(), math::softmax_mean<V>::empty()};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, V student, V teacher) const {
    const V s = math::clamp_min(student * V(inverse)), t = math::clamp_min(teacher * V(inverse));
    push(a.student, s);
    push(a.teacher, t, t - s);
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const {
    join(into.student, from.student);
    join(into.teacher, from.teacher);
  }

  DISTIL_XLSTM_HD T raw(const acc<T>& a, const target_logits<T>&) const {
    return a.teacher.mean() - a.teacher.x.value() + a.student.value();
  }
  DISTIL_XLSTM_HD T value(const acc<T>& a, const target_logits<T>& row) const {
    return temperature * temperature * raw(a, row);
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const acc<T>& a, const target_logits<T>&, V student, V teacher) const {
    return V(temperature) *
           (a.student.probability(student * V(inverse)) - a.teacher.x.probability(teacher * V(inverse)));
  }
  DISTIL_XLSTM_HD T target_grad(const acc<T>&, const target_logits<T>&) const { return T(0); }
};

}  // namespace distil_xlstm::loss
