#pragma once

#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/attention/cuda/parts.cuh>

// Attention in true float: 16 x 16 threads, tiles of 16 * Each queries and keys, a thread holds Each x Each
// scores.
namespace distil_xlstm::device::detail::flash {

template <int Width, int Each>
struct float_tile {
  static constexpr int threads = 256, rows = 16 * Each;
  static constexpr int pitch = Width + 4, score_pitch = rows + 4;
  static constexpr int columns = Width / 64;  ///< float4s of a thread's results
  static constexpr int row_numbers = rows * pitch, score_numbers = rows * score_pitch;

  static __device__ int x() { return static_cast<int>(threadIdx.x) % 16; }
  static __device__ int y() { return static_cast<int>(threadIdx.x) / 16; }

  /// tile[i] = row(i) for i < count, else zeros. Some at once, so that they are waited for together.
  template <class Row>
  static __device__ void load(float* tile, int count, int n, bool vectorised, const Row& row) {
    constexpr int each = Width / 4, at_once = 4;
    static_assert(rows * each % (threads * at_once) == 0);
    for (int first = static_cast<int>(threadIdx.x); first < rows * each; first += threads * at_once) {
      float4 x[at_once];
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int r = (first + threads * i) / each, c = (first + threads * i) % each * 4;
        x[i] = r < count ? load4(row(r), c, n, vectorised) : float4{0, 0, 0, 0};
      }
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int r = (first + threads * i) / each, c = (first + threads * i) % each * 4;
        store4(tile + r * pitch + c, x[i]);
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
        u[i] = load4(a + (y() + 16 * i) * pitch + c);
        w[i] = load4(b + (x() + 16 * i) * pitch + c);
      }
#pragma unroll
      for (int i = 0; i < Each; ++i)
#pragma unroll
        for (int j = 0; j < Each; ++j) s[i][j] = add_dot(s[i][j], u[i], w[j]);
    }
  }
  /// out[i] += sum_k w[y + 16 i, k] b[k], columns 4 x + 64 c.
  static __device__ void combine(float4 (&out)[Each][columns], const float* w, const float* b) {
#pragma unroll 2
    for (int k = 0; k < rows; k += 4) {
      float4 weight[Each];
#pragma unroll
      for (int i = 0; i < Each; ++i) weight[i] = load4(w + (y() + 16 * i) * score_pitch + k);
#pragma unroll
      for (int c = 0; c < columns; ++c)
#pragma unroll
        for (int l = 0; l < 4; ++l) {
          const float4 row = load4(b + (k + l) * pitch + 4 * x() + 64 * c);
#pragma unroll
          for (int i = 0; i < Each; ++i)
            out[i][c] = add_product(out[i][c],
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
        const float4 row = load4(b + k * pitch + 4 * x() + 64 * c);
#pragma unroll
        for (int i = 0; i < Each; ++i) out[i][c] = add_product(out[i][c], weight[i], row);
      }
    }
  }
  /// Over the 16 threads of a row.
  static __device__ float max(float v) { return warp_max<16>(v); }
  static __device__ float sum(float v) { return warp_sum<16>(v); }
};

/// Masks and softmax of a thread's rows of scores, tile after tile of visited keys.
template <int Width, int Each>
struct float_softmax {
  using tile = float_tile<Width, Each>;
  const part& of;
  int low[Each], high[Each];  ///< places
  float largest[Each], sum[Each];

