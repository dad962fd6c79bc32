#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/extent.hpp>

/// Scalar equations are written once over a numeric type V: a scalar in a CUDA thread, a SIMD pack on the CPU.
/// A numeric type has + - * /, construction from its scalar, and exp, log, log1p, tanh, sqrt, erf, abs, min,
/// max, select_positive by argument-dependent lookup. These are the scalar models.
namespace distil_xlstm::math {

/// The scalar below a numeric type, and the count of lanes.
template <class V>
struct numeric_traits {
  using scalar = V;                  ///< float or double
  static constexpr index width = 1;  ///< lanes
};
/// The scalar of a numeric type: that of a pack of floats is float.
template <class V>
using scalar_of = typename numeric_traits<V>::scalar;
/// The lanes of a numeric type: 1 of a scalar.
template <class V>
inline constexpr index width_of = numeric_traits<V>::width;

/// What stored numbers are computed in: bfloat16 in float, others in their own type.
template <class T>
using computed_t = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

/// Reads width_of<V> consecutive numbers.
template <class V>
DISTIL_XLSTM_HD V load(const scalar_of<V>* p) {
  if constexpr (width_of<V> == 1)
    return *p;
  else
    return V::load(p);
}
/// The same where they are `there`, else zeros. (A choice between two values of V would do, but g++ 12 compiles
/// a choice between packs by a run-time bool wrongly under -O3 with AVX-512: choose addresses or scalars.)
template <class V>
DISTIL_XLSTM_HD V load_if(bool there, const scalar_of<V>* p) {
  if constexpr (width_of<V> == 1)
    return there ? *p : V(0);
  else
    return V::load(there ? p : V::zeros());
}
/// Writes width_of<V> consecutive numbers.
template <class V>
DISTIL_XLSTM_HD void store(scalar_of<V>* p, V v) {
  if constexpr (width_of<V> == 1)
    *p = v;
  else
    v.store(p);
}
/// The same, rounded to bfloat16.
template <class V>
DISTIL_XLSTM_HD void store(bf16* p, V v) {
  if constexpr (width_of<V> == 1)
    *p = bf16(static_cast<float>(v));
  else if constexpr (requires { v.store(p); })
    v.store(p);
  else
    for (index i = 0; i < width_of<V>; ++i) p[i] = bf16(static_cast<float>(v.v[i]));
}

/// Reads numbers that are stored as another type, and widens them.
template <class V, class S>
requires(!std::is_same_v<S, scalar_of<V>>) DISTIL_XLSTM_HD V load(const S* p) {
  if constexpr (width_of<V> == 1) {
    return static_cast<V>(*p);
  } else if constexpr (requires { V::load(p); }) {
    return V::load(p);
  } else {
    V all;
    for (index i = 0; i < width_of<V>; ++i) all.v[i] = static_cast<scalar_of<V>>(p[i]);
    return all;
  }
}

/// The numbers f(0), f(1), ..., a lane each; a pack shows its lanes as v[lane].
template <class V, class F>
DISTIL_XLSTM_HD V lanes(const F& f) {
  if constexpr (width_of<V> == 1) {
    return V(f(index{0}));
  } else {
    V all;
    for (index i = 0; i < width_of<V>; ++i) all.v[i] = f(i);
    return all;
  }
}

/// @{ The larger or the smaller; b where one is NaN.
DISTIL_XLSTM_HD inline float max(float a, float b) { return a > b ? a : b; }
DISTIL_XLSTM_HD inline double max(double a, double b) { return a > b ? a : b; }
DISTIL_XLSTM_HD inline float min(float a, float b) { return a < b ? a : b; }
DISTIL_XLSTM_HD inline double min(double a, double b) { return a < b ? a : b; }
/// @}
/// @{ a where x > 0, else b: b, too, where x is NaN.
DISTIL_XLSTM_HD inline float select_positive(float x, float a, float b) { return x > 0 ? a : b; }
DISTIL_XLSTM_HD inline double select_positive(double x, double a, double b) { return x > 0 ? a : b; }
/// @}

/// 1 / (1 + exp(-x))
template <class V>
DISTIL_XLSTM_HD V sigmoid(V x) {
  using std::exp;
  return V(1) / (V(1) + exp(-x));
}

/// log sigmoid(x) = min(x, 0) - log1p(exp(-|x|)): stable for every x. Its derivative is sigmoid(-x).
template <class V>
DISTIL_XLSTM_HD V log_sigmoid(V x) {
  using std::abs;
  using std::exp;
  using std::log1p;
  return min(x, V(0)) - log1p(exp(-abs(x)));
}

/// x, for `transform`; as `std::identity`, which the host has alone.
struct identity {
  /// x, a scalar or a pack.
  template <class V>
  DISTIL_XLSTM_HD V operator()(V x) const {
    return x;
  }
};
/// a + b, for `transform`.
struct plus {
  /// a + b, scalars or packs.
  template <class V>
  DISTIL_XLSTM_HD V operator()(V a, V b) const {
    return a + b;
  }
};
/// a b, for `transform`.
struct times {
  /// a b, scalars or packs.
  template <class V>
  DISTIL_XLSTM_HD V operator()(V a, V b) const {
    return a * b;
  }
};

}  // namespace distil_xlstm::math
