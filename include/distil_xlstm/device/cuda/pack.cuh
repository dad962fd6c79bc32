#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/cuda/tensor_core.cuh>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {
namespace device {

/// A CUDA thread's numeric type where it works on several columns: 16 bytes of T. Where an address allows it,
/// the numbers are read and written in one access.
template <class T>
struct cuda_pack {
  static constexpr index width = 16 / static_cast<index>(sizeof(T));  ///< lanes
  T v[width];                                                         ///< the lanes

  cuda_pack() = default;
  /// @{ The number in every lane.
  DISTIL_XLSTM_HD explicit cuda_pack(T x) {
    for (T& lane : v) lane = x;
  }
  template <class U>
  requires std::is_arithmetic_v<U> DISTIL_XLSTM_HD explicit cuda_pack(U x) : cuda_pack(static_cast<T>(x)) {}
  /// @}

  /// `width` consecutive numbers, of any alignment.
  static DISTIL_XLSTM_HD cuda_pack load(const T* p) {
    cuda_pack r;
    if (aligned(p))
      read_words(r.v, p);
    else
      for (index i = 0; i < width; ++i) r.v[i] = p[i];
    return r;
  }
  /// Writes `width` consecutive numbers, of any alignment.
  DISTIL_XLSTM_HD void store(T* p) const {
    if (aligned(p))
      write_words(p, v);
    else
      for (index i = 0; i < width; ++i) p[i] = v[i];
  }
  /// @{ Floats that are stored in bfloat16, likewise.
  static DISTIL_XLSTM_HD cuda_pack load(const bf16* p) requires std::is_same_v<T, float> {
    cuda_pack r;
    bf16 narrow[width];
    if (aligned(p, sizeof narrow))
      read_words(narrow, p);
    else
      for (index i = 0; i < width; ++i) narrow[i] = p[i];
    for (index i = 0; i < width; ++i) r.v[i] = narrow[i];
    return r;
  }
  DISTIL_XLSTM_HD void store(bf16* p) const requires std::is_same_v<T, float> {
    if (aligned(p, width * sizeof(bf16)))
      write_words(p, v);
    else
      for (index i = 0; i < width; ++i) p[i] = bf16(v[i]);
  }
  /// @}

  /// @name What a numeric type has
  /// @{

  /// Lane by lane, as math/numeric.hpp says.
  friend DISTIL_XLSTM_HD cuda_pack operator+(const cuda_pack& a, const cuda_pack& b) {
    return each(a, b, [](T x, T y) { return x + y; });
  }
  friend DISTIL_XLSTM_HD cuda_pack operator-(const cuda_pack& a, const cuda_pack& b) {
    return each(a, b, [](T x, T y) { return x - y; });
  }
  friend DISTIL_XLSTM_HD cuda_pack operator*(const cuda_pack& a, const cuda_pack& b) {
    return each(a, b, [](T x, T y) { return x * y; });
  }
  friend DISTIL_XLSTM_HD cuda_pack operator/(const cuda_pack& a, const cuda_pack& b) {
    return each(a, b, [](T x, T y) { return x / y; });
  }
  friend DISTIL_XLSTM_HD cuda_pack operator-(const cuda_pack& a) {
    return each(a, [](T x) { return -x; });
  }
  DISTIL_XLSTM_HD cuda_pack& operator+=(const cuda_pack& b) { return *this = *this + b; }
  DISTIL_XLSTM_HD cuda_pack& operator*=(const cuda_pack& b) { return *this = *this * b; }

  friend DISTIL_XLSTM_HD cuda_pack exp(const cuda_pack& a) {
    return each(a, [](T x) { return std::exp(x); });
  }
  friend DISTIL_XLSTM_HD cuda_pack log(const cuda_pack& a) {
    return each(a, [](T x) { return std::log(x); });
  }
  friend DISTIL_XLSTM_HD cuda_pack log1p(const cuda_pack& a) {
    return each(a, [](T x) { return std::log1p(x); });
  }
  friend DISTIL_XLSTM_HD cuda_pack tanh(const cuda_pack& a) {
    return each(a, [](T x) { return std::tanh(x); });
  }
  friend DISTIL_XLSTM_HD cuda_pack sqrt(const cuda_pack& a) {
    return each(a, [](T x) { return std::sqrt(x); });
  }
  friend DISTIL_XLSTM_HD cuda_pack erf(const cuda_pack& a) {
    return each(a, [](T x) { return std::erf(x); });
  }
  friend DISTIL_XLSTM_HD cuda_pack abs(const cuda_pack& a) {
    return each(a, [](T x) { return std::abs(x); });
  }
  friend DISTIL_XLSTM_HD cuda_pack max(const cuda_pack& a, const cuda_pack& b) {
    return each(a, b, [](T x, T y) { return math::max(x, y); });
  }
  friend DISTIL_XLSTM_HD cuda_pack min(const cuda_pack& a, const cuda_pack& b) {
    return each(a, b, [](T x, T y) { return math::min(x, y); });
  }
  friend DISTIL_XLSTM_HD cuda_pack select_positive(const cuda_pack& x, const cuda_pack& a, const cuda_pack& b) {
    cuda_pack r;
    for (index i = 0; i < width; ++i) r.v[i] = math::select_positive(x.v[i], a.v[i], b.v[i]);
    return r;
  }
  /// @}

