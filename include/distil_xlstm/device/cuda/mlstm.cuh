#pragma once

#include <cstdint>

#include <distil_xlstm/device/cuda/mlstm_gates.cuh>
#include <distil_xlstm/device/cuda/mlstm_step.cuh>
#include <distil_xlstm/device/cuda/mlstm_tile.cuh>

// The chunkwise form of mLSTM as products of tiles. device/mlstm_scan.hpp has the mathematics.
//
// Forward: gates; padded copies of q, k, v in the products' type; the walk over the chunks, a tile of C a
// block; S D and r of each chunk; h. Backward: dU; the walk back; dS; dq, dk, dv of each chunk; the gates'
// gradients.
namespace distil_xlstm::device {

namespace detail {

/// Sizes of the kernels' own arrays, which are padded with zeros: time to whole chunks, heads to whole tiles.
struct mlstm_sizes {
  index tasks, heads, time, chunks;  ///< tasks: sequences * heads
  int dq, dv, query, value;          ///< head sizes, and padded
  float scale, epsilon;
  __host__ __device__ index padded() const { return chunks * mlstm_chunk; }
};

/// Where results that more than one kernel reads lie.
template <class Number>
struct mlstm_memory {
  Number *q, *k, *v;  ///< [tasks, padded time, query or value]
  Number* states;     ///< C entering each chunk, [tasks, chunks, query, value]
  float* n;           ///< n likewise
  Number* gated;      ///< S D, [tasks, chunks, chunk, chunk]
  float* r;           ///< [tasks, padded time]
};

/// The rows of one head, padded.
template <class Number>
struct mlstm_copy {
  matrix_view<const float> from;
  int head, padded;
  Number *to, *weighted;  ///< weighted: rows times `left`; or null
};

/// Eight neighbours.
inline __device__ void store_eight(float* to, const float (&x)[8]) {
  reinterpret_cast<float4*>(to)[0] = float4{x[0], x[1], x[2], x[3]};
  reinterpret_cast<float4*>(to)[1] = float4{x[4], x[5], x[6], x[7]};
}
inline __device__ void store_eight(bf16* to, const float (&x)[8]) {
  *reinterpret_cast<uint4*>(to) =
      uint4{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
}
/// Numbers c .. c + 7 of a head of `width`, zeros beyond.
inline __device__ void load_eight(float (&x)[8], const float* head, int c, int width) {
  if (c + 8 <= width && reinterpret_cast<std::uintptr_t>(head + c) % 16 == 0) {
    const float4 a = *reinterpret_cast<const float4*>(head + c),
                 b = *reinterpret_cast<const float4*>(head + c + 4);
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = c + j < width ? head[c + j] : 0;
  }
}

/// Padded copies of the inputs, blockIdx.y says of which. A block of (32, 8) threads has eight rows.
template <class Number>
__global__ void __launch_bounds__(256)
    mlstm_copy_kernel(mlstm_sizes z, mlstm_copy<Number> q, mlstm_copy<Number> k, mlstm_copy<Number> v,
                      const float* left) {
  const mlstm_copy<Number> c = blockIdx.y == 0 ? q : blockIdx.y == 1 ? k : v;
  const index row = static_cast<index>(blockIdx.x) * 8 + threadIdx.y;
  const unsigned padded = static_cast<unsigned>(z.padded());
  const index task = static_cast<index>(static_cast<unsigned>(row) / padded), t = row - task * padded;
  const bool there = t < z.time;
  const float* from = there ? c.from.row(task / z.heads * z.time + t) + task % z.heads * c.head : nullptr;
  const float w = c.weighted ? left[row] : 0;
  for (int x = static_cast<int>(threadIdx.x) * 8; x < c.padded; x += 256) {
    float values[8] = {};
    if (there) load_eight(values, from, x, c.head);
    store_eight(c.to + row * c.padded + x, values);
    if (c.weighted) {
#pragma unroll
      for (float& y : values) y *= w;
      store_eight(c.weighted + row * c.padded + x, values);
    }
  }
}

/// A state, or the gradient of one: that of sequence b and head e at b * sequence + e * head.
struct mlstm_state_view {
  float* c = nullptr;
  index c_sequence = 0, c_head = 0;
  float* n = nullptr;
  index n_sequence = 0, n_head = 0;
  __device__ float* c_of(index b, index e) const { return c + b * c_sequence + e * c_head; }
  __device__ float* n_of(index b, index e) const { return n + b * n_sequence + e * n_head; }
};

/// One walk over the chunks: X enters a chunk and leaves it as decay X + Aᵀ B; x as decay x + Aᵀ w. Backwards,
/// too.
template <class Number>
struct mlstm_walk {
  const Number *a, *b;  ///< rows of every chunk, [query] and [value] wide
  const float* w;       ///< of every row; null for ones
  const float* decay;
  bool backwards;
  mlstm_state_view first, last;  ///< null pointers: zeros enter, nothing is wanted
  const int* empty;              ///< where zeros enter; or null
  Number* states;                ///< what enters each chunk
  float* n;
};

/// A block a tile of one head's state, which stays in registers.
template <class P, int N>
__global__ void __launch_bounds__(2 * N, N == 64 ? 3 : 2)
    mlstm_walk_kernel(mlstm_sizes z, mlstm_walk<typename P::number> walk) {
  using tile_type = product_tile<P, N / 32, N>;
  constexpr int steps = mlstm_chunk / tile_type::step;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float ones[tile_type::step];
  if (threadIdx.x < tile_type::step) ones[threadIdx.x] = 1;
  tile_type tile(shared);
  const int across = z.value / N, tiles = z.query / N * across;
  const index task = blockIdx.x / tiles, b = task / z.heads, e = task % z.heads;
  const int which = static_cast<int>(blockIdx.x % tiles), row0 = which / across * N,
            column0 = which % across * N;
  const bool vector = column0 == 0 && tile.first_column == 0;  // this warp has rows of n, too
  const int lane = tile.lane;

  if (walk.first.c && !(walk.empty && walk.empty[task])) {
    const float *c = walk.first.c_of(b, e), *n = walk.first.n_of(b, e);
    tile.pairs([&](int row, int column, float& x, float& y) {
      const int r = row0 + row, col = column0 + column;
      if (r < z.dq && col < z.dv) x = c[static_cast<index>(r) * z.dv + col];
      if (r < z.dq && col + 1 < z.dv) y = c[static_cast<index>(r) * z.dv + col + 1];
    });
    if (vector && lane % 4 == 0)
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int r = row0 + tile.row_of(m, half);
          if (r < z.dq) tile.extra[m][2 * half] = n[r];
        }
  }
  const auto chunk_of = [&](int s) {
    const index c = s / steps;
    return task * z.chunks + (walk.backwards ? z.chunks - 1 - c : c);
  };
  float decay = walk.decay[chunk_of(0)];
  run_steps<P>(
      static_cast<int>(z.chunks) * steps,
      [&](int s, int stage) {
        const index row = chunk_of(s) * mlstm_chunk + s % steps * tile_type::step;
        tile.template fetch<true, false>(stage, {walk.a + row * z.query + row0, z.query},
                                         {walk.b + row * z.value + column0, z.value});
        if (walk.w) tile.fetch_vector(stage, walk.w + row);
      },
      [&](int s, int stage) {
        if (s % steps == 0) {
          const index chunk = chunk_of(s);
          tile.store(walk.states + (chunk * z.query + row0) * z.value + column0, z.value);
          tile.scale_rows([&](int) { return decay; });
          if (vector)
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                const float x = tile.extra_of(m, half);
                if (lane % 4 == 0) walk.n[chunk * z.query + row0 + tile.row_of(m, half)] = x;
                tile.extra[m][2 * half] *= decay, tile.extra[m][2 * half + 1] *= decay;
              }
          if (s / steps + 1 < z.chunks) decay = walk.decay[chunk_of(s + steps)];  // long before its use
        }
        const float* w = walk.w ? tile.vector(stage) : ones;
        tile.template multiply<true, false, true>(stage, vector ? w : nullptr);
      });
  if (!walk.last.c) return;
  float *c = walk.last.c_of(b, e), *n = walk.last.n_of(b, e);
  tile.pairs([&](int row, int column, float& x, float& y) {
    const int r = row0 + row, col = column0 + column;
    if (r < z.dq && col < z.dv) c[static_cast<index>(r) * z.dv + col] = x;
    if (r < z.dq && col + 1 < z.dv) c[static_cast<index>(r) * z.dv + col + 1] = y;
  });
  if (vector)
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float x = tile.extra_of(m, half);
        const int r = row0 + tile.row_of(m, half);
        if (lane % 4 == 0 && r < z.dq) n[r] = x;
      }
}

