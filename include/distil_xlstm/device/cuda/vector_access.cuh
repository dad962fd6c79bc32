#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/cuda/tensor_core.cuh>

// Memory 16 bytes at a time: four floats, or eight bfloat16, in one access.
namespace distil_xlstm::device::detail {

DISTIL_XLSTM_HD inline bool is_aligned(const void* p, int bytes = 16) {
  return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
}
/// Whether rows of `width` elements, `stride` apart, can be read 16 bytes at a time.
template <class T>
DISTIL_XLSTM_HD bool is_vectorised(const T* p, index stride = 0, index width = 0) {
  constexpr index each = 16 / static_cast<index>(sizeof(T));
  return width % each == 0 && stride % each == 0 && is_aligned(p);
}
/// `width`: of the parts of a row, where each part shall begin at 16 bytes.
template <class T>
DISTIL_XLSTM_HD bool is_vectorised(matrix_view<T> m, index width = 0) {
  return is_vectorised(m.data, m.stride, width);
}

__device__ inline float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ inline float4 load4(const bf16* p) {
  const uint2 x = *reinterpret_cast<const uint2*>(p);
  return {bf16_low(x.x), bf16_high(x.x), bf16_low(x.y), bf16_high(x.y)};
}
/// Of memory that nothing writes while the kernel runs.
__device__ inline float4 load4_readonly(const float* p) { return __ldg(reinterpret_cast<const float4*>(p)); }
/// For the last time in a while.
__device__ inline float4 load4_last(const float* p) { return __ldcs(reinterpret_cast<const float4*>(p)); }
__device__ inline void store4(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }
__device__ inline void store4(bf16* p, float4 x) {
  *reinterpret_cast<uint2*>(p) = {pack_bf16(x.x, x.y), pack_bf16(x.z, x.w)};
}
/// To global memory. In assembly: of an assignment the compiler makes four accesses at times.
__device__ inline void store4_global(float* p, float4 x) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(p)), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w)
               : "memory");
}
__device__ inline void store4_global(bf16* p, float4 x) { store4(p, x); }
/// Four of a row of n from column c on, zeros from column n on.
template <class T>
__device__ float4 load4(const T* row, int c, int n, bool vectorised) {
  if (vectorised) return c < n ? load4(row + c) : float4{0, 0, 0, 0};
  return {c < n ? row[c] : 0.f, c + 1 < n ? row[c + 1] : 0.f, c + 2 < n ? row[c + 2] : 0.f,
          c + 3 < n ? row[c + 3] : 0.f};
}
template <class T>
__device__ void store4(T* row, int c, int n, bool vectorised, float4 x) {
  if (vectorised) {
    if (c < n) store4(row + c, x);
    return;
  }
  if (c < n) row[c] = T(x.x);
  if (c + 1 < n) row[c + 1] = T(x.y);
  if (c + 2 < n) row[c + 2] = T(x.z);
  if (c + 3 < n) row[c + 3] = T(x.w);
}
__device__ inline float2 load2(const float* p) { return *reinterpret_cast<const float2*>(p); }
__device__ inline float2 load2(const bf16* p) {
  return unpack_bf16(*reinterpret_cast<const std::uint32_t*>(p));
}

/// s + a b
__device__ inline float4 add_product(float4 s, float4 a, float4 b) {
  return {fmaf(a.x, b.x, s.x), fmaf(a.y, b.y, s.y), fmaf(a.z, b.z, s.z), fmaf(a.w, b.w, s.w)};
}
__device__ inline float4 add_product(float4 s, float a, float4 b) { return add_product(s, {a, a, a, a}, b); }
__device__ inline float4 add(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
/// s + a . b
__device__ inline float add_dot(float s, float4 a, float4 b) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, s))));
}
__device__ inline float dot(float4 a, float4 b) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, a.x * b.x)));
}

