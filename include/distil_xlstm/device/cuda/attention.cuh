#pragma once

#include <algorithm>
#include <cstdint>

#include <distil_xlstm/device/attention_scan.hpp>
#include <distil_xlstm/device/cuda/verbs.cuh>

namespace distil_xlstm::device {

namespace detail::flash {

/// The lowest score so far where there is none: finite, so that differences of two such are no NaN.
inline constexpr float no_score = -1e30f;

/// One sequence and key head. Its queries are counted m = t * group + i, i the head within the group, so that
/// all heads that share a key read it together; its keys j = past + s, from the oldest one on.
struct part {
  const attention_arguments<float>& a;
  int b, kv, past, rows;

  __device__ part(const attention_arguments<float>& arguments, int task)
      : a(arguments),
        b(task / static_cast<int>(a.shape.kv_heads)),
        kv(task % static_cast<int>(a.shape.kv_heads)),
        past(static_cast<int>(a.past_length(b))),
        rows(static_cast<int>(a.seq.time * a.shape.group())) {}
  __device__ int group() const { return static_cast<int>(a.shape.group()); }
  __device__ int width() const { return static_cast<int>(a.shape.width); }
  __device__ int keys() const { return past + static_cast<int>(a.seq.time); }
  __device__ int token(int m) const { return m / group(); }
  /// The keys that query m sees are first(m) .. last(m); both grow with m.
  __device__ int first(int m) const {
    const index start = a.seq.document_start(b, token(m));
    return start < 0 ? 0 : past + static_cast<int>(start);
  }
  __device__ int last(int m) const { return past + token(m); }

  template <class T>
  __device__ auto queries(matrix_view<T> x) const;
  template <class T>
  __device__ auto now(matrix_view<T> x) const;
  __device__ auto keys_of(matrix_view<const float> now, per_sequence<const float> before) const;
};

/// Its queries in one of the matrices: (m) gives a row's first number. Strides are 32 bits, products of
/// them 64.
template <class T>
struct query_rows {
  T* data;
  int stride, width, group;
  __device__ T* operator()(int m) const {
    const int t = m / group;
    return data + static_cast<index>(t) * stride + (m - t * group) * width;
  }
};
/// Its keys or values of this call.
template <class T>
struct now_rows {
  T* data;
  int stride;
  __device__ T* operator()(int s) const { return data + static_cast<index>(s) * stride; }
};
/// Its keys or values, those of the past too.
struct key_rows {
  const float *before, *now;
  int before_stride, now_stride, past;
  /// j >= past
  __device__ const float* of_now(int j) const { return now + static_cast<index>(j - past) * now_stride; }
  __device__ const float* operator()(int j) const {
    const bool old = j < past;
    return (old ? before : now) + static_cast<index>(old ? j : j - past) * (old ? before_stride : now_stride);
  }
};
template <class T>
__device__ auto part::queries(matrix_view<T> x) const {
  return query_rows<T>{x.row(b * a.seq.time) + kv * a.shape.group() * a.shape.width, static_cast<int>(x.stride),
                       width(), group()};
}
template <class T>
__device__ auto part::now(matrix_view<T> x) const {
  return now_rows<T>{x.row(b * a.seq.time) + kv * a.shape.width, static_cast<int>(x.stride)};
}
__device__ inline auto part::keys_of(matrix_view<const float> x, per_sequence<const float> before) const {
  return key_rows{before.of(b) + kv * a.shape.width, x.row(b * a.seq.time) + kv * a.shape.width,
                  static_cast<int>(a.shape.kv_heads * a.shape.width), static_cast<int>(x.stride), past};
}

/// Four numbers of a row from column c on, zeros from column n on; in one access where `quads` allows it.
__device__ inline float4 load_four(const float* row, int c, int n, bool quads) {
  if (quads) return c < n ? *reinterpret_cast<const float4*>(row + c) : float4{0, 0, 0, 0};
  return {c < n ? row[c] : 0.f, c + 1 < n ? row[c + 1] : 0.f, c + 2 < n ? row[c + 2] : 0.f,
          c + 3 < n ? row[c + 3] : 0.f};
}
__device__ inline void store_four(float* row, int c, int n, bool quads, float4 x) {
  if (quads) {
    if (c < n) *reinterpret_cast<float4*>(row + c) = x;
    return;
  }
  if (c < n) row[c] = x.x;
  if (c + 1 < n) row[c + 1] = x.y;
  if (c + 2 < n) row[c + 2] = x.z;
  if (c + 3 < n) row[c + 3] = x.w;
}

// ---- tensor cores: bfloat16 operands, float sums

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline std::uint32_t bf16_pair(float low, float high) {
  std::uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
/// Four 8 x 8 matrices of 16-bit numbers; lane 8 i + k names row k of matrix i.
template <bool Transposed>
__device__ void load_matrices(std::uint32_t (&r)[4], const std::uint16_t* row) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
/// c[16, 8] += a[16, 16] b[16, 8]
__device__ inline void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 128 rows a block, 16 a warp, that stay, against tiles of `Moving` rows that pass through shared memory; both
/// in bfloat16. A thread's scores and results are of two rows, 8 apart, in pairs of columns.
template <int Width, int Moving, bool Quads>
struct tensor_tile {
  static constexpr int threads = 256, rows = 128;
  static constexpr int pitch = Width + 8;  ///< so that eight rows lie in different banks
  static constexpr int quads_a_row = Width / 4, rows_a_pass = threads / quads_a_row;
  static constexpr int passes = Moving / rows_a_pass;
  static constexpr int row_numbers = rows * pitch, moving_numbers = Moving * pitch;
  /// Narrow rows stay in registers; of wide ones a piece at a time is read from shared memory.
  static constexpr bool held = Width <= 64;
  using rows_held = std::uint32_t[held ? Width / 16 : 1][4];
  using next_rows = float4[passes];
  using scores = float[Moving / 8][4];
  using results = float[Width / 8][4];

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  /// Which of the block's rows, and which of a tile's, this thread's number e of pair c belongs to.
  static __device__ int row_of(int half) { return 16 * warp() + lane() / 4 + 8 * half; }
  static __device__ int column_of(int c, int e) { return 8 * c + lane() % 4 * 2 + e % 2; }

  static __device__ int loaded_row(int pass) {
    return static_cast<int>(threadIdx.x) / quads_a_row + pass * rows_a_pass;
  }
  static __device__ int loaded_column() { return static_cast<int>(threadIdx.x) % quads_a_row * 4; }
  static __device__ void put(std::uint16_t* tile, int row, float4 x) {
    *reinterpret_cast<uint2*>(tile + row * pitch + loaded_column()) = {bf16_pair(x.x, x.y),
                                                                       bf16_pair(x.z, x.w)};
  }
  /// next = row(i), for i < count; of those beyond, whose numbers do not matter, some other row. `Moving` tiles
  /// are zero from column n on, see `clear`.
  template <class Row>
  static __device__ void fetch(next_rows& next, int count, int n, const Row& row) {
    if (loaded_column() >= n) return;
#pragma unroll
    for (int pass = 0; pass < passes; ++pass)
      next[pass] = load_four(row(min(loaded_row(pass), count - 1)), loaded_column(), n, Quads);
  }
  static __device__ void put(std::uint16_t* tile, const next_rows& next, int n) {
    if (loaded_column() >= n) return;
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) put(tile, loaded_row(pass), next[pass]);
  }
  /// What `put` never writes.
  static __device__ void clear(std::uint16_t* tile, int n) {
    if (loaded_column() < n) return;
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) put(tile, loaded_row(pass), float4{0, 0, 0, 0});
  }
  /// The block's rows: f(r, row(r)'s four numbers) beside, for what else is to be done with them. Some at once,
  /// so that they are waited for together.
  template <class Row, class F>
  static __device__ void load(std::uint16_t* tile, int count, int n, const Row& row, const F& f) {
    constexpr int at_once = 4;
    for (int first = 0; first < rows / rows_a_pass; first += at_once) {
      float4 x[at_once];
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int r = loaded_row(first + i);
        x[i] = r < count ? load_four(row(r), loaded_column(), n, Quads) : float4{0, 0, 0, 0};
      }
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        put(tile, loaded_row(first + i), x[i]);
        f(loaded_row(first + i), x[i]);
      }
    }
  }
  template <class Row>
  static __device__ void load(std::uint16_t* tile, int count, int n, const Row& row) {
    load(tile, count, n, row, [](int, float4) {});
  }

  static __device__ const std::uint16_t* mine(const std::uint16_t* tile) {
    return tile + (16 * warp() + lane() % 16) * pitch + lane() / 16 * 8;
  }
  static __device__ void hold(rows_held& r, const std::uint16_t* tile) {
    if constexpr (held)
#pragma unroll
      for (int i = 0; i < Width / 16; ++i) load_matrices<false>(r[i], mine(tile) + 16 * i);
  }
  /// s = a bᵀ, a the warp's rows.
  static __device__ void multiply_rows(scores& s, const rows_held& a, const std::uint16_t* tile,
                                       const std::uint16_t* b) {
    const int row = lane() / 16 * 8 + lane() % 8, column = lane() / 8 % 2 * 8;
#pragma unroll
    for (auto& four : s)
#pragma unroll
      for (float& x : four) x = 0;
#pragma unroll
    for (int i = 0; i < Width / 16; ++i) {
      std::uint32_t piece[4];
      if constexpr (!held) load_matrices<false>(piece, mine(tile) + 16 * i);
      const auto& left = [&]() -> const std::uint32_t(&)[4] {
        if constexpr (held)
          return a[i];
        else
          return piece;
      }();
#pragma unroll
      for (int c = 0; c < Moving / 16; ++c) {
        std::uint32_t right[4];
        load_matrices<false>(right, b + (16 * c + row) * pitch + 16 * i + column);
        multiply(s[2 * c], left, right[0], right[1]);
        multiply(s[2 * c + 1], left, right[2], right[3]);
      }
    }
  }
  /// out += w b
  static __device__ void combine(results& out, const scores& w, const std::uint16_t* b) {
    const int row = lane() / 8 % 2 * 8 + lane() % 8, column = lane() / 16 * 8;
#pragma unroll
    for (int i = 0; i < Moving / 16; ++i) {
      const std::uint32_t left[4] = {bf16_pair(w[2 * i][0], w[2 * i][1]), bf16_pair(w[2 * i][2], w[2 * i][3]),
                                     bf16_pair(w[2 * i + 1][0], w[2 * i + 1][1]),
                                     bf16_pair(w[2 * i + 1][2], w[2 * i + 1][3])};
#pragma unroll
      for (int c = 0; c < Width / 16; ++c) {
        std::uint32_t right[4];
        load_matrices<true>(right, b + (16 * i + row) * pitch + 16 * c + column);
        multiply(out[2 * c], left, right[0], right[1]);
        multiply(out[2 * c + 1], left, right[2], right[3]);
      }
    }
  }
  /// row = factor times this thread's numbers of one of its two rows.
  static __device__ void store(float* row, const results& x, int half, float factor, int n) {
#pragma unroll
    for (int i = 0; i < Width / 8; ++i) {
      const int c = column_of(i, 0);
      const float2 pair{x[i][2 * half] * factor, x[i][2 * half + 1] * factor};
      if (Quads) {
        if (c < n) *reinterpret_cast<float2*>(row + c) = pair;
      } else {
        if (c < n) row[c] = pair.x;
        if (c + 1 < n) row[c + 1] = pair.y;
      }
    }
  }
};