/// S D (forward) or its gradient dS of one chunk: X = A Bᵀ, then
///   out = X D / sqrt(dq) and r = past q.n + the rows' sums;  or, where `dr` is given, out = (X + dr) D /
///   sqrt(dq).
template <class P, bool Gradient>
__global__ void __launch_bounds__(256, 2)
    mlstm_scores_kernel(mlstm_sizes z, const typename P::number* a, const typename P::number* b, int width,
                        mlstm_rows rows, const float* n, const float* dr, typename P::number* out, float* r) {
  using tile_type = product_tile<P, 4, mlstm_chunk>;
  constexpr int L = mlstm_chunk;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float sums[2][L];
  __shared__ float4 of_rows[L];  // D~'s two parts, what is added or beta's weight, the first position seen
  tile_type tile(shared);
  const index chunk = blockIdx.x, row0 = chunk * L;
  if (threadIdx.x < L) {
    const index row = row0 + threadIdx.x;
    of_rows[threadIdx.x] = {rows.row[row], rows.row_rest[row], Gradient ? dr[row] : rows.past[row],
                            static_cast<float>(rows.first[row])};
  }
  a += row0 * width, b += row0 * width;
  const bool above = tile.first_column > tile.first_row + 31;  // all of it lies in the future
  const bool vector = !Gradient && tile.first_column == 0;
  run_steps<P>(
      width / tile_type::step,
      [&](int s, int stage) {
        tile.template fetch<false, true>(stage, {a + s * tile_type::step, width},
                                         {b + s * tile_type::step, width});
        if (!Gradient) tile.fetch_vector(stage, n + chunk * width + s * tile_type::step);
      },
      [&](int, int stage) {
        if (!above)
          tile.template multiply<false, true, !Gradient>(stage, vector ? tile.vector(stage) : nullptr);
      });
  float high[4], rest[4], weight[4], total[4];
  int first[4];
#pragma unroll
  for (int x = 0; x < 4; ++x) {
    const float4 row = of_rows[tile.row_of(x / 2, x % 2)];
    high[x] = row.x, rest[x] = row.y, weight[x] = row.z, first[x] = static_cast<int>(row.w), total[x] = 0;
  }
  if (!above)
#pragma unroll
    for (int c = 0; c < tile_type::across; ++c) {
      const int column = tile.column_of(c);
      const float2 shifted = load_pair(rows.column + row0 + column),
                   shifted_rest = load_pair(rows.column_rest + row0 + column);
#pragma unroll
      for (int x = 0; x < 4; ++x)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& e = tile.sum[x / 2][c][x % 2 * 2 + j];
          const float d = exp2_fast(((j ? shifted.y : shifted.x) + high[x]) +
                                    ((j ? shifted_rest.y : shifted_rest.x) + rest[x]));
          const bool seen = column + j <= tile.row_of(x / 2, x % 2) && column + j >= first[x];
          e = seen ? (Gradient ? e + weight[x] : e) * (d * z.scale) : 0;
          total[x] += e;
        }
    }
  tile.store(out + chunk * L * L, L);
  if constexpr (!Gradient) {
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const int row = tile.row_of(x / 2, x % 2);
      total[x] += __shfl_xor_sync(~0u, total[x], 1);
      total[x] += __shfl_xor_sync(~0u, total[x], 2);
      if (vector) total[x] += weight[x] * tile.extra_of(x / 2, x % 2);
      if (tile.lane % 4 == 0) sums[tile.first_column != 0][row] = total[x];
    }
    __syncthreads();
    if (threadIdx.x < L) r[row0 + threadIdx.x] = sums[0][threadIdx.x] + sums[1][threadIdx.x];
  }
}

