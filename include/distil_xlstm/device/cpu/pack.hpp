#pragma once

#include <cmath>

#include <Eigen/Core>
#include <unsupported/Eigen/SpecialFunctions>

#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {
namespace device {

namespace detail {
#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif
}  // namespace detail

#define DISTIL_XLSTM_PIECES(i) _Pragma("GCC unroll 4") for (int i = 0; i < pieces; ++i)

/// The CPU's numeric type: 64 bytes of T, computed in whatever vectors the compiler was told of; their alignment is 64
/// for all of them, so that objects compiled for different machines agree about every type of the library.
///
/// Arithmetic is that of the compilers' own vectors, a piece of the pack at a time: Eigen's expressions are many more
/// functions to compile. exp and its like are Eigen's.
template <class T>
struct pack {
  static constexpr index width = 64 / static_cast<index>(sizeof(T));  ///< lanes
  using array = Eigen::Array<T, static_cast<int>(width), 1>;          ///< what functions are computed with
  alignas(64) array v;                                                ///< the lanes: `v[i]`

  pack() = default;
  /// @{ Copies, by the same vectors.
  pack(const pack& a) { set(a.v.data()); }
  pack& operator=(const pack& a) { return set(a.v.data()), *this; }
  /// @}
  /// @{ The number in every lane. (x - 0, for 0 + x loses the sign of -0.)
  explicit pack(T x) { DISTIL_XLSTM_PIECES(i) at(i) = x - piece{}; }
  template <class U>
  requires std::is_arithmetic_v<U>
  explicit pack(U x) : pack(static_cast<T>(x)) {}
  /// @}
  /// The lanes of an Eigen expression.
  template <class Derived>
  pack(const Eigen::ArrayBase<Derived>& a) : v(a) {}

  /// `width` consecutive numbers, of any alignment.
  static pack load(const T* p) {
    pack r;
    r.set(p);
    return r;
  }
  /// `width` zeros in memory.
  static const T* zeros() {
    alignas(64) static constexpr T none[width] = {};
    return none;
  }
  /// Writes `width` consecutive numbers, of any alignment.
  void store(T* p) const { DISTIL_XLSTM_PIECES(i) reinterpret_cast<loose_piece*>(p)[i] = at(i); }

  /// @name What a numeric type has
  /// @{

  /// Lane by lane, as math/numeric.hpp says.
  friend pack operator+(const pack& a, const pack& b) {
    pack r;
    DISTIL_XLSTM_PIECES(i) r.at(i) = a.at(i) + b.at(i);
    return r;
  }
  friend pack operator-(const pack& a, const pack& b) {
    pack r;
    DISTIL_XLSTM_PIECES(i) r.at(i) = a.at(i) - b.at(i);
    return r;
  }
  friend pack operator*(const pack& a, const pack& b) {
    pack r;
    DISTIL_XLSTM_PIECES(i) r.at(i) = a.at(i) * b.at(i);
    return r;
  }
  friend pack operator/(const pack& a, const pack& b) {
    pack r;
    DISTIL_XLSTM_PIECES(i) r.at(i) = a.at(i) / b.at(i);
    return r;
  }
  friend pack operator-(const pack& a) { return -a.v; }
  pack& operator+=(const pack& b) { return *this = *this + b; }
  pack& operator*=(const pack& b) { return *this = *this * b; }

  friend pack exp(const pack& a) { return a.v.exp(); }
  friend pack log(const pack& a) { return a.v.log(); }
  friend pack log1p(const pack& a) { return a.v.log1p(); }
  friend pack tanh(const pack& a) { return a.v.tanh(); }
  friend pack sqrt(const pack& a) { return a.v.sqrt(); }
  friend pack erf(const pack& a) { return a.v.erf(); }
  friend pack abs(const pack& a) { return a.v.abs(); }
  friend pack max(const pack& a, const pack& b) {
    pack r;
    DISTIL_XLSTM_PIECES(i) r.at(i) = a.at(i) < b.at(i) ? b.at(i) : a.at(i);
    return r;
  }
  friend pack min(const pack& a, const pack& b) {
    pack r;
    DISTIL_XLSTM_PIECES(i) r.at(i) = b.at(i) < a.at(i) ? b.at(i) : a.at(i);
    return r;
  }
  friend pack select_positive(const pack& x, const pack& a, const pack& b) {
    pack r;
    DISTIL_XLSTM_PIECES(i) r.at(i) = x.at(i) > T(0) ? a.at(i) : b.at(i);
    return r;
  }
  /// @}

 private:
  /// A vector of the machine, and one of any alignment.
  typedef T piece __attribute__((vector_size(detail::vector_bytes), may_alias));
  typedef T loose_piece __attribute__((vector_size(detail::vector_bytes), aligned(alignof(T)), may_alias));
  static constexpr int pieces = 64 / detail::vector_bytes;
  piece& at(int i) { return reinterpret_cast<piece*>(v.data())[i]; }
  const piece& at(int i) const { return reinterpret_cast<const piece*>(v.data())[i]; }
  void set(const T* p) { DISTIL_XLSTM_PIECES(i) at(i) = reinterpret_cast<const loose_piece*>(p)[i]; }
};
#undef DISTIL_XLSTM_PIECES

}  // namespace device

namespace math {
/// Of the CPU's packs.
template <class T>
struct numeric_traits<device::pack<T>> {
  using scalar = T;                                       ///< float or double
  static constexpr index width = device::pack<T>::width;  ///< lanes
};
}  // namespace math
}  // namespace distil_xlstm