/// Masks and softmax of a thread's two rows of scores, tile after tile. Exponentials are powers of 2, `scale`
/// has the factor log2 e.
template <class Tile>
struct tensor_softmax {
  int low[2], high[2];
  float largest[2] = {no_score, no_score}, sum[2] = {0, 0};

  __device__ tensor_softmax(const part& p, int m0, int end_row) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int m = min(m0 + Tile::row_of(h), end_row - 1);
      low[h] = p.first(m), high[h] = p.last(m);
    }
  }
  /// None of the warp's rows sees any of the keys.
  __device__ bool idle(int j0, int keys) const { return __all_sync(~0u, j0 > high[1] || j0 + keys <= low[0]); }
  __device__ bool sees(int half, int j) const { return j >= low[half] && j <= high[half]; }
  __device__ void mask(typename Tile::scores& s, int j0, int keys) const {
    if (__all_sync(~0u, j0 >= low[1] && j0 + keys - 1 <= high[0])) return;
#pragma unroll
    for (int c = 0; c < static_cast<int>(sizeof s / sizeof s[0]); ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (!sees(e / 2, j0 + Tile::column_of(c, e))) s[c][e] = -INFINITY;
  }
  /// s <- weights by the new largest score; returns what old sums are worth by it.
  __device__ float take(int half, typename Tile::scores& s, float scale) {
    constexpr int pairs = static_cast<int>(sizeof s / sizeof s[0]);
    float top = largest[half];
#pragma unroll
    for (int c = 0; c < pairs; ++c) top = fmaxf(top, fmaxf(s[c][2 * half], s[c][2 * half + 1]));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    const float keep = exp2_fast((largest[half] - top) * scale), shift = top * scale;
    largest[half] = top;
    float more = 0;
#pragma unroll
    for (int c = 0; c < pairs; ++c)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        s[c][e] = exp2_fast(fmaf(s[c][e], scale, -shift));
        more += s[c][e];
      }
    sum[half] = fmaf(sum[half], keep, more);
    return keep;
  }
  /// 1 / the sum, of all threads of the row.
  __device__ float inverse(int half) const {
    float total = sum[half];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    return 1 / total;
  }
};
inline constexpr float log2_e = 1.4426950408889634f;

