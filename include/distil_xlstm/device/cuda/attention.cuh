#pragma once

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
  __device__ T* query_row(matrix_view<T> x, int m) const {
    const int t = token(m);
    return x.row(b * a.seq.time + t) + (kv * group() + (m - t * group())) * a.shape.width;
  }
  template <class T>
  __device__ T* now_row(matrix_view<T> x, int s) const {
    return x.row(b * a.seq.time + s) + kv * a.shape.width;
  }
  __device__ const float* key_row(matrix_view<const float> now, per_sequence<const float> before, int j) const {
    return j < past ? before.of(b) + (j * a.shape.kv_heads + kv) * a.shape.width : now_row(now, j - past);
  }
};

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

/// 128 queries a block, 16 a warp, against tiles of keys in shared memory. While a tile of keys is multiplied,
/// its values are on their way, and while these are, the next keys.
template <int Width>
struct tensor_tile {
  static constexpr int threads = 256, rows = 128, keys = Width <= 64 ? 64 : 32;
  static constexpr int pitch = Width + 8;  ///< rows 16 bytes apart in the banks
  static constexpr int quads_a_row = Width / 4, rows_a_pass = threads / quads_a_row;
  static constexpr int passes = keys / rows_a_pass;
  /// Narrow heads keep their queries in registers, and the keys then take the queries' place.
  static constexpr bool queries_stay = Width > 64;
  static constexpr int query_numbers = rows * pitch, key_numbers = keys * pitch;
  static constexpr int bytes =
      2 * (queries_stay ? query_numbers + 2 * key_numbers
                        : (query_numbers > 2 * key_numbers ? query_numbers : 2 * key_numbers));

  static __device__ int row_of(int pass) {
    return static_cast<int>(threadIdx.x) / quads_a_row + pass * rows_a_pass;
  }
  static __device__ int column() { return static_cast<int>(threadIdx.x) % quads_a_row * 4; }
  static __device__ void put(std::uint16_t* tile, int row, float4 x) {
    *reinterpret_cast<uint2*>(tile + row * pitch + column()) = {bf16_pair(x.x, x.y), bf16_pair(x.z, x.w)};
  }
};

