#pragma once

#include <cstdint>
#include <cstring>

#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::device::detail {
/// How many bytes before they are multiplied rows are asked for, into the second cache: what a processor asks for by
/// itself ends with each page of memory, and a third of the memory's speed is lost.
inline constexpr index prefetch_bytes = 4096;
}  // namespace distil_xlstm::device::detail

/// The loops of the matrix product, written once and compiled for each instruction set.
///
/// A vector type V gives `number` (of the result), `unit` (of the packed panels: a number, or a pair of bf16
/// along k), the panel shape `rows` x `lanes * vectors`, and zero, load, load_result, store, broadcast, add,
/// multiply_add, sums (of four vectors at once). `target` attributes are not inherited by what a function calls, so the
/// text itself is repeated: as macros.
///
/// tile: c[Rows x Vectors * lanes] = beta c + the product of two packed panels of k units, summed from zero in
/// order of k. dots: out[Rows x n], the scalar products of rows x with n rows w of k units; x is padded with
/// zeros to whole vectors. Lane l of two sums takes every other unit l + i * lanes. Up to four rows of w go
/// side by side, each with sums of its own.
#define DISTIL_XLSTM_GEMM_LOOPS(TARGET)                                                                      \
  template <class V, int Rows, int Vectors>                                                                  \
  TARGET void tile(index k, const void* a_panel, const void* b_panel, typename V::number beta,               \
                   typename V::number* c, index ldc) {                                                       \
    const auto* a = static_cast<const typename V::unit*>(a_panel);                                           \
    const auto* b = static_cast<const typename V::unit*>(b_panel);                                           \
    typename V::reg acc[Rows][Vectors];                                                                      \
    _Pragma("GCC unroll 16") for (int r = 0; r < Rows; ++r) {                                                \
      _Pragma("GCC unroll 16") for (int v = 0; v < Vectors; ++v) acc[r][v] = V::zero();                      \
    }                                                                                                        \
    for (int r = 0; r < Rows; ++r) __builtin_prefetch(c + r * ldc, 1);                                       \
    for (index p = 0; p < k; ++p, a += V::rows, b += V::lanes * V::vectors) {                                \
      typename V::reg column[Vectors];                                                                       \
      _Pragma("GCC unroll 16") for (int v = 0; v < Vectors; ++v) {                                           \
        column[v] = V::load(b + v * V::lanes);                                                               \
        __builtin_prefetch(b + V::prefetch * V::lanes * V::vectors + v * V::lanes);                          \
      }                                                                                                      \
      _Pragma("GCC unroll 16") for (int r = 0; r < Rows; ++r) {                                              \
        const typename V::reg x = V::broadcast(a + r);                                                       \
        _Pragma("GCC unroll 16") for (int v = 0; v < Vectors; ++v) acc[r][v] =                               \
            V::multiply_add(x, column[v], acc[r][v]);                                                        \
      }                                                                                                      \
    }                                                                                                        \
    if (beta == 0) {                                                                                         \
      _Pragma("GCC unroll 16") for (int r = 0; r < Rows; ++r) {                                              \
        _Pragma("GCC unroll 16") for (int v = 0; v < Vectors; ++v)                                           \
            V::store(c + r * ldc + v * V::lanes, acc[r][v]);                                                 \
      }                                                                                                      \
      return;                                                                                                \
    }                                                                                                        \
    _Pragma("GCC unroll 16") for (int r = 0; r < Rows; ++r) {                                                \
      _Pragma("GCC unroll 16") for (int v = 0; v < Vectors; ++v) {                                           \
        typename V::number* p = c + r * ldc + v * V::lanes;                                                  \
        V::store(p, V::scale_add(beta, V::load_result(p), acc[r][v]));                                       \
      }                                                                                                      \
    }                                                                                                        \
  }                                                                                                          \
                                                                                                             \
  template <class V, class Stored, int Rows>                                                                 \
  TARGET void dots(index n, index k, const void* x_rows, index x_stride, const void* w_rows, index w_stride, \
                   typename V::number* out) {                                                                \
    using unit = typename Stored::unit;                                                                      \
    constexpr int cols = 4 / Rows;                                                                           \
    constexpr index step = 2 * V::lanes, bytes = step * static_cast<index>(sizeof(unit));                    \
    const auto* x = static_cast<const typename V::unit*>(x_rows);                                            \
    for (index j = 0; j < n; j += cols) {                                                                    \
      const unit* w[cols];                                                                                   \
      typename V::reg even[Rows][cols], odd[Rows][cols];                                                     \
      _Pragma("GCC unroll 16") for (int c = 0; c < cols; ++c) {                                              \
        const index row = j + c < n ? j + c : n - 1;                                                         \
        w[c] = reinterpret_cast<const unit*>(static_cast<const char*>(w_rows) + row * w_stride);             \
        _Pragma("GCC unroll 16") for (int r = 0; r < Rows; ++r) even[r][c] = odd[r][c] = V::zero();          \
      }                                                                                                      \
      index p = 0;                                                                                           \
      for (; p + step <= k; p += step) {                                                                     \
        typename V::reg first[cols], second[cols];                                                           \
        _Pragma("GCC unroll 16") for (int c = 0; c < cols; ++c) {                                            \
          first[c] = Stored::load(w[c] + p), second[c] = Stored::load(w[c] + p + V::lanes);                  \
          _Pragma("GCC unroll 4") for (index line = 0; line < bytes; line += 64)                             \
              __builtin_prefetch(reinterpret_cast<const char*>(w[c] + p) + prefetch_bytes + line, 0, 2);     \
        }                                                                                                    \
        _Pragma("GCC unroll 16") for (int r = 0; r < Rows; ++r) {                                            \
          const typename V::reg low = V::load(x + r * x_stride + p),                                         \
                                high = V::load(x + r * x_stride + p + V::lanes);                             \
          _Pragma("GCC unroll 16") for (int c = 0; c < cols; ++c) {                                          \
            even[r][c] = V::multiply_add(low, first[c], even[r][c]);                                         \
            odd[r][c] = V::multiply_add(high, second[c], odd[r][c]);                                         \
          }                                                                                                  \
        }                                                                                                    \
      }                                                                                                      \
      for (bool again = false; p < k; p += V::lanes, again = true) {                                         \
        const index left = k - p < V::lanes ? k - p : V::lanes;                                              \
        _Pragma("GCC unroll 16") for (int c = 0; c < cols; ++c) {                                            \
          unit rest[V::lanes] = {};                                                                          \
          if (left < V::lanes) std::memcpy(rest, w[c] + p, static_cast<std::size_t>(left) * sizeof(unit));   \
          const typename V::reg last = Stored::load(left < V::lanes ? rest : w[c] + p);                      \
          _Pragma("GCC unroll 16") for (int r = 0; r < Rows; ++r) {                                          \
            const typename V::reg both = V::load(x + r * x_stride + p);                                      \
            if (again)                                                                                       \
              odd[r][c] = V::multiply_add(both, last, odd[r][c]);                                            \
            else                                                                                             \
              even[r][c] = V::multiply_add(both, last, even[r][c]);                                          \
          }                                                                                                  \
        }                                                                                                    \
      }                                                                                                      \
      typename V::reg added[4];                                                                              \
      _Pragma("GCC unroll 16") for (int i = 0; i < 4; ++i) added[i] =                                        \
          V::add(even[i / cols][i % cols], odd[i / cols][i % cols]);                                         \
      typename V::number sums[4];                                                                            \
      V::sums(added, sums);                                                                                  \
      for (int i = 0; i < 4; ++i)                                                                            \
        if (j + i % cols < n) out[i / cols * n + j + i % cols] = sums[i];                                    \
    }                                                                                                        \
  }