template <int Width, bool Quads>
struct forward_tile : tensor_tile<Width, Width <= 64 ? 64 : 32, Quads> {
  using tile = tensor_tile<Width, Width <= 64 ? 64 : 32, Quads>;
  static constexpr int keys = Width <= 64 ? 64 : 32;
  /// Where queries are held in registers, keys and values take their place.
  static constexpr int keys_at = tile::held ? 0 : tile::row_numbers;
  static constexpr int bytes = 2 * std::max(tile::row_numbers, keys_at + 2 * tile::moving_numbers);
};
/// While a tile of keys is multiplied, its values are on their way, and while these are, the next keys.
template <int Width, bool Quads>
__global__ void __launch_bounds__(256, 2) forward_tensor_kernel(attention_arguments<float> a, int tiles) {
  using tile = forward_tile<Width, Quads>;
  constexpr int keys = tile::keys;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* q = reinterpret_cast<std::uint16_t*>(memory);
  std::uint16_t *k = q + tile::keys_at, *v = k + tile::moving_numbers;

  // Late tiles see the most keys: they go first.
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part p(a, static_cast<int>(blockIdx.x) / tiles);
  const int n = p.width(), end_row = min(m0 + tile::rows, p.rows);
  const int begin = p.first(m0), end = p.last(end_row - 1) + 1;
  const float scale = a.scale() * log2_e;

  typename tile::next_rows next;
  const auto keys_of = p.keys_of(a.k, a.past.keys), values_of = p.keys_of(a.v, a.past.values);
  const auto fetch = [&](const key_rows& rows, int j0) {
    if (j0 >= p.past)
      tile::fetch(next, end - j0, n, [&](int r) { return rows.of_now(j0 + r); });
    else
      tile::fetch(next, end - j0, n, [&](int r) { return rows(j0 + r); });
  };
  tile::load(q, end_row - m0, n, [rows = p.queries(a.q), m0](int r) { return rows(m0 + r); });
  fetch(keys_of, begin);
  __syncthreads();
  typename tile::rows_held queries;
  tile::hold(queries, q);
  if (tile::held) __syncthreads();
  tile::clear(k, n), tile::clear(v, n);
  tile::put(k, next, n);
  __syncthreads();

  tensor_softmax<tile> softmax(p, m0, end_row);
  typename tile::results out = {};
  for (int j0 = begin; j0 < end; j0 += keys) {
    const bool idle = softmax.idle(j0, keys), more = j0 + keys < end;
    typename tile::scores s;
    fetch(values_of, j0);
    if (!idle) tile::multiply_rows(s, queries, q, k);
    tile::put(v, next, n);
    __syncthreads();
    if (more) fetch(keys_of, j0 + keys);
    if (!idle) {
      softmax.mask(s, j0, keys);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float keep = softmax.take(h, s, scale);
#pragma unroll
        for (auto& four : out) four[2 * h] *= keep, four[2 * h + 1] *= keep;
      }
      tile::combine(out, s, v);
    }
    if (more) tile::put(k, next, n);
    __syncthreads();
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int m = m0 + tile::row_of(h);
    const float inverse = softmax.inverse(h);
    if (m < end_row) tile::store(p.queries(a.y)(m), out, h, inverse, n);
  }
}

/// What the backward pass keeps of each query between its two kernels: p_s = exp((score_s - largest) /
/// sqrt(width)) inverse, and dy . y.
struct row_sums {
  float largest, inverse, mean, unused;
};

template <int Width, bool Quads>
struct backward_tile : tensor_tile<Width, 32, Quads> {
  using tile = tensor_tile<Width, 32, Quads>;
  static constexpr int moving = 32;
  static constexpr int bytes = 2 * (2 * tile::row_numbers + 2 * tile::moving_numbers) + 128 * 4 + moving * 32;
};
/// dq of 128 queries, and what the other kernel needs to know of them. Keys pass twice: for the sums of the
/// softmax, then for the gradient.
template <int Width, bool Quads>
__global__ void __launch_bounds__(256)
    backward_queries_tensor_kernel(attention_backward_arguments<float> g, int tiles, row_sums* kept) {
  using tile = backward_tile<Width, Quads>;
  constexpr int keys = tile::moving;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* q = reinterpret_cast<std::uint16_t*>(memory);
  std::uint16_t *dy = q + tile::row_numbers, *k = dy + tile::row_numbers, *v = k + tile::moving_numbers;
  auto* means = reinterpret_cast<float*>(v + tile::moving_numbers);
  const auto& a = g.forward;
  const int task = static_cast<int>(blockIdx.x) / tiles;
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part p(a, task);
  const int n = p.width(), end_row = min(m0 + tile::rows, p.rows);
  const int begin = p.first(m0), end = p.last(end_row - 1) + 1;
  const float scale = a.scale() * log2_e;

  tile::load(q, end_row - m0, n, [rows = p.queries(a.q), m0](int r) { return rows(m0 + r); });
  tile::load(
      dy, end_row - m0, n, [rows = p.queries(g.dy), m0](int r) { return rows(m0 + r); },
      [&](int r, float4 x) {
        float mean = 0;
        if (m0 + r < end_row) {
          const float4 y = load_four(p.queries(a.y)(m0 + r), tile::loaded_column(), n, Quads);
          mean = fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, x.x * y.x)));
        }
        for (int step = tile::quads_a_row / 2; step > 0; step /= 2) mean += __shfl_xor_sync(~0u, mean, step);
        if (tile::loaded_column() == 0) means[r] = mean;
      });
  typename tile::next_rows next_k, next_v;
  const auto keys_of = p.keys_of(a.k, a.past.keys), values_of = p.keys_of(a.v, a.past.values);
  const auto fetch = [&](typename tile::next_rows& next, const key_rows& rows, int j0) {
    if (j0 >= p.past)
      tile::fetch(next, end - j0, n, [&](int r) { return rows.of_now(j0 + r); });
    else
      tile::fetch(next, end - j0, n, [&](int r) { return rows(j0 + r); });
  };
  fetch(next_k, keys_of, begin);
  tile::clear(k, n), tile::clear(v, n);
  __syncthreads();
  typename tile::rows_held queries, gradients;
  tile::hold(queries, q);
  tile::hold(gradients, dy);
  tensor_softmax<tile> softmax(p, m0, end_row);
  typename tile::scores s, dp;
  for (int j0 = begin; j0 < end; j0 += keys) {
    tile::put(k, next_k, n);
    __syncthreads();
    if (j0 + keys < end) fetch(next_k, keys_of, j0 + keys);
    if (!softmax.idle(j0, keys)) {
      tile::multiply_rows(s, queries, q, k);
      softmax.mask(s, j0, keys);
      softmax.take(0, s, scale), softmax.take(1, s, scale);
    }
    __syncthreads();
  }
  float inverse[2], mean[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = tile::row_of(h);
    inverse[h] = softmax.inverse(h), mean[h] = means[row];
    if (m0 + row < end_row && tile::lane() % 4 == 0)
      kept[static_cast<index>(task) * p.rows + m0 + row] = {softmax.largest[h], inverse[h], mean[h], 0};
  }
  typename tile::results dq = {};
  fetch(next_k, keys_of, begin);
  fetch(next_v, values_of, begin);
  for (int j0 = begin; j0 < end; j0 += keys) {
    tile::put(k, next_k, n);
    tile::put(v, next_v, n);
    __syncthreads();
    if (j0 + keys < end) {
      fetch(next_k, keys_of, j0 + keys);
      fetch(next_v, values_of, j0 + keys);
    }
    if (!softmax.idle(j0, keys)) {
      tile::multiply_rows(s, queries, q, k);
      tile::multiply_rows(dp, gradients, dy, v);
      softmax.mask(s, j0, keys);
#pragma unroll
      for (int c = 0; c < keys / 8; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int h = e / 2;
          const float weight = exp2_fast((s[c][e] - softmax.largest[h]) * scale) * inverse[h];
          s[c][e] = weight * (dp[c][e] - mean[h]);
        }
      tile::combine(dq, s, k);
    }
    __syncthreads();
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int m = m0 + tile::row_of(h);
    if (m < end_row) tile::store(p.queries(g.dq)(m), dq, h, a.scale(), n);
  }
}

