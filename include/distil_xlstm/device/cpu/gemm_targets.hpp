#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/cpu/gemm_blocks.hpp>
#include <distil_xlstm/device/cpu/gemm_operand.hpp>
#include <distil_xlstm/device/cpu/gemm_x86.hpp>

/// How the matrix product of one thread is made: the blocking of Goto and van de Geijn (ACM TOMS 34, 2008). Both
/// operands are packed into panels, and unpacked from their stored kind on the way; a register kernel of the machine's
/// instruction set multiplies the panels.
namespace distil_xlstm::device::detail {

/// How one instruction set multiplies. A panel of A holds `rows` numbers for each unit of k, one of B
/// `lanes * vectors`; a unit is one number, or `depth` numbers along k in `unit` bytes.
template <class T>
struct gemm_target {
  using tile_function = void (*)(index, const void*, const void*, T, T*, index);
  using dots_function = void (*)(index, index, const void*, index, const void*, index, T*);

  const char* name;
  index rows, lanes, vectors;
  index depth, unit;
  dtype direct;  ///< the kind whose memory is made of units already; u8 if none is
  /// Numbers [first, first + count) of a memory row, as panels hold them.
  void (*fetch)(dtype type, const void* row, index first, index count, void* out);
  /// Two rows of fetched numbers into one row of units (depth 2 only).
  void (*zip)(const std::uint16_t* even, const std::uint16_t* odd, index count, std::uint16_t* out);
  /// `group` rows of `count` units, `stride` bytes apart, into `count` groups, `panel` units apart.
  void (*transpose)(const void* from, index stride, index count, void* to, index panel);
  void (*transpose_wide)(const void* from, index stride, index count, void* to, index panel);
  index group, group_wide;    ///< transpose_wide is for panels of a multiple of group_wide numbers
  tile_function tiles[4][2];  ///< for rows >> i rows; all vectors, or one
  dots_function dots[3][3];   ///< for 1 << i rows; memory that is direct, bf16, f16 (null: fetched first)
  block_functions blocks;     ///< the same of blocks, with the rows rounded to 8 bits; of float alone
};

// ---------------------------------------------------------------------------------------------------------------------
// The parts that need no particular instruction set.

/// 16 bytes of T: every compiler of this library turns it into the vectors of its machine.
template <class T>
struct portable_vector {
  using number = T;
  using unit = T;
  typedef T reg __attribute__((vector_size(16)));
  static constexpr index rows = 4, lanes = 16 / static_cast<index>(sizeof(T)), vectors = 2, prefetch = 16;
  [[gnu::always_inline]] static inline reg zero() { return reg{}; }
  [[gnu::always_inline]] static inline reg load(const unit* p) {
    reg x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  [[gnu::always_inline]] static inline reg load_result(const number* p) { return load(p); }
  [[gnu::always_inline]] static inline void store(number* p, reg x) { std::memcpy(p, &x, sizeof x); }
  [[gnu::always_inline]] static inline reg broadcast(const unit* p) { return reg{} + *p; }
  [[gnu::always_inline]] static inline reg add(reg a, reg b) { return a + b; }
  [[gnu::always_inline]] static inline reg multiply_add(reg a, reg b, reg c) { return a * b + c; }
  [[gnu::always_inline]] static inline reg scale_add(number a, reg b, reg c) { return a * b + c; }
  [[gnu::always_inline]] static inline void sums(const reg (&x)[4], number* to) {
    for (int v = 0; v < 4; ++v) {
      to[v] = x[v][0];
      for (index i = 1; i < lanes; ++i) to[v] += x[v][i];
    }
  }
};

// g++ would fuse a product and a sum in one loop and not in another, by the processor it tunes for, and the
// sums would depend on the shape of a tile. clang decides by the expression alone.
#if defined(__GNUC__) && !defined(__clang__)
#define DISTIL_XLSTM_PORTABLE __attribute__((optimize("fp-contract=off")))
#else
#define DISTIL_XLSTM_PORTABLE
#endif
namespace portable {
DISTIL_XLSTM_GEMM_LOOPS(DISTIL_XLSTM_PORTABLE)
}
#undef DISTIL_XLSTM_PORTABLE

template <class T>
void fetch_portable(dtype type, const void* row, index first, index count, void* out) {
  const auto [numbers, bytes, name] = traits(type);
  const auto* p = static_cast<const std::uint8_t*>(row) + first / numbers * bytes;
  T* to = static_cast<T*>(out);
  if (numbers == 1) return unpack(type, p, count, to);
  float block[256];
  index skip = first % numbers;
  for (; count > 0; p += bytes, skip = 0) {
    const index used = std::min(numbers - skip, count);
    distil_xlstm::detail::unpack_block(type, p, block);
    for (index i = 0; i < used; ++i) to[i] = static_cast<T>(block[skip + i]);
    to += used, count -= used;
  }
}

/// The same, each number rounded to bf16 but kept as a float.
inline void fetch_rounded(dtype type, const void* row, index first, index count, void* out) {
  fetch_portable<float>(type, row, first, count, out);
  float* x = static_cast<float*>(out);
  for (index i = 0; i < count; ++i) x[i] = bf16(x[i]);
}

template <class T>
void transpose_portable(const void* from, index stride, index count, void* to, index panel) {
  const char* s = static_cast<const char*>(from);
  T* d = static_cast<T*>(to);
  for (index p = 0; p < count; ++p)
    for (int i = 0; i < 4; ++i)
      std::memcpy(d + p * panel + i, s + i * stride + p * static_cast<index>(sizeof(T)), sizeof(T));
}

template <class T>
constexpr gemm_target<T> portable_target() {
  using V = portable_vector<T>;
  gemm_target<T> t{};
  t.name = "portable";
  t.rows = V::rows, t.lanes = V::lanes, t.vectors = V::vectors;
  t.depth = 1, t.unit = sizeof(T), t.direct = dtype_of<T>;
  t.fetch = fetch_portable<T>;
  t.transpose = t.transpose_wide = transpose_portable<T>;
  t.group = t.group_wide = 4;
  using portable::dots, portable::tile;
  t.tiles[0][0] = tile<V, 4, V::vectors>, t.tiles[0][1] = tile<V, 4, 1>;
  t.tiles[1][0] = tile<V, 2, V::vectors>, t.tiles[1][1] = tile<V, 2, 1>;
  t.tiles[2][0] = tile<V, 1, V::vectors>, t.tiles[2][1] = tile<V, 1, 1>;
  t.dots[0][0] = dots<V, V, 1>, t.dots[0][1] = dots<V, V, 2>;
  t.dots[0][2] = dots<V, V, 4>;
  if constexpr (sizeof(T) == 4) portable::set_blocks<portable_blocks>(t.blocks);
  return t;
}

// ---------------------------------------------------------------------------------------------------------------------
// What x86 has to offer.

#if defined(DISTIL_XLSTM_X86)
inline void fetch_avx2(dtype type, const void* row, index first, index count, void* out) {
  index done = 0;
  const auto* from = static_cast<const std::uint16_t*>(row) + first;
  float* to = static_cast<float*>(out);
  if (type == dtype::bf16) done = widen_avx2<avx2_f32::bf16_memory>(from, count, to);
  if (type == dtype::f16) done = widen_avx2<avx2_f32::f16_memory>(from, count, to);
  if (multiplies_blocks(type) && first % 32 == 0) done = widen_blocks(type, row, first, count, to);
  if (done < count) fetch_portable<float>(type, row, first + done, count - done, to + done);
}
inline void fetch_avx512(dtype type, const void* row, index first, index count, void* out) {
  index done = 0;
  const auto* from = static_cast<const std::uint16_t*>(row) + first;
  float* to = static_cast<float*>(out);
  if (type == dtype::bf16) done = widen_avx512<avx512_f32::bf16_memory>(from, count, to);
  if (type == dtype::f16) done = widen_avx512<avx512_f32::f16_memory>(from, count, to);
  if (multiplies_blocks(type) && first % 32 == 0) done = widen_blocks(type, row, first, count, to);
  if (done < count) fetch_portable<float>(type, row, first + done, count - done, to + done);
}
inline void fetch_avx512_bf16(dtype type, const void* row, index first, index count, void* out) {
  auto* to = static_cast<std::uint16_t*>(out);
  if (type == dtype::bf16) {
    std::memcpy(to, static_cast<const std::uint16_t*>(row) + first, static_cast<std::size_t>(2 * count));
    return;
  }
  constexpr index piece = 256;
  float buffer[piece];
  for (index i = 0; i < count; i += piece) {
    const index n = std::min(piece, count - i);
    const float* from = buffer;
    if (type == dtype::f32)
      from = static_cast<const float*>(row) + first + i;
    else
      fetch_avx512(type, row, first + i, n, buffer);
    for (index j = narrow_avx512(from, n, to + i); j < n; ++j) to[i + j] = bf16(from[j]).bits;
  }
}

template <class V, class T>
constexpr void set_panels(gemm_target<T>& t) {
  t.rows = V::rows, t.lanes = V::lanes, t.vectors = V::vectors;
  t.unit = sizeof(typename V::unit), t.depth = t.unit == 4 && std::is_integral_v<typename V::unit> ? 2 : 1;
  if (t.unit == 4) {
    t.transpose = transpose4x4, t.transpose_wide = transpose8x4;
    t.group = 4, t.group_wide = 8;
  } else {
    t.transpose = t.transpose_wide = transpose4x8;
    t.group = t.group_wide = 4;
  }
}

template <class V>
constexpr gemm_target<typename V::number> avx2_target() {
  using T = typename V::number;
  gemm_target<T> t{};
  t.name = "avx2";
  set_panels<V>(t);
  t.direct = dtype_of<T>;
  using avx2::dots, avx2::tile;
  t.tiles[0][0] = tile<V, 4, V::vectors>, t.tiles[0][1] = tile<V, 4, 1>;
  t.tiles[1][0] = tile<V, 2, V::vectors>, t.tiles[1][1] = tile<V, 2, 1>;
  t.tiles[2][0] = tile<V, 1, V::vectors>, t.tiles[2][1] = tile<V, 1, 1>;
  t.dots[0][0] = dots<V, V, 1>, t.dots[0][1] = dots<V, V, 2>;
  t.dots[0][2] = dots<V, V, 4>;
  if constexpr (sizeof(T) == 4) {
    t.fetch = fetch_avx2;
    avx2::set_blocks<avx2_blocks>(t.blocks);
    using B = typename V::bf16_memory;
    using H = typename V::f16_memory;
    t.dots[1][0] = dots<V, B, 1>, t.dots[1][1] = dots<V, B, 2>;
    t.dots[1][2] = dots<V, B, 4>;
    t.dots[2][0] = dots<V, H, 1>, t.dots[2][1] = dots<V, H, 2>;
    t.dots[2][2] = dots<V, H, 4>;
  } else {
    t.fetch = fetch_portable<T>;
  }
  return t;
}

template <class V>
constexpr gemm_target<typename V::number> avx512_target() {
  using T = typename V::number;
  gemm_target<T> t{};
  t.name = "avx512";
  set_panels<V>(t);
  t.direct = dtype_of<T>;
  using avx512::dots, avx512::tile;
  t.tiles[0][0] = tile<V, 8, V::vectors>, t.tiles[0][1] = tile<V, 8, 1>;
  t.tiles[1][0] = tile<V, 4, V::vectors>, t.tiles[1][1] = tile<V, 4, 1>;
  t.tiles[2][0] = tile<V, 2, V::vectors>, t.tiles[2][1] = tile<V, 2, 1>;
  t.tiles[3][0] = tile<V, 1, V::vectors>, t.tiles[3][1] = tile<V, 1, 1>;
  t.dots[0][0] = dots<V, V, 1>, t.dots[0][1] = dots<V, V, 2>;
  t.dots[0][2] = dots<V, V, 4>;
  if constexpr (sizeof(T) == 4) {
    t.fetch = fetch_avx512;
    avx2::set_blocks<avx2_blocks>(t.blocks);
    using B = typename V::bf16_memory;
    using H = typename V::f16_memory;
    t.dots[1][0] = dots<V, B, 1>, t.dots[1][1] = dots<V, B, 2>;
    t.dots[1][2] = dots<V, B, 4>;
    t.dots[2][0] = dots<V, H, 1>, t.dots[2][1] = dots<V, H, 2>;
    t.dots[2][2] = dots<V, H, 4>;
  } else {
    t.fetch = fetch_portable<T>;
  }
  return t;
}

constexpr gemm_target<float> avx512_bf16_target() {
  using V = avx512_bf16;
  gemm_target<float> t{};
  t.name = "avx512_bf16";
  set_panels<V>(t);
  t.direct = dtype::bf16;
  t.fetch = fetch_avx512_bf16;
  vnni::set_blocks<vnni_blocks>(t.blocks);  // every processor with the one has the other
  t.zip = zip_pairs;
  using avx512bf16::dots, avx512bf16::tile;
  t.tiles[0][0] = tile<V, 8, V::vectors>, t.tiles[0][1] = tile<V, 8, 1>;
  t.tiles[1][0] = tile<V, 4, V::vectors>, t.tiles[1][1] = tile<V, 4, 1>;
  t.tiles[2][0] = tile<V, 2, V::vectors>, t.tiles[2][1] = tile<V, 2, 1>;
  t.tiles[3][0] = tile<V, 1, V::vectors>, t.tiles[3][1] = tile<V, 1, 1>;
  t.dots[0][0] = dots<V, V, 1>, t.dots[0][1] = dots<V, V, 2>;
  t.dots[0][2] = dots<V, V, 4>;
  return t;
}
#endif

/// The best target of this machine.
template <class T>
const gemm_target<T>& native_target() {
  static const gemm_target<T> best = [] {
#if defined(DISTIL_XLSTM_X86)
    using wide = std::conditional_t<sizeof(T) == 4, avx512_f32, avx512_f64>;
    using narrow = std::conditional_t<sizeof(T) == 4, avx2_f32, avx2_f64>;
    if (has_avx512()) {
      auto t = avx512_target<wide>();
      if constexpr (sizeof(T) == 4)
        if (has_avx512_vnni()) vnni::set_blocks<vnni_blocks>(t.blocks);
      return t;
    }
    if (has_avx2()) return avx2_target<narrow>();
#endif
    return portable_target<T>();
  }();
  return best;
}

/// The best target for operands of bf16: a machine without such products rounds the operands and multiplies
/// floats.
inline const gemm_target<float>& native_bf16_target() {
  static const gemm_target<float> best = [] {
#if defined(DISTIL_XLSTM_X86)
    if (has_avx512_bf16() && has_avx512_vnni()) return avx512_bf16_target();
#endif
    gemm_target<float> t = native_target<float>();
    t.direct = dtype::u8;
    t.fetch = fetch_rounded;
    return t;
  }();
  return best;
}

// ---------------------------------------------------------------------------------------------------------------------
// Packing.

/// An operand seen from its panels: `vector` v (a row of A, a column of B) and k. The memory rows run along k
/// ("along") or across the vectors.
struct gemm_side {
  const char* data;
  index stride;  ///< bytes between memory rows
  distil_xlstm::dtype dtype;
  bool along;
  gemm_side(gemm_operand o, bool along_k)
      : data(static_cast<const char*>(o.data)),
        stride(row_bytes(o.dtype, o.ld)),
        dtype(o.dtype),
        along(along_k) {}
  const char* row(index r) const { return data + r * stride; }
};

/// Room for 16 fetched pieces of memory rows.
struct gemm_strip {
  static constexpr index rows = 16, piece = 256, stride = 8 * (piece + 8);
  alignas(64) char row[rows][stride];
};

/// Copies `count` groups of `bytes` (a multiple of 16), `stride` apart, one after another.
inline void copy_groups(const char* from, index stride, index count, char* to, index bytes) {
  for (index i = 0; i < count; ++i, from += stride)
    for (index b = 0; b < bytes; b += 16, to += 16) std::memcpy(to, from + b, 16);
}

/// Vectors [first, first + count) at k in [k0, k0 + depth) to panels of `width`, each [units of k][width]. What
/// a last panel has too many is zero.
template <class T>
void pack_panels(const gemm_target<T>& t, const gemm_side& side, index width, index first, index count,
                 index k0, index k, char* out) {
  const index units = (k + t.depth - 1) / t.depth, number = t.unit / t.depth;
  gemm_strip strip;
  if (side.along) {
    const bool wide = width % t.group_wide == 0;
    const index group = wide ? t.group_wide : t.group;
    const auto transpose = wide ? t.transpose_wide : t.transpose;
    const index padded = (count + width - 1) / width * width;
    for (index v = 0; v < padded; v += group) {
      char* to = out + (v / width * width * units + v % width) * t.unit;
      const index have = std::clamp<index>(count - v, 0, group);
      if (side.dtype == t.direct && have == group && k % t.depth == 0) {
        transpose(side.row(first + v) + k0 * number, side.stride, units, to, width);
        continue;
      }
      for (index u = 0; u < units; u += gemm_strip::piece) {
        const index n = std::min(gemm_strip::piece, units - u),
                    numbers = std::min(n * t.depth, k - u * t.depth);
        for (index i = 0; i < group; ++i) {
          const index good = i < have ? numbers : 0;
          if (good > 0) t.fetch(side.dtype, side.row(first + v + i), k0 + u * t.depth, good, strip.row[i]);
          std::memset(strip.row[i] + good * number, 0, static_cast<std::size_t>(n * t.unit - good * number));
        }
        transpose(strip.row, gemm_strip::stride, n, to + u * width * t.unit, width);
      }
    }
    return;
  }
  const index piece = gemm_strip::piece / width * width;  // whole panels
  for (index u = 0; u < units; u += gemm_strip::rows) {
    const index n = std::min(gemm_strip::rows, units - u);
    for (index v = 0; v < count; v += piece) {
      const index have = std::min(piece, count - v), padded = (have + width - 1) / width * width;
      const char* from = strip.row[0];
      index stride = gemm_strip::stride;
      if (t.depth == 1 && side.dtype == t.direct && have == padded) {
        from = side.row(k0 + u) + (first + v) * number, stride = side.stride;
      } else {
        for (index i = 0; i < n; ++i) {
          if (t.depth == 1) {
            t.fetch(side.dtype, side.row(k0 + u + i), first + v, have, strip.row[i]);
          } else {
            std::uint16_t pair[2][gemm_strip::piece];
            const index p = (u + i) * 2;
            t.fetch(side.dtype, side.row(k0 + p), first + v, have, pair[0]);
            if (p + 1 < k)
              t.fetch(side.dtype, side.row(k0 + p + 1), first + v, have, pair[1]);
            else
              std::memset(pair[1], 0, sizeof pair[1]);
            t.zip(pair[0], pair[1], have, reinterpret_cast<std::uint16_t*>(strip.row[i]));
          }
          std::memset(strip.row[i] + have * t.unit, 0, static_cast<std::size_t>((padded - have) * t.unit));
        }
      }
      for (index j = 0; j < padded; j += width)
        copy_groups(from + j * t.unit, stride, n, out + ((v + j) * units + u * width) * t.unit, width * t.unit);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The product.

/// y = beta y + x, rounded once; beta 0 overwrites whatever y held.
template <class T>
void store_scaled(const T* x, index n, T beta, T* y) {
  if (beta == T(0)) {
    std::memcpy(y, x, static_cast<std::size_t>(n) * sizeof(T));
    return;
  }
  for (index i = 0; i < n; ++i) y[i] = std::fma(beta, y[i], x[i]);
}

/// c[rows x cols] = beta c + panel of A * panel of B.
template <class T>
void multiply_panels(const gemm_target<T>& t, index rows, index cols, index units, const char* a, const char* b,
                     T beta, T* c, index ldc) {
  const index width = t.lanes * t.vectors;
  index r = 0;
  for (int i = 0; r < rows; ++i) {
    const index step = t.rows >> i;
    for (; r + step <= rows; r += step) {
      const char* ar = a + r * t.unit;
      T* cr = c + r * ldc;
      if (cols == width) {
        t.tiles[i][0](units, ar, b, beta, cr, ldc);
        continue;
      }
      index j = 0;
      for (; j + t.lanes <= cols; j += t.lanes) t.tiles[i][1](units, ar, b + j * t.unit, beta, cr + j, ldc);
      if (j == cols) continue;
      alignas(64) T edge[8 * 16];
      t.tiles[i][1](units, ar, b + j * t.unit, T(0), edge, t.lanes);
      for (index p = 0; p < step; ++p) store_scaled(edge + p * t.lanes, cols - j, beta, cr + p * ldc + j);
    }
  }
}

/// Whether few rows of A are rounded to 8 bits to be multiplied with a transposed B.
template <class T>
bool rounds_rows(index k, dtype a, dtype b) {
  return sizeof(T) == 4 && a == dtype::f32 && multiplies_blocks(b) && k % 32 == 0;
}
/// Bytes of a row that is ready, and how many rows there are: four at a time, or two, or one.
template <class T>
index ready_row_bytes(const gemm_target<T>& t, index k, dtype a, dtype b) {
  if (rounds_rows<T>(k, a, b)) return rounded_row::bytes(k / 32);
  const index units = (k + t.depth - 1) / t.depth;
  return (units + t.lanes - 1) / t.lanes * t.lanes * t.unit;
}
constexpr index ready_count(index m) { return m % 4 == 3 ? m + 1 : m; }

/// m rows of A as `multiply_rows` reads them; zeros behind them.
template <class T>
void prepare_rows(const gemm_target<T>& t, index m, index k, gemm_operand a, dtype b, void* ready) {
  const index row = ready_row_bytes(t, k, a.dtype, b);
  const gemm_side from(a, true);
  char* to = static_cast<char*>(ready);
  for (index i = 0; i < m; ++i, to += row) {
    if constexpr (sizeof(T) == 4) {
      if (rounds_rows<T>(k, a.dtype, b)) {
        t.blocks.round(reinterpret_cast<const float*>(from.row(i)), k / 32, rounded_row(to, k / 32));
        continue;
      }
    }
    const index used = k * (t.unit / t.depth);
    t.fetch(a.dtype, from.row(i), 0, k, to);
    std::memset(to + used, 0, static_cast<std::size_t>(row - used));
  }
  std::memset(to, 0, static_cast<std::size_t>((ready_count(m) - m) * row));
}

/// Few rows: scalar products with the rows of B's memory, each read once.
template <class T>
void multiply_rows(const gemm_target<T>& t, index m, index n, index k, void* ready, dtype a, gemm_operand b,
                   T beta, T* c, index ldc, gemm_scratch<T>& scratch) {
  const gemm_side right(b, true);
  const index row = ready_row_bytes(t, k, a, b.dtype), units = (k + t.depth - 1) / t.depth;
  auto* x = static_cast<char*>(ready);
  const bool rounded = rounds_rows<T>(k, a, b.dtype), floats = t.direct == dtype::f32;
  const int stored = floats && t.dots[1][0] && b.dtype == dtype::bf16  ? 1
                     : floats && t.dots[2][0] && b.dtype == dtype::f16 ? 2
                                                                       : 0;
  const bool as_it_lies = rounded || stored > 0 || (b.dtype == t.direct && k % t.depth == 0);
  // Rows 1 << size of A from row i on with `cols` rows of B from row j on, or with what was fetched of them.
  const auto products = [&](int size, index i, index j, index cols, const char* fetched, T* out) {
    if constexpr (sizeof(T) == 4) {
      if (rounded) {
        const auto of = [&](index r) { return rounded_row(x + std::min(i + r, m - 1) * row, k / 32); };
        const rounded_row rows[4] = {of(0), of(1), of(2), of(3)};
        const int kind = b.dtype == dtype::q8_0 ? 0 : b.dtype == dtype::q4_0 ? 1 : 2;
        return t.blocks.dots[kind][size](cols, k / 32, rows, right.row(j), right.stride, out);
      }
    }
    t.dots[stored][size](cols, units, x + i * row, row / t.unit, fetched ? fetched : right.row(j),
                         fetched ? row : right.stride, out);
  };
  if (m == 1 && beta == T(0) && as_it_lies) return products(0, 0, 0, n, nullptr, c);
  constexpr index block = 16;  // rows of B that stay in cache while the rows of A pass, four at a time
  char* fetched = nullptr;
  if (!as_it_lies) {
    fetched = static_cast<char*>(scratch.take(gemm_scratch<T>::rows, block * row));
    std::memset(fetched, 0, static_cast<std::size_t>(block * row));
  }
  for (index j = 0; j < n; j += block) {
    const index cols = std::min(block, n - j);
    for (index q = 0; q < cols && fetched; ++q) t.fetch(b.dtype, right.row(j + q), 0, k, fetched + q * row);
    for (index i = 0; i < m;) {
      int size = 0;
      while (size < 2 && (index{1} << size) < m - i) ++size;
      T out[4 * block];
      products(size, i, j, cols, fetched, out);
      for (index r = 0; r < index{1} << size && i < m; ++r, ++i)
        store_scaled(out + r * cols, cols, beta, c + i * ldc + j);
    }
  }
}

/// `gemm_block` on a given target.
template <class T>
void gemm_block_on(const gemm_target<T>& t, index m, index n, index k, gemm_operand a, gemm_operand b, T beta,
                   T* c, index ldc, gemm_scratch<T>& scratch) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) {
    for (index r = 0; r < m; ++r)
      for (index j = 0; j < n; ++j) c[r * ldc + j] = beta == T(0) ? T(0) : beta * c[r * ldc + j];
    return;
  }
  const gemm_side left(a, !a.transposed), right(b, b.transposed);
  if (m <= direct_rows && left.along && right.along) {
    void* ready =
        scratch.take(gemm_scratch<T>::a_panels, ready_count(m) * ready_row_bytes(t, k, a.dtype, b.dtype));
    prepare_rows(t, m, k, a, b.dtype, ready);
    return multiply_rows(t, m, n, k, ready, a.dtype, b, beta, c, ldc, scratch);
  }

  // A panel of A (16 kB) stays in L1 while it meets a block of B (about 590 kB), which stays in L2. The parts
  // of k depend on k alone, for the same sums whatever the blocks.
  const index width = t.lanes * t.vectors;
  const index k_limit = 512 * 4 / t.unit * t.depth, k_parts = (k + k_limit - 1) / k_limit;
  const index k_block = ((k + k_parts - 1) / k_parts + 31) / 32 * 32;
  const index m_parts = (m + 767) / 768, m_block = ((m + m_parts - 1) / m_parts + t.rows - 1) / t.rows * t.rows;
  const index n_block = std::max<index>(1, 288 * 4 / t.unit / width) * width;

  const index units_max = (std::min(k, k_block) + t.depth - 1) / t.depth;
  const index n_packed = (std::min(n, n_block) + width - 1) / width * width;
  char* packed_a = static_cast<char*>(scratch.take(gemm_scratch<T>::a_panels, m_block * units_max * t.unit));
  char* packed_b = static_cast<char*>(scratch.take(gemm_scratch<T>::b_panels, n_packed * units_max * t.unit));

  for (index m0 = 0; m0 < m; m0 += m_block) {
    const index rows = std::min(m_block, m - m0);
    for (index k0 = 0; k0 < k; k0 += k_block) {
      const index depth = std::min(k_block, k - k0), units = (depth + t.depth - 1) / t.depth;
      const T scale = k0 == 0 ? beta : T(1);
      pack_panels(t, left, t.rows, m0, rows, k0, depth, packed_a);
      for (index n0 = 0; n0 < n; n0 += n_block) {
        const index cols = std::min(n_block, n - n0);
        pack_panels(t, right, width, n0, cols, k0, depth, packed_b);
        for (index r = 0; r < rows; r += t.rows)
          for (index j = 0; j < cols; j += width)
            multiply_panels(t, std::min(t.rows, rows - r), std::min(width, cols - j), units,
                            packed_a + r * units * t.unit, packed_b + j * units * t.unit, scale,
                            c + (m0 + r) * ldc + n0 + j, ldc);
      }
    }
  }
}

}  // namespace distil_xlstm::device::detail
