#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/device/cpu/gemm_operand.hpp>
#include <distil_xlstm/device/cpu/gemm_x86.hpp>

/// Products of a few rows with a matrix of Q8_0, Q4_0 or Q4_1, read as it is stored. The rows are rounded to 8 bits, each 32
/// numbers with a scale of their own; what is multiplied within a block are whole numbers, whose sums are exact.
namespace distil_xlstm::device::detail {

/// How a kind lies in memory: `bytes` a block, its numbers from byte `at` on, as signed bytes or as 4 bits each; a number is
/// d (q - zero), or d q + m where blocks have a minimum.
struct q8_0_blocks {
  static constexpr index bytes = 34, at = 2;
  static constexpr bool nibbles = false, minimum = false;
  static constexpr float zero = 0;
};
struct q4_0_blocks {
  static constexpr index bytes = 18, at = 2;
  static constexpr bool nibbles = true, minimum = false;
  static constexpr float zero = 8;
};
struct q4_1_blocks {
  static constexpr index bytes = 20, at = 4;
  static constexpr bool nibbles = true, minimum = true;
  static constexpr float zero = 0;
};

/// A row of x: 8-bit numbers q and for each block of 32 the scale d and the sum of d q; up to a multiple of 8 blocks, zero
/// behind the last.
struct rounded_row {
  const std::int8_t* q;
  const float *scale, *sum;
};
/// Bytes of one, of so many blocks.
constexpr index rounded_row_bytes(index blocks) { return (blocks + 7) / 8 * 8 * (32 + 2 * 4); }
/// x, of `blocks` blocks, at `to`: d = max |x| / 127, q = x / d rounded to nearest even.
inline rounded_row round_row(const float* x, index blocks, void* to) {
  const index padded = (blocks + 7) / 8 * 8;
  auto* scale = static_cast<float*>(to);
  auto* sum = scale + padded;
  auto* q = reinterpret_cast<std::int8_t*>(sum + padded);
  for (index b = 0; b < blocks; ++b, x += 32) {
    std::uint32_t largest = 0;  // of magnitudes, whose bits are in their order; NaN is above all
    for (int i = 0; i < 32; ++i) largest = std::max(largest, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu);
    const float most = std::bit_cast<float>(largest), inverse = most > 4e-37f ? 127 / most : 0;
    int total = 0;
    for (int i = 0; i < 32; ++i) {
      // Behind 1.5 2^23 a float has no room for a fraction.
      const auto bits = std::bit_cast<std::uint32_t>(x[i] * inverse + 12582912.f);
      const auto each = static_cast<std::int8_t>(bits & 0xffu);
      q[b * 32 + i] = each, total += each;
    }
    scale[b] = most / 127;
    sum[b] = scale[b] * static_cast<float>(total);
  }
  for (index b = blocks; b < padded; ++b) scale[b] = sum[b] = 0;
  std::memset(q + blocks * 32, 0, static_cast<std::size_t>((padded - blocks) * 32));
  return {q, scale, sum};
}

/// Products of 1, 2 or 4 rows (1 << i) with rows of Q8_0, Q4_0 and Q4_1.
using block_functions = void (*[3][3])(index n, index blocks, const rounded_row* x, const void* rows,
                                       index stride, float* out);

/// out[Rows x n]: the scalar products of `Rows` rounded rows with n rows of blocks, `stride` bytes apart. A vector type V
/// gives `block` (32 whole numbers), `reg` (8 floats), load, add_dot (d times a block's product, added), half, scales (of
/// eight blocks), and of eight floats store8, multiply8, multiply_add8, subtract_multiple8, add, sum.
#define DISTIL_XLSTM_BLOCK_LOOPS(TARGET)                                                                  \
  template <class V, class Kind, int Rows>                                                                \
  TARGET void block_dots(index n, index blocks, const rounded_row* x, const void* rows, index stride,     \
                         float* out) {                                                                    \
    constexpr index group = 8 * Kind::bytes, ahead = 1536; /* some lines before they are asked for */     \
    for (index j = 0; j < n; ++j) {                                                                       \
      const auto* w = static_cast<const std::uint8_t*>(rows) + j * stride;                                \
      typename V::reg even[Rows], odd[Rows], rest[Rows];                                                  \
      float last[Rows];                                                                                   \
      _Pragma("GCC unroll 4") for (int r = 0; r < Rows; ++r) {                                            \
        even[r] = odd[r] = rest[r] = V::zero();                                                           \
        last[r] = 0;                                                                                      \
      }                                                                                                   \
      index b = 0;                                                                                        \
      for (; b + 8 <= blocks; b += 8, w += group) {                                                       \
        _Pragma("GCC unroll 8") for (index line = 0; line < group; line += 64)                            \
            __builtin_prefetch(w + ahead + line);                                                         \
        const auto scale = V::template scales<Kind::bytes>(w);                                            \
        const auto other = Kind::minimum ? V::template scales<Kind::bytes>(w + 2) : scale;                \
        alignas(32) float d[Rows][8];                                                                     \
        _Pragma("GCC unroll 4") for (int r = 0; r < Rows; ++r) {                                          \
          V::store8(d[r], V::multiply8(scale, x[r].scale + b));                                           \
          if (Kind::minimum) rest[r] = V::multiply_add8(other, x[r].sum + b, rest[r]);                    \
          if (Kind::zero != 0) rest[r] = V::subtract_multiple8(Kind::zero, scale, x[r].sum + b, rest[r]); \
        }                                                                                                 \
        _Pragma("GCC unroll 8") for (int i = 0; i < 8; i += 2) {                                          \
          const auto first = V::template load<Kind>(w + i * Kind::bytes);                                 \
          const auto second = V::template load<Kind>(w + (i + 1) * Kind::bytes);                          \
          _Pragma("GCC unroll 4") for (int r = 0; r < Rows; ++r) {                                        \
            even[r] = V::template add_dot<Kind>(first, x[r].q + (b + i) * 32, d[r] + i, even[r]);         \
            odd[r] = V::template add_dot<Kind>(second, x[r].q + (b + i + 1) * 32, d[r] + i + 1, odd[r]);  \
          }                                                                                               \
        }                                                                                                 \
      }                                                                                                   \
      for (; b < blocks; ++b, w += Kind::bytes) {                                                         \
        const float scale = V::half(w), other = Kind::minimum ? V::half(w + 2) : -Kind::zero * scale;     \
        const auto one = V::template load<Kind>(w);                                                       \
        _Pragma("GCC unroll 4") for (int r = 0; r < Rows; ++r) {                                          \
          const float d = scale * x[r].scale[b];                                                          \
          even[r] = V::template add_dot<Kind>(one, x[r].q + b * 32, &d, even[r]);                         \
          last[r] += other * x[r].sum[b];                                                                 \
        }                                                                                                 \
      }                                                                                                   \
      _Pragma("GCC unroll 4") for (int r = 0; r < Rows; ++r) out[r * n + j] =                             \
          V::sum(V::add(V::add(even[r], odd[r]), rest[r])) + last[r];                                     \
    }                                                                                                     \
  }                                                                                                       \
  template <class V, class Kind>                                                                          \
  constexpr void set_kind(block_functions& to, int kind) {                                                \
    to[kind][0] = block_dots<V, Kind, 1>, to[kind][1] = block_dots<V, Kind, 2>;                           \
    to[kind][2] = block_dots<V, Kind, 4>;                                                                 \
  }                                                                                                       \
  template <class V>                                                                                      \
  constexpr void set_blocks(block_functions& to) {                                                        \
    set_kind<V, q8_0_blocks>(to, 0), set_kind<V, q4_0_blocks>(to, 1), set_kind<V, q4_1_blocks>(to, 2);    \
  }

/// Plain C++. Where it is the last resort, its parts are called: in line, in loops unrolled, they are more code than all the
/// rest of the product.
#if defined(DISTIL_XLSTM_X86)
#define DISTIL_XLSTM_PART [[gnu::noinline]]
#else
#define DISTIL_XLSTM_PART
#endif
struct portable_blocks {
  struct block {
    std::int8_t q[32];
  };
  struct reg {
    float x[8];
  };
  static reg zero() { return {}; }
  template <class Kind>
  DISTIL_XLSTM_PART static block load(const std::uint8_t* p) {
    block out;
    p += Kind::at;
    if (Kind::nibbles)
      for (int i = 0; i < 16; ++i)
        out.q[i] = static_cast<std::int8_t>(p[i] & 15), out.q[i + 16] = static_cast<std::int8_t>(p[i] >> 4);
    else
      std::memcpy(out.q, p, 32);
    return out;
  }
  template <class Kind>
  DISTIL_XLSTM_PART static reg add_dot(const block& w, const std::int8_t* x, const float* d, reg to) {
    int dot = 0;
    for (int i = 0; i < 32; ++i) dot += w.q[i] * x[i];
    to.x[0] += *d * static_cast<float>(dot);
    return to;
  }
  DISTIL_XLSTM_PART static float half(const std::uint8_t* p) { return distil_xlstm::detail::half_at(p); }
  template <index Bytes>
  DISTIL_XLSTM_PART static reg scales(const std::uint8_t* p) {
    reg out;
    for (int i = 0; i < 8; ++i) out.x[i] = half(p + i * Bytes);
    return out;
  }
  DISTIL_XLSTM_PART static void store8(float* to, const reg& a) { std::memcpy(to, a.x, sizeof a.x); }
  DISTIL_XLSTM_PART static reg multiply8(reg a, const float* b) {
    for (int i = 0; i < 8; ++i) a.x[i] *= b[i];
    return a;
  }
  DISTIL_XLSTM_PART static reg multiply_add8(const reg& a, const float* b, reg c) {
    for (int i = 0; i < 8; ++i) c.x[i] += a.x[i] * b[i];
    return c;
  }
  DISTIL_XLSTM_PART static reg subtract_multiple8(float k, const reg& a, const float* b, reg c) {
    for (int i = 0; i < 8; ++i) c.x[i] -= k * a.x[i] * b[i];
    return c;
  }
  static reg add(reg a, const reg& b) {
    for (int i = 0; i < 8; ++i) a.x[i] += b.x[i];
    return a;
  }
  static float sum(const reg& a) {
    float total = 0;
    for (const float each : a.x) total += each;
    return total;
  }
};
#undef DISTIL_XLSTM_PART
namespace portable {
DISTIL_XLSTM_BLOCK_LOOPS()
}

#if defined(DISTIL_XLSTM_X86)
inline bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#define DISTIL_XLSTM_VNNI __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

// One instruction set's vectors: `Pairs` is its sum of products of unsigned and signed bytes, four to a 32-bit lane.
#define DISTIL_XLSTM_BLOCK_VECTORS(TARGET)                                                              \
  using block = __m256i;                                                                                \
  using reg = __m256;                                                                                   \
  DISTIL_XLSTM_LANES TARGET reg zero() { return _mm256_setzero_ps(); }                                  \
  template <class Kind>                                                                                 \
  DISTIL_XLSTM_LANES TARGET block load(const std::uint8_t* p) {                                         \
    if constexpr (!Kind::nibbles) {                                                                     \
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + Kind::at));                        \
    } else {                                                                                            \
      /* The low halves of bytes, then the high ones. */                                                \
      const __m256i both =                                                                              \
          _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + Kind::at))); \
      const __m256i shifted = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));       \
      return _mm256_and_si256(shifted, _mm256_set1_epi8(15));                                           \
    }                                                                                                   \
  }                                                                                                     \
  template <class Kind>                                                                                 \
  DISTIL_XLSTM_LANES TARGET reg add_dot(block w, const std::int8_t* x, const float* d, reg to) {        \
    __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));                                \
    if constexpr (!Kind::nibbles) {                                                                     \
      q = _mm256_sign_epi8(q, w);                                                                       \
      w = _mm256_abs_epi8(w);                                                                           \
    }                                                                                                   \
    return _mm256_fmadd_ps(_mm256_broadcast_ss(d), _mm256_cvtepi32_ps(products(w, q)), to);             \
  }                                                                                                     \
  DISTIL_XLSTM_LANES TARGET float half(const std::uint8_t* p) {                                         \
    return _cvtsh_ss(distil_xlstm::detail::load_bytes<std::uint16_t>(p));                               \
  }                                                                                                     \
  template <index Bytes>                                                                                \
  DISTIL_XLSTM_LANES TARGET reg scales(const std::uint8_t* p) {                                         \
    std::int16_t h[8];                                                                                  \
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; ++i) std::memcpy(h + i, p + i * Bytes, 2);           \
    return _mm256_cvtph_ps(_mm_setr_epi16(h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]));             \
  }                                                                                                     \
  DISTIL_XLSTM_LANES TARGET void store8(float* to, reg a) { _mm256_store_ps(to, a); }                   \
  DISTIL_XLSTM_LANES TARGET reg multiply8(reg a, const float* b) {                                      \
    return _mm256_mul_ps(a, _mm256_loadu_ps(b));                                                        \
  }                                                                                                     \
  DISTIL_XLSTM_LANES TARGET reg multiply_add8(reg a, const float* b, reg c) {                           \
    return _mm256_fmadd_ps(a, _mm256_loadu_ps(b), c);                                                   \
  }                                                                                                     \
  DISTIL_XLSTM_LANES TARGET reg subtract_multiple8(float k, reg a, const float* b, reg c) {             \
    return _mm256_fnmadd_ps(_mm256_mul_ps(_mm256_set1_ps(k), a), _mm256_loadu_ps(b), c);                \
  }                                                                                                     \
  DISTIL_XLSTM_LANES TARGET reg add(reg a, reg b) { return _mm256_add_ps(a, b); }                       \
  DISTIL_XLSTM_LANES TARGET float sum(reg a) { return sum_lanes(a); }