/// What a query has to say to keys: its softmax, and which it sees.
struct seen_from {
  row_sums sums;
  int low, high, unused[2];
};
/// dk and dv of 128 of this call's keys, over all queries that see one of them.
template <int Width, bool Quads>
__global__ void __launch_bounds__(256)
    backward_keys_tensor_kernel(attention_backward_arguments<float> g, int tiles, const row_sums* kept) {
  using tile = backward_tile<Width, Quads>;
  constexpr int queries = tile::moving;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* k = reinterpret_cast<std::uint16_t*>(memory);
  std::uint16_t *v = k + tile::row_numbers, *q = v + tile::row_numbers, *dy = q + tile::moving_numbers;
  auto* seen = reinterpret_cast<seen_from*>(dy + tile::moving_numbers);
  const auto& a = g.forward;
  const int task = static_cast<int>(blockIdx.x) / tiles, time = static_cast<int>(a.seq.time);
  const int s0 = static_cast<int>(blockIdx.x) % tiles * tile::rows;
  const part p(a, task);
  const int n = p.width(), end_key = min(s0 + tile::rows, time);
  const float scale = a.scale() * log2_e;

  tile::load(k, end_key - s0, n, [rows = p.now(a.k), s0](int r) { return rows(s0 + r); });
  tile::load(v, end_key - s0, n, [rows = p.now(a.v), s0](int r) { return rows(s0 + r); });
  typename tile::next_rows next_q, next_dy;
  seen_from next;
  const auto fetch = [&](int m0) {
    const int count = p.rows - m0;
    tile::fetch(next_q, count, n, [rows = p.queries(a.q), m0](int r) { return rows(m0 + r); });
    tile::fetch(next_dy, count, n, [rows = p.queries(g.dy), m0](int r) { return rows(m0 + r); });
    const int r = static_cast<int>(threadIdx.x);
    next = {{0, 0, 0, 0}, 1, 0, {0, 0}};
    if (r < queries && r < count)
      next = {kept[static_cast<index>(task) * p.rows + m0 + r], p.first(m0 + r), p.last(m0 + r), {0, 0}};
  };
  int m0 = s0 * p.group();
  fetch(m0);
  tile::clear(q, n), tile::clear(dy, n);
  __syncthreads();
  typename tile::rows_held keys_held, values_held;
  tile::hold(keys_held, k);
  tile::hold(values_held, v);
  // This warp's keys, counted from the oldest.
  const int first_key = p.past + s0 + 16 * tile::warp();
  typename tile::results dk = {}, dv = {};
  for (; m0 < p.rows && p.first(m0) < p.past + end_key; m0 += queries) {
    tile::put(q, next_q, n);
    tile::put(dy, next_dy, n);
    if (threadIdx.x < queries) seen[threadIdx.x] = next;
    __syncthreads();
    if (m0 + queries < p.rows) fetch(m0 + queries);
    const int last_row = min(m0 + queries, p.rows) - 1 - m0;
    if (seen[last_row].high >= first_key && seen[0].low < first_key + 16) {
      typename tile::scores s, dp;
      tile::multiply_rows(s, keys_held, k, q);
      tile::multiply_rows(dp, values_held, v, dy);
#pragma unroll
      for (int c = 0; c < queries / 8; ++c)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const seen_from from = seen[tile::column_of(c, e)];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int key = p.past + s0 + tile::row_of(h);
            float& score = s[c][2 * h + e];
            const float weight = exp2_fast((score - from.sums.largest) * scale) * from.sums.inverse;
            const bool sees = key >= from.low && key <= from.high;
            score = sees ? weight : 0.f;
            dp[c][2 * h + e] = sees ? weight * (dp[c][2 * h + e] - from.sums.mean) : 0.f;
          }
        }
      tile::combine(dv, s, dy);
      tile::combine(dk, dp, q);
    }
    __syncthreads();
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int s = s0 + tile::row_of(h);
    if (s >= end_key) continue;
    tile::store(p.now(g.dk)(s), dk, h, a.scale(), n);
    tile::store(p.now(g.dv)(s), dv, h, 1, n);
  }
}

// ---- true float: 16 x 16 threads, tiles of 16 * Each queries and keys, a thread holds Each x Each scores

template <int Width, int Each>
struct float_tile {
  static constexpr int threads = 256, rows = 16 * Each;
  static constexpr int pitch = Width + 4, score_pitch = rows + 4;
  static constexpr int columns = Width / 64;  ///< quads of a thread's results
  static constexpr int row_numbers = rows * pitch, score_numbers = rows * score_pitch;

  static __device__ int x() { return static_cast<int>(threadIdx.x) % 16; }
  static __device__ int y() { return static_cast<int>(threadIdx.x) / 16; }

  /// tile[i] = row(i) for i < count, else zeros. Some at once, so that they are waited for together.
  template <class Row>
  static __device__ void load(float* tile, int count, int n, bool quads, const Row& row) {
    constexpr int each = Width / 4, at_once = 4;
    static_assert(rows * each % (threads * at_once) == 0);
    for (int first = static_cast<int>(threadIdx.x); first < rows * each; first += threads * at_once) {
      float4 x[at_once];
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int r = (first + threads * i) / each, c = (first + threads * i) % each * 4;
        x[i] = r < count ? load_four(row(r), c, n, quads) : float4{0, 0, 0, 0};
      }
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int r = (first + threads * i) / each, c = (first + threads * i) % each * 4;
        *reinterpret_cast<float4*>(tile + r * pitch + c) = x[i];
      }
    }
  }
  /// s[i][j] = a[y + 16 i] . b[x + 16 j]
  static __device__ void scores(float (&s)[Each][Each], const float* a, const float* b) {
#pragma unroll
    for (int i = 0; i < Each; ++i)
#pragma unroll
      for (int j = 0; j < Each; ++j) s[i][j] = 0;
#pragma unroll 4
    for (int c = 0; c < Width; c += 4) {
      float4 u[Each], w[Each];
#pragma unroll
      for (int i = 0; i < Each; ++i) {
        u[i] = *reinterpret_cast<const float4*>(a + (y() + 16 * i) * pitch + c);
        w[i] = *reinterpret_cast<const float4*>(b + (x() + 16 * i) * pitch + c);
      }
#pragma unroll
      for (int i = 0; i < Each; ++i)
#pragma unroll
        for (int j = 0; j < Each; ++j)
          s[i][j] =
              fmaf(u[i].w, w[j].w, fmaf(u[i].z, w[j].z, fmaf(u[i].y, w[j].y, fmaf(u[i].x, w[j].x, s[i][j]))));
    }
  }
  static __device__ void add(float4& to, float w, float4 x) {
    to.x = fmaf(w, x.x, to.x), to.y = fmaf(w, x.y, to.y), to.z = fmaf(w, x.z, to.z), to.w = fmaf(w, x.w, to.w);
  }
  /// out[i] += sum_k w[y + 16 i, k] b[k], columns 4 x + 64 c.
  static __device__ void combine(float4 (&out)[Each][columns], const float* w, const float* b) {
#pragma unroll 2
    for (int k = 0; k < rows; k += 4) {
      float4 weight[Each];
#pragma unroll
      for (int i = 0; i < Each; ++i)
        weight[i] = *reinterpret_cast<const float4*>(w + (y() + 16 * i) * score_pitch + k);
#pragma unroll
      for (int c = 0; c < columns; ++c)
#pragma unroll
        for (int l = 0; l < 4; ++l) {
          const float4 row = *reinterpret_cast<const float4*>(b + (k + l) * pitch + 4 * x() + 64 * c);
#pragma unroll
          for (int i = 0; i < Each; ++i)
            add(out[i][c],
                l == 0   ? weight[i].x
                : l == 1 ? weight[i].y
                : l == 2 ? weight[i].z
                         : weight[i].w,
                row);
        }
    }
  }
  /// out[i] += sum_k w[k, Each y + i] b[k]
  static __device__ void combine_transposed(float4 (&out)[Each][columns], const float* w, const float* b) {
#pragma unroll 4
    for (int k = 0; k < rows; ++k) {
      float weight[Each];
#pragma unroll
      for (int i = 0; i < Each; i += 2)
        *reinterpret_cast<float2*>(weight + i) =
            *reinterpret_cast<const float2*>(w + k * score_pitch + Each * y() + i);
#pragma unroll
      for (int c = 0; c < columns; ++c) {
        const float4 row = *reinterpret_cast<const float4*>(b + k * pitch + 4 * x() + 64 * c);
#pragma unroll
        for (int i = 0; i < Each; ++i) add(out[i][c], weight[i], row);
      }
    }
  }
  /// Over the 16 threads of a row.
  static __device__ float most(float v) {
    for (int step = 8; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, step));
    return v;
  }
  static __device__ float total(float v) {
    for (int step = 8; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    return v;
  }
};

