#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// How one number, or one block of numbers, lies in memory. The quantised kinds are ggml's.
enum class dtype : std::uint8_t { f64, f32, bf16, f16, q4_0, q4_1, q5_0, q8_0, q4_k, q6_k, i64, i32, u16, u8 };

/// Elements of one block (1 for the plain types) and its bytes.
struct dtype_traits {
  index block_size;  ///< numbers of a block
  index bytes;       ///< of a block
  const char* name;  ///< as safetensors and ggml write it: "F32", "Q4_K"
};

/// The block, its bytes and the name of a kind.
constexpr dtype_traits traits(dtype e) {
  switch (e) {
    case dtype::f64: return {1, 8, "F64"};
    case dtype::f32: return {1, 4, "F32"};
    case dtype::bf16: return {1, 2, "BF16"};
    case dtype::f16: return {1, 2, "F16"};
    case dtype::q4_0: return {32, 18, "Q4_0"};
    case dtype::q4_1: return {32, 20, "Q4_1"};
    case dtype::q5_0: return {32, 22, "Q5_0"};
    case dtype::q8_0: return {32, 34, "Q8_0"};
    case dtype::q4_k: return {256, 144, "Q4_K"};
    case dtype::q6_k: return {256, 210, "Q6_K"};
    case dtype::i64: return {1, 8, "I64"};
    case dtype::i32: return {1, 4, "I32"};
    case dtype::u16: return {1, 2, "U16"};
    case dtype::u8: return {1, 1, "U8"};
  }
  return {1, 1, "?"};
}

/// The kind that stores a C++ scalar as it is.
template <class T>
inline constexpr dtype dtype_of = dtype::f32;
/// Of double.
template <>
inline constexpr dtype dtype_of<double> = dtype::f64;
struct bf16;
/// Of bfloat16.
template <>
inline constexpr dtype dtype_of<bf16> = dtype::bf16;

/// Bytes of a row of n numbers; n must be a multiple of the block.
constexpr index row_bytes(dtype e, index n) { return n / traits(e).block_size * traits(e).bytes; }

/// bfloat16: the upper half of a float, round to nearest even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits = 0;  ///< sign, exponent of 8 bits, mantissa of 7
  constexpr bf16() = default;
  /// Rounds.
  DISTIL_XLSTM_HD constexpr explicit bf16(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  /// Exact.
  DISTIL_XLSTM_HD constexpr operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};
static_assert(sizeof(bf16) == 2);