#if defined(__x86_64__) && defined(__GNUC__)
#define DISTIL_XLSTM_X86 1

#include <cpuid.h>
#include <immintrin.h>

namespace distil_xlstm::device::detail {

inline bool has_avx2() {
  unsigned a, b, c = 0, d;  // f16c: not among the names that every compiler's __builtin_cpu_supports knows
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
         (c >> 29 & 1u);
}
inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

#define DISTIL_XLSTM_AVX2 __attribute__((target("avx2,fma,f16c")))
#define DISTIL_XLSTM_AVX512 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")))
#define DISTIL_XLSTM_AVX512_BF16 \
  __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define DISTIL_XLSTM_LANES [[gnu::always_inline]] static inline

// The sum of a vector's lanes. (g++ 12 takes AVX-512 intrinsics without a mask for uses of uninitialised memory,
// hence the full masks here and below.)
DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 float sum_lanes(__m256 x) {
  __m128 h = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  h = _mm_add_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}
DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 double sum_lanes(__m256d x) {
  const __m128d h = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
  return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}
// Those of four vectors at once, each in the order that `sum_lanes` has: a sum of one vector alone is mostly moves.
DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 void store_sums(const __m256 (&x)[4], float* to) {
  // {x0, x1} and {x2, x3} in four lanes each, then x0, x2, x1, x3.
  const __m256 low = _mm256_add_ps(_mm256_permute2f128_ps(x[0], x[1], 0x20),
                                   _mm256_permute2f128_ps(x[0], x[1], 0x31)),
               high = _mm256_add_ps(_mm256_permute2f128_ps(x[2], x[3], 0x20),
                                    _mm256_permute2f128_ps(x[2], x[3], 0x31));
  const __m256 pairs = _mm256_add_ps(_mm256_unpacklo_ps(low, high), _mm256_unpackhi_ps(low, high));
  const __m256 all = _mm256_add_ps(pairs, _mm256_permute_ps(pairs, 0xee));
  _mm_storeu_ps(to, _mm_unpacklo_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 void store_sums(const __m256d (&x)[4], double* to) {
  for (int i = 0; i < 4; ++i) to[i] = sum_lanes(x[i]);
}
/// The two halves of two vectors, added.
DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 __m512 add_halves(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_maskz_shuffle_f32x4(0xffff, a, b, 0x44),
                       _mm512_maskz_shuffle_f32x4(0xffff, a, b, 0xee));
}
/// The sums of four pairs of halves that `add_halves` gave.
DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 void store_sums(__m512 low, __m512 high, float* to) {
  const __m512 quarters = _mm512_add_ps(_mm512_maskz_shuffle_f32x4(0xffff, low, high, 0x88),
                                        _mm512_maskz_shuffle_f32x4(0xffff, low, high, 0xdd));
  const __m512 pairs = _mm512_add_ps(quarters, _mm512_maskz_permute_ps(0xffff, quarters, 0xee));
  const __m512 all = _mm512_add_ps(pairs, _mm512_maskz_movehdup_ps(0xffff, pairs));
  const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_maskz_permutexvar_ps(0xffff, first, all)));
}
DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 void store_sums(const __m512 (&x)[4], float* to) {
  store_sums(add_halves(x[0], x[1]), add_halves(x[2], x[3]), to);
}
DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 void store_sums(const __m512d (&x)[4], double* to) {
  for (int i = 0; i < 4; ++i)
    to[i] = sum_lanes(
        _mm256_add_pd(_mm512_maskz_extractf64x4_pd(0xf, x[i], 0), _mm512_maskz_extractf64x4_pd(0xf, x[i], 1)));
}