/// Masks and softmax of a thread's rows of scores, tile after tile.
template <int Width, int Each>
struct float_softmax {
  using tile = float_tile<Width, Each>;
  int low[Each], high[Each];
  float largest[Each], sum[Each];

  __device__ float_softmax(const part& p, int m0) {
#pragma unroll
    for (int i = 0; i < Each; ++i) {
      const int m = min(m0 + tile::y() + 16 * i, p.rows - 1);
      low[i] = p.first(m), high[i] = p.last(m);
      largest[i] = no_score, sum[i] = 0;
    }
  }
  __device__ bool sees(int i, int j) const { return j >= low[i] && j <= high[i]; }
  /// s <- weights of this tile by the new largest score; returns what old sums are worth by it.
  __device__ float take(int i, float (&s)[Each], int j0, float scale) {
    float top = largest[i];
#pragma unroll
    for (int j = 0; j < Each; ++j) {
      if (!sees(i, j0 + tile::x() + 16 * j)) s[j] = -INFINITY;
      top = fmaxf(top, s[j]);
    }
    top = tile::most(top);
    const float keep = expf((largest[i] - top) * scale);
    largest[i] = top;
    float more = 0;
#pragma unroll
    for (int j = 0; j < Each; ++j) more += s[j] = expf((s[j] - top) * scale);
    sum[i] = fmaf(sum[i], keep, more);
    return keep;
  }
};

template <int Width, int Each>
__global__ void __launch_bounds__(256, 2)
    forward_float_kernel(attention_arguments<float> a, int tiles, bool quads) {
  using tile = float_tile<Width, Each>;
  extern __shared__ __align__(16) unsigned char memory[];
  float *q = reinterpret_cast<float*>(memory), *kv = q + tile::row_numbers, *weights = kv + tile::row_numbers;
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part p(a, static_cast<int>(blockIdx.x) / tiles);
  const int n = p.width(), end_row = min(m0 + tile::rows, p.rows);
  const int begin = p.first(m0), end = p.last(end_row - 1) + 1;
  const float scale = a.scale();

  tile::load(q, end_row - m0, n, quads, [rows = p.queries(a.q), m0](int r) { return rows(m0 + r); });
  float_softmax<Width, Each> softmax(p, m0);
  float4 out[Each][tile::columns] = {};
  for (int j0 = begin; j0 < end; j0 += tile::rows) {
    __syncthreads();
    tile::load(kv, end - j0, n, quads,
               [rows = p.keys_of(a.k, a.past.keys), j0](int r) { return rows(j0 + r); });
    __syncthreads();
    float s[Each][Each];
    tile::scores(s, q, kv);
    __syncthreads();
    tile::load(kv, end - j0, n, quads,
               [rows = p.keys_of(a.v, a.past.values), j0](int r) { return rows(j0 + r); });
#pragma unroll
    for (int i = 0; i < Each; ++i) {
      const float keep = softmax.take(i, s[i], j0, scale);
#pragma unroll
      for (int c = 0; c < tile::columns; ++c) {
        float4& o = out[i][c];
        o.x *= keep, o.y *= keep, o.z *= keep, o.w *= keep;
      }
#pragma unroll
      for (int j = 0; j < Each; ++j)
        weights[(tile::y() + 16 * i) * tile::score_pitch + tile::x() + 16 * j] = s[i][j];
    }
    __syncthreads();
    tile::combine(out, weights, kv);
  }
#pragma unroll
  for (int i = 0; i < Each; ++i) {
    const int m = m0 + tile::y() + 16 * i;
    const float inverse = 1 / tile::total(softmax.sum[i]);
    if (m >= end_row) continue;
#pragma unroll
    for (int c = 0; c < tile::columns; ++c) {
      const float4 o = out[i][c];
      store_four(p.queries(a.y)(m), 4 * tile::x() + 64 * c, n, quads,
                 {o.x * inverse, o.y * inverse, o.z * inverse, o.w * inverse});
    }
  }
}

/// dq of a tile of queries, and what the other kernel needs to know of them.
template <int Width, int Each>
__global__ void __launch_bounds__(256, Width <= 64 ? 2 : 1)
    backward_queries_kernel(attention_backward_arguments<float> g, int tiles, bool quads, row_sums* kept) {
  using tile = float_tile<Width, Each>;
  extern __shared__ __align__(16) unsigned char memory[];
  float *q = reinterpret_cast<float*>(memory), *dy = q + tile::row_numbers, *k = dy + tile::row_numbers,
        *v = k + tile::row_numbers, *ds = v + tile::row_numbers;
  const auto& a = g.forward;
  const int task = static_cast<int>(blockIdx.x) / tiles;
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part p(a, task);
  const int n = p.width(), end_row = min(m0 + tile::rows, p.rows);
  const int begin = p.first(m0), end = p.last(end_row - 1) + 1;
  const float scale = a.scale();

  tile::load(q, end_row - m0, n, quads, [rows = p.queries(a.q), m0](int r) { return rows(m0 + r); });
  tile::load(dy, end_row - m0, n, quads, [rows = p.queries(g.dy), m0](int r) { return rows(m0 + r); });
  float_softmax<Width, Each> softmax(p, m0);
  float s[Each][Each], dp[Each][Each];
  for (int j0 = begin; j0 < end; j0 += tile::rows) {
    __syncthreads();
    tile::load(k, end - j0, n, quads, [rows = p.keys_of(a.k, a.past.keys), j0](int r) { return rows(j0 + r); });
    __syncthreads();
    tile::scores(s, q, k);
#pragma unroll
    for (int i = 0; i < Each; ++i) softmax.take(i, s[i], j0, scale);
  }
  float inverse[Each], mean[Each];
#pragma unroll
  for (int i = 0; i < Each; ++i) {
    const int row = tile::y() + 16 * i, m = m0 + row;
    inverse[i] = 1 / tile::total(softmax.sum[i]);
    mean[i] = 0;
    if (m < end_row) {
      const float* y = p.queries(a.y)(m);
      for (int c = tile::x(); c < n; c += 16) mean[i] = fmaf(dy[row * tile::pitch + c], y[c], mean[i]);
    }
    mean[i] = tile::total(mean[i]);
    if (m < end_row && tile::x() == 0)
      kept[static_cast<index>(task) * p.rows + m] = {softmax.largest[i], inverse[i], mean[i], 0};
  }
  float4 dq[Each][tile::columns] = {};
  for (int j0 = begin; j0 < end; j0 += tile::rows) {
    __syncthreads();
    tile::load(k, end - j0, n, quads, [rows = p.keys_of(a.k, a.past.keys), j0](int r) { return rows(j0 + r); });
    tile::load(v, end - j0, n, quads,
               [rows = p.keys_of(a.v, a.past.values), j0](int r) { return rows(j0 + r); });
    __syncthreads();
    tile::scores(s, q, k);
    tile::scores(dp, dy, v);
#pragma unroll
    for (int i = 0; i < Each; ++i)
#pragma unroll
      for (int j = 0; j < Each; ++j) {
        const int key = tile::x() + 16 * j;
        const float weight = expf((s[i][j] - softmax.largest[i]) * scale) * inverse[i];
        ds[(tile::y() + 16 * i) * tile::score_pitch + key] =
            softmax.sees(i, j0 + key) ? scale * weight * (dp[i][j] - mean[i]) : 0.f;
      }
    __syncwarp();  // a row of ds is written and read by the same half of a warp
    tile::combine(dq, ds, k);
  }
#pragma unroll
  for (int i = 0; i < Each; ++i) {
    const int m = m0 + tile::y() + 16 * i;
    if (m >= end_row) continue;
#pragma unroll
    for (int c = 0; c < tile::columns; ++c)
      store_four(p.queries(g.dq)(m), 4 * tile::x() + 64 * c, n, quads, dq[i][c]);
  }
}