  __device__ float_softmax(const part& p, const visited_keys& visited, int m0) : of(p) {
#pragma unroll
    for (int i = 0; i < Each; ++i) {
      const int m = min(m0 + tile::y() + 16 * i, p.rows - 1);
      low[i] = visited.place(p.first(m)), high[i] = visited.place(p.last(m));
      largest[i] = no_score, sum[i] = 0;
    }
  }
  __device__ bool sees(int i, int j) const { return of.seen(low[i], high[i]).sees(j); }
  /// s <- weights of this tile by the new largest score; returns what old sums are worth by it.
  __device__ float take(int i, float (&s)[Each], int j0, float scale) {
    float top = largest[i];
#pragma unroll
    for (int j = 0; j < Each; ++j) {
      if (!sees(i, j0 + tile::x() + 16 * j)) s[j] = -INFINITY;
      top = fmaxf(top, s[j]);
    }
    top = tile::max(top);
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
    forward_float_kernel(attention_arguments<float> a, int tiles, bool vectorised) {
  using tile = float_tile<Width, Each>;
  extern __shared__ __align__(16) unsigned char memory[];
  float *q = reinterpret_cast<float*>(memory), *kv = q + tile::row_numbers, *weights = kv + tile::row_numbers;
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part p(a, static_cast<int>(blockIdx.x) / tiles);
  const int n = p.width(), end_row = min(m0 + tile::rows, p.rows);
  const visited_keys visited(p, m0, end_row);
  const int end = visited.end;
  const float scale = a.scale();

  tile::load(q, end_row - m0, n, vectorised, [rows = p.queries(a.q), m0](int r) { return rows(m0 + r); });
  float_softmax<Width, Each> softmax(p, visited, m0);
  float4 out[Each][tile::columns] = {};
  for (int j0 = visited.begin; j0 < end; j0 += tile::rows) {
    __syncthreads();
    tile::load(kv, end - j0, n, vectorised,
               [&, rows = p.keys_of(a.k, a.past.keys)](int r) { return rows(visited.key(j0 + r)); });
    __syncthreads();
    float s[Each][Each];
    tile::scores(s, q, kv);
    __syncthreads();
    tile::load(kv, end - j0, n, vectorised,
               [&, rows = p.keys_of(a.v, a.past.values)](int r) { return rows(visited.key(j0 + r)); });
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
    const float inverse = 1 / tile::sum(softmax.sum[i]);
    if (m >= end_row) continue;
#pragma unroll
    for (int c = 0; c < tile::columns; ++c) {
      const float4 o = out[i][c];
      store4(p.queries(a.y)(m), 4 * tile::x() + 64 * c, n, vectorised,
             {o.x * inverse, o.y * inverse, o.z * inverse, o.w * inverse});
    }
  }
}

/// dq of a tile of queries, and what the other kernel needs to know of them.
template <int Width, int Each>
__global__ void __launch_bounds__(256, Width <= 64 ? 2 : 1)
    backward_queries_kernel(attention_backward_arguments<float> g, int tiles, bool vectorised, row_sums* kept) {
  using tile = float_tile<Width, Each>;
  extern __shared__ __align__(16) unsigned char memory[];
  float *q = reinterpret_cast<float*>(memory), *dy = q + tile::row_numbers, *k = dy + tile::row_numbers,
        *v = k + tile::row_numbers, *ds = v + tile::row_numbers;
  const auto& a = g.forward;
  const int task = static_cast<int>(blockIdx.x) / tiles;
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part p(a, task);
  const int n = p.width(), end_row = min(m0 + tile::rows, p.rows);
  const visited_keys visited(p, m0, end_row);
  const int end = visited.end;
  const float scale = a.scale();

  tile::load(q, end_row - m0, n, vectorised, [rows = p.queries(a.q), m0](int r) { return rows(m0 + r); });
  tile::load(dy, end_row - m0, n, vectorised, [rows = p.queries(g.dy), m0](int r) { return rows(m0 + r); });
  float_softmax<Width, Each> softmax(p, visited, m0);
  float s[Each][Each], dp[Each][Each];
  for (int j0 = visited.begin; j0 < end; j0 += tile::rows) {
    __syncthreads();
    tile::load(k, end - j0, n, vectorised,
               [&, rows = p.keys_of(a.k, a.past.keys)](int r) { return rows(visited.key(j0 + r)); });
    __syncthreads();
    tile::scores(s, q, k);
#pragma unroll
    for (int i = 0; i < Each; ++i) softmax.take(i, s[i], j0, scale);
  }
  float inverse[Each], mean[Each];
#pragma unroll
  for (int i = 0; i < Each; ++i) {
    const int row = tile::y() + 16 * i, m = m0 + row;
    inverse[i] = 1 / tile::sum(softmax.sum[i]);
    mean[i] = 0;
    if (m < end_row) {
      const float* y = p.queries(a.y)(m);
      for (int c = tile::x(); c < n; c += 16) mean[i] = fmaf(dy[row * tile::pitch + c], y[c], mean[i]);
    }
    mean[i] = tile::sum(mean[i]);
    if (m < end_row && tile::x() == 0)
      kept[static_cast<index>(task) * p.rows + m] = {softmax.largest[i], inverse[i], mean[i], 0};
  }
  float4 dq[Each][tile::columns] = {};
  for (int j0 = visited.begin; j0 < end; j0 += tile::rows) {
    __syncthreads();
    tile::load(k, end - j0, n, vectorised,
               [&, rows = p.keys_of(a.k, a.past.keys)](int r) { return rows(visited.key(j0 + r)); });
    tile::load(v, end - j0, n, vectorised,
               [&, rows = p.keys_of(a.v, a.past.values)](int r) { return rows(visited.key(j0 + r)); });
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
      store4(p.queries(g.dq)(m), 4 * tile::x() + 64 * c, n, vectorised, dq[i][c]);
  }
}

/// dk and dv of a tile of this call's keys, over all queries that see one of them.
template <int Width, int Each>
__global__ void __launch_bounds__(256, Width <= 64 ? 2 : 1)
    backward_keys_kernel(attention_backward_arguments<float> g, int tiles, bool vectorised,
                         const row_sums* kept) {
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

  tile::load(k, end_key - s0, n, vectorised, [rows = p.now(a.k), s0](int r) { return rows(s0 + r); });
  tile::load(v, end_key - s0, n, vectorised, [rows = p.now(a.v), s0](int r) { return rows(s0 + r); });
  float4 dk[Each][tile::columns] = {}, dv[Each][tile::columns] = {};
  for (int m0 = s0 * p.group; m0 < p.rows && p.reaches(m0, p.past + s0, p.past + end_key); m0 += tile::rows) {
    __syncthreads();
    const int end_row = min(m0 + tile::rows, p.rows);
    tile::load(q, end_row - m0, n, vectorised, [rows = p.queries(a.q), m0](int r) { return rows(m0 + r); });
    tile::load(dy, end_row - m0, n, vectorised, [rows = p.queries(g.dy), m0](int r) { return rows(m0 + r); });
    __syncthreads();
    float s[Each][Each], dp[Each][Each];
    tile::scores(s, q, k);
    tile::scores(dp, dy, v);
#pragma unroll
    for (int i = 0; i < Each; ++i) {
      const int row = tile::y() + 16 * i, m = m0 + row;
      const bool there = m < end_row;
      const row_sums sums = there ? kept[static_cast<index>(task) * p.rows + m] : row_sums{0, 0, 0, 0};
      const seen_keys seen = there ? p.seen(m) : no_keys;
#pragma unroll
      for (int j = 0; j < Each; ++j) {
        const int key = tile::x() + 16 * j;
        const bool sees = seen.sees(p.past + s0 + key);
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
      store4(p.now(g.dk)(s), 4 * tile::x() + 64 * c, n, vectorised, dk[i][c]);
      store4(p.now(g.dv)(s), 4 * tile::x() + 64 * c, n, vectorised, dv[i][c]);
    }
  }
}

template <int Width, int Each>
void forward_float(cuda_base& device, const attention_arguments<float>& a) {
  using tile = float_tile<Width, Each>;
  constexpr int bytes = (2 * tile::row_numbers + tile::score_numbers) * 4;
  const int tiles = row_tiles(a, tile::rows);
  launch(device, "attention", {blocks(a, tiles), tile::threads, bytes}, forward_float_kernel<Width, Each>, a,
         tiles, is_vectorised(a));
}
template <int Width, int Each, class D>
void backward_float(D& device, const attention_backward_arguments<float>& g) {
  using tile = float_tile<Width, Each>;
  constexpr int bytes = (4 * tile::row_numbers + 2 * tile::score_numbers) * 4;
  if (device.shared_bytes() < bytes) return distil_xlstm::attention_backward<D, float>(device, g);
  const auto& a = g.forward;
  const bool vectorised = is_vectorised(g);
  auto kept = device.template scratch<row_sums>(a.seq.rows() * a.shape.heads);
  const int queries = row_tiles(a, tile::rows), keys = static_cast<int>(blocks_for(a.seq.time, tile::rows));
  constexpr int fewer = bytes - tile::score_numbers * 4;
  launch(device, "attention's gradient", {blocks(a, queries), tile::threads, fewer},
         backward_queries_kernel<Width, Each>, g, queries, vectorised, kept.data());
  launch(device, "attention's gradient", {blocks(a, keys), tile::threads, bytes},
         backward_keys_kernel<Width, Each>, g, keys, vectorised, kept.data());
}

}  // namespace distil_xlstm::device::detail::flash
