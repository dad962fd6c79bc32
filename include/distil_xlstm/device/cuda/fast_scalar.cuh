#pragma once

#include <cmath>
#include <type_traits>

#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm::device::detail {

// What the card's special function unit gives, to two units in the last place; denormals are 0.
DISTIL_XLSTM_HD inline float exp2_approx(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}
DISTIL_XLSTM_HD inline float log2_approx(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::log2(x);
#endif
}
DISTIL_XLSTM_HD inline float reciprocal_approx(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1 / x;
#endif
}

/// What of a float's functions is approximate. The exponential alone: a relative error of about (1 + |x|) 2^-23, and
/// what lies below 1e-38 is 0. Softmax: besides, exp(x - y) has one of about (1 + |x| + |y|) 2^-23, for logits that
/// are rounded to bfloat16. All: log and quotients are off by a few units in the last place, too, tanh and log1p by
/// 1e-7, for cells whose products round their operands to bfloat16.
enum class approximate { exponential, softmax, all };

/// A scalar for the functions of math/. Double is exact.
template <class T, approximate What>
struct fast_scalar {
  static constexpr bool fast = std::is_same_v<T, float>, all = fast && What == approximate::all,
                        fuses = fast && What == approximate::softmax;
  T x;

  fast_scalar() = default;
  template <class U>
  requires std::is_arithmetic_v<U> DISTIL_XLSTM_HD explicit(What != approximate::all) fast_scalar(U u)
      : x(static_cast<T>(u)) {}

  friend DISTIL_XLSTM_HD fast_scalar operator+(fast_scalar a, fast_scalar b) { return fast_scalar(a.x + b.x); }
  friend DISTIL_XLSTM_HD fast_scalar operator-(fast_scalar a, fast_scalar b) { return fast_scalar(a.x - b.x); }
  friend DISTIL_XLSTM_HD fast_scalar operator*(fast_scalar a, fast_scalar b) { return fast_scalar(a.x * b.x); }
  friend DISTIL_XLSTM_HD fast_scalar operator/(fast_scalar a, fast_scalar b) {
    if constexpr (all)
      return fast_scalar(a.x * reciprocal_approx(b.x));
    else
      return fast_scalar(a.x / b.x);
  }
  friend DISTIL_XLSTM_HD fast_scalar operator-(fast_scalar a) { return fast_scalar(-a.x); }
  DISTIL_XLSTM_HD fast_scalar& operator+=(fast_scalar b) { return x += b.x, *this; }
  DISTIL_XLSTM_HD fast_scalar& operator*=(fast_scalar b) { return x *= b.x, *this; }

  friend DISTIL_XLSTM_HD fast_scalar exp(fast_scalar a) {
    if constexpr (fast)
      return fast_scalar(exp2_approx(a.x * 1.44269504f));
    else
      return fast_scalar(std::exp(a.x));
  }
  /// exp(x - y), where y stays for many x. Rounding of y log2 e is not seen where x is above the floor of logits;
  /// where both are at the floor it is not 1.
  friend DISTIL_XLSTM_HD fast_scalar exp_difference(fast_scalar x, fast_scalar y) requires(fuses) {
    return fast_scalar(exp2_approx(std::fma(x.x, 1.44269504f, y.x * -1.44269504f)));
  }
  friend DISTIL_XLSTM_HD fast_scalar log(fast_scalar a) { return fast_scalar(std::log(a.x)); }
  friend DISTIL_XLSTM_HD fast_scalar log1p(fast_scalar a) {
    if constexpr (all)
      return fast_scalar(0.693147181f * log2_approx(1 + a.x));
    else
      return fast_scalar(std::log1p(a.x));
  }
  friend DISTIL_XLSTM_HD fast_scalar tanh(fast_scalar a) {
    if constexpr (all)
      return fast_scalar(1 - 2 * reciprocal_approx(1 + exp2_approx(2.88539008f * a.x)));
    else
      return fast_scalar(std::tanh(a.x));
  }
  friend DISTIL_XLSTM_HD fast_scalar sqrt(fast_scalar a) { return fast_scalar(std::sqrt(a.x)); }
  friend DISTIL_XLSTM_HD fast_scalar erf(fast_scalar a) { return fast_scalar(std::erf(a.x)); }
  friend DISTIL_XLSTM_HD fast_scalar abs(fast_scalar a) { return fast_scalar(std::abs(a.x)); }
  friend DISTIL_XLSTM_HD fast_scalar max(fast_scalar a, fast_scalar b) {
    return fast_scalar(math::max(a.x, b.x));
  }
  friend DISTIL_XLSTM_HD fast_scalar min(fast_scalar a, fast_scalar b) {
    return fast_scalar(math::min(a.x, b.x));
  }
  /// The larger of x and `low`, NaN where x is.
  friend DISTIL_XLSTM_HD fast_scalar at_least(fast_scalar a, fast_scalar low) {
#if defined(__CUDA_ARCH__)
    if constexpr (fast) {
      float y;
      asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a.x), "f"(low.x));
      return fast_scalar(y);
    }
#endif
    return low.x > a.x ? low : a;
  }
  friend DISTIL_XLSTM_HD fast_scalar select_positive(fast_scalar x, fast_scalar a, fast_scalar b) {
    return x.x > 0 ? a : b;
  }
};

}  // namespace distil_xlstm::device::detail

namespace distil_xlstm::math {
template <class T, device::detail::approximate What>
struct numeric_traits<device::detail::fast_scalar<T, What>> {
  using scalar = T;
  static constexpr index width = 1;
};
}  // namespace distil_xlstm::math
