#pragma once

#include <distil_xlstm/loss/term.hpp>
#include <distil_xlstm/math/log_sum_exp.hpp>

namespace distil_xlstm::loss {

/// T² KL(softmax(s / T) || softmax(t / T)): student || teacher, mode-seeking. Logged without T².
template <class T>
struct reverse_kl_term {
  using site = logits_site;
  using scalar = T;
  static constexpr const char* name = "reverse_kl";
  static constexpr bool uses_teacher = true;

  T temperature, inverse;
  constexpr explicit reverse_kl_term(T t = T(1)) : temperature(t), inverse(T(1) / t) {}

  template <class V>
  struct acc {
    math::softmax_mean<V> student;  ///< mean of s - t under the student
    math::log_sum_exp<V> teacher;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {math::softmax_mean<V>::empty(), math::log_sum_exp<V>::empty()};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, V student, V teacher) const {
    const V s = math::clamp_min(student * V(inverse)), t = math::clamp_min(teacher * V(inverse));
    push(a.student, s, s - t);
    push(a.teacher, t);
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const {
    join(into.student, from.student);
    join(into.teacher, from.teacher);
  }

  DISTIL_XLSTM_HD T raw(const acc<T>& a, const target_logits<T>&) const {
    return a.student.mean() - a.student.x.value() + a.teacher.value();
  }
  DISTIL_XLSTM_HD T value(const acc<T>& a, const target_logits<T>& row) const {
    return temperature * temperature * raw(a, row);
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const acc<T>& a, const target_logits<T>&, V student, V teacher) const {
    const V s = math::clamp_min(student * V(inverse)), t = math::clamp_min(teacher * V(inverse));
    return V(temperature) * a.student.x.probability(s) * ((s - t) - V(a.student.mean()));
  }
  DISTIL_XLSTM_HD T target_grad(const acc<T>&, const target_logits<T>&) const { return T(0); }
};

}  // namespace distil_xlstm::loss
