#pragma once

#include <cstdint>
#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>

// Numbers as memory holds them, bfloat16 for one, while kernels compute in float: 16 bytes at a time.
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

}  // namespace distil_xlstm::device::detail