/// IEEE half precision to float, exact.
constexpr float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  std::uint32_t exponent = (h >> 10) & 0x1fu, mantissa = h & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {
    if (mantissa == 0) return std::bit_cast<float>(sign);
    exponent = 113;
    while (!(mantissa & 0x400u)) mantissa <<= 1, --exponent;
    return std::bit_cast<float>(sign | exponent << 23 | (mantissa & 0x3ffu) << 13);
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

namespace detail {
template <class U>
U load_bytes(const std::uint8_t* p) {
  U u;
  std::memcpy(&u, p, sizeof u);
  return u;
}
inline float half_at(const std::uint8_t* p) { return half_to_float(load_bytes<std::uint16_t>(p)); }

/// ggml's 6-bit scale and minimum number j of a Q4_K super-block.
inline void scale_min_k4(int j, const std::uint8_t* q, int& scale, int& minimum) {
  if (j < 4) {
    scale = q[j] & 63, minimum = q[j + 4] & 63;
  } else {
    scale = (q[j + 4] & 15) | (q[j - 4] >> 6) << 4;
    minimum = (q[j + 4] >> 4) | (q[j] >> 6) << 4;
  }
}

/// One quantised block to floats: the arithmetic (and its order) of ggml's reference, in float.
inline void unpack_block(dtype e, const std::uint8_t* b, float* y) {
  switch (e) {
    case dtype::q4_0: {
      const float d = half_at(b);
      for (int j = 0; j < 16; ++j) {
        y[j] = static_cast<float>((b[2 + j] & 15) - 8) * d;
        y[j + 16] = static_cast<float>((b[2 + j] >> 4) - 8) * d;
      }
      return;
    }
    case dtype::q4_1: {
      const float d = half_at(b), m = half_at(b + 2);
      for (int j = 0; j < 16; ++j) {
        const float low = static_cast<float>(b[4 + j] & 15) * d, high = static_cast<float>(b[4 + j] >> 4) * d;
        y[j] = low + m;
        y[j + 16] = high + m;
      }
      return;
    }
    case dtype::q5_0: {
      const float d = half_at(b);
      const auto high_bits = load_bytes<std::uint32_t>(b + 2);
      for (int j = 0; j < 16; ++j) {
        const int low = (b[6 + j] & 15) | static_cast<int>((high_bits >> j) & 1u) << 4;
        const int high = (b[6 + j] >> 4) | static_cast<int>((high_bits >> (j + 16)) & 1u) << 4;
        y[j] = static_cast<float>(low - 16) * d;
        y[j + 16] = static_cast<float>(high - 16) * d;
      }
      return;
    }
    case dtype::q8_0: {
      const float d = half_at(b);
      for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(static_cast<std::int8_t>(b[2 + j])) * d;
      return;
    }
    case dtype::q4_k: {
      const float d = half_at(b), dmin = half_at(b + 2);
      const std::uint8_t *scales = b + 4, *q = b + 16;
      for (int j = 0; j < 8; j += 2, q += 32) {
        for (int half = 0; half < 2; ++half) {
          int scale, minimum;
          scale_min_k4(j + half, scales, scale, minimum);
          const float ds = d * static_cast<float>(scale), dm = dmin * static_cast<float>(minimum);
          for (int l = 0; l < 32; ++l) {
            const float product = ds * static_cast<float>(half ? q[l] >> 4 : q[l] & 15);
            *y++ = product - dm;
          }
        }
      }
      return;
    }
    case dtype::q6_k: {
      const std::uint8_t *ql = b, *qh = b + 128;
      const auto* scales = reinterpret_cast<const std::int8_t*>(b + 192);
      const float d = half_at(b + 208);
      for (int n = 0; n < 2; ++n, ql += 64, qh += 32, scales += 8, y += 128) {
        for (int l = 0; l < 32; ++l) {
          const int q[4] = {(ql[l] & 15) | (qh[l] & 3) << 4, (ql[l + 32] & 15) | ((qh[l] >> 2) & 3) << 4,
                            (ql[l] >> 4) | ((qh[l] >> 4) & 3) << 4,
                            (ql[l + 32] >> 4) | ((qh[l] >> 6) & 3) << 4};
          for (int g = 0; g < 4; ++g)
            y[l + 32 * g] = d * static_cast<float>(scales[l / 16 + 2 * g]) * static_cast<float>(q[g] - 32);
        }
      }
      return;
    }
    default: fail("unpack: ", traits(e).name, " is not a quantised type");
  }
}
}  // namespace detail

/// n numbers stored as `e` at `source`, widened (or, from F64 to float, rounded) to T.
/// n must be a multiple of the block of `e`. The quantised kinds give bit for bit ggml's floats. Throws `error` for a
/// kind of integers.
template <class T>
void unpack(dtype e, const void* source, index n, T* out) {
  const auto* p = static_cast<const std::uint8_t*>(source);
  switch (e) {
    case dtype::f64:
      for (index i = 0; i < n; ++i) out[i] = static_cast<T>(detail::load_bytes<double>(p + 8 * i));
      return;
    case dtype::f32:
      for (index i = 0; i < n; ++i) out[i] = static_cast<T>(detail::load_bytes<float>(p + 4 * i));
      return;
    case dtype::bf16:
      for (index i = 0; i < n; ++i)
        out[i] = static_cast<T>(std::bit_cast<float>(
            static_cast<std::uint32_t>(detail::load_bytes<std::uint16_t>(p + 2 * i)) << 16));
      return;
    case dtype::f16:
      for (index i = 0; i < n; ++i) out[i] = static_cast<T>(detail::half_at(p + 2 * i));
      return;
    default: break;
  }
  const auto [numbers, bytes, name] = traits(e);
  require(numbers > 1, "unpack: ", name, " holds integers");
  float block[256];
  for (index i = 0; i < n; i += numbers, p += bytes) {
    detail::unpack_block(e, p, block);
    for (index j = 0; j < numbers; ++j) out[i + j] = static_cast<T>(block[j]);
  }
}

}  // namespace distil_xlstm
