#pragma once

#include <distil_xlstm/loss/divergence.hpp>

namespace distil_xlstm::loss {

namespace detail {
struct skew_kl_form {
  static constexpr const char* name = "skew_kl";
  template <class V>
  static DISTIL_XLSTM_HD V value(V, V p, V, V m) {
    return p * log_ratio(p, m);
  }
  template <class V>
  static DISTIL_XLSTM_HD V slope(V x, V p, V, V m) {
    return (x - V(1)) * ratio(p, m);
  }
};
struct skew_reverse_kl_form {
  static constexpr const char* name = "skew_reverse_kl";
  template <class V>
  static DISTIL_XLSTM_HD V value(V, V, V q, V m) {
    return q * log_ratio(q, m);
  }
  template <class V>
  static DISTIL_XLSTM_HD V slope(V x, V p, V q, V m) {
    return log_ratio(q, m) + x * ratio(p, m);
  }
};
}  // namespace detail

/// T² KL(p || a p + (1 - a) q), 0 < a < 1 (DistiLLM, arXiv 2402.03898); p and q as in divergence_term, a is its x.
template <class T>
using skew_kl_term = divergence_term<T, detail::skew_kl_form>;
/// T² KL(q || (1 - a) q + a p), 0 < a < 1 (DistiLLM, arXiv 2402.03898); p and q as in divergence_term, a is its x.
template <class T>
using skew_reverse_kl_term = divergence_term<T, detail::skew_reverse_kl_form>;

}  // namespace distil_xlstm::loss