 private:
  static DISTIL_XLSTM_HD bool aligned(const void* p, std::uintptr_t bytes = 16) {
    return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
  }
  // In assembly: left to itself, the compiler sees what the two ways share and makes four accesses of both.
  static DISTIL_XLSTM_HD void read_words(float (&to)[4], const float* p) {
#if defined(__CUDA_ARCH__)
    asm volatile("ld.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
                 : "l"(p)
                 : "memory");
#else
    for (index i = 0; i < 4; ++i) to[i] = p[i];
#endif
  }
  static DISTIL_XLSTM_HD void read_words(double (&to)[2], const double* p) {
#if defined(__CUDA_ARCH__)
    asm volatile("ld.v2.f64 {%0, %1}, [%2];" : "=d"(to[0]), "=d"(to[1]) : "l"(p) : "memory");
#else
    for (index i = 0; i < 2; ++i) to[i] = p[i];
#endif
  }
  static DISTIL_XLSTM_HD void read_words(bf16 (&to)[4], const bf16* p) {
#if defined(__CUDA_ARCH__)
    asm volatile("ld.v4.u16 {%0, %1, %2, %3}, [%4];"
                 : "=h"(to[0].bits), "=h"(to[1].bits), "=h"(to[2].bits), "=h"(to[3].bits)
                 : "l"(p)
                 : "memory");
#else
    for (index i = 0; i < 4; ++i) to[i] = p[i];
#endif
  }
  static DISTIL_XLSTM_HD void write_words(float* p, const float (&from)[4]) {
#if defined(__CUDA_ARCH__)
    asm volatile("st.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(from[0]), "f"(from[1]), "f"(from[2]),
                 "f"(from[3])
                 : "memory");
#else
    for (index i = 0; i < 4; ++i) p[i] = from[i];
#endif
  }
  static DISTIL_XLSTM_HD void write_words(double* p, const double (&from)[2]) {
#if defined(__CUDA_ARCH__)
    asm volatile("st.v2.f64 [%0], {%1, %2};" ::"l"(p), "d"(from[0]), "d"(from[1]) : "memory");
#else
    for (index i = 0; i < 2; ++i) p[i] = from[i];
#endif
  }
  static DISTIL_XLSTM_HD void write_words(bf16* p, const float (&from)[4]) {
#if defined(__CUDA_ARCH__)
    asm volatile("st.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(detail::pack_bf16(from[0], from[1])),
                 "r"(detail::pack_bf16(from[2], from[3]))
                 : "memory");
#else
    for (index i = 0; i < 4; ++i) p[i] = bf16(from[i]);
#endif
  }
  template <class F>
  static DISTIL_XLSTM_HD cuda_pack each(const cuda_pack& a, F f) {
    cuda_pack r;
    for (index i = 0; i < width; ++i) r.v[i] = f(a.v[i]);
    return r;
  }
  template <class F>
  static DISTIL_XLSTM_HD cuda_pack each(const cuda_pack& a, const cuda_pack& b, F f) {
    cuda_pack r;
    for (index i = 0; i < width; ++i) r.v[i] = f(a.v[i], b.v[i]);
    return r;
  }
};

}  // namespace device

namespace math {
/// Of a CUDA thread's packs.
template <class T>
struct numeric_traits<device::cuda_pack<T>> {
  using scalar = T;                                            ///< float or double
  static constexpr index width = device::cuda_pack<T>::width;  ///< lanes
};
/// @{ As `load_if` of any numeric type; a GPU need not read zeros from memory.
template <>
DISTIL_XLSTM_HD inline device::cuda_pack<float> load_if<device::cuda_pack<float>>(bool there, const float* p) {
  return there ? device::cuda_pack<float>::load(p) : device::cuda_pack<float>(0.f);
}
template <>
DISTIL_XLSTM_HD inline device::cuda_pack<double> load_if<device::cuda_pack<double>>(bool there,
                                                                                    const double* p) {
  return there ? device::cuda_pack<double>::load(p) : device::cuda_pack<double>(0.);
}
/// @}
}  // namespace math
}  // namespace distil_xlstm
