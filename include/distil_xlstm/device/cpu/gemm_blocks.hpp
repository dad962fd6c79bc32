#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/device/cpu/gemm_operand.hpp>
#include <distil_xlstm/device/cpu/gemm_x86.hpp>

/// Products of a few rows with a matrix of Q8_0, Q4_0 or Q4_1, read as it is stored. The rows are rounded to 8 bits,
/// each 32 numbers with a scale of their own; what is multiplied within a block are whole numbers, whose sums are
/// exact.
namespace distil_xlstm::device::detail {

/// How a kind lies in memory: `bytes` a block, its numbers from byte `at` on, as signed bytes or as 4 bits each; a
/// number is d (q - zero), or d q + m where blocks have a minimum.
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

/// A row of x: 8-bit numbers q and for each block of 32 the scale d and the sum of d q; up to a multiple of 8 blocks,
/// zero behind the last.
struct rounded_row {
  float *scale, *sum;
  std::int8_t* q;
  /// Of so many blocks, in memory of `bytes`.
  rounded_row(void* memory, index blocks)
      : scale(static_cast<float*>(memory)),
        sum(scale + padded(blocks)),
        q(reinterpret_cast<std::int8_t*>(sum + padded(blocks))) {}
  static constexpr index bytes(index blocks) { return padded(blocks) * (32 + 2 * 4); }
  static constexpr index padded(index blocks) { return (blocks + 7) / 8 * 8; }
  /// Zeros behind the last block.
  void pad(index blocks) const {
    const index end = padded(blocks);
    for (index b = blocks; b < end; ++b) scale[b] = sum[b] = 0;
    std::memset(q + blocks * 32, 0, static_cast<std::size_t>((end - blocks) * 32));
  }
};
/// x, of `blocks` blocks: d = max |x| / 127, q = x / d rounded to nearest even.
inline void round_row(const float* x, index blocks, const rounded_row& to) {
  for (index b = 0; b < blocks; ++b, x += 32) {
    std::uint32_t largest = 0;  // of magnitudes, whose bits are in their order; NaN is above all
    for (int i = 0; i < 32; ++i) largest = std::max(largest, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu);
    const float most = std::bit_cast<float>(largest), inverse = most > 4e-37f ? 127 / most : 0;
    int total = 0;
    for (int i = 0; i < 32; ++i) {
      // Behind 1.5 2^23 a float has no room for a fraction.
      const auto bits = std::bit_cast<std::uint32_t>(x[i] * inverse + 12582912.f);
      const auto each = static_cast<std::int8_t>(bits & 0xffu);
      to.q[b * 32 + i] = each, total += each;
    }
    to.scale[b] = most / 127;
    to.sum[b] = to.scale[b] * static_cast<float>(total);
  }
  to.pad(blocks);
}

/// Products with rows of Q8_0, Q4_0 and Q4_1.
struct block_functions {
  void (*round)(const float* x, index blocks, const rounded_row& to);
  /// Of 1, 2 or 4 rows (1 << i).
  void (*dots[3][3])(index n, index blocks, const rounded_row* x, const void* rows, index stride, float* out);
};

/// out[Rows x n]: the scalar products of `Rows` rounded rows with n rows of blocks, `stride` bytes apart. Blocks go in
/// pairs, the first of which is added to eight sums, the second to eight others. A vector type V gives
///
///     cols                                how many rows of blocks one rounded row is multiplied with at a time
///     in_line                             eight blocks have code of their own, the rest of a row a loop of pairs
///     pair, load, load_one                the numbers of two blocks, or of one and zeros
///     load_x                              64 numbers of x
///     scales, read_scales(p, n)           what n <= 8 blocks have in halves, zeros behind them
///     factors, scaled                     the products of such scales and x's
///     sums, none, add_dots                16 sums, to which block i's and i + 1's products times factors are added
///     reg, zero, add_offsets              8 sums, to which x's sums times the blocks' offsets are added
///     store_sums                          of all of these, a number for each row and each row of blocks
///     round                               `round_row`
#define DISTIL_XLSTM_BLOCK_LOOPS(TARGET)                                                                       \
  template <class V, class Kind, int Rows, int Cols>                                                           \
  [[gnu::always_inline]] TARGET inline void add_pair(                                                          \
      index count, index b, int i, const rounded_row* x, const std::uint8_t* const(&w)[Cols],                  \
      const typename V::factors(&d)[Rows][Cols], typename V::sums(&sums)[Rows][Cols]) {                        \
    typename V::pair pairs[Cols];                                                                              \
    _Pragma("GCC unroll 4") for (int c = 0; c < Cols; ++c) {                                                   \
      const auto* p = w[c] + i * Kind::bytes;                                                                  \
      pairs[c] = i + 1 < count ? V::template load<Kind>(p) : V::template load_one<Kind>(p);                    \
    }                                                                                                          \
    _Pragma("GCC unroll 4") for (int r = 0; r < Rows; ++r) {                                                   \
      const auto q = V::template load_x<Kind>(x[r].q + (b + i) * 32);                                          \
      _Pragma("GCC unroll 4") for (int c = 0; c < Cols; ++c) sums[r][c] =                                      \
          V::template add_dots<Kind>(pairs[c], q, d[r][c], i, sums[r][c]);                                     \
    }                                                                                                          \
  }                                                                                                            \
  template <class V, class Kind, bool Whole, int Rows, int Cols>                                               \
  [[gnu::always_inline]] TARGET inline void add_group(                                                         \
      index count, index b, const rounded_row* x, const std::uint8_t* const(&w)[Cols],                         \
      typename V::sums(&sums)[Rows][Cols], typename V::reg(&rest)[Rows][Cols]) {                               \
    typename V::factors d[Rows][Cols];                                                                         \
    _Pragma("GCC unroll 4") for (int c = 0; c < Cols; ++c) {                                                   \
      _Pragma("GCC unroll 8") for (index line = 0; line < count * Kind::bytes; line += 64)                     \
          __builtin_prefetch(w[c] + prefetch_bytes + line, 0, 2);                                              \
      const auto scales = V::template read_scales<Kind>(w[c], count);                                          \
      _Pragma("GCC unroll 4") for (int r = 0; r < Rows; ++r) {                                                 \
        d[r][c] = V::template scaled<Kind>(scales, x[r].scale + b);                                            \
        if (Kind::minimum || Kind::zero != 0)                                                                  \
          rest[r][c] = V::template add_offsets<Kind>(scales, x[r].sum + b, rest[r][c]);                        \
      }                                                                                                        \
    }                                                                                                          \
    if constexpr (Whole)                                                                                       \
      _Pragma("GCC unroll 4") for (int i = 0; i < 8; i += 2)                                                   \
          add_pair<V, Kind, Rows, Cols>(8, b, i, x, w, d, sums);                                               \
    else                                                                                                       \
      _Pragma("GCC unroll 1") for (int i = 0; i < count; i += 2)                                               \
          add_pair<V, Kind, Rows, Cols>(count, b, i, x, w, d, sums);                                           \
  }                                                                                                            \
  template <class V, class Kind, int Rows>                                                                     \
  TARGET void block_dots(index n, index blocks, const rounded_row* x, const void* rows, index stride,          \
                         float* out) {                                                                         \
    constexpr int cols = V::cols >= Rows ? V::cols / Rows : 1;                                                 \
    for (index j = 0; j < n; j += cols) {                                                                      \
      const std::uint8_t* w[cols];                                                                             \
      typename V::sums sums[Rows][cols];                                                                       \
      typename V::reg rest[Rows][cols];                                                                        \
      _Pragma("GCC unroll 4") for (int c = 0; c < cols; ++c) {                                                 \
        w[c] = static_cast<const std::uint8_t*>(rows) + (j + c < n ? j + c : n - 1) * stride;                  \
        _Pragma("GCC unroll 4") for (int r = 0; r < Rows; ++r) sums[r][c] = V::none(), rest[r][c] = V::zero(); \
      }                                                                                                        \
      index b = 0;                                                                                             \
      if constexpr (V::in_line)                                                                                \
        for (; b + 8 <= blocks; b += 8) {                                                                      \
          add_group<V, Kind, true, Rows, cols>(8, b, x, w, sums, rest);                                        \
          _Pragma("GCC unroll 4") for (int c = 0; c < cols; ++c) w[c] += 8 * Kind::bytes;                      \
        }                                                                                                      \
      for (; b < blocks; b += 8) {                                                                             \
        const index count = blocks - b < 8 ? blocks - b : 8;                                                   \
        add_group<V, Kind, false, Rows, cols>(count, b, x, w, sums, rest);                                     \
        _Pragma("GCC unroll 4") for (int c = 0; c < cols; ++c) w[c] += count * Kind::bytes;                    \
      }                                                                                                        \
      float all[Rows * cols];                                                                                  \
      V::store_sums(sums, rest, all);                                                                          \
      for (int i = 0; i < Rows * cols; ++i)                                                                    \
        if (j + i % cols < n) out[i / cols * n + j + i % cols] = all[i];                                       \
    }                                                                                                          \
  }                                                                                                            \
  template <class V, class Kind>                                                                               \
  constexpr void set_kind(block_functions& to, int kind) {                                                     \
    to.dots[kind][0] = block_dots<V, Kind, 1>, to.dots[kind][1] = block_dots<V, Kind, 2>;                      \
    to.dots[kind][2] = block_dots<V, Kind, 4>;                                                                 \
  }                                                                                                            \
  template <class V>                                                                                           \
  constexpr void set_blocks(block_functions& to) {                                                             \
    to.round = V::round, set_kind<V, q8_0_blocks>(to, 0), set_kind<V, q4_0_blocks>(to, 1),                     \
    set_kind<V, q4_1_blocks>(to, 2);                                                                           \
  }

/// Plain C++. Where it is the last resort, its parts are called: in line, in loops unrolled, they are more code than
/// all the rest of the product.
#if defined(DISTIL_XLSTM_X86)
#define DISTIL_XLSTM_PART [[gnu::noinline]]
#else
#define DISTIL_XLSTM_PART
#endif
struct portable_blocks {
  static constexpr int cols = 1;
#if defined(DISTIL_XLSTM_X86)
  static constexpr bool in_line = false;
#else
  static constexpr bool in_line = true;
#endif
  struct pair {
    std::int8_t q[64];
  };
  struct reg {
    float x[8];
  };
  struct sums {
    float even = 0, odd = 0;
  };
  struct scales {
    float d[8], offset[8];
  };
  using factors = reg;
  static void round(const float* x, index blocks, const rounded_row& to) { round_row(x, blocks, to); }
  static reg zero() { return {}; }
  static sums none() { return {}; }
  template <class Kind>
  static void load_block(const std::uint8_t* p, std::int8_t* to) {
    p += Kind::at;
    if (Kind::nibbles)
      for (int i = 0; i < 16; ++i)
        to[i] = static_cast<std::int8_t>(p[i] & 15), to[i + 16] = static_cast<std::int8_t>(p[i] >> 4);
    else
      std::memcpy(to, p, 32);
  }
  template <class Kind>
  DISTIL_XLSTM_PART static pair load(const std::uint8_t* p) {
    pair out;
    load_block<Kind>(p, out.q), load_block<Kind>(p + Kind::bytes, out.q + 32);
    return out;
  }
  template <class Kind>
  DISTIL_XLSTM_PART static pair load_one(const std::uint8_t* p) {
    pair out{};
    load_block<Kind>(p, out.q);
    return out;
  }
  template <class Kind>
  static const std::int8_t* load_x(const std::int8_t* x) {
    return x;
  }
  template <class Kind>
  DISTIL_XLSTM_PART static sums add_dots(const pair& w, const std::int8_t* x, const factors& d, int i,
                                         sums to) {
    int dot[2] = {};
    for (int p = 0; p < 64; ++p) dot[p / 32] += w.q[p] * x[p];
    to.even += d.x[i] * static_cast<float>(dot[0]);
    to.odd += d.x[i + 1] * static_cast<float>(dot[1]);
    return to;
  }
  template <class Kind>
  DISTIL_XLSTM_PART static scales read_scales(const std::uint8_t* p, index count) {
    scales out{};
    for (index i = 0; i < std::min<index>(count, 8); ++i, p += Kind::bytes) {
      out.d[i] = distil_xlstm::detail::half_at(p);
      out.offset[i] = Kind::minimum ? distil_xlstm::detail::half_at(p + 2) : -Kind::zero * out.d[i];
    }
    return out;
  }
  template <class Kind>
  DISTIL_XLSTM_PART static factors scaled(const scales& a, const float* b) {
    factors out;
    for (int i = 0; i < 8; ++i) out.x[i] = a.d[i] * b[i];
    return out;
  }
  template <class Kind>
  DISTIL_XLSTM_PART static reg add_offsets(const scales& a, const float* b, reg c) {
    for (int i = 0; i < 8; ++i) c.x[i] += a.offset[i] * b[i];
    return c;
  }
  template <int Rows>
  static void store_sums(const sums (&a)[Rows][1], const reg (&rest)[Rows][1], float* to) {
    for (int r = 0; r < Rows; ++r) {
      to[r] = a[r][0].even + a[r][0].odd;
      for (const float each : rest[r][0].x) to[r] += each;
    }
  }
};
#undef DISTIL_XLSTM_PART
namespace portable {
DISTIL_XLSTM_BLOCK_LOOPS()
}

#if defined(DISTIL_XLSTM_X86)
inline bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#define DISTIL_XLSTM_VNNI __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

struct avx2_blocks {
  static constexpr int cols = 1;
  static constexpr bool in_line = true;
  using reg = __m256;
  struct pair {
    __m256i first, second;
  };
  struct sums {
    __m256 even, odd;
  };
  struct scales {
    __m256 d, m;
  };
  struct factors {
    alignas(32) float d[8];
  };
  /// As `round_row`.
  DISTIL_XLSTM_AVX2 static void round(const float* x, index blocks, const rounded_row& to) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256 whole = _mm256_set1_ps(12582912.f);
    for (index b = 0; b < blocks; ++b, x += 32) {
      __m256 v[4];
      _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i) v[i] = _mm256_loadu_ps(x + 8 * i);
      __m256i largest = _mm256_setzero_si256();
      _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i) largest =
          _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
      __m128i four = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
      four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
      four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
      const float most = _mm_cvtss_f32(_mm_castsi128_ps(four)), inverse = most > 4e-37f ? 127 / most : 0;
      __m256i q[4], total = _mm256_setzero_si256();
      _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i) {
        const __m256 rounded = _mm256_fmadd_ps(v[i], _mm256_set1_ps(inverse), whole);
        q[i] = _mm256_sub_epi32(_mm256_castps_si256(rounded), _mm256_castps_si256(whole));
        total = _mm256_add_epi32(total, q[i]);
      }
      const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.q + b * 32), _mm256_permutevar8x32_epi32(bytes, order));
      four = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
      four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
      four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
      to.scale[b] = most / 127;
      to.sum[b] = to.scale[b] * static_cast<float>(_mm_cvtsi128_si32(four));
    }
    to.pad(blocks);
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg zero() { return _mm256_setzero_ps(); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 sums none() { return {zero(), zero()}; }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 __m256i load_block(const std::uint8_t* p) {
    if constexpr (!Kind::nibbles) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + Kind::at));
    } else {
      // The low halves of bytes, then the high ones.
      const __m256i both =
          _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + Kind::at)));
      const __m256i shifted = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
      return _mm256_and_si256(shifted, _mm256_set1_epi8(15));
    }
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 pair load(const std::uint8_t* p) {
    return {load_block<Kind>(p), load_block<Kind>(p + Kind::bytes)};
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 pair load_one(const std::uint8_t* p) {
    return {load_block<Kind>(p), _mm256_setzero_si256()};
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 pair load_x(const std::int8_t* x) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 32))};
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 __m256 dot(__m256i w, __m256i q) {
    if constexpr (!Kind::nibbles) {
      q = _mm256_sign_epi8(q, w);
      w = _mm256_abs_epi8(w);
    }
    // Two products of bytes up to 128 and 127 fit 16 bits.
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_maddubs_epi16(w, q), _mm256_set1_epi16(1)));
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 sums add_dots(pair w, pair x, const factors& d, int i, sums to) {
    return {_mm256_fmadd_ps(_mm256_broadcast_ss(d.d + i), dot<Kind>(w.first, x.first), to.even),
            _mm256_fmadd_ps(_mm256_broadcast_ss(d.d + i + 1), dot<Kind>(w.second, x.second), to.odd)};
  }
  template <index Bytes>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 __m256 halves(const std::uint8_t* p, index count) {
    std::int16_t h[8] = {};
    if (count >= 8) {
      _Pragma("GCC unroll 8") for (int i = 0; i < 8; ++i) std::memcpy(h + i, p + i * Bytes, 2);
    } else {
      for (index i = 0; i < count; ++i) std::memcpy(h + i, p + i * Bytes, 2);
    }
    return _mm256_cvtph_ps(_mm_setr_epi16(h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]));
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 scales read_scales(const std::uint8_t* p, index count) {
    const __m256 d = halves<Kind::bytes>(p, count);
    return {d, Kind::minimum ? halves<Kind::bytes>(p + 2, count) : d};
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 factors scaled(scales a, const float* b) {
    factors out;
    _mm256_store_ps(out.d, _mm256_mul_ps(a.d, _mm256_loadu_ps(b)));
    return out;
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg add_offsets(scales a, const float* b, reg c) {
    __m256 sums = _mm256_loadu_ps(b);
    if (!Kind::minimum) sums = _mm256_mul_ps(sums, _mm256_set1_ps(-Kind::zero));
    return _mm256_fmadd_ps(a.m, sums, c);
  }
  template <int Rows>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 void store_sums(const sums (&a)[Rows][1], const reg (&rest)[Rows][1],
                                                       float* to) {
    _Pragma("GCC unroll 4") for (int r = 0; r < Rows; ++r) to[r] =
        sum_lanes(_mm256_add_ps(_mm256_add_ps(a[r][0].even, a[r][0].odd), rest[r][0]));
  }
};

/// A pair in one vector: the first block's numbers, then the second's; the same sums as AVX2's in the same order.
struct vnni_blocks {
  static constexpr int cols = 4;
  static constexpr bool in_line = true;
  using reg = __m256;
  using pair = __m512i;
  using sums = __m512;
  using factors = __m512;
  struct scales {
    __m512 d;
    __m256 m;
  };
  struct rounded {
    __m512i q, zero;
  };
  static void round(const float* x, index blocks, const rounded_row& to) { avx2_blocks::round(x, blocks, to); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI reg zero() { return _mm256_setzero_ps(); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI sums none() { return _mm512_setzero_ps(); }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI pair unpacked(__m512i stored) {
    if constexpr (!Kind::nibbles) {
      return _mm512_xor_si512(stored, _mm512_set1_epi8(-128));  // as unsigned bytes, 128 more
    } else {
      // The low halves of bytes as they are, the high ones as sixteen times what they are.
      const __m512i halves =
          _mm512_setr_epi64(0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f, -0x0f0f0f0f0f0f0f10, -0x0f0f0f0f0f0f0f10,
                            0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f, -0x0f0f0f0f0f0f0f10, -0x0f0f0f0f0f0f0f10);
      return _mm512_and_si512(stored, halves);
    }
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI pair load(const std::uint8_t* p) {
    const auto *first = p + Kind::at, *second = first + Kind::bytes;
    if constexpr (!Kind::nibbles)
      return unpacked<Kind>(_mm512_inserti64x4(
          _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first))),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)), 1));
    else
      return unpacked<Kind>(_mm512_mask_broadcast_i32x4(
          _mm512_maskz_broadcast_i32x4(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(first))),
          0xff00, _mm_loadu_si128(reinterpret_cast<const __m128i*>(second))));
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI pair load_one(const std::uint8_t* p) {
    p += Kind::at;
    if constexpr (!Kind::nibbles)
      return unpacked<Kind>(_mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
    else
      return unpacked<Kind>(
          _mm512_maskz_broadcast_i32x4(0x00ff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI rounded load_x(const std::int8_t* x) {
    const __m512i q = _mm512_loadu_si512(x), none = _mm512_setzero_si512();
    if constexpr (!Kind::nibbles)
      return {q, _mm512_sub_epi32(none, _mm512_dpbusd_epi32(none, _mm512_set1_epi8(-128), q))};
    else
      return {q, none};
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI sums add_dots(pair w, rounded x, factors d, int i, sums to) {
    const __m512i first = _mm512_setr_epi32(0, 0, 0, 0, 8, 8, 8, 8, 1, 1, 1, 1, 9, 9, 9, 9);
    const __m512 dots = _mm512_maskz_cvtepi32_ps(0xffff, _mm512_dpbusd_epi32(x.zero, w, x.q));
    return _mm512_fmadd_ps(
        _mm512_maskz_permutexvar_ps(0xffff, _mm512_add_epi32(first, _mm512_set1_epi32(i)), d), dots, to);
  }
  /// 32 numbers of 16 bits, of which as many are read as there are.
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI __m512i words(const std::uint8_t* p, index count) {
    const index some = count < 0 ? 0 : count > 32 ? 32 : count;
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((std::uint64_t{1} << some) - 1), p);
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI scales read_scales(const std::uint8_t* p, index count) {
    constexpr int size = Kind::bytes / 2;  // in numbers of 16 bits
    const index all = count * size;
    if constexpr (Kind::nibbles) {
      // The first four blocks' scales are in one vector, those of the others in another.
      alignas(64) static constexpr std::array<std::uint16_t, 32> from = [] {
        std::array<std::uint16_t, 32> out{};
        for (int i = 0; i < 32; ++i)
          out[static_cast<std::size_t>(i)] =
              static_cast<std::uint16_t>((i % 8 < 4 ? 0 : 32) + i % 4 * size + (i < 16 ? 0 : 1));
        return out;
      }();
      const __m512i found = _mm512_permutex2var_epi16(words(p, all), _mm512_load_si512(from.data()),
                                                      words(p + 8 * size, all - 4 * size));
      const __m512 d = _mm512_maskz_cvtph_ps(0xffff, _mm512_castsi512_si256(found));
      if constexpr (Kind::minimum)
        return {d, _mm256_cvtph_ps(_mm512_maskz_extracti32x4_epi32(0xf, found, 2))};
      else
        return {d, _mm512_castps512_ps256(d)};
    } else {
      alignas(64) static constexpr std::array<std::uint16_t, 32> from = [] {
        std::array<std::uint16_t, 32> out{};
        for (int i = 0; i < 32; ++i)
          out[static_cast<std::size_t>(i)] = static_cast<std::uint16_t>((i % 4 < 2 ? 0 : 32) + i % 2 * size);
        return out;
      }();
      const __m512i index_of = _mm512_load_si512(from.data());
      const __m512i low =
          _mm512_permutex2var_epi16(words(p, all), index_of, words(p + 4 * size, all - 2 * size));
      const __m512i high = _mm512_permutex2var_epi16(words(p + 8 * size, all - 4 * size), index_of,
                                                     words(p + 12 * size, all - 6 * size));
      const __m512i found = _mm512_mask_mov_epi64(low, 0xaa, high);
      const __m512 d = _mm512_maskz_cvtph_ps(0xffff, _mm512_castsi512_si256(found));
      return {d, _mm512_castps512_ps256(d)};
    }
  }
  /// Of eight blocks, for the first and for the second half of their numbers.
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI factors scaled(scales a, const float* b) {
    __m512 twice = _mm512_maskz_broadcast_f32x8(0xffff, _mm256_loadu_ps(b));
    if constexpr (Kind::nibbles) {
      const float o = 1, s = 0.0625f;
      twice = _mm512_mul_ps(twice, _mm512_setr_ps(o, o, o, o, o, o, o, o, s, s, s, s, s, s, s, s));
    }
    return _mm512_mul_ps(a.d, twice);
  }
  template <class Kind>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI reg add_offsets(scales a, const float* b, reg c) {
    return avx2_blocks::add_offsets<Kind>({a.m, a.m}, b, c);
  }
  template <int Rows, int Cols>
  DISTIL_XLSTM_LANES DISTIL_XLSTM_VNNI void store_sums(const sums (&a)[Rows][Cols],
                                                       const reg (&rest)[Rows][Cols], float* to) {
    static_assert(Rows * Cols == 4);
    __m512 pairs[2];
    _Pragma("GCC unroll 2") for (int i = 0; i < 2; ++i) {
      const int first = 2 * i, second = first + 1;
      const __m512 both =
          _mm512_maskz_insertf32x8(0xffff, _mm512_castps256_ps512(rest[first / Cols][first % Cols]),
                                   rest[second / Cols][second % Cols], 1);
      pairs[i] =
          _mm512_add_ps(add_halves(a[first / Cols][first % Cols], a[second / Cols][second % Cols]), both);
    }
    detail::store_sums(pairs[0], pairs[1], to);
  }
};

/// The first whole blocks of `count` numbers, as floats; how many numbers that were.
template <class Kind>
DISTIL_XLSTM_AVX2 index widen_blocks(const std::uint8_t* p, index count, float* to) {
  index i = 0;
  for (; i + 32 <= count; i += 32, p += Kind::bytes) {
    const __m256 d = _mm256_set1_ps(_cvtsh_ss(distil_xlstm::detail::load_bytes<std::uint16_t>(p)));
    __m256i q = avx2_blocks::load_block<Kind>(p);
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

}  // namespace distil_xlstm::device::detail
