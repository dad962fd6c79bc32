#pragma once

#include <distil_xlstm/loss/term.hpp>

namespace distil_xlstm::loss {

namespace detail {
/// Terms of the sum of (student - target)², which they have in common.
template <class T>
struct squared_difference {
  using site = hidden_site;
  using scalar = T;
  using sum = math::sum<T>;

  template <class V>
  DISTIL_XLSTM_HD auto folds(V student, V target) const {
    const V d = student - target;
    return fold_list(fold<math::sum>(named_input<squared_difference, V>{d * d, T(0)}));
  }
};
}  // namespace detail

/// mean over groups of ||student - target||_F, / sqrt(numbers in all pairs). The gradient is 0 where the norm
/// is.
///
/// One pair, scope batch: `average`, the root mean square of the difference. One pair a block, scope batch:
/// `ratio`. One pair a layer, scope sequence: `block_wise`. One pair, scope sequence: the paper's mean_b
/// ||.||_F / sqrt(BSD).
template <class T>
struct frobenius_term : detail::squared_difference<T> {
  using typename detail::squared_difference<T>::sum;
  static constexpr const char* name = "frobenius";  ///< as the concept `HiddenTerm` says
  loss::scope groups = loss::scope::batch;          ///< what scope() returns
  /// Over groups of a scope.
  constexpr explicit frobenius_term(loss::scope s = loss::scope::batch) : groups(s) {}

  /// @name What every hidden term has
  /// @{

  /// As the concept `HiddenTerm` says.
  DISTIL_XLSTM_HD loss::scope scope() const { return groups; }
  DISTIL_XLSTM_HD T value(const hidden_counts<T>& n, const sum& squares) const {
    using std::sqrt;
    return sqrt(squares.total) / (n.groups(groups) * sqrt(n.numbers));
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const hidden_counts<T>& n, V student, V target, const sum& squares) const {
    using std::sqrt;
    const T norm = sqrt(squares.total) * n.groups(groups) * sqrt(n.numbers);
    return (student - target) * V(norm > T(0) ? T(1) / norm : T(0) * norm);
  }
  /// @}
};

}  // namespace distil_xlstm::loss