/// dk and dv of a tile of this call's keys, over all queries that see one of them.
template <int Width, int Each>
__global__ void __launch_bounds__(256, Width <= 64 ? 2 : 1)
    backward_keys_kernel(attention_backward_arguments<float> g, int tiles, bool quads, const row_sums* kept) {
  using tile = float_tile<Width, Each>;
  extern __shared__ __align__(16) unsigned char memory[];
  float *q = reinterpret_cast<float*>(memory), *dy = q + tile::row_numbers, *k = dy + tile::row_numbers,
        *v = k + tile::row_numbers, *weights = v + tile::row_numbers, *ds = weights + tile::score_numbers;
  const auto& a = g.forward;
  const int task = static_cast<int>(blockIdx.x) / tiles, time = static_cast<int>(a.seq.time);
  const int s0 = static_cast<int>(blockIdx.x) % tiles * tile::rows;
  const part p(a, task);
  const int n = p.width(), end_key = min(s0 + tile::rows, time);
  const float scale = a.scale();

  tile::load(k, end_key - s0, n, quads, [rows = p.now(a.k), s0](int r) { return rows(s0 + r); });
  tile::load(v, end_key - s0, n, quads, [rows = p.now(a.v), s0](int r) { return rows(s0 + r); });
  float4 dk[Each][tile::columns] = {}, dv[Each][tile::columns] = {};
  for (int m0 = s0 * p.group(); m0 < p.rows && p.first(m0) < p.past + end_key; m0 += tile::rows) {
    __syncthreads();
    const int end_row = min(m0 + tile::rows, p.rows);
    tile::load(q, end_row - m0, n, quads, [rows = p.queries(a.q), m0](int r) { return rows(m0 + r); });
    tile::load(dy, end_row - m0, n, quads, [rows = p.queries(g.dy), m0](int r) { return rows(m0 + r); });
    __syncthreads();
    float s[Each][Each], dp[Each][Each];
    tile::scores(s, q, k);
    tile::scores(dp, dy, v);
#pragma unroll
    for (int i = 0; i < Each; ++i) {
      const int row = tile::y() + 16 * i, m = m0 + row;
      const bool there = m < end_row;
      const row_sums sums = there ? kept[static_cast<index>(task) * p.rows + m] : row_sums{0, 0, 0, 0};
      const int low = there ? p.first(m) : 1, high = there ? p.last(m) : 0;
#pragma unroll
      for (int j = 0; j < Each; ++j) {
        const int key = tile::x() + 16 * j, at = p.past + s0 + key;
        const bool sees = at >= low && at <= high;
        const float weight = sees ? expf((s[i][j] - sums.largest) * scale) * sums.inverse : 0.f;
        weights[row * tile::score_pitch + key] = weight;
        ds[row * tile::score_pitch + key] = sees ? scale * weight * (dp[i][j] - sums.mean) : 0.f;
      }
    }
    __syncthreads();
    tile::combine_transposed(dv, weights, dy);
    tile::combine_transposed(dk, ds, q);
  }
#pragma unroll
  for (int i = 0; i < Each; ++i) {
    const int s = s0 + Each * tile::y() + i;
    if (s >= end_key) continue;
#pragma unroll
    for (int c = 0; c < tile::columns; ++c) {
      store_four(p.now(g.dk)(s), 4 * tile::x() + 64 * c, n, quads, dk[i][c]);
      store_four(p.now(g.dv)(s), 4 * tile::x() + 64 * c, n, quads, dv[i][c]);
    }
  }
}

// ---- single tokens: keys and values are read once, in order, by many blocks a sequence

/// Sums over some of the keys, by their largest score.
struct partial_sums {
  float largest, total;
};
/// Sums each of `Count` numbers over `Lanes` threads, each of which gets one of the sums, or Count / Lanes of
/// them, or the same as its neighbours: number lane * Count / Lanes on. Half of what is left changes hands at
/// every step.
template <int Lanes, int Count>
__device__ void scatter_sums(float (&x)[Count], int lane) {
  int left = Count;
#pragma unroll
  for (int step = Lanes / 2; step > 0; step /= 2) {
    if (left > 1) {
      left /= 2;
      const bool upper = lane & step;
#pragma unroll
      for (int i = 0; i < Count / 2; ++i)
        if (i < left) {
          const float given = upper ? x[i] : x[i + left], mine = upper ? x[i + left] : x[i];
          x[i] = mine + __shfl_xor_sync(~0u, given, step);
        }
    } else {
      x[0] += __shfl_xor_sync(~0u, x[0], step);
    }
  }
}
/// `Lanes` threads, a team, share a key, four numbers each and `Turns` times; up to `Heads` queries meet it. A
/// split has at least `least` keys, so that short pasts are few splits.
template <int Lanes, int Turns, int Heads>
__global__ void __launch_bounds__(128)
    decode_kernel(attention_arguments<float> a, int splits, bool quads, partial_sums* sums, float* partial) {
  constexpr int teams = 128 / Lanes, at_once = 4 / Turns, padded = 4 * Lanes * Turns,
                least = 2 * teams * at_once;
  // A score (of a head and a key) to each lane, or several, or the same one to `alike` neighbours.
  constexpr int count = Heads * at_once, each_lane = count > Lanes ? count / Lanes : 1;
  constexpr int alike = count > Lanes ? 1 : Lanes / count, lanes_a_head = Lanes / Heads;
  __shared__ partial_sums team_sums[teams][Heads];
  __shared__ __align__(16) float weights[teams][count];
  __shared__ float keeps[teams][Heads];
  __shared__ __align__(16) float team_out[teams][Heads][padded];
  const int group = static_cast<int>(a.shape.group()), parts = (group + Heads - 1) / Heads;
  const int split = static_cast<int>(blockIdx.x) % splits, rest = static_cast<int>(blockIdx.x) / splits;
  const part p(a, rest / parts);
  const int head0 = rest % parts * Heads, heads = min(Heads, group - head0), n = p.width();
  const int low = p.first(0), all_keys = p.keys() - low, each = max((all_keys + splits - 1) / splits, least);
  const int begin = low + min(all_keys, split * each), end = low + min(all_keys, (split + 1) * each);
  const int lane = static_cast<int>(threadIdx.x) % Lanes, team = static_cast<int>(threadIdx.x) / Lanes;
  const index result = (static_cast<index>(p.b) * p.a.shape.heads + p.kv * group + head0) * splits + split;
  const float scale = a.scale();
  if (begin >= end) {
    if (static_cast<int>(threadIdx.x) < heads) sums[result + threadIdx.x * splits] = {no_score, 0};
    return;
  }

  const auto queries = p.queries(a.q);
  const auto keys_of = p.keys_of(a.k, a.past.keys), values_of = p.keys_of(a.v, a.past.values);
  float4 q[Heads][Turns], out[Heads][Turns] = {};
#pragma unroll
  for (int h = 0; h < Heads; ++h)
#pragma unroll
    for (int i = 0; i < Turns; ++i)
      q[h][i] =
          h < heads ? load_four(queries(head0 + h), 4 * (lane + Lanes * i), n, quads) : float4{0, 0, 0, 0};
  const int first_score = lane / alike * each_lane, my_head = first_score / at_once;
  float largest = no_score, total = 0;  // of this lane's head; of this lane's keys

  for (int j0 = begin; j0 < end; j0 += teams * at_once) {
    float4 k[at_once][Turns], v[at_once][Turns];
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const int j = j0 + u * teams + team;
#pragma unroll
      for (int i = 0; i < Turns; ++i) {
        const int c = 4 * (lane + Lanes * i);
        k[u][i] = j < end ? load_four(keys_of(j), c, n, quads) : float4{0, 0, 0, 0};
        v[u][i] = j < end ? load_four(values_of(j), c, n, quads) : float4{0, 0, 0, 0};
      }
    }
    float s[count];
#pragma unroll
    for (int h = 0; h < Heads; ++h)
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        float& x = s[h * at_once + u];
        x = 0;
        if (h < heads)
#pragma unroll
          for (int i = 0; i < Turns; ++i)
            x = fmaf(q[h][i].w, k[u][i].w,
                     fmaf(q[h][i].z, k[u][i].z, fmaf(q[h][i].y, k[u][i].y, fmaf(q[h][i].x, k[u][i].x, x))));
      }
    scatter_sums<Lanes>(s, lane);
    float top = largest;
