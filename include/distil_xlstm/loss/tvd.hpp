#pragma once

#include <distil_xlstm/loss/divergence.hpp>

namespace distil_xlstm::loss {

namespace detail {
struct tvd_form {
  static constexpr const char* name = "tvd";
  template <class V>
  static DISTIL_XLSTM_HD V value(V, V p, V q, V) {
    using std::abs;
    return V(0.5) * abs(p - q);
  }
  template <class V>
  static DISTIL_XLSTM_HD V slope(V, V p, V q, V) {
    using math::select_positive;
    return select_positive(q - p, V(0.5), select_positive(p - q, V(-0.5), V(0)));
  }
};
}  // namespace detail

/// T² times the total variation distance, sum |p - q| / 2, p and q as in divergence_term; where p = q its slope
/// counts as 0.
template <class T>
using tvd_term = divergence_term<T, detail::tvd_form>;

}  // namespace distil_xlstm::loss