template <int Width, bool Quads>
__global__ void __launch_bounds__(256, 2) forward_tensor_kernel(attention_arguments<float> a, int tiles) {
  using tile = tensor_tile<Width>;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* q = reinterpret_cast<std::uint16_t*>(memory);
  std::uint16_t *k = q + (tile::queries_stay ? tile::query_numbers : 0), *v = k + tile::key_numbers;

  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  // Late tiles see the most keys: they go first.
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part p(a, static_cast<int>(blockIdx.x) / tiles);
  const int n = p.width(), end_row = min(m0 + tile::rows, p.rows);
  const int begin = p.first(m0), end = p.last(end_row - 1) + 1;

  for (int pass = 0; pass < tile::rows / tile::rows_a_pass; ++pass) {
    const int row = tile::row_of(pass), m = m0 + row;
    tile::put(q, row,
              m < end_row ? load_four(p.query_row(a.q, m), tile::column(), n, Quads) : float4{0, 0, 0, 0});
  }
  float4 next[tile::passes];
  const auto fetch = [&](matrix_view<const float> now, per_sequence<const float> before, int j0) {
#pragma unroll
    for (int pass = 0; pass < tile::passes; ++pass) {
      const int j = j0 + tile::row_of(pass);
      next[pass] =
          j < end ? load_four(p.key_row(now, before, j), tile::column(), n, Quads) : float4{0, 0, 0, 0};
    }
  };
  const auto put = [&](std::uint16_t* to) {
#pragma unroll
    for (int pass = 0; pass < tile::passes; ++pass) tile::put(to, tile::row_of(pass), next[pass]);
  };
  fetch(a.k, a.past.keys, begin);
  __syncthreads();

  const std::uint16_t* my_queries = q + (16 * warp + lane % 16) * tile::pitch + lane / 16 * 8;
  std::uint32_t queries[tile::queries_stay ? 1 : Width / 16][4];
  if constexpr (!tile::queries_stay) {
#pragma unroll
    for (int i = 0; i < Width / 16; ++i) load_matrices<false>(queries[i], my_queries + 16 * i);
    __syncthreads();
  }
  put(k);
  __syncthreads();

  // This thread's numbers are of two rows, 8 apart, in pairs of columns.
  int low[2], high[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int m = min(m0 + 16 * warp + lane / 4 + 8 * h, end_row - 1);
    low[h] = p.first(m), high[h] = p.last(m);
  }
  const float scale = a.scale() * 1.4426950408889634f;  // exp(x) = 2^(x log2 e)
  float out[Width / 8][4] = {}, largest[2] = {no_score, no_score}, sum[2] = {0, 0};
  const int key_row = lane / 16 * 8 + lane % 8, key_column = lane / 8 % 2 * 8;
  const int value_row = lane / 8 % 2 * 8 + lane % 8, value_column = lane / 16 * 8;

  for (int j0 = begin; j0 < end; j0 += tile::keys) {
    const bool idle = __all_sync(~0u, j0 > high[1] || j0 + tile::keys <= low[0]);
    float s[tile::keys / 8][4] = {};
    fetch(a.v, a.past.values, j0);
    if (!idle) {
#pragma unroll
      for (int i = 0; i < Width / 16; ++i) {
        std::uint32_t mine[4];
        if constexpr (tile::queries_stay) load_matrices<false>(mine, my_queries + 16 * i);
#pragma unroll
        for (int c = 0; c < tile::keys / 16; ++c) {
          std::uint32_t b[4];
          load_matrices<false>(b, k + (16 * c + key_row) * tile::pitch + 16 * i + key_column);
          if constexpr (tile::queries_stay) {
            multiply(s[2 * c], mine, b[0], b[1]);
            multiply(s[2 * c + 1], mine, b[2], b[3]);
          } else {
            multiply(s[2 * c], queries[i], b[0], b[1]);
            multiply(s[2 * c + 1], queries[i], b[2], b[3]);
          }
        }
      }
    }
    put(v);
    __syncthreads();
    const bool more = j0 + tile::keys < end;
    if (more) fetch(a.k, a.past.keys, j0 + tile::keys);
    if (!idle) {
      const bool whole = j0 >= low[1] && j0 + tile::keys - 1 <= high[0];
      if (!__all_sync(~0u, whole)) {
#pragma unroll
        for (int c = 0; c < tile::keys / 8; ++c)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int j = j0 + 8 * c + lane % 4 * 2 + e % 2;
            if (j < low[e / 2] || j > high[e / 2]) s[c][e] = -INFINITY;
          }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = largest[h];
#pragma unroll
        for (int c = 0; c < tile::keys / 8; ++c) top = fmaxf(top, fmaxf(s[c][2 * h], s[c][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        const float keep = exp2_fast((largest[h] - top) * scale), shift = top * scale;
        largest[h] = top;
        float more_sum = 0;
#pragma unroll
        for (int c = 0; c < tile::keys / 8; ++c)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) {
            s[c][e] = exp2_fast(fmaf(s[c][e], scale, -shift));
            more_sum += s[c][e];
          }
        sum[h] = fmaf(sum[h], keep, more_sum);
#pragma unroll
        for (int c = 0; c < Width / 8; ++c) out[c][2 * h] *= keep, out[c][2 * h + 1] *= keep;
      }
#pragma unroll
      for (int i = 0; i < tile::keys / 16; ++i) {
        const std::uint32_t weights[4] = {
            bf16_pair(s[2 * i][0], s[2 * i][1]), bf16_pair(s[2 * i][2], s[2 * i][3]),
            bf16_pair(s[2 * i + 1][0], s[2 * i + 1][1]), bf16_pair(s[2 * i + 1][2], s[2 * i + 1][3])};
#pragma unroll
        for (int c = 0; c < Width / 16; ++c) {
          std::uint32_t b[4];
          load_matrices<true>(b, v + (16 * i + value_row) * tile::pitch + 16 * c + value_column);
          multiply(out[2 * c], weights, b[0], b[1]);
          multiply(out[2 * c + 1], weights, b[2], b[3]);
        }
      }
    }
    if (more) put(k);
    __syncthreads();
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
    sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
    const int m = m0 + 16 * warp + lane / 4 + 8 * h;
    if (m >= end_row) continue;
    float* y = p.query_row(a.y, m);
    const float inverse = 1 / sum[h];
#pragma unroll
    for (int i = 0; i < Width / 8; ++i) {
      const int c = 8 * i + lane % 4 * 2;
      const float2 x{out[i][2 * h] * inverse, out[i][2 * h + 1] * inverse};
      if (Quads) {
        if (c < n) *reinterpret_cast<float2*>(y + c) = x;
      } else {
        if (c < n) y[c] = x.x;
        if (c + 1 < n) y[c + 1] = x.y;
      }
    }
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

  /// tile[i] = row(i) for i < count, else zeros.
  template <class Row>
  static __device__ void load(float* tile, int count, int n, bool quads, const Row& row) {
    constexpr int each = Width / 4;
#pragma unroll 4
    for (int e = static_cast<int>(threadIdx.x); e < rows * each; e += threads) {
      const int r = e / each, c = e % each * 4;
      *reinterpret_cast<float4*>(tile + r * pitch + c) =
          r < count ? load_four(row(r), c, n, quads) : float4{0, 0, 0, 0};
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
__global__ void __launch_bounds__(256)
    forward_float_kernel(attention_arguments<float> a, int tiles, bool quads) {
  using tile = float_tile<Width, Each>;
  extern __shared__ __align__(16) unsigned char memory[];
  float *q = reinterpret_cast<float*>(memory), *kv = q + tile::row_numbers, *weights = kv + tile::row_numbers;
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part p(a, static_cast<int>(blockIdx.x) / tiles);
  const int n = p.width(), end_row = min(m0 + tile::rows, p.rows);
  const int begin = p.first(m0), end = p.last(end_row - 1) + 1;
  const float scale = a.scale();

  tile::load(q, end_row - m0, n, quads, [&](int r) { return p.query_row(a.q, m0 + r); });
  float_softmax<Width, Each> softmax(p, m0);
  float4 out[Each][tile::columns] = {};
  for (int j0 = begin; j0 < end; j0 += tile::rows) {
    __syncthreads();
    tile::load(kv, end - j0, n, quads, [&](int r) { return p.key_row(a.k, a.past.keys, j0 + r); });
    __syncthreads();
    float s[Each][Each];
    tile::scores(s, q, kv);
    __syncthreads();
    tile::load(kv, end - j0, n, quads, [&](int r) { return p.key_row(a.v, a.past.values, j0 + r); });
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
      store_four(p.query_row(a.y, m), 4 * tile::x() + 64 * c, n, quads,
                 {o.x * inverse, o.y * inverse, o.z * inverse, o.w * inverse});
    }
  }
}

/// What the backward pass keeps of each query between its two kernels: p_s = exp((score_s - largest) scale)
/// inverse, and dy . y.
struct row_sums {
  float largest, inverse, mean, unused;
};

/// dq of a tile of queries, and what the other kernel needs to know of them.
template <int Width, int Each>
__global__ void __launch_bounds__(256)
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

  tile::load(q, end_row - m0, n, quads, [&](int r) { return p.query_row(a.q, m0 + r); });
  tile::load(dy, end_row - m0, n, quads, [&](int r) { return p.query_row(g.dy, m0 + r); });
  float_softmax<Width, Each> softmax(p, m0);
  float s[Each][Each], dp[Each][Each];
  for (int j0 = begin; j0 < end; j0 += tile::rows) {
    __syncthreads();
    tile::load(k, end - j0, n, quads, [&](int r) { return p.key_row(a.k, a.past.keys, j0 + r); });
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
      const float* y = p.query_row(a.y, m);
      for (int c = tile::x(); c < n; c += 16) mean[i] = fmaf(dy[row * tile::pitch + c], y[c], mean[i]);
    }
    mean[i] = tile::total(mean[i]);
    if (m < end_row && tile::x() == 0)
      kept[static_cast<index>(task) * p.rows + m] = {softmax.largest[i], inverse[i], mean[i], 0};
  }
  float4 dq[Each][tile::columns] = {};
  for (int j0 = begin; j0 < end; j0 += tile::rows) {
    __syncthreads();
    tile::load(k, end - j0, n, quads, [&](int r) { return p.key_row(a.k, a.past.keys, j0 + r); });
    tile::load(v, end - j0, n, quads, [&](int r) { return p.key_row(a.v, a.past.values, j0 + r); });
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
      store_four(p.query_row(g.dq, m), 4 * tile::x() + 64 * c, n, quads, dq[i][c]);
  }
}

/// dk and dv of a tile of this call's keys, over all queries that see one of them.
template <int Width, int Each>
__global__ void __launch_bounds__(256)
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

  tile::load(k, end_key - s0, n, quads, [&](int r) { return p.now_row(a.k, s0 + r); });
  tile::load(v, end_key - s0, n, quads, [&](int r) { return p.now_row(a.v, s0 + r); });
  float4 dk[Each][tile::columns] = {}, dv[Each][tile::columns] = {};
  for (int m0 = s0 * p.group(); m0 < p.rows && p.first(m0) < p.past + end_key; m0 += tile::rows) {
    __syncthreads();
    const int end_row = min(m0 + tile::rows, p.rows);
    tile::load(q, end_row - m0, n, quads, [&](int r) { return p.query_row(a.q, m0 + r); });
    tile::load(dy, end_row - m0, n, quads, [&](int r) { return p.query_row(g.dy, m0 + r); });
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
      store_four(p.now_row(g.dk, s), 4 * tile::x() + 64 * c, n, quads, dk[i][c]);
      store_four(p.now_row(g.dv, s), 4 * tile::x() + 64 * c, n, quads, dv[i][c]);
    }
  }
}

