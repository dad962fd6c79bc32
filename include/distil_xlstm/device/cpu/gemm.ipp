#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/device/cpu/gemm.hpp>
#include <distil_xlstm/device/cpu/gemm_targets.hpp>

namespace distil_xlstm::device::detail {

template <class T>
void gemm_block(index m, index n, index k, gemm_operand a, gemm_operand b, T beta, T* c, index ldc,
                gemm_scratch<T>& scratch) {
  gemm_block_on(native_target<T>(), m, n, k, a, b, beta, c, ldc, scratch);
}

DISTIL_XLSTM_INLINE void gemm_block_bf16(index m, index n, index k, gemm_operand a, gemm_operand b, float beta,
                                         float* c, index ldc, gemm_scratch<float>& scratch) {
  gemm_block_on(native_bf16_target(), m, n, k, a, b, beta, c, ldc, scratch);
}

template <class T>
const gemm_target<T>& native_target(bool to_bf16) {
  if constexpr (sizeof(T) == 4)
    if (to_bf16) return native_bf16_target();
  return native_target<T>();
}
template <class T>
index gemm_rows<T>::bytes() const {
  return ready_count(m) * ready_row_bytes(native_target<T>(to_bf16), k, a, b);
}
template <class T>
void gemm_rows<T>::prepare(gemm_operand rows, void* memory) {
  prepare_rows(native_target<T>(to_bf16), m, k, rows, b, memory);
  ready = memory;
}
template <class T>
void gemm_rows<T>::multiply(index n, gemm_operand columns, T beta, T* c, index ldc,
                            gemm_scratch<T>& scratch) const {
  multiply_rows(native_target<T>(to_bf16), m, n, k, ready, a, columns, beta, c, ldc, scratch);
}

}  // namespace distil_xlstm::device::detail
