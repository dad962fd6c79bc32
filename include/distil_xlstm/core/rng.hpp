#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// splitmix64 (Steele, Lea, Flood 2014): one word of state, so that it is saved with a checkpoint as a number.
class rng {
 public:
  /// Every seed is good; the `state()` of another goes on where that one is.
  explicit constexpr rng(std::uint64_t seed = 0) : state_(seed) {}
  /// All that there is to save: `rng(r.state())` continues as r does.
  constexpr std::uint64_t state() const { return state_; }

  /// 64 random bits.
  constexpr std::uint64_t operator()() {
    std::uint64_t x = (state_ += 0x9e3779b97f4a7c15u);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  /// Uniform in [0, 1), 53 bits.
  constexpr double uniform() { return static_cast<double>((*this)() >> 11) * 0x1p-53; }
  /// Uniform in [low, high); rounding may give high itself.
  constexpr double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// Uniform in 0 .. n-1 (n > 0), without the bias of a remainder.
  constexpr std::uint64_t below(std::uint64_t n) {
    const std::uint64_t limit = ~std::uint64_t{0} - (~std::uint64_t{0} % n + 1) % n;
    std::uint64_t x = (*this)();
    while (x > limit) x = (*this)();
    return x % n;
  }
  /// Standard normal (Box-Muller; the second number is not kept, so that the state stays one word).
  double normal() {
    const double u = 1.0 - uniform(), v = uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
  }

 private:
  std::uint64_t state_;
};

}  // namespace distil_xlstm
