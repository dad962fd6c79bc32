#pragma once

#include <cstdint>

#include <distil_xlstm/block/block.hpp>

namespace distil_xlstm {

namespace detail {
template <class T>
struct gather_rows {
  frozen_matrix table;
  const std::int32_t* ids;
  matrix_view<T> x;
  void operator()(index r) const { unpack(table.dtype, table.row(ids[r]), table.cols, x.row(r)); }
};
/// A strip of the table's columns, row after row.
template <class T>
struct scatter_rows {
  index strip;
  const std::int32_t* ids;
  matrix_view<const T> dx;
  matrix_view<T> dtable;
  DISTIL_XLSTM_HD void operator()(index part) const {
    const index first = part * strip, last = first + strip < dx.cols ? first + strip : dx.cols;
    for (index r = 0; r < dx.rows; ++r) {
      const T* from = dx.row(r);
      T* to = dtable.row(ids[r]);
      for (index c = first; c < last; ++c) to[c] += from[c];
    }
  }
};
}  // namespace detail

/// x[r] = table[ids[r]], widened from however the table is stored. Ids must lie in the table; they are read in
/// the device's memory.
template <class D, class T>
void embed(D& d, frozen_matrix table, const std::int32_t* ids, matrix_view<T> x) {
  parallel_for(d, x.rows, detail::gather_rows<T>{table, ids, x});
}

/// The same of a table that is trained.
template <class D, class T>
void embed(D& d, matrix_view<T> table, const std::int32_t* ids, matrix_view<T> x) {
  embed(d, frozen_matrix{table.data, dtype_of<T>, table.rows, table.cols}, ids, x);
}
/// Its gradient: dtable[ids[r]] += dx[r], in the order of the rows, so that the sums are the same every time.
template <class D, class T>
void embed_backward(D& d, const std::int32_t* ids, const_view<T> dx, matrix_view<T> dtable) {
  constexpr index strip = D::host_memory ? 16 : 1;  // a line of the cache, or neighbouring threads
  parallel_for(d, (dx.cols + strip - 1) / strip, detail::scatter_rows<T>{strip, ids, dx, dtable});
}

}  // namespace distil_xlstm
