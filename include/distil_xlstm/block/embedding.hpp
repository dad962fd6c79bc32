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
}  // namespace detail

/// x[r] = table[ids[r]], widened from however the table is stored. Ids must lie in the table; they are read in
/// the device's memory.
template <class D, class T>
void embed(D& d, frozen_matrix table, const std::int32_t* ids, matrix_view<T> x) {
  parallel_for(d, x.rows, detail::gather_rows<T>{table, ids, x});
}

}  // namespace distil_xlstm
