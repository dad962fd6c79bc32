#pragma once

#include <distil_xlstm/loss/term.hpp>

namespace distil_xlstm::loss {

namespace detail {
/// sum of squares of student - target.
template <class V>
struct squares {
  V sum;
};
template <class T>
struct squared_difference {
  using site = hidden_site;
  using scalar = T;
  template <class V>
  using acc = squares<V>;
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {V(0)};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, V student, V target) const {
    const V d = student - target;
    a.sum = a.sum + d * d;
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const { into.sum += from.sum; }
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
  static constexpr const char* name = "frobenius";
  loss::scope groups = loss::scope::batch;
  constexpr explicit frobenius_term(loss::scope s = loss::scope::batch) : groups(s) {}

  template <class V>
  using acc = detail::squares<V>;
  DISTIL_XLSTM_HD loss::scope scope() const { return groups; }
  DISTIL_XLSTM_HD T value(const acc<T>& a, const hidden_counts<T>& n) const {
    using std::sqrt;
    return sqrt(a.sum) / (n.groups(groups) * sqrt(n.numbers));
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const acc<T>& a, const hidden_counts<T>& n, V student, V target) const {
    using std::sqrt;
    const T norm = sqrt(a.sum) * n.groups(groups) * sqrt(n.numbers);
    return (student - target) * V(norm > T(0) ? T(1) / norm : T(0) * norm);
  }
};

}  // namespace distil_xlstm::loss