/// 8 rows of `count` 4-byte units to `count` groups of 8, `panel` units apart.
DISTIL_XLSTM_AVX2 inline void transpose8x4(const void* from, index stride, index count, void* to, index panel) {
  const char* s = static_cast<const char*>(from);
  char* d = static_cast<char*>(to);
  index p = 0;
  for (; p + 8 <= count; p += 8) {
    __m256 half[8], pair[8];
    _Pragma("GCC unroll 4") for (int i = 0; i < 4;
                                 ++i) {  // rows i and i + 4: their first, then their last four units
      const char *low = s + i * stride + 4 * p, *high = s + (i + 4) * stride + 4 * p;
      half[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(reinterpret_cast<const float*>(low))),
                                     _mm_loadu_ps(reinterpret_cast<const float*>(high)), 1);
      half[i + 4] =
          _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(reinterpret_cast<const float*>(low + 16))),
                               _mm_loadu_ps(reinterpret_cast<const float*>(high + 16)), 1);
    }
    _Pragma("GCC unroll 2") for (int h = 0; h < 8; h += 4) {
      pair[h] = _mm256_unpacklo_ps(half[h], half[h + 1]);
      pair[h + 1] = _mm256_unpackhi_ps(half[h], half[h + 1]);
      pair[h + 2] = _mm256_unpacklo_ps(half[h + 2], half[h + 3]);
      pair[h + 3] = _mm256_unpackhi_ps(half[h + 2], half[h + 3]);
      char* q = d + 4 * (p + h) * panel;
      const index step = 4 * panel;
      _mm256_storeu_ps(reinterpret_cast<float*>(q), _mm256_shuffle_ps(pair[h], pair[h + 2], 0x44));
      _mm256_storeu_ps(reinterpret_cast<float*>(q + step), _mm256_shuffle_ps(pair[h], pair[h + 2], 0xee));
      _mm256_storeu_ps(reinterpret_cast<float*>(q + 2 * step),
                       _mm256_shuffle_ps(pair[h + 1], pair[h + 3], 0x44));
      _mm256_storeu_ps(reinterpret_cast<float*>(q + 3 * step),
                       _mm256_shuffle_ps(pair[h + 1], pair[h + 3], 0xee));
    }
  }
  for (; p < count; ++p)
    for (int i = 0; i < 8; ++i) std::memcpy(d + 4 * (p * panel + i), s + i * stride + 4 * p, 4);
}

