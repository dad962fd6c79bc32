#pragma once

#include <distil_xlstm/loss/divergence.hpp>

namespace distil_xlstm::loss {

namespace detail {
struct jsd_form {
  static constexpr const char* name = "jsd";
  template <class V>
  static DISTIL_XLSTM_HD V value(V x, V p, V q, V m) {
    return x * p * log_ratio(p, m) + (V(1) - x) * q * log_ratio(q, m);
  }
  template <class V>
  static DISTIL_XLSTM_HD V slope(V x, V, V q, V m) {
    return (V(1) - x) * log_ratio(q, m);
  }
};
}  // namespace detail

/// T² times the generalised Jensen-Shannon divergence, beta KL(p || m) + (1 - beta) KL(q || m) with the mixture
/// m = beta p + (1 - beta) q, 0 < beta < 1 (GKD, arXiv 2306.13649); p and q as in divergence_term, beta is its x.
template <class T>
using jsd_term = divergence_term<T, detail::jsd_form>;

}  // namespace distil_xlstm::loss