struct avx2_blocks {
  /// Two products of bytes up to 128 and 127 fit 16 bits.
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 __m256i products(__m256i w, __m256i x) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1));
  }
  DISTIL_XLSTM_BLOCK_VECTORS(DISTIL_XLSTM_AVX2)
};
struct vnni_blocks {
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI __m256i products(__m256i w, __m256i x) {
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), w, x);
  }
  DISTIL_XLSTM_BLOCK_VECTORS(DISTIL_XLSTM_VNNI)
};
#undef DISTIL_XLSTM_BLOCK_VECTORS

/// The first whole blocks of `count` numbers, as floats; how many numbers that were.
template <class Kind>
DISTIL_XLSTM_AVX2 index widen_blocks(const std::uint8_t* p, index count, float* to) {
  index i = 0;
  for (; i + 32 <= count; i += 32, p += Kind::bytes) {
    const __m256 d = _mm256_set1_ps(_cvtsh_ss(distil_xlstm::detail::load_bytes<std::uint16_t>(p)));
    __m256i q = avx2_blocks::load<Kind>(p);
    if (Kind::zero != 0) q = _mm256_sub_epi8(q, _mm256_set1_epi8(static_cast<char>(Kind::zero)));
    const __m128i halves[2] = {_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1)};
    _Pragma("GCC unroll 4") for (int v = 0; v < 4; ++v) {
      const __m128i bytes = v % 2 == 0 ? halves[v / 2] : _mm_unpackhi_epi64(halves[v / 2], halves[v / 2]);
      __m256 x = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), d);
      if (Kind::minimum)
        x = _mm256_add_ps(x, _mm256_set1_ps(_cvtsh_ss(distil_xlstm::detail::load_bytes<std::uint16_t>(p + 2))));
      _mm256_storeu_ps(to + i + 8 * v, x);
    }
  }
  return i;
}
/// Of a kind that has such blocks; `first` is a multiple of 32.
inline index widen_blocks(dtype type, const void* row, index first, index count, float* to) {
  const auto* p = static_cast<const std::uint8_t*>(row) + row_bytes(type, first);
  switch (type) {
    case dtype::q8_0: return widen_blocks<q8_0_blocks>(p, count, to);
    case dtype::q4_0: return widen_blocks<q4_0_blocks>(p, count, to);
    case dtype::q4_1: return widen_blocks<q4_1_blocks>(p, count, to);
    default: return 0;
  }
}
namespace avx2 {
DISTIL_XLSTM_BLOCK_LOOPS(DISTIL_XLSTM_AVX2)
}
namespace vnni {
DISTIL_XLSTM_BLOCK_LOOPS(DISTIL_XLSTM_VNNI)
}
#endif