#pragma unroll
    for (int i = 0; i < each_lane; ++i) {
      if (j0 + (first_score + i) % at_once * teams + team >= end) s[i] = -INFINITY;
      top = fmaxf(top, s[i]);
    }
#pragma unroll
    for (int step = lanes_a_head / 2; step >= alike; step /= 2)
      top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
    const float keep = expf((largest - top) * scale);
    largest = top, total *= keep;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < each_lane; ++i) {
      const float w = expf((s[i] - top) * scale);
      total += w;
      weights[team][first_score + i] = w;
    }
    keeps[team][my_head] = keep;
    __syncwarp();
#pragma unroll
    for (int h = 0; h < Heads; ++h) {
      if (h >= heads) break;
      const float old = keeps[team][h];
#pragma unroll
      for (int i = 0; i < Turns; ++i) {
        float4& o = out[h][i];
        o.x *= old, o.y *= old, o.z *= old, o.w *= old;
#pragma unroll
        for (int u = 0; u < at_once; ++u) {
          const float w = weights[team][h * at_once + u];
          o.x = fmaf(w, v[u][i].x, o.x), o.y = fmaf(w, v[u][i].y, o.y);
          o.z = fmaf(w, v[u][i].z, o.z), o.w = fmaf(w, v[u][i].w, o.w);
        }
      }
    }
  }
#pragma unroll
  for (int step = lanes_a_head / 2; step >= alike; step /= 2) total += __shfl_xor_sync(~0u, total, step);
  if (lane % lanes_a_head == 0) team_sums[team][my_head] = {largest, total};
  __syncthreads();
#pragma unroll
  for (int h = 0; h < Heads; ++h) {
    if (h >= heads) break;
    float top = no_score, all = 0;
#pragma unroll
    for (int i = 0; i < teams; ++i) top = fmaxf(top, team_sums[i][h].largest);
#pragma unroll
    for (int i = 0; i < teams; ++i)
      all += team_sums[i][h].total * expf((team_sums[i][h].largest - top) * scale);
    const float mine = expf((team_sums[team][h].largest - top) * scale) * (splits == 1 ? 1 / all : 1.f);
#pragma unroll
    for (int i = 0; i < Turns; ++i) {
      const float4 o = out[h][i];
      *reinterpret_cast<float4*>(team_out[team][h] + 4 * (lane + Lanes * i)) = {o.x * mine, o.y * mine,
                                                                                o.z * mine, o.w * mine};
    }
    if (splits > 1 && threadIdx.x == 0) sums[result + h * splits] = {top, all};
  }
  __syncthreads();
  const auto results = p.queries(a.y);
  for (int at = static_cast<int>(threadIdx.x); at < heads * padded; at += 128) {
    const int h = at / padded, c = at % padded;
    if (c >= n) continue;
    float x = 0;
#pragma unroll
    for (int i = 0; i < teams; ++i) x += team_out[i][h][c];
    (splits == 1 ? results(head0 + h) : partial + (result + h * splits) * n)[c] = x;
  }
}
/// y of one sequence and head from its splits, at most 64, of which some may have had no keys.
template <class T>
__global__ void __launch_bounds__(128)
    decode_join_kernel(attention_arguments<T> a, int splits, const partial_sums* sums, const T* partial) {
  __shared__ float weights[64];
  const index task = blockIdx.x, n = a.shape.width;
  const index b = task / a.shape.heads, head = task % a.shape.heads;
  const float scale = a.scale();
  sums += task * splits, partial += task * splits * n;
  if (threadIdx.x < 32) {
    partial_sums mine[2];
    float top = no_score, all = 0, weight[2];
    for (int i = 0; i < 2; ++i) {
      const int split = static_cast<int>(threadIdx.x) + 32 * i;
      mine[i] = split < splits ? sums[split] : partial_sums{no_score, 0};
      top = fmaxf(top, mine[i].largest);
    }
    for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
    for (int i = 0; i < 2; ++i) {
      weight[i] = expf((mine[i].largest - top) * scale);
      all += weight[i] * mine[i].total;
    }
    for (int step = 16; step > 0; step /= 2) all += __shfl_xor_sync(~0u, all, step);
    for (int i = 0; i < 2; ++i) weights[threadIdx.x + 32 * i] = mine[i].total == 0 ? 0 : weight[i] / all;
  }
  __syncthreads();
  for (index c = threadIdx.x; c < n; c += blockDim.x) {
    T x = 0;
#pragma unroll 8
    for (int i = 0; i < splits; ++i)
      if (weights[i] != 0) x = fmaf(weights[i], partial[i * n + c], x);
    a.y.row(b)[head * n + c] = x;
  }
}

// ---- launches

template <class T>
bool in_quads(matrix_view<T> m) {
  return m.stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(m.data) % 16 == 0;
}
inline bool in_quads(per_sequence<const float> m) {
  return m.stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(m.data) % 16 == 0;
}
/// Whether every row of every head begins at 16 bytes.
inline bool in_quads(const attention_arguments<float>& a) {
  return a.shape.width % 4 == 0 && in_quads(a.q) && in_quads(a.k) && in_quads(a.v) && in_quads(a.y) &&
         (!a.past.length.data || (in_quads(a.past.keys) && in_quads(a.past.values)));
}
inline bool in_quads(const attention_backward_arguments<float>& g) {
  return in_quads(g.forward) && in_quads(g.dy) && in_quads(g.dq) && in_quads(g.dk) && in_quads(g.dv);
}
inline int row_tiles(const attention_arguments<float>& a, int rows) {
  return static_cast<int>(blocks_for(a.seq.time * a.shape.group(), rows));
}
inline unsigned blocks(const attention_arguments<float>& a, int tiles) {
  return static_cast<unsigned>(a.seq.batch * a.shape.kv_heads * tiles);
}
template <class Kernel>
void allow_shared(Kernel* kernel, int bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory");
}

