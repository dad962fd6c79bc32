#pragma once

#include <cmath>
#include <cstring>

#include <Eigen/Core>
#include <unsupported/Eigen/SpecialFunctions>

#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {
namespace device {

/// The CPU's numeric type: 64 bytes of T. Eigen maps it to whatever vectors the compiler was told of; their alignment
/// is 64 for all of them, so that objects compiled for different machines agree about every type of the library.
template <class T>
struct pack {
  static constexpr index width = 64 / static_cast<index>(sizeof(T));  ///< lanes
  using array = Eigen::Array<T, static_cast<int>(width), 1>;          ///< what computes
  alignas(64) array v;                                                ///< the lanes: `v[i]`

  pack() = default;
  /// @{ The number in every lane.
  explicit pack(T x) : v(array::Constant(x)) {}
  template <class U>
  requires std::is_arithmetic_v<U>
  explicit pack(U x) : v(array::Constant(static_cast<T>(x))) {}
  /// @}
  /// The lanes of an Eigen expression.
  template <class Derived>
  pack(const Eigen::ArrayBase<Derived>& a) : v(a) {}

  /// `width` consecutive numbers, of any alignment.
  static pack load(const T* p) {
    pack r;
    r.v = Eigen::Map<const array>(p);
    return r;
  }
  /// `width` zeros in memory.
  static const T* zeros() {
    alignas(64) static constexpr T none[width] = {};
    return none;
  }
  /// Writes `width` consecutive numbers, of any alignment.
  void store(T* p) const {
    Eigen::Map<array> out(p);
    out = v;
  }

  /// @name What a numeric type has
  /// @{

  /// Lane by lane, as math/numeric.hpp says.
  friend pack operator+(const pack& a, const pack& b) { return a.v + b.v; }
  friend pack operator-(const pack& a, const pack& b) { return a.v - b.v; }
  friend pack operator*(const pack& a, const pack& b) { return a.v * b.v; }
  friend pack operator/(const pack& a, const pack& b) { return a.v / b.v; }
  friend pack operator-(const pack& a) { return -a.v; }
  pack& operator+=(const pack& b) { return v += b.v, *this; }
  pack& operator*=(const pack& b) { return v *= b.v, *this; }

  friend pack exp(const pack& a) { return a.v.exp(); }
  friend pack log(const pack& a) { return a.v.log(); }
  friend pack log1p(const pack& a) { return a.v.log1p(); }
  friend pack tanh(const pack& a) { return a.v.tanh(); }
  friend pack sqrt(const pack& a) { return a.v.sqrt(); }
  friend pack erf(const pack& a) { return a.v.erf(); }
  friend pack abs(const pack& a) { return a.v.abs(); }
  friend pack max(const pack& a, const pack& b) { return a.v.max(b.v); }
  friend pack min(const pack& a, const pack& b) { return a.v.min(b.v); }
  friend pack select_positive(const pack& x, const pack& a, const pack& b) {
    // Eigen 3.4 selects number by number; the compilers' own vectors do it at once.
    typedef T lanes __attribute__((vector_size(64)));
    lanes at, yes, no;
    std::memcpy(&at, x.v.data(), sizeof at);
    std::memcpy(&yes, a.v.data(), sizeof yes);
    std::memcpy(&no, b.v.data(), sizeof no);
    const lanes chosen = at > T(0) ? yes : no;
    pack r;
    std::memcpy(r.v.data(), &chosen, sizeof chosen);
    return r;
  }
  /// @}
};

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
