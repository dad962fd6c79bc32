#pragma once

#include <distil_xlstm/loss/frobenius.hpp>

namespace distil_xlstm::loss {

/// mean over all numbers of all pairs of (student - target)².
template <class T>
struct mse_term : detail::squared_difference<T> {
  using typename detail::squared_difference<T>::sum;
  /// @name What every hidden term has
  /// @{

  /// As the concept `HiddenTerm` says.
  static constexpr const char* name = "mse";

  static constexpr DISTIL_XLSTM_HD loss::scope scope() { return loss::scope::batch; }
  DISTIL_XLSTM_HD T value(const hidden_counts<T>& n, const sum& squares) const {
    return squares.total / n.numbers;
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const hidden_counts<T>& n, V student, V target, const sum&) const {
    return (student - target) * V(T(2) / n.numbers);
  }
  /// @}
};

}  // namespace distil_xlstm::loss
