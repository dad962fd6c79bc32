#pragma once

#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

/// The sum of squares: a whole term, but for the member that a test leaves out by a macro.
template <class T = double, class Site = dx::loss::logits_site>
struct squares {
  using scalar = T;
  using sum = dx::math::sum<T>;
#if !defined(WITHOUT_SITE)
  using site = Site;
#endif
#if !defined(WITHOUT_NAME)
  static constexpr const char* name = "squares";
#endif
#if !defined(WITHOUT_USES_TEACHER)
  static constexpr bool uses_teacher = false;
#endif
#if !defined(WITHOUT_SCOPE)
  dx::loss::scope scope() const { return dx::loss::scope::batch; }
#endif
  template <class V>
  auto folds(V student, V) const {
    return dx::loss::fold_list(dx::loss::fold<dx::math::sum>(student * student));
  }
#if !defined(WITHOUT_VALUE)
  T value(const auto&, const sum& s) const { return s.total; }
#endif
  template <class V>
  V grad(const auto&, V student, V, const sum&) const {
    return student + student;
  }
#if !defined(WITHOUT_TARGET_GRAD)
  T target_grad(const auto&, const sum&) const { return 0; }
#endif
};
using hidden_squares = squares<double, dx::loss::hidden_site>;