/// N + epsilon of a position.
inline __device__ float mlstm_normaliser(float r, float mu, float epsilon) {
  return fmaxf(fabsf(r), expf(-mu)) + epsilon;
}

/// sum = factor A B (over `width` numbers) + A' B' (over the chunk); `factor` of each row. A' is lower
/// triangular, and read transposed where TurnA2 is set.
template <class P, bool TurnB1, bool TurnA2, class Tile>
__device__ void mlstm_two_products(Tile& tile, int width, step_operand<typename P::number> a1,
                                   step_operand<typename P::number> b1, const float* factor,
                                   step_operand<typename P::number> a2, step_operand<typename P::number> b2) {
  constexpr int step = Tile::step;
  const int steps = width / step;
  run_steps<P>(
      steps + mlstm_chunk / step,
      [&](int s, int stage) {
        if (s < steps) {
          tile.template fetch<false, TurnB1>(stage, {a1.data + s * step, a1.stride},
                                             {b1.data + s * step * (TurnB1 ? 1 : b1.stride), b1.stride});
        } else {
          const int u = (s - steps) * step;
          tile.template fetch<TurnA2, false>(stage, {a2.data + u * (TurnA2 ? a2.stride : 1), a2.stride},
                                             {b2.data + u * b2.stride, b2.stride});
        }
      },
      [&](int s, int stage) {
        if (s < steps) return tile.template multiply<false, TurnB1>(stage);
        if (s == steps) tile.scale_rows([&](int row) { return factor[row]; });
        const int u = (s - steps) * step;
        if (TurnA2 ? u + step > tile.first_row : u < tile.first_row + 32)
          tile.template multiply<TurnA2, false>(stage);
      });
}

