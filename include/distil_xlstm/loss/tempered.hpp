#pragma once

#include <distil_xlstm/loss/term.hpp>

namespace distil_xlstm::loss {

namespace detail {
struct student_logit;
struct teacher_logit;
struct student_below_teacher;
}  // namespace detail

/// What terms at a temperature share: both sides' logits, divided by it, and Hinton's factor T², which keeps
/// gradients of one size (arXiv 1503.02531) and is not in what is logged.
template <class T>
struct tempered {
  /// @{
  /// As the concept `LogitsTerm` says.
  using site = logits_site;
  using scalar = T;
  static constexpr bool uses_teacher = true;
  /// @}

  /// @{
  /// T and 1 / T.
  T temperature = 1, inverse = 1;
  /// @}
  constexpr tempered() = default;
  /// At temperature t > 0.
  constexpr explicit tempered(T t) : temperature(t), inverse(T(1) / t) {}

  /// T².
  DISTIL_XLSTM_HD T scale() const { return temperature * temperature; }
  /// x / T, math::logit_floor at least.
  template <class V>
  DISTIL_XLSTM_HD V logit(V x) const {
    return math::clamp_min(x * V(inverse));
  }
  /// @{
  /// The same as an input of folds: terms of one temperature have them in common.
  template <class V>
  DISTIL_XLSTM_HD auto student_logit(V student) const {
    return named_input<detail::student_logit, V>{logit(student), inverse};
  }
  template <class V>
  DISTIL_XLSTM_HD auto teacher_logit(V teacher) const {
    return named_input<detail::teacher_logit, V>{logit(teacher), inverse};
  }
  /// @}
  /// (teacher - student) / T, as an input of folds.
  template <class V>
  DISTIL_XLSTM_HD auto gap(V student, V teacher) const {
    return named_input<detail::student_below_teacher, V>{logit(teacher) - logit(student), inverse};
  }
  /// 0: a target is a column like any other.
  template <class... R>
  DISTIL_XLSTM_HD T target_grad(const target_logits<T>&, const R&...) const {
    return T(0);
  }
};

}  // namespace distil_xlstm::loss
