#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/store_as.hpp>

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE std::uint16_t half_of(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);  // NaN
  if (magnitude >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal: the last bit is worth 2^-24, and adding 0.5 rounds to it
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  // The carry of a mantissa that overflows goes to the exponent, as it should.
  return static_cast<std::uint16_t>(sign |
                                    ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
}

namespace detail {

/// x * y rounded to float, whatever the compiler makes of sums with it.
inline float rounded_product(float x, float y) {
  return static_cast<float>(static_cast<double>(x) * static_cast<double>(y));
}
/// 1 / d; of what has none, 0.
inline float inverse(float d) {
  const float r = d == 0 ? 0 : 1 / d;
  return std::isfinite(r) ? r : 0;
}
/// The scale of a block, at its beginning; whether it is finite.
inline bool put_scale(float d, std::uint8_t* to) {
  const std::uint16_t half = half_of(d);
  std::memcpy(to, &half, sizeof half);
  return (half & 0x7c00u) != 0x7c00u;
}

inline bool store_q8_0(const float* x, std::uint8_t* to) {
  float largest = 0;
  for (int j = 0; j < 32; ++j) largest = std::max(largest, std::abs(x[j]));
  const float d = largest / 127, r = inverse(d);
  for (int j = 0; j < 32; ++j) {
    const float a = std::abs(rounded_product(x[j], r)), whole = std::floor(a);
    const auto q = static_cast<int>(whole) + (a - whole >= 0.5f ? 1 : 0);
    to[2 + j] = static_cast<std::uint8_t>(static_cast<std::int8_t>(x[j] < 0 ? -q : q));
  }
  return put_scale(d, to);
}

inline bool store_q4_0(const float* x, std::uint8_t* to) {
  const float largest =
      *std::max_element(x, x + 32, [](float a, float b) { return std::abs(a) < std::abs(b); });
  const float d = largest / -8, r = inverse(d);
  const auto q = [&](float each) {
    const auto sum = static_cast<float>(static_cast<double>(rounded_product(each, r)) + 8.5);
    return std::min(15, static_cast<int>(sum));
  };
  for (int j = 0; j < 16; ++j) to[2 + j] = static_cast<std::uint8_t>(q(x[j]) | q(x[j + 16]) << 4);
  return put_scale(d, to);
}

}  // namespace detail

DISTIL_XLSTM_INLINE bool store_as(dtype type, const float* x, index n, void* to) {
  require(type == dtype::f32 || type == dtype::q8_0 || type == dtype::q4_0, "store_as: ", traits(type).name,
          " is not supported (F32, Q8_0 and Q4_0 are)");
  const auto [numbers, bytes, name] = traits(type);
  require(n >= 0 && n % numbers == 0, "store_as: ", n, " numbers are not whole blocks of ", numbers);
  if (!std::all_of(x, x + n, [](float each) { return std::isfinite(each); })) return false;
  auto* p = static_cast<std::uint8_t*>(to);
  if (type == dtype::f32) {
    if (n > 0) std::memcpy(p, x, static_cast<std::size_t>(n) * sizeof(float));
    return true;
  }
  bool finite = true;
  for (index i = 0; i < n; i += numbers, p += bytes)
    finite &= type == dtype::q8_0 ? detail::store_q8_0(x + i, p) : detail::store_q4_0(x + i, p);
  return finite;
}

}  // namespace distil_xlstm::io