/// Those of four neighbours that a row of `width` numbers has.
inline __device__ void store_columns(float* row, int column, int width, bool aligned, float4 x) {
  if (aligned && column + 4 <= width) return store_four(row + column, x);
  const float each[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (column + j < width) row[column + j] = each[j];
}
/// Whether every fourth column of every head lies on 16 bytes.
inline bool fours_align(matrix_view<float> x, int head) {
  return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride % 4 == 0 && head % 4 == 0;
}

struct mlstm_output_rows {
  matrix_view<float> to;
  int head;
  bool aligned;
  __device__ float* row(index task, index heads, index time, index t) const {
    return to.row(task / heads * time + t) + task % heads * head;
  }
};

/// h of a chunk, N columns a block: (past Q C + (S D) V) / (N + epsilon)
template <class P, int N>
__global__ void __launch_bounds__(256, 2)
    mlstm_outputs_kernel(mlstm_sizes z, mlstm_memory<typename P::number> memory, mlstm_rows rows,
                         mlstm_output_rows h) {
  constexpr int L = mlstm_chunk;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float past[L], over[L];
  product_tile<P, 4, N> tile(shared);
  const int tiles = z.value / N, column0 = static_cast<int>(blockIdx.x % tiles) * N;
  const index chunk = blockIdx.x / tiles, row0 = chunk * L;
  if (threadIdx.x < L) {
    const index row = row0 + threadIdx.x;
    past[threadIdx.x] = rows.past[row];
    over[threadIdx.x] = 1 / mlstm_normaliser(memory.r[row], rows.mu[row], z.epsilon);
  }
  mlstm_two_products<P, false, false>(tile, z.query, {memory.q + row0 * z.query, z.query},
                                      {memory.states + chunk * z.query * z.value + column0, z.value}, past,
                                      {memory.gated + row0 * L, L},
                                      {memory.v + row0 * z.value + column0, z.value});
  const index task = chunk / z.chunks, t0 = chunk % z.chunks * L;
  tile.scale_rows([&](int row) { return over[row]; });
  tile.quads([&](int row) { return t0 + row < z.time ? h.row(task, z.heads, z.time, t0 + row) : nullptr; },
             [&](float* to, int column, float4 x) {
               if (to) store_columns(to, column0 + column, h.head, h.aligned, x);
             });
}

/// What backward needs of each position: dU, what of it reaches the past, and the gradients of r and mu.
template <class Number>
struct mlstm_row_gradients {
  Number *du, *past_du;  ///< dh / (N + epsilon), and that times `past`: [tasks, padded time, value]
  float *dr, *past_dr, *dmu;
};

/// A warp a position.
template <class Number>
__global__ void __launch_bounds__(256)
    mlstm_row_gradients_kernel(mlstm_sizes z, matrix_view<const float> h, matrix_view<const float> dh,
                               mlstm_rows rows, const float* r, mlstm_row_gradients<Number> out) {
  const index row = static_cast<index>(blockIdx.x) * 8 + threadIdx.y;
  const unsigned padded = static_cast<unsigned>(z.padded());
  const index task = static_cast<index>(static_cast<unsigned>(row) / padded), t = row - task * padded;
  const bool there = t < z.time;
  const index from = there ? task / z.heads * z.time + t : 0;
  const index head = task % z.heads * z.dv;
  const float normaliser = there ? mlstm_normaliser(r[row], rows.mu[row], z.epsilon) : 1;
  const float over = 1 / normaliser, past = there ? rows.past[row] : 0;
  float along = 0;
  for (int x = static_cast<int>(threadIdx.x) * 8; x < z.value; x += 256) {
    float g[8] = {}, y[8] = {};
    if (there) {
      load_eight(g, dh.row(from) + head, x, z.dv);
      load_eight(y, h.row(from) + head, x, z.dv);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) along += g[j] * y[j], g[j] *= over;
    store_eight(out.du + row * z.value + x, g);
#pragma unroll
    for (float& e : g) e *= past;
    store_eight(out.past_du + row * z.value + x, g);
  }
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) along += __shfl_xor_sync(~0u, along, lane);
  if (threadIdx.x != 0) return;
  along *= over;
  const float mine = there ? r[row] : 0;
  const bool by_r = there && fabsf(mine) >= expf(-rows.mu[row]);
  const float dr = by_r ? (mine < 0 ? along : -along) : 0;
  out.dr[row] = dr;
  out.past_dr[row] = past * dr;
  out.dmu[row] = there ? -along * z.epsilon : 0;
}

template <class Number>
struct mlstm_chunk_gradients {
  mlstm_memory<Number> memory;
  mlstm_rows rows;
  mlstm_row_gradients<Number> of_rows;
  const Number *ds, *dc;  ///< dS of each chunk, and the gradient of the state that leaves it
  const float* dn;
  mlstm_output_rows dq, dk, dv;
  float *q_dq, *k_dk;  ///< [query / N, tasks, padded time]
};