// ---- single tokens: keys and values are read once, in order, by many blocks a sequence

/// Sums over some of the keys: y = sum / total.
struct partial_sums {
  float largest, total;
};
/// `Lanes` threads share a key, four numbers each and `Turns` times; up to `Heads` queries meet it.
template <int Lanes, int Turns, int Heads>
__global__ void __launch_bounds__(128)
    decode_kernel(attention_arguments<float> a, int splits, bool quads, partial_sums* sums, float* partial) {
  constexpr int teams = 128 / Lanes, at_once = 4 / Turns, padded = 4 * Lanes * Turns;
  __shared__ partial_sums team_sums[teams][Heads];
  __shared__ __align__(16) float team_out[teams][padded];
  const int group = static_cast<int>(a.shape.group()), parts = (group + Heads - 1) / Heads;
  const int split = static_cast<int>(blockIdx.x) % splits, rest = static_cast<int>(blockIdx.x) / splits;
  const part p(a, rest / parts);
  const int head0 = rest % parts * Heads, heads = min(Heads, group - head0), n = p.width();
  const int low = p.first(0), count = p.keys() - low, each = (count + splits - 1) / splits;
  const int begin = low + min(count, split * each), end = low + min(count, (split + 1) * each);
  const int lane = static_cast<int>(threadIdx.x) % Lanes, team = static_cast<int>(threadIdx.x) / Lanes;
  const float scale = a.scale();

  float4 q[Heads][Turns], out[Heads][Turns] = {};
  float largest[Heads], total[Heads];
#pragma unroll
  for (int h = 0; h < Heads; ++h) {
    largest[h] = no_score, total[h] = 0;
#pragma unroll
    for (int i = 0; i < Turns; ++i)
      q[h][i] = h < heads ? load_four(p.query_row(a.q, head0 + h), 4 * (lane + Lanes * i), n, quads)
                          : float4{0, 0, 0, 0};
  }
  for (int j0 = begin; j0 < end; j0 += teams * at_once) {
    float4 k[at_once][Turns], v[at_once][Turns];
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const int j = j0 + u * teams + team;
#pragma unroll
      for (int i = 0; i < Turns; ++i) {
        const int c = 4 * (lane + Lanes * i);
        k[u][i] = j < end ? load_four(p.key_row(a.k, a.past.keys, j), c, n, quads) : float4{0, 0, 0, 0};
        v[u][i] = j < end ? load_four(p.key_row(a.v, a.past.values, j), c, n, quads) : float4{0, 0, 0, 0};
      }
    }
#pragma unroll
    for (int h = 0; h < Heads; ++h) {
      if (h >= heads) break;
      float s[at_once], top = largest[h];
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        s[u] = 0;
#pragma unroll
        for (int i = 0; i < Turns; ++i) {
          const float4 x = q[h][i], y = k[u][i];
          s[u] = fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, s[u]))));
        }
