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

}  // namespace distil_xlstm::device::detail
