#pragma once

#include <cmath>
#include <type_traits>

#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm::device::detail {

/// A scalar whose exponential is the GPU's own instruction: for float its relative error is about (1 + |x|)
/// 2^-23, and what lies below 1e-38 is 0.
template <class T>
struct quick {
  T x;

  quick() = default;
  template <class U>
  requires std::is_arithmetic_v<U> DISTIL_XLSTM_HD explicit quick(U u) : x(static_cast<T>(u)) {}

  friend DISTIL_XLSTM_HD quick operator+(quick a, quick b) { return quick(a.x + b.x); }
  friend DISTIL_XLSTM_HD quick operator-(quick a, quick b) { return quick(a.x - b.x); }
  friend DISTIL_XLSTM_HD quick operator*(quick a, quick b) { return quick(a.x * b.x); }
  friend DISTIL_XLSTM_HD quick operator/(quick a, quick b) { return quick(a.x / b.x); }
  friend DISTIL_XLSTM_HD quick operator-(quick a) { return quick(-a.x); }
  DISTIL_XLSTM_HD quick& operator+=(quick b) { return x += b.x, *this; }
  DISTIL_XLSTM_HD quick& operator*=(quick b) { return x *= b.x, *this; }

  friend DISTIL_XLSTM_HD quick exp(quick a) {
#if defined(__CUDA_ARCH__)
    if constexpr (std::is_same_v<T, float>) {
      float y;
      asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(a.x * 1.44269504f));
      return quick(y);
    }
#endif
    return quick(std::exp(a.x));
  }
  friend DISTIL_XLSTM_HD quick log(quick a) { return quick(std::log(a.x)); }
  friend DISTIL_XLSTM_HD quick log1p(quick a) { return quick(std::log1p(a.x)); }
  friend DISTIL_XLSTM_HD quick tanh(quick a) { return quick(std::tanh(a.x)); }
  friend DISTIL_XLSTM_HD quick sqrt(quick a) { return quick(std::sqrt(a.x)); }
  friend DISTIL_XLSTM_HD quick erf(quick a) { return quick(std::erf(a.x)); }
  friend DISTIL_XLSTM_HD quick abs(quick a) { return quick(std::abs(a.x)); }
  friend DISTIL_XLSTM_HD quick max(quick a, quick b) { return quick(math::max(a.x, b.x)); }
  friend DISTIL_XLSTM_HD quick min(quick a, quick b) { return quick(math::min(a.x, b.x)); }
  /// The larger of x and `low`, NaN where x is.
  friend DISTIL_XLSTM_HD quick at_least(quick a, quick low) {
#if defined(__CUDA_ARCH__)
    if constexpr (std::is_same_v<T, float>) {
      float y;
      asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a.x), "f"(low.x));
      return quick(y);
    }
#endif
    return low.x > a.x ? low : a;
  }
  friend DISTIL_XLSTM_HD quick select_positive(quick x, quick a, quick b) { return x.x > 0 ? a : b; }
};

}  // namespace distil_xlstm::device::detail

namespace distil_xlstm::math {
template <class T>
struct numeric_traits<device::detail::quick<T>> {
  using scalar = T;
  static constexpr index width = 1;
};
}  // namespace distil_xlstm::math
