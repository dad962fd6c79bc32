#pragma once

#include <cstdint>
#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>

// Numbers as memory holds them, bfloat16 for one, while kernels compute in float: 16 bytes at a time, and
// products of them.
namespace distil_xlstm::device::detail {

/// N numbers as they are stored, which one access writes.
template <class S, int N>
struct alignas(N * sizeof(S)) stored {
  S s[N];
};
/// 16 bytes of numbers that are stored as S's.
template <class S>
struct read_pack {
  uint4 words;
  explicit read_pack() = default;
  __device__ static read_pack first(const S* p) { return read_pack(*reinterpret_cast<const uint4*>(p)); }
  /// For the last time.
  __device__ static read_pack last(const S* p) { return read_pack(__ldcs(reinterpret_cast<const uint4*>(p))); }
  /// Number i, where the compiler knows i.
  template <class T>
  __device__ T at(int i) const {
    const unsigned w[4] = {words.x, words.y, words.z, words.w};
    if constexpr (std::is_same_v<S, bf16>)
      return __uint_as_float(i % 2 ? w[i / 2] & 0xffff0000u : w[i / 2] << 16);
    else if constexpr (std::is_same_v<S, float>)
      return __uint_as_float(w[i]);
    else
      return __hiloint2double(static_cast<int>(w[2 * i + 1]), static_cast<int>(w[2 * i]));
  }

 private:
  __device__ explicit read_pack(uint4 x) : words(x) {}
};
template <class T, class S>
__device__ T widen(S x) {
  return static_cast<T>(x);
}
/// Two numbers, rounded to the type that they are stored in.
template <class S, class T>
__device__ void narrow(T a, T b, S* out) {
  if constexpr (std::is_same_v<S, bf16>) {
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(b), "f"(a));
    out[0].bits = static_cast<std::uint16_t>(both), out[1].bits = static_cast<std::uint16_t>(both >> 16);
  } else {
    out[0] = a, out[1] = b;
  }
}

template <class S>
constexpr cudaDataType stored_type() {
  return std::is_same_v<S, double> ? CUDA_R_64F : std::is_same_v<S, float> ? CUDA_R_32F : CUDA_R_16BF;
}
/// c [m, n] = beta c + a [m, k] b, or a bT, in the types that they are stored in; sums in float, of doubles in
/// double.
template <class P, class C>
void stored_product(cuda_base& device, index m, index n, index k, const P* a, index stride_a, const P* b,
                    index stride_b, bool transpose_b, C* c, index stride_c, int beta = 0) {
  using S = std::conditional_t<std::is_same_v<P, double>, double, float>;
  const S one = 1, keep = static_cast<S>(beta);
  check(cublasGemmEx(device.products(), transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N,
                     static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), &one, b, stored_type<P>(),
                     static_cast<int>(stride_b), a, stored_type<P>(), static_cast<int>(stride_a), &keep, c,
                     stored_type<C>(), static_cast<int>(stride_c),
                     std::is_same_v<S, double> ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "a matrix product");
}

}  // namespace distil_xlstm::device::detail