/// dq, dk and dv of a chunk, N columns of one of them a block.
///   dq = past (dU Cᵀ + dr n) + dS K;  dk = left (V dC'ᵀ + dn') + dSᵀ Q;  dv = left K dC' + (S D)ᵀ dU
template <class P, int N>
__global__ void __launch_bounds__(256, 2)
    mlstm_chunk_gradients_kernel(mlstm_sizes z, mlstm_chunk_gradients<typename P::number> g) {
  using number = typename P::number;
  constexpr int L = mlstm_chunk;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float sums[2][L], factor[L], weights[L];
  product_tile<P, 4, N> tile(shared);
  const int of_query = z.query / N, tiles = 2 * of_query + z.value / N;
  const index chunk = blockIdx.x / tiles, row0 = chunk * L;
  int part = static_cast<int>(blockIdx.x % tiles);
  const index task = chunk / z.chunks, t0 = chunk % z.chunks * L;
  const index state = chunk * z.query * z.value, vector = chunk * z.query;
  const auto& m = g.memory;
  const number *q = m.q + row0 * z.query, *k = m.k + row0 * z.query, *v = m.v + row0 * z.value;
  const number *du = g.of_rows.du + row0 * z.value, *ds = g.ds + row0 * L;
  const bool queries = part < of_query, keys = !queries && part < 2 * of_query;
  if (threadIdx.x < L) {
    const index row = row0 + threadIdx.x;
    factor[threadIdx.x] = queries ? g.rows.past[row] : g.rows.left[row];
    weights[threadIdx.x] = queries ? g.of_rows.past_dr[row] : g.rows.left[row];
  }

  if (!queries && !keys) {
    const int column0 = (part - 2 * of_query) * N;
    mlstm_two_products<P, false, true>(tile, z.query, {k, z.query}, {g.dc + state + column0, z.value}, factor,
                                       {m.gated + row0 * L, L}, {du + column0, z.value});
    tile.quads([&](int row) { return t0 + row < z.time ? g.dv.row(task, z.heads, z.time, t0 + row) : nullptr; },
               [&](float* to, int column, float4 x) {
                 if (to) store_columns(to, column0 + column, g.dv.head, g.dv.aligned, x);
               });
    return;
  }

  if (keys) part -= of_query;
  const int column0 = part * N;
  const index of_state = state + static_cast<index>(column0) * z.value;
  if (keys)
    mlstm_two_products<P, true, true>(tile, z.value, {v, z.value}, {g.dc + of_state, z.value}, factor, {ds, L},
                                      {q + column0, z.query});
  else
    mlstm_two_products<P, true, false>(tile, z.value, {du, z.value}, {m.states + of_state, z.value}, factor,
                                       {ds, L}, {k + column0, z.query});
  const mlstm_output_rows& out = keys ? g.dk : g.dq;
  const float* added = (keys ? g.dn : m.n) + vector + column0;
  const number* operand = (keys ? k : q) + column0;
  float weight[4], dot[4] = {};
#pragma unroll
  for (int x = 0; x < 4; ++x) weight[x] = weights[tile.row_of(x / 2, x % 2)];
#pragma unroll
  for (int c = 0; c < tile.across; ++c) {
    const int column = tile.column_of(c);
    const float2 a = load_pair(added + column);
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const float2 with = load_pair(operand + static_cast<index>(tile.row_of(x / 2, x % 2)) * z.query + column);
      float* e = tile.sum[x / 2][c] + x % 2 * 2;
      e[0] += weight[x] * a.x, e[1] += weight[x] * a.y;
      dot[x] += e[0] * with.x + e[1] * with.y;
    }
  }
  tile.quads([&](int row) { return t0 + row < z.time ? out.row(task, z.heads, z.time, t0 + row) : nullptr; },
             [&](float* to, int column, float4 x) {
               if (to) store_columns(to, column0 + column, out.head, out.aligned, x);
             });
#pragma unroll
  for (int x = 0; x < 4; ++x) {
    dot[x] += __shfl_xor_sync(~0u, dot[x], 1);
    dot[x] += __shfl_xor_sync(~0u, dot[x], 2);
    if (tile.lane % 4 == 0) sums[tile.first_column != 0][tile.row_of(x / 2, x % 2)] = dot[x];
  }
  __syncthreads();
  if (threadIdx.x < L)
    (keys ? g.k_dk : g.q_dq)[part * z.tasks * z.padded() + row0 + threadIdx.x] =
        sums[0][threadIdx.x] + sums[1][threadIdx.x];
}

/// <dC, C> + <dn, n> of each sequence and head, a block each.
template <int Threads>
__global__ void __launch_bounds__(Threads)
    mlstm_inner_kernel(mlstm_sizes z, mlstm_state_view gradient, mlstm_state_view state, double* inner) {
  __shared__ double sums[Threads];
  const index b = blockIdx.x / z.heads, e = blockIdx.x % z.heads, size = static_cast<index>(z.dq) * z.dv;
  const float *dc = gradient.c_of(b, e), *c = state.c_of(b, e), *dn = gradient.n_of(b, e),
              *n = state.n_of(b, e);
  double sum = 0;
  for (index x = threadIdx.x; x < size; x += Threads)
    sum += static_cast<double>(dc[x]) * static_cast<double>(c[x]);
  for (index x = threadIdx.x; x < z.dq; x += Threads)
    sum += static_cast<double>(dn[x]) * static_cast<double>(n[x]);
  sums[threadIdx.x] = sum;
  for (int half = Threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) inner[blockIdx.x] = sums[0];
}

/// Copies of a state's C and n, as [tasks, dq, dv] and [tasks, dq].
template <int Threads>
__global__ void __launch_bounds__(Threads)
    mlstm_keep_state_kernel(mlstm_sizes z, mlstm_state_view from, mlstm_state_view to) {
  const index b = blockIdx.y / z.heads, e = blockIdx.y % z.heads, size = static_cast<index>(z.dq) * z.dv;
  for (index x = static_cast<index>(blockIdx.x) * Threads + threadIdx.x; x < size;
       x += static_cast<index>(gridDim.x) * Threads)
    to.c_of(b, e)[x] = from.c_of(b, e)[x];
  if (blockIdx.x == 0)
    for (index x = threadIdx.x; x < z.dq; x += Threads) to.n_of(b, e)[x] = from.n_of(b, e)[x];
}

/// Arrays side by side in one piece of memory; of none, how much they need.
class mlstm_slab {
 public:
  explicit mlstm_slab(void* memory = nullptr)
      : at_((reinterpret_cast<std::uintptr_t>(memory) + align - 1) / align * align) {}
  template <class X>
  X* take(index n) {
    const std::uintptr_t p = at_ + used_;
    used_ += (static_cast<std::uintptr_t>(n) * sizeof(X) + align - 1) / align * align;
    return reinterpret_cast<X*>(p);
  }
  index bytes() const { return static_cast<index>(used_ + align); }