/// A pointer that the compiler takes as it is: else it may keep one in registers for every access of a loop, or find it
/// anew from what it was made of.
template <class P>
__device__ inline void hold(P*& p) {
  asm volatile("" : "+l"(p));
}
/// The same of one that points to global memory, which the compiler then still knows.
template <class P>
__device__ inline void hold_global(P*& p) {
  hold(p);
  __builtin_assume(__isGlobal(p));
}
/// The same of a number, for instance an address within shared memory.
__device__ inline void hold(std::uint32_t& x) { asm volatile("" : "+r"(x)); }
/// @{ Shared memory at an address of `shared_address`.
__device__ inline float load_shared(std::uint32_t from) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(from) : "memory");
  return x;
}
__device__ inline void store_shared(std::uint32_t to, std::uint32_t x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
}
/// @}
/// N elements of type S, which one access writes.
template <class S, int N>
struct alignas(N * sizeof(S)) stored {
  S s[N];
};
/// 16 bytes of elements that are stored as S's.
template <class S>
struct read_pack {
  uint4 words;
  explicit read_pack() = default;
  __device__ explicit read_pack(uint4 x) : words(x) {}
  __device__ static read_pack first(const S* p) { return read_pack(*reinterpret_cast<const uint4*>(p)); }
  /// For the last time.
  __device__ static read_pack last(const S* p) { return read_pack(__ldcs(reinterpret_cast<const uint4*>(p))); }
  /// One element, and zeros.
  __device__ static read_pack alone(S x) {
    read_pack pack(uint4{0, 0, 0, 0});
    memcpy(&pack.words, &x, sizeof x);
    return pack;
  }
  /// Element i, where the compiler knows i.
  template <class T>
  __device__ T at(int i) const {
    const unsigned w[4] = {words.x, words.y, words.z, words.w};
    if constexpr (std::is_same_v<S, bf16>)
      return i % 2 ? bf16_high(w[i / 2]) : bf16_low(w[i / 2]);
    else if constexpr (std::is_same_v<S, float>)
      return __uint_as_float(w[i]);
    else
      return __hiloint2double(static_cast<int>(w[2 * i + 1]), static_cast<int>(w[2 * i]));
  }
};
/// @{ Eight neighbours, of which the first is at 16 bytes.
template <class S>
__device__ void load_eight(float (&x)[8], const S* p) {
  constexpr int each = 16 / static_cast<int>(sizeof(S));
#pragma unroll
  for (int first = 0; first < 8; first += each) {
    const auto pack = read_pack<S>::first(p + first);
#pragma unroll
    for (int j = 0; j < each; ++j) x[first + j] = pack.template at<float>(j);
  }
}
__device__ inline void store_eight(float* to, const float (&x)[8]) {
  store4(to, {x[0], x[1], x[2], x[3]});
  store4(to + 4, {x[4], x[5], x[6], x[7]});
}
__device__ inline void store_eight(bf16* to, const float (&x)[8]) {
  *reinterpret_cast<uint4*>(to) =
      uint4{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
}
/// To global memory; in assembly, as store4_global.
__device__ inline void store_eight_global(bf16* to, const float (&x)[8]) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(pack_bf16(x[0], x[1])), "r"(pack_bf16(x[2], x[3])),
                 "r"(pack_bf16(x[4], x[5])), "r"(pack_bf16(x[6], x[7]))
               : "memory");
}
/// @}
template <class T, class S>
__device__ T widen(S x) {
  return static_cast<T>(x);
}
/// Two elements, rounded to the type that they are stored in.
template <class S, class T>
__device__ void narrow(T a, T b, S* out) {
  if constexpr (std::is_same_v<S, bf16>) {
    const std::uint32_t both = pack_bf16(a, b);
    out[0].bits = static_cast<std::uint16_t>(both), out[1].bits = static_cast<std::uint16_t>(both >> 16);
  } else {
    out[0] = a, out[1] = b;
  }
}

}  // namespace distil_xlstm::device::detail
