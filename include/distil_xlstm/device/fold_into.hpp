#pragma once

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm {

/// The base of a functor of `fold_rows` or `fold_columns` that folds into an accumulator of math/, such as `math::sum`
/// or `math::log_sum_exp`: it has their beginning and their merge. `visit` and `finish` are the functor's own:
///
///     struct row_sums : fold_into<math::sum, T> {
///       matrix_view<const T> x;
///       T* sums;
///       template <class V>
///       DISTIL_XLSTM_HD void visit(math::sum<V>& a, index r, index c) const {
///         push(a, math::load<V>(x.row(r) + c));
///       }
///       DISTIL_XLSTM_HD void finish(index r, const math::sum<T>& a) const { sums[r] = a.total; }
///     };
///     fold_rows(d, x.rows, x.cols, row_sums{{}, x, sums});
template <template <class> class Accumulator, class T>
struct fold_into {
  using scalar = T;  ///< the number type, so that a verb knows the width of a pack
  /// Of V, a scalar or a pack of columns.
  template <class V>
  using acc = Accumulator<V>;
  /// An accumulator of nothing.
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return acc<V>::empty();
  }
  /// into <- into and from
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const { join(into, from); }
};

}  // namespace distil_xlstm