 private:
  static constexpr std::uintptr_t align = 256;
  std::uintptr_t at_, used_ = 0;
};

template <class Kernel, class... Arguments>
void launch_tiles(cuda& device, const char* what, Kernel kernel, index blocks, int threads, int shared,
                  const Arguments&... arguments) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), what);
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared, device.stream()>>>(
      arguments...);
  check_launch(what);
}

/// Both directions with products of kind P and tiles of N columns.
///
/// The tape has a fixed size. First goes the m that enters, then what is worth most of: the chunks' states, S D
/// and r, the copies of q, k, v. Backward makes again what found no room, from the state that entered where
/// need be.
template <class P, int N>
class mlstm_products {
 public:
  using number = typename P::number;

  mlstm_products(cuda& device, sequence_view seq, const mlstm_shape& shape)
      : device_(device), seq_(seq), shape_(shape) {
    const auto padded = [](index n) { return static_cast<int>((n + N - 1) / N * N); };
    z_ = {seq.batch * shape.heads,
          shape.heads,
          seq.time,
          (seq.time + mlstm_chunk - 1) / mlstm_chunk,
          static_cast<int>(shape.query),
          static_cast<int>(shape.value),
          padded(shape.query),
          padded(shape.value),
          static_cast<float>(1 / std::sqrt(static_cast<double>(shape.query))),
          static_cast<float>(shape.epsilon)};
    const index all = z_.tasks * shape.chunks(seq.time) * shape.kept() * static_cast<index>(sizeof(float));
    mlstm_slab dry;
    mlstm_memory<number> m;
    const index head = z_.tasks * static_cast<index>(sizeof(float));
    const auto fits = [&](index start) { return start + dry.bytes() <= all; };
    take_states(dry, m);
    keep_.states = fits(head);
    start_ = keep_.states ? head : z_.tasks * (shape.query * shape.value + shape.query + 1) * 4;
    if (!keep_.states) dry = mlstm_slab();
    mlstm_slab before = dry;
    take_scores(dry, m);
    keep_.scores = fits(start_);
    if (!keep_.scores) dry = before;
    take_inputs(dry, m);
    keep_.inputs = fits(start_);
  }

  void forward(const mlstm_arguments<float>& a) {
    auto kept = a.kept ? keep_ : keeps{};
    number* weighted = nullptr;
    mlstm_rows rows{};
    mlstm_memory<number> m{};
    const auto arrange = [&](mlstm_slab& s) {
      take_rows(s, rows);
      weighted = s.take<number>(z_.tasks * z_.padded() * z_.query);
      if (!kept.states) take_states(s, m);
      if (!kept.scores) take_scores(s, m);
      if (!kept.inputs) take_inputs(s, m);
    };
    const auto memory = room_for(arrange);
    place(arrange, memory);
    if (a.kept) take_kept(a.kept, m);
    gates(a.i, a.f, a.state.m.data, a.state.m.stride, a.state.m.data, a.kept, rows);
    copies(a.q, a.k, a.v, rows, m, weighted);
    const mlstm_state_view state = view(a.state);
    if (a.kept && !keep_.states) {
      mlstm_keep_state_kernel<256>
          <<<dim3(grid_size(shape_.query * shape_.value, 1024, 64), static_cast<unsigned>(z_.tasks)), 256, 0,
             device_.stream()>>>(z_, state, first_state(a.kept));
      check_launch("mlstm: keeping the state");
    }
    walk("mlstm: states", {weighted, m.v, nullptr, rows.decay, false, state, state, rows.empty, m.states, m.n});
    scores(rows, m);
    launch_tiles(device_, "mlstm: outputs", mlstm_outputs_kernel<P, N>, z_.tasks * z_.chunks * (z_.value / N),
                 256, product_tile<P, 4, N>::bytes, z_, m, rows, output(a.h, z_.dv));
  }