/// c[m x n] = beta c + a bᵀ: m rows of floats, `a_stride` floats apart, up to `direct_rows` of them; n rows of k numbers in
/// blocks, `b_stride` bytes apart.
inline void multiply_blocks(const block_functions& all, index m, index n, index k, const float* a,
                            index a_stride, dtype type, const void* b, index b_stride, float beta, float* c,
                            index ldc, gemm_scratch<float>& scratch) {
  constexpr index block = 16;  // rows of b that stay in cache while the rows of a pass, four at a time
  const index blocks = k / 32, bytes = rounded_row_bytes(blocks);
  auto* memory = static_cast<std::byte*>(scratch.take(gemm_scratch<float>::a_panels, m * bytes));
  rounded_row x[direct_rows];
  for (index i = 0; i < m; ++i) x[i] = round_row(a + i * a_stride, blocks, memory + i * bytes);
  const auto& dots = all[type == dtype::q8_0 ? 0 : type == dtype::q4_0 ? 1 : 2];
  for (index j = 0; j < n; j += block) {
    const index cols = std::min(block, n - j);
    const auto* rows = static_cast<const std::byte*>(b) + j * b_stride;
    for (index i = 0, size; i < m; i += size) {
      const int which = m - i >= 4 ? 2 : m - i >= 2 ? 1 : 0;
      size = index{1} << which;
      float out[4 * block];
      dots[which](cols, blocks, x + i, rows, b_stride, out);
      for (index r = 0; r < size; ++r) {
        float* to = c + (i + r) * ldc + j;
        for (index q = 0; q < cols; ++q)
          to[q] = beta == 0 ? out[r * cols + q] : beta * to[q] + out[r * cols + q];
      }
    }
  }
}

}  // namespace distil_xlstm::device::detail