#pragma unroll
        for (int step = Lanes / 2; step > 0; step /= 2) s[u] += __shfl_xor_sync(~0u, s[u], step);
        if (j0 + u * teams + team >= end) s[u] = -INFINITY;
        top = fmaxf(top, s[u]);
      }
      const float keep = expf((largest[h] - top) * scale);
      largest[h] = top;
      total[h] *= keep;
#pragma unroll
      for (int i = 0; i < Turns; ++i) {
        float4& o = out[h][i];
        o.x *= keep, o.y *= keep, o.z *= keep, o.w *= keep;
      }
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        const float w = expf((s[u] - top) * scale);
        total[h] += w;
#pragma unroll
        for (int i = 0; i < Turns; ++i) {
          float4& o = out[h][i];
          o.x = fmaf(w, v[u][i].x, o.x), o.y = fmaf(w, v[u][i].y, o.y);
          o.z = fmaf(w, v[u][i].z, o.z), o.w = fmaf(w, v[u][i].w, o.w);
        }
      }
    }
  }
  if (lane == 0)
    for (int h = 0; h < heads; ++h) team_sums[team][h] = {largest[h], total[h]};
#pragma unroll
  for (int h = 0; h < Heads; ++h) {
    if (h >= heads) break;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Turns; ++i)
      *reinterpret_cast<float4*>(team_out[team] + 4 * (lane + Lanes * i)) = out[h][i];
    __syncthreads();
    float top = no_score, all = 0;
    for (int i = 0; i < teams; ++i) top = fmaxf(top, team_sums[i][h].largest);
    for (int i = 0; i < teams; ++i)
      all += team_sums[i][h].total * expf((team_sums[i][h].largest - top) * scale);
    const index at = ((static_cast<index>(p.b) * p.a.shape.heads) + p.kv * group + head0 + h) * splits + split;
    float* y = splits == 1 ? p.query_row(a.y, head0 + h) : partial + at * n;
    for (int c = static_cast<int>(threadIdx.x); c < n; c += 128) {
      float x = 0;
      for (int i = 0; i < teams; ++i) x += team_out[i][c] * expf((team_sums[i][h].largest - top) * scale);
      y[c] = splits == 1 ? x / all : x;
    }
    if (splits > 1 && threadIdx.x == 0) sums[at] = {top, all};
  }
}
/// y of one sequence and head from its splits.
template <class T>
__global__ void decode_join_kernel(attention_arguments<T> a, int splits, const partial_sums* sums,
                                   const T* partial) {
  const index task = blockIdx.x, n = a.shape.width;
  const index b = task / a.shape.heads, head = task % a.shape.heads;
  const float scale = a.scale();
  sums += task * splits, partial += task * splits * n;
  float top = no_score, all = 0;
  for (int i = 0; i < splits; ++i) top = fmaxf(top, sums[i].largest);
  for (int i = 0; i < splits; ++i) all += sums[i].total * expf((sums[i].largest - top) * scale);
  for (index c = threadIdx.x; c < n; c += blockDim.x) {
    float x = 0;
    for (int i = 0; i < splits; ++i) x += partial[i * n + c] * expf((sums[i].largest - top) * scale);
    a.y.row(b)[head * n + c] = x / all;
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

template <int Width>
void forward_tensor(cuda& device, const attention_arguments<float>& a) {
  using tile = tensor_tile<Width>;
  const int tiles = row_tiles(a, tile::rows);
  const auto kernel = in_quads(a) ? forward_tensor_kernel<Width, true> : forward_tensor_kernel<Width, false>;
  allow_shared(kernel, tile::bytes);
  kernel<<<blocks(a, tiles), tile::threads, tile::bytes, device.stream()>>>(a, tiles);
  check_launch("attention");
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
  const bool quads = in_quads(a) && in_quads(g.dy) && in_quads(g.dq) && in_quads(g.dk) && in_quads(g.dv);
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
    decode_join_kernel<<<static_cast<unsigned>(a.seq.batch * a.shape.heads), 64, 0, device.stream()>>>(
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

/// In float: first the queries' gradients and the sums of their softmax, then the keys' and values'.
template <class T>
void attention_backward(cuda& device, const attention_backward_arguments<T>& g) {
  if constexpr (std::is_same_v<T, float>) {
    const index n = g.forward.shape.width;
    if (g.forward.seq.rows() == 0 || n == 0) return;
    if (n <= 64) return detail::flash::backward_float<64, 4>(device, g);
    if (n <= 128) return detail::flash::backward_float<128, 4>(device, g);
    if (n <= 256) return detail::flash::backward_float<256, 2>(device, g);
  }
  distil_xlstm::attention_backward<cuda, T>(device, g);
}

}  // namespace distil_xlstm::device
