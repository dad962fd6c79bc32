#pragma once

#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// A row-major matrix somewhere: it never owns. Row r starts at data + r * stride.
template <class T>
struct matrix_view {
  T* data = nullptr;  ///< row 0, column 0; null: none
  /// @{ Sizes, and numbers from a row to the next: at least `cols`.
  index rows = 0, cols = 0, stride = 0;
  /// @}

  constexpr matrix_view() = default;
  /// @{ [r, c] at d, rows contiguous or s numbers apart.
  DISTIL_XLSTM_HD constexpr matrix_view(T* d, index r, index c) : data(d), rows(r), cols(c), stride(c) {}
  DISTIL_XLSTM_HD constexpr matrix_view(T* d, index r, index c, index s)
      : data(d), rows(r), cols(c), stride(s) {}
  /// @}
  /// A `matrix_view<T>` is a `matrix_view<const T>`.
  template <class U>
  requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
      DISTIL_XLSTM_HD constexpr matrix_view(matrix_view<U> m)
      : data(m.data), rows(m.rows), cols(m.cols), stride(m.stride) {}

  /// Where row r starts.
  DISTIL_XLSTM_HD constexpr T* row(index r) const { return data + r * stride; }
  /// Numbers of the matrix, without what lies between rows.
  DISTIL_XLSTM_HD constexpr index size() const { return rows * cols; }
  /// The columns first .. first + count - 1 of all rows, in place.
  DISTIL_XLSTM_HD constexpr matrix_view columns(index first, index count) const {
    return {data + first, rows, count, stride};
  }
  /// The rows first_row .. first_row + count - 1, in place.
  DISTIL_XLSTM_HD constexpr matrix_view slice(index first_row, index count) const {
    return {row(first_row), count, cols, stride};
  }
};

/// A parameter that is only read. T is another parameter's to say, so that a matrix_view<T> converts.
template <class T>
using const_view = std::type_identity_t<matrix_view<const T>>;

/// A frozen matrix, kept as its file stores it (rows x cols, rows contiguous); products unpack it as they go. No kernel
/// writes it: a GPU may read it while earlier ones still run.
struct frozen_matrix {
  const void* data = nullptr;              ///< of whoever made it, which must live as long; null: none
  distil_xlstm::dtype dtype = dtype::f32;  ///< how each number, or block of a row's numbers, is stored
  /// @{ Sizes; cols is a multiple of the block of `dtype`.
  index rows = 0, cols = 0;
  /// @}
  const void* bf16_copy = nullptr;  ///< the same in bfloat16, where a device has it beside; or null

  /// Where row r starts in `data`.
  const void* row(index r) const { return static_cast<const char*>(data) + r * row_bytes(dtype, cols); }
};

/// Marks an operand of `gemm` that is read transposed.
template <class M>
struct transposed_matrix {
  M matrix;  ///< as it lies
};
/// m, read as its transpose.
template <class M>
constexpr transposed_matrix<M> transposed(M m) {
  return {m};
}

/// One tensor of the recurrent state, for every sequence of a batch. It never owns.
template <class T>
struct batched_state {
  T* data = nullptr;  ///< sequence 0's part; null: none
  index stride = 0;   ///< in numbers of T, between sequences
  /// Where sequence b's part starts.
  DISTIL_XLSTM_HD constexpr T* of(index b) const { return data + b * stride; }
};

}  // namespace distil_xlstm