/// 4 rows of `count` 4-byte units to `count` groups of 4, `panel` units apart.
DISTIL_XLSTM_AVX2 inline void transpose4x4(const void* from, index stride, index count, void* to, index panel) {
  const char* s = static_cast<const char*>(from);
  char* d = static_cast<char*>(to);
  index p = 0;
  for (; p + 4 <= count; p += 4) {
    __m128 row[4];
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i) row[i] =
        _mm_loadu_ps(reinterpret_cast<const float*>(s + i * stride + 4 * p));
    _MM_TRANSPOSE4_PS(row[0], row[1], row[2], row[3]);
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i)
        _mm_storeu_ps(reinterpret_cast<float*>(d + 4 * (p + i) * panel), row[i]);
  }
  for (; p < count; ++p)
    for (int i = 0; i < 4; ++i) std::memcpy(d + 4 * (p * panel + i), s + i * stride + 4 * p, 4);
}

/// 4 rows of `count` 8-byte units to `count` groups of 4, `panel` units apart.
DISTIL_XLSTM_AVX2 inline void transpose4x8(const void* from, index stride, index count, void* to, index panel) {
  const char* s = static_cast<const char*>(from);
  char* d = static_cast<char*>(to);
  index p = 0;
  for (; p + 2 <= count; p += 2) {
    __m256d low = _mm256_castpd128_pd256(_mm_loadu_pd(reinterpret_cast<const double*>(s + 8 * p)));
    __m256d high = _mm256_castpd128_pd256(_mm_loadu_pd(reinterpret_cast<const double*>(s + stride + 8 * p)));
    low = _mm256_insertf128_pd(low, _mm_loadu_pd(reinterpret_cast<const double*>(s + 2 * stride + 8 * p)), 1);
    high = _mm256_insertf128_pd(high, _mm_loadu_pd(reinterpret_cast<const double*>(s + 3 * stride + 8 * p)), 1);
    _mm256_storeu_pd(reinterpret_cast<double*>(d + 8 * p * panel), _mm256_unpacklo_pd(low, high));
    _mm256_storeu_pd(reinterpret_cast<double*>(d + 8 * (p + 1) * panel), _mm256_unpackhi_pd(low, high));
  }
  for (; p < count; ++p)
    for (int i = 0; i < 4; ++i) std::memcpy(d + 8 * (p * panel + i), s + i * stride + 8 * p, 8);
}