  void backward(const mlstm_backward_arguments<float>& a) {
    float* tape = const_cast<float*>(a.kept);
    number *weighted = nullptr, *ds = nullptr, *dc = nullptr;
    float *dn = nullptr, *q_dq = nullptr, *k_dk = nullptr;
    double* inner = nullptr;
    mlstm_rows rows{};
    mlstm_memory<number> m{};
    mlstm_row_gradients<number> of_rows{};
    const bool copy = !keep_.inputs || !keep_.states;
    const index positions = z_.tasks * z_.padded();
    const auto arrange = [&](mlstm_slab& s) {
      take_rows(s, rows);
      if (!keep_.states) take_states(s, m);
      if (!keep_.scores) take_scores(s, m);
      if (!keep_.inputs) take_inputs(s, m);
      if (!keep_.states) weighted = s.take<number>(positions * z_.query);
      of_rows.du = s.take<number>(positions * z_.value);
      of_rows.past_du = s.take<number>(positions * z_.value);
      of_rows.dr = s.take<float>(positions);
      of_rows.past_dr = s.take<float>(positions);
      of_rows.dmu = s.take<float>(positions);
      dc = s.take<number>(z_.tasks * z_.chunks * z_.query * z_.value);
      dn = s.take<float>(z_.tasks * z_.chunks * z_.query);
      ds = s.take<number>(positions * mlstm_chunk);
      q_dq = s.take<float>(positions * (z_.query / N));
      k_dk = s.take<float>(positions * (z_.query / N));
      if (a.dstate) inner = s.take<double>(z_.tasks);
    };
    const auto memory = room_for(arrange);
    place(arrange, memory);
    take_kept(tape, m);
    gates(a.i, a.f, a.kept, shape_.heads, nullptr, nullptr, rows);
    if (copy) copies(a.q, a.k, a.v, rows, m, weighted);
    if (!keep_.states)
      walk("mlstm: states again", {weighted, m.v, nullptr, rows.decay, false, first_state(tape),
                                   mlstm_state_view{}, rows.empty, m.states, m.n});
    if (!keep_.scores) scores(rows, m);

    mlstm_row_gradients_kernel<number>
        <<<static_cast<unsigned>(positions / 8), dim3(32, 8), 0, device_.stream()>>>(z_, a.h, a.dh, rows, m.r,
                                                                                     of_rows);
    check_launch("mlstm: gradients of rows");
    mlstm_state_view dstate;
    if (a.dstate) {
      const index size = shape_.query * (shape_.value + 1);
      dstate = {
          a.dstate, shape_.heads * size, size, a.dstate + shape_.query * shape_.value, shape_.heads * size,
          size};
      mlstm_inner_kernel<256>
          <<<static_cast<unsigned>(z_.tasks), 256, 0, device_.stream()>>>(z_, dstate, view(a.last), inner);
      check_launch("mlstm: the last state's gradient");
    }
    walk("mlstm: gradients of states",
         {m.q, of_rows.past_du, of_rows.past_dr, rows.decay, true, dstate, dstate, nullptr, dc, dn});
    launch_tiles(device_, "mlstm: gradients of scores", mlstm_scores_kernel<P, true>, z_.tasks * z_.chunks, 256,
                 product_tile<P, 4, mlstm_chunk>::bytes, z_, of_rows.du, m.v, z_.value, rows, nullptr,
                 of_rows.dr, ds, nullptr);
    launch_tiles(device_, "mlstm: gradients of inputs", mlstm_chunk_gradients_kernel<P, N>,
                 z_.tasks * z_.chunks * ((2 * z_.query + z_.value) / N), 256, product_tile<P, 4, N>::bytes, z_,
                 mlstm_chunk_gradients<number>{m, rows, of_rows, ds, dc, dn, output(a.dq, z_.dq),
                                               output(a.dk, z_.dq), output(a.dv, z_.dv), q_dq, k_dk});
    const bool first_is_free = shape_.empty_m == -std::numeric_limits<double>::infinity();
    mlstm_gate_gradients_kernel<512><<<static_cast<unsigned>(z_.tasks), 512, 0, device_.stream()>>>(
        mlstm_gate_gradients{seq_, shape_.heads, z_.padded(), rows, a.f, q_dq, k_dk, z_.query / N, of_rows.dmu,
                             inner, first_is_free, a.di, a.df});
    check_launch("mlstm: gradients of gates");
  }

 private:
  struct keeps {
    bool states = false, scores = false, inputs = false;
  };

  /// Scratch memory for what `arrange` takes of a slab.
  template <class F>
  scratch_lease<char, cuda_memory> room_for(const F& arrange) {
    mlstm_slab dry;
    arrange(dry);
    return device_.template scratch<char>(dry.bytes());
  }
  template <class F>
  static void place(const F& arrange, const scratch_lease<char, cuda_memory>& memory) {
    mlstm_slab slab(memory.data());
    arrange(slab);
  }
  void take_rows(mlstm_slab& s, mlstm_rows& r) const {
    const index n = z_.tasks * z_.padded();
    for (float** x : {&r.row, &r.row_rest, &r.column, &r.column_rest, &r.mu, &r.past, &r.left})
      *x = s.take<float>(n);
    r.first = s.take<int>(n), r.marks = s.take<int>(n);
    r.decay = s.take<float>(z_.tasks * z_.chunks), r.empty = s.take<int>(z_.tasks);
  }
  void take_states(mlstm_slab& s, mlstm_memory<number>& m) const {
    m.states = s.take<number>(z_.tasks * z_.chunks * z_.query * z_.value);
    m.n = s.take<float>(z_.tasks * z_.chunks * z_.query);
  }
  void take_scores(mlstm_slab& s, mlstm_memory<number>& m) const {
    m.gated = s.take<number>(z_.tasks * z_.padded() * mlstm_chunk);
    m.r = s.take<float>(z_.tasks * z_.padded());
  }
  void take_inputs(mlstm_slab& s, mlstm_memory<number>& m) const {
    m.q = s.take<number>(z_.tasks * z_.padded() * z_.query);
    m.k = s.take<number>(z_.tasks * z_.padded() * z_.query);
    m.v = s.take<number>(z_.tasks * z_.padded() * z_.value);
  }
  void take_kept(float* tape, mlstm_memory<number>& m) const {
    mlstm_slab s(reinterpret_cast<char*>(tape) + start_);
    if (keep_.states) take_states(s, m);
    if (keep_.scores) take_scores(s, m);
    if (keep_.inputs) take_inputs(s, m);
  }
  mlstm_state_view view(const mlstm_state<float>& s) const {
    return {s.c.data, s.c.stride, shape_.query * shape_.value, s.n.data, s.n.stride, shape_.query};
  }
  /// Of the tape, where it holds the state that entered: behind m.
  mlstm_state_view first_state(float* tape) const {
    const index size = shape_.query * shape_.value;
    float *c = tape + z_.tasks, *n = c + z_.tasks * size;
    return {c, shape_.heads * size, size, n, shape_.heads * shape_.query, shape_.query};
  }
  static mlstm_output_rows output(matrix_view<float> x, int head) { return {x, head, fours_align(x, head)}; }