template <int Width, bool Quads>
void forward_tensor(cuda& device, const attention_arguments<float>& a) {
  using tile = forward_tile<Width, Quads>;
  const int tiles = row_tiles(a, tile::rows);
  allow_shared(forward_tensor_kernel<Width, Quads>, tile::bytes);
  forward_tensor_kernel<Width, Quads>
      <<<blocks(a, tiles), tile::threads, tile::bytes, device.stream()>>>(a, tiles);
  check_launch("attention");
}
template <int Width>
void forward_tensor(cuda& device, const attention_arguments<float>& a) {
  in_quads(a) ? forward_tensor<Width, true>(device, a) : forward_tensor<Width, false>(device, a);
}
template <int Width, bool Quads>
void backward_tensor(cuda& device, const attention_backward_arguments<float>& g) {
  using tile = backward_tile<Width, Quads>;
  const auto& a = g.forward;
  auto kept = device.template scratch<row_sums>(a.seq.rows() * a.shape.heads);
  const int queries = row_tiles(a, tile::rows), keys = static_cast<int>(blocks_for(a.seq.time, tile::rows));
  allow_shared(backward_queries_tensor_kernel<Width, Quads>, tile::bytes);
  allow_shared(backward_keys_tensor_kernel<Width, Quads>, tile::bytes);
  backward_queries_tensor_kernel<Width, Quads>
      <<<blocks(a, queries), tile::threads, tile::bytes, device.stream()>>>(g, queries, kept.data());
  backward_keys_tensor_kernel<Width, Quads>
      <<<blocks(a, keys), tile::threads, tile::bytes, device.stream()>>>(g, keys, kept.data());
  check_launch("attention's gradient");
}
template <int Width>
void backward_tensor(cuda& device, const attention_backward_arguments<float>& g) {
  in_quads(g) ? backward_tensor<Width, true>(device, g) : backward_tensor<Width, false>(device, g);
}
template <int Width, int Each>
void forward_float(cuda& device, const attention_arguments<float>& a) {
  using tile = float_tile<Width, Each>;
  constexpr int bytes = (2 * tile::row_numbers + tile::score_numbers) * 4;
  const int tiles = row_tiles(a, tile::rows);
  allow_shared(forward_float_kernel<Width, Each>, bytes);
  forward_float_kernel<Width, Each>
      <<<blocks(a, tiles), tile::threads, bytes, device.stream()>>>(a, tiles, in_quads(a));
  check_launch("attention");
}
template <int Width, int Each>
void backward_float(cuda& device, const attention_backward_arguments<float>& g) {
  using tile = float_tile<Width, Each>;
  constexpr int bytes = (4 * tile::row_numbers + 2 * tile::score_numbers) * 4;
  if (device.shared_bytes() < bytes) return distil_xlstm::attention_backward<cuda, float>(device, g);
  const auto& a = g.forward;
  const bool quads = in_quads(g);
  auto kept = device.template scratch<row_sums>(a.seq.rows() * a.shape.heads);
  const int queries = row_tiles(a, tile::rows), keys = static_cast<int>(blocks_for(a.seq.time, tile::rows));
  constexpr int fewer = bytes - tile::score_numbers * 4;
  allow_shared(backward_queries_kernel<Width, Each>, fewer);
  allow_shared(backward_keys_kernel<Width, Each>, bytes);
  backward_queries_kernel<Width, Each>
      <<<blocks(a, queries), tile::threads, fewer, device.stream()>>>(g, queries, quads, kept.data());
  backward_keys_kernel<Width, Each>
      <<<blocks(a, keys), tile::threads, bytes, device.stream()>>>(g, keys, quads, kept.data());
  check_launch("attention's gradient");
}
template <int Lanes, int Turns, int Heads>
void decode_heads(cuda& device, const attention_arguments<float>& a) {
  const index parts = blocks_for(a.shape.group(), Heads), tasks = a.seq.batch * a.shape.kv_heads * parts;
  // Enough blocks to fill the card, whatever the lengths, which the host does not know.
  const index wanted = blocks_for(index{6} * device.multiprocessors(), tasks);
  const int splits = a.past.length.data ? static_cast<int>(std::clamp<index>(wanted, 1, 64)) : 1;
  const index results = splits > 1 ? a.seq.batch * a.shape.heads * splits : 0;
  auto sums = device.template scratch<partial_sums>(results);
  auto partial = device.template scratch<float>(results * a.shape.width);
  decode_kernel<Lanes, Turns, Heads><<<static_cast<unsigned>(tasks * splits), 128, 0, device.stream()>>>(
      a, splits, in_quads(a), sums.data(), partial.data());
  if (splits > 1)
    decode_join_kernel<<<static_cast<unsigned>(a.seq.batch * a.shape.heads), 128, 0, device.stream()>>>(
        a, splits, sums.data(), partial.data());
  check_launch("attention of single tokens");
}
template <int Lanes, int Turns>
void decode(cuda& device, const attention_arguments<float>& a) {
  if (a.shape.group() == 1) return decode_heads<Lanes, Turns, 1>(device, a);
  if (a.shape.group() == 2) return decode_heads<Lanes, Turns, 2>(device, a);
  if (a.shape.group() <= 4 || Turns > 1) return decode_heads<Lanes, Turns, 4>(device, a);
  decode_heads<Lanes, Turns, Turns == 1 ? 8 : 4>(device, a);
}

}  // namespace detail::flash

/// Tiles of queries against tiles of keys with a running softmax: no scores in memory. With `bf16_products`
/// heads up to 128 wide go through the tensor cores, q, k, v and the weights rounded to bfloat16. Single tokens
/// (of any past) are float and read the past once. Double, and wider heads than 256, take the default.
template <class T>
void attention_forward(cuda& device, const attention_arguments<T>& a) {
  const index n = a.shape.width;
  if constexpr (std::is_same_v<T, float>) {
    if (a.seq.rows() == 0 || n == 0) return;
    if (a.seq.time == 1 && n <= 64) return detail::flash::decode<16, 1>(device, a);
    if (a.seq.time == 1 && n <= 128) return detail::flash::decode<32, 1>(device, a);
    if (a.seq.time == 1 && n <= 256) return detail::flash::decode<32, 2>(device, a);
    if (device.bf16_products && n <= 64) return detail::flash::forward_tensor<64>(device, a);
    if (device.bf16_products && n <= 128) return detail::flash::forward_tensor<128>(device, a);
    if (n <= 64) return detail::flash::forward_float<64, 4>(device, a);
    if (n <= 128) return detail::flash::forward_float<128, 4>(device, a);
    if (n <= 256) return detail::flash::forward_float<256, 2>(device, a);
  }
  distil_xlstm::attention_forward<cuda, T>(device, a);
}

/// First the queries' gradients and the sums of their softmax, then the keys' and values'; on the tensor cores
/// as forward is.
template <class T>
void attention_backward(cuda& device, const attention_backward_arguments<T>& g) {
  if constexpr (std::is_same_v<T, float>) {
    const index n = g.forward.shape.width;
    if (g.forward.seq.rows() == 0 || n == 0) return;
    if (device.bf16_products && n <= 64) return detail::flash::backward_tensor<64>(device, g);
    if (device.bf16_products && n <= 128) return detail::flash::backward_tensor<128>(device, g);
    if (n <= 64) return detail::flash::backward_float<64, 4>(device, g);
    if (n <= 128) return detail::flash::backward_float<128, 4>(device, g);
    if (n <= 256) return detail::flash::backward_float<256, 2>(device, g);
  }
  distil_xlstm::attention_backward<cuda, T>(device, g);
}

}  // namespace distil_xlstm::device