struct avx512_f32 {
  using number = float;
  using unit = float;
  using reg = __m512;
  static constexpr index rows = 8, lanes = 16, vectors = 3, prefetch = 12;
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg zero() { return _mm512_setzero_ps(); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg load(const unit* p) { return _mm512_loadu_ps(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg load_result(const number* p) { return _mm512_loadu_ps(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 void store(number* p, reg x) { _mm512_storeu_ps(p, x); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg broadcast(const unit* p) { return _mm512_set1_ps(*p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg multiply_add(reg a, reg b, reg c) {
    return _mm512_fmadd_ps(a, b, c);
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg scale_add(number a, reg b, reg c) {
    return _mm512_fmadd_ps(_mm512_set1_ps(a), b, c);
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 void sums(const reg (&x)[4], number* to) { store_sums(x, to); }

  struct bf16_memory {
    using unit = std::uint16_t;
    DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg load(const unit* p) {
      const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
      return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, x), 16));
    }
  };
  struct f16_memory {
    using unit = std::uint16_t;
    DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg load(const unit* p) {
      return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
  };
};

struct avx512_f64 {
  using number = double;
  using unit = double;
  using reg = __m512d;
  static constexpr index rows = 8, lanes = 8, vectors = 3, prefetch = 12;
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg zero() { return _mm512_setzero_pd(); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg load(const unit* p) { return _mm512_loadu_pd(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg load_result(const number* p) { return _mm512_loadu_pd(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 void store(number* p, reg x) { _mm512_storeu_pd(p, x); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg broadcast(const unit* p) { return _mm512_set1_pd(*p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg add(reg a, reg b) { return _mm512_add_pd(a, b); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg multiply_add(reg a, reg b, reg c) {
    return _mm512_fmadd_pd(a, b, c);
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 reg scale_add(number a, reg b, reg c) {
    return _mm512_fmadd_pd(_mm512_set1_pd(a), b, c);
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512 void sums(const reg (&x)[4], number* to) { store_sums(x, to); }
};

/// Pairs of bf16 along k, float sums. A pair counts as one unit.
struct avx512_bf16 {
  using number = float;
  using unit = std::uint32_t;
  using reg = __m512;
  static constexpr index rows = 8, lanes = 16, vectors = 3, prefetch = 12;
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512_BF16 reg zero() { return _mm512_setzero_ps(); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512_BF16 reg load(const unit* p) { return _mm512_loadu_ps(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512_BF16 reg load_result(const number* p) { return _mm512_loadu_ps(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512_BF16 void store(number* p, reg x) { _mm512_storeu_ps(p, x); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512_BF16 reg broadcast(const unit* p) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*p)));
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512_BF16 reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512_BF16 reg multiply_add(reg a, reg b, reg c) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512_BF16 reg scale_add(number a, reg b, reg c) {
    return _mm512_fmadd_ps(_mm512_set1_ps(a), b, c);
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX512_BF16 void sums(const reg (&x)[4], number* to) { store_sums(x, to); }
};

struct avx2_f32 {
  using number = float;
  using unit = float;
  using reg = __m256;
  static constexpr index rows = 4, lanes = 8, vectors = 3, prefetch = 16;
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg zero() { return _mm256_setzero_ps(); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg load(const unit* p) { return _mm256_loadu_ps(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg load_result(const number* p) { return _mm256_loadu_ps(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 void store(number* p, reg x) { _mm256_storeu_ps(p, x); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg broadcast(const unit* p) { return _mm256_broadcast_ss(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg add(reg a, reg b) { return _mm256_add_ps(a, b); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg multiply_add(reg a, reg b, reg c) {
    return _mm256_fmadd_ps(a, b, c);
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg scale_add(number a, reg b, reg c) {
    return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c);
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 void sums(const reg (&x)[4], number* to) { store_sums(x, to); }

  struct bf16_memory {
    using unit = std::uint16_t;
    DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg load(const unit* p) {
      const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
    }
  };
  struct f16_memory {
    using unit = std::uint16_t;
    DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg load(const unit* p) {
      return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
  };
};

struct avx2_f64 {
  using number = double;
  using unit = double;
  using reg = __m256d;
  static constexpr index rows = 4, lanes = 4, vectors = 3, prefetch = 16;
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg zero() { return _mm256_setzero_pd(); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg load(const unit* p) { return _mm256_loadu_pd(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg load_result(const number* p) { return _mm256_loadu_pd(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 void store(number* p, reg x) { _mm256_storeu_pd(p, x); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg broadcast(const unit* p) { return _mm256_broadcast_sd(p); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg add(reg a, reg b) { return _mm256_add_pd(a, b); }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg multiply_add(reg a, reg b, reg c) {
    return _mm256_fmadd_pd(a, b, c);
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 reg scale_add(number a, reg b, reg c) {
    return _mm256_fmadd_pd(_mm256_set1_pd(a), b, c);
  }
  DISTIL_XLSTM_LANES DISTIL_XLSTM_AVX2 void sums(const reg (&x)[4], number* to) { store_sums(x, to); }
};

namespace avx512 {
DISTIL_XLSTM_GEMM_LOOPS(DISTIL_XLSTM_AVX512)
}
namespace avx512bf16 {
DISTIL_XLSTM_GEMM_LOOPS(DISTIL_XLSTM_AVX512_BF16)
}
namespace avx2 {
DISTIL_XLSTM_GEMM_LOOPS(DISTIL_XLSTM_AVX2)
}

/// The first whole vectors of `count` numbers stored as bf16 or f16, as floats; how many that were.
template <class Stored>
DISTIL_XLSTM_AVX512 index widen_avx512(const std::uint16_t* from, index count, float* to) {
  index i = 0;
  for (; i + 16 <= count; i += 16) _mm512_storeu_ps(to + i, Stored::load(from + i));
  return i;
}
template <class Stored>
DISTIL_XLSTM_AVX2 index widen_avx2(const std::uint16_t* from, index count, float* to) {
  index i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, Stored::load(from + i));
  return i;
}
/// The first whole vectors of `count` floats rounded to bf16 (nearest even; denormals to zero); how many that
/// were.
DISTIL_XLSTM_AVX512_BF16 inline index narrow_avx512(const float* from, index count, std::uint16_t* to) {
  index i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m512bh pair = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i));
    _mm512_storeu_si512(to + i, reinterpret_cast<__m512i>(pair));
  }
  return i;
}
/// out[i] = the pair (even[i], odd[i]).
inline void zip_pairs(const std::uint16_t* even, const std::uint16_t* odd, index count, std::uint16_t* out) {
  index i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(even + i));
    const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(odd + i));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i), _mm_unpacklo_epi16(x, y));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i + 8), _mm_unpackhi_epi16(x, y));
  }
  for (; i < count; ++i) out[2 * i] = even[i], out[2 * i + 1] = odd[i];
}

}  // namespace distil_xlstm::device::detail
#endif