  void gates(matrix_view<const float> i, matrix_view<const float> f, const float* m, index m_stride,
             float* m_last, float* m_kept, const mlstm_rows& rows) const {
    mlstm_gates_kernel<512><<<static_cast<unsigned>(z_.tasks), 512, 0, device_.stream()>>>(
        mlstm_gates{seq_, shape_.heads, z_.chunks, i, f, m, m_stride, shape_.empty_m, z_.scale, m_last, m_kept},
        rows);
    check_launch("mlstm: gates");
  }
  void copies(matrix_view<const float> q, matrix_view<const float> k, matrix_view<const float> v,
              const mlstm_rows& rows, const mlstm_memory<number>& m, number* weighted) const {
    mlstm_copy_kernel<number>
        <<<dim3(static_cast<unsigned>(z_.tasks * z_.padded() / 8), 3), dim3(32, 8), 0, device_.stream()>>>(
            z_, mlstm_copy<number>{q, z_.dq, z_.query, m.q, nullptr},
            mlstm_copy<number>{k, z_.dq, z_.query, m.k, weighted},
            mlstm_copy<number>{v, z_.dv, z_.value, m.v, nullptr}, rows.left);
    check_launch("mlstm: copies");
  }
  void walk(const char* what, const mlstm_walk<number>& w) const {
    launch_tiles(device_, what, mlstm_walk_kernel<P, N>, z_.tasks * (z_.query / N) * (z_.value / N), 2 * N,
                 product_tile<P, N / 32, N>::bytes, z_, w);
  }
  void scores(const mlstm_rows& rows, const mlstm_memory<number>& m) const {
    launch_tiles(device_, "mlstm: scores", mlstm_scores_kernel<P, false>, z_.tasks * z_.chunks, 256,
                 product_tile<P, 4, mlstm_chunk>::bytes, z_, m.q, m.k, z_.query, rows, m.n, nullptr, m.gated,
                 m.r);
  }

  cuda& device_;
  sequence_view seq_;
  mlstm_shape shape_;
  mlstm_sizes z_;
  keeps keep_;
  index start_;  ///< bytes of the tape before its arrays
};

/// f.operator()<P, N>() with the products that the device makes, and the tile that pads least.
template <class F>
void with_mlstm_products(const cuda& device, const mlstm_shape& shape, const F& f) {
  const auto padding = [&](index n) {
    const auto padded = [n](index x) { return (x + n - 1) / n * n; };
    return padded(shape.query) * padded(shape.value);
  };
  const auto of_size = [&]<class P>() {
    if (padding(128) <= padding(96) && padding(128) <= padding(64))
      f.template operator()<P, 128>();
    else if (padding(96) <= padding(64))
      f.template operator()<P, 96>();
    else
      f.template operator()<P, 64>();
  };
  if (device.bf16_products)
    of_size.template operator()<bf16_products>();
  else
    of_size.template operator()<float_products>();
}

}  // namespace detail

/// The mLSTM cell in chunks of 128; a single token that no backward follows is one step of the recurrent form.
template <class T>
void mlstm_forward(cuda& device, const mlstm_arguments<T>& a) {
  if constexpr (std::is_same_v<T, float>) {
    if (a.seq.rows() == 0 || a.shape.heads == 0) return;
    if (a.seq.time == 1 && !a.kept) return detail::mlstm_step(device, a);
    detail::with_mlstm_products(device, a.shape, [&]<class P, int N>() {
      detail::mlstm_products<P, N>(device, a.seq, a.shape).forward(a);
    });
  } else {
    distil_xlstm::mlstm_forward<cuda, T>(device, a);
  }
}

/// Its gradient. `bf16_products` has to be what it was in forward.
template <class T>
void mlstm_backward(cuda& device, const mlstm_backward_arguments<T>& a) {
  if constexpr (std::is_same_v<T, float>) {
    if (a.seq.rows() == 0 || a.shape.heads == 0) return;
    detail::with_mlstm_products(device, a.shape, [&]<class P, int N>() {
      detail::mlstm_products<P, N>(device, a.seq, a.shape).backward(a);
    });
  } else {
    distil_xlstm::mlstm_backward<cuda, T>(device, a);
  }
}

}  // namespace distil_xlstm::device
