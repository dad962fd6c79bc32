#pragma once

#include <cstdint>

// The tensor cores: pairs of bfloat16, 8 x 8 matrices from shared memory, products m16n8k16.
namespace distil_xlstm::device::detail {

/// Two numbers in bfloat16, the first in the low half.
__device__ inline std::uint32_t pack_bf16(float first, float second) {
  std::uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}
__device__ inline float bf16_low(std::uint32_t both) { return __uint_as_float(both << 16); }
__device__ inline float bf16_high(std::uint32_t both) { return __uint_as_float(both & 0xffff0000u); }
__device__ inline float2 unpack_bf16(std::uint32_t both) { return {bf16_low(both), bf16_high(both)}; }

__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// ldmatrix: four 8 x 8 matrices of 16-bit elements: lane 8 i + k gives the address of row k of matrix i.
template <bool Transpose>
__device__ void load_matrices(std::uint32_t (&x)[4], std::uint32_t row) {
  if constexpr (Transpose)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(row)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(row)
                 : "memory");
}

/// mma: c[16, 8] += a[16, 16] b[16, 8]. Lane l holds c's rows l / 4 (elements 0, 1) and l / 4 + 8 (2, 3) at columns 2
/// (l % 4) and one more; a's rows likewise, k from 2 (l % 4) on (0, 1) and 8 further (2, 3).
__device__ inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Over the four lanes that share a row of c.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  x += __shfl_xor_sync(~0u, x, 2);
  return x;
}
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

}  // namespace distil_xlstm::device::detail
