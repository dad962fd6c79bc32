#pragma once

#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/device/cpu/gemm_operand.hpp>

/// The matrix product of one thread, of operands that may be stored in few bits.
namespace distil_xlstm::device::detail {

/// C[m x n] (rows ldc apart) = beta C + A[m x k] B[k x n] on the calling thread; beta 0 overwrites whatever C
/// held. An element's sum runs over k in an order that depends on k alone, so a caller may split m and n as it
/// likes, within either of two ways: up to 8 rows with A as it lies and B transposed are summed in vector
/// lanes, larger products in order of k within blocks of it.
template <class T>
void gemm_block(index m, index n, index k, gemm_operand a, gemm_operand b, T beta, T* c, index ldc,
                gemm_scratch<T>& scratch);

/// The same with the numbers of A and B rounded to bf16 (nearest even) and float sums.
void gemm_block_bf16(index m, index n, index k, gemm_operand a, gemm_operand b, float beta, float* c, index ldc,
                     gemm_scratch<float>& scratch);

/// Up to `direct_rows` rows of A as they lie, made ready once for all parts of a product with a transposed B;
/// `gemm_block` of such rows does the same in every part.
template <class T>
struct gemm_rows {
  index m, k;
  dtype a, b;             ///< as which the operands are stored
  bool to_bf16;           ///< rounded to bf16, as `gemm_block_bf16` does
  void* ready = nullptr;  ///< what `prepare` made of A

  /// Memory that `prepare` needs.
  index bytes() const;
  /// Refers to `memory`, not to A.
  void prepare(gemm_operand rows, void* memory);
  /// C[m x n] = beta C + A B
  void multiply(index n, gemm_operand columns, T beta, T* c, index ldc, gemm_scratch<T>& scratch) const;
};

}  // namespace distil_xlstm::device::detail

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/device/cpu/gemm.ipp>
#endif
