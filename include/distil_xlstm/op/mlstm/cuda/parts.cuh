#pragma once

#include <cstdint>

#include <distil_xlstm/op/mlstm/cuda/gates.cuh>
#include <distil_xlstm/op/mlstm/cuda/tile.cuh>

// What mLSTM's forward does between its gates and h; backward makes part of it again, and walks back the same
// way.
namespace distil_xlstm::device {
namespace detail {

/// Sizes of the kernels' own arrays, which are padded with zeros: time to whole chunks, heads to whole tiles.
struct mlstm_sizes {
  index tasks, heads, time, chunks;  ///< tasks: sequences * heads
  int dq, dv, query, value;          ///< head sizes, and padded
  float scale, epsilon;              ///< scale: of q
  mlstm_normaliser normaliser;
  __host__ __device__ index padded() const { return chunks * mlstm_chunk; }
};

/// Rows of q, k, v or their like of every sequence and head: as they were given, or an array of the kernels' own.
template <class Number>
struct mlstm_operand {
  const Number* data = nullptr;
  index sequence = 0, head = 0;  ///< numbers from one to the next
  int stride = 0;                ///< from a row to the next
  unsigned group = 1;            ///< heads that share one
  /// Row t of a task, from number `column` on.
  __device__ step_operand<Number> at(const mlstm_sizes& z, index task, index t, int column = 0) const {
    const unsigned i = static_cast<unsigned>(task), heads = static_cast<unsigned>(z.heads);
    const unsigned b = i / heads, e = i % heads / group;
    return {data + b * sequence + e * head + t * stride + column, stride};
  }
};

/// Where results that more than one kernel reads lie.
template <class Number>
struct mlstm_memory {
  mlstm_operand<Number> q, k, v;
  Number* states;  ///< C entering each chunk, [tasks, chunks, query, value]
  float* n;        ///< n likewise
  Number* gated;   ///< S D, [tasks, chunks, chunk, chunk]
  float* r;        ///< [tasks, padded time]
};

/// The rows of every head, or of every `group` that shares one, padded.
template <class Number, class From>
struct mlstm_copy {
  matrix_view<const From> from;
  int head, padded;
  unsigned group;
  Number* to;       ///< [tasks / group, padded time, padded]
  bool vectorised;  ///< heads fill their tiles, and all eight numbers lie at 16 bytes
};

/// Of k, v and q.
template <class Number, class From>
struct mlstm_copies {
  mlstm_copy<Number, From> of[3];
};

/// Numbers c .. c + 7 of a head of `width`, zeros beyond.
template <class From>
__device__ void load_eight(float (&x)[8], const From* head, int c, int width) {
  if (c + 8 <= width && is_aligned(head + c)) {
    load_eight(x, head + c);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = c + j < width ? static_cast<float>(head[c + j]) : 0;
  }
}

/// The rows of a task's chunk that begins at t0, with a block of 256. Where nothing is padded a thread has several
/// pieces of eight numbers at once, for it waits for their memory.
template <class Number, class From>
__device__ void mlstm_copy_chunk(const mlstm_sizes& z, const mlstm_copy<Number, From>& c, unsigned task,
                                 index t0) {
  constexpr unsigned threads = 256, together = 6;
  if (task % c.group != 0) return;
  const unsigned heads = static_cast<unsigned>(z.heads) / c.group, of_all = task / c.group,
                 pieces = static_cast<unsigned>(c.padded) / 8, all = mlstm_chunk * pieces;
  unsigned row = threadIdx.x / pieces, piece = threadIdx.x % pieces;
  const From* from = c.from.row(of_all / heads * z.time + t0) + of_all % heads * static_cast<unsigned>(c.head);
  Number* to = c.to + (of_all * z.padded() + t0) * c.padded;
  const index time = z.time - t0;
  const auto next = [&] {
    row += threads / pieces, piece += threads % pieces;
    if (piece >= pieces) piece -= pieces, ++row;
  };
  if (!c.vectorised || time < mlstm_chunk) {
    for (unsigned i = threadIdx.x; i < all; i += threads, next()) {
      float values[8] = {};
      if (row < time) load_eight(values, from + row * c.from.stride, static_cast<int>(8 * piece), c.head);
      store_eight(to + i * 8, values);
    }
    return;
  }
  for (unsigned first = threadIdx.x; first < all; first += together * threads) {
    float values[together][8];
#pragma unroll
    for (unsigned i = 0; i < together; ++i, next())
      if (first + i * threads < all) load_eight(values[i], from + row * c.from.stride + 8 * piece);
#pragma unroll
    for (unsigned i = 0; i < together; ++i)
      if (first + i * threads < all) store_eight(to + (first + i * threads) * 8, values[i]);
  }
}

/// Padded copies of the inputs, a chunk of one of them a block.
template <class Number, class From>
__global__ void __launch_bounds__(256)
    mlstm_copy_kernel(earlier_kernels earlier, mlstm_sizes z, mlstm_copies<Number, From> copies) {
  earlier.wait();
  const unsigned chunks = static_cast<unsigned>(z.chunks);
  mlstm_copy_chunk(z, copies.of[blockIdx.y], blockIdx.x / chunks,
                   static_cast<index>(blockIdx.x % chunks) * mlstm_chunk);
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

/// One walk over the chunks: X enters a chunk and leaves it as decay X + Aᵀ B; x as decay x + Aᵀ w, the rows of A
/// weighted.
template <class Number>
struct mlstm_walk {
  mlstm_operand<Number> a, b;  ///< rows of every chunk, [query] and [value] wide
  const float* weights;        ///< of every row
  const float* w;              ///< of every row, backwards; else null: ones
  const float* decay;
  mlstm_state_view first, last;  ///< null pointers: zeros enter, nothing is wanted
  const int* empty;              ///< where zeros enter; or null
  Number* states;  ///< what enters each chunk; not the first, where zeros enter, for nobody reads them
  float* n;
};

/// This block's number from the last on, for kernels that read what the one before wrote from the first on: what it
/// wrote last may still lie in the L2 cache.
inline __device__ unsigned mlstm_block_from_last() { return gridDim.x - 1 - blockIdx.x; }

/// Of one head's state [query, value], the tile that a block walks with.
template <class P, int Rows, int Columns>
using mlstm_state_tile = product_tile<P, Rows / 32, Columns>;

/// Blocks of a multiprocessor that walk with tiles of so many columns.
template <class Number>
constexpr int mlstm_walk_blocks(int columns) {
  if (columns == 64) return 5;
  if (columns == 96) return sizeof(Number) == 2 ? 3 : 2;
  return columns <= 128 ? 2 : 1;
}

/// A block a tile of one head's state, which stays in registers.
template <class P, int Rows, int Columns, bool Backwards>
__global__ void __launch_bounds__(mlstm_state_tile<P, Rows, Columns>::threads,
                                  mlstm_walk_blocks<typename P::number>(Columns))
    mlstm_walk_kernel(earlier_kernels earlier, mlstm_sizes z, mlstm_walk<typename P::number> walk) {
  using tile_type = mlstm_state_tile<P, Rows, Columns>;
  constexpr int steps = mlstm_chunk / tile_type::step;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float ones[tile_type::step];
  if (threadIdx.x < tile_type::step) ones[threadIdx.x] = 1;
  tile_type tile(shared);
  const int across = z.value / Columns, tiles = z.query / Rows * across;
  const unsigned block = mlstm_block_from_last();
  const index task = block / tiles, b = task / z.heads, e = task % z.heads;
  const int which = static_cast<int>(block % tiles), row0 = which / across * Rows,
            column0 = which % across * Columns;
  const bool vector = column0 == 0 && tile.first_column == 0;  // this warp has rows of n, too
  const int lane = tile.lane;
  earlier.wait();

  const bool from_zeros = !walk.first.c || (walk.empty && walk.empty[task]);
  if (!from_zeros) {
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
  const index chunk0 = task * z.chunks;
  const int chunks = static_cast<int>(z.chunks);
  const auto chunk_of = [&](int s) { return Backwards ? chunks - 1 - s / steps : s / steps; };  // of the task's
  const step_operand<typename P::number> a_rows = walk.a.at(z, task, 0, row0),
                                         b_rows = walk.b.at(z, task, 0, column0);
  float decay = walk.decay[chunk0 + chunk_of(0)];
  // What leaves the last chunk may not be wanted: then of that chunk's steps one is left, which has nothing to
  // multiply.
  const int products = (chunks - (walk.last.c ? 0 : 1)) * steps;
  run_steps<P>(
      products + (walk.last.c ? 0 : 1),
      [&](int s, int stage) {
        if (s == products) return;
        const index t = chunk_of(s) * mlstm_chunk + s % steps * tile_type::step;
        tile.template fetch<true, false>(stage, {a_rows.data + t * a_rows.stride, a_rows.stride},
                                         {b_rows.data + t * b_rows.stride, b_rows.stride});
        tile.fetch_vector(stage, walk.weights + chunk0 * mlstm_chunk + t);
        if (Backwards) tile.fetch_vector(stage, walk.w + chunk0 * mlstm_chunk + t, 1);
      },
      [&](int s, int stage) {
        if (s % steps == 0) {
          const index chunk = chunk0 + chunk_of(s);
          if (s > 0 || !from_zeros)
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
          if (s / steps + 1 < chunks) decay = walk.decay[chunk0 + chunk_of(s + steps)];  // long before its use
        }
        if (s == products) return;
        if constexpr (mlstm_walk_blocks<typename P::number>(Columns) == 3) tile.forget_lane();
        const float* w = Backwards ? tile.vector(stage, 1) : ones;
        tile.template multiply<true, false, true, true>(stage, vector ? w : nullptr, tile.vector(stage));
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

/// What a block that makes a chunk's scores keeps of its rows: D~'s parts; what is added, or beta's weight; the first
/// seen; sums of the rows' halves.
struct mlstm_score_rows {
  static constexpr int each = 6, weight = 4;
  alignas(16) float of_rows[each][mlstm_chunk];
  float sums[2][mlstm_chunk];

  /// Sends for them, of the weights where they are given.
  __device__ void fetch(const mlstm_rows& rows, const float* weights, index row0) {
    if (threadIdx.x >= mlstm_chunk) return;
    const float* from[] = {rows.row,         rows.row_rest, rows.column,
                           rows.column_rest, weights,       reinterpret_cast<const float*>(rows.first)};
#pragma unroll
    for (int x = 0; x < each; ++x)
      if (x != weight || weights) copy_async_4(of_rows[x] + threadIdx.x, from[x] + row0 + threadIdx.x, 4);
  }
};

/// S D (forward) or its gradient dS of the block's chunk: X = A Bᵀ, then
///   out = scale X D and r = past q.n + the rows' sums;  or, if `Gradient`, out = scale (X + dr) D.
/// The quarter of `out` that lies in the future is nobody's to read, and not written.
template <class P, bool Gradient>
__device__ void mlstm_make_scores(const mlstm_sizes& z, mlstm_score_rows& shared, void* memory,
                                  step_operand<typename P::number> a, step_operand<typename P::number> b,
                                  int width, const float* n, typename P::number* out, float* r) {
  using tile_type = product_tile<P, 4, mlstm_chunk>;
  constexpr int L = mlstm_chunk;
  tile_type tile(memory);
  const index chunk = blockIdx.x;
  const auto& of_rows = shared.of_rows;
  const bool above = tile.first_column > tile.first_row + 31;  // all of it lies in the future
  const bool vector = !Gradient && tile.first_column == 0;
  run_steps<P>(
      width / tile_type::step,
      [&](int s, int stage) {
        tile.template fetch<false, true>(stage, {a.data + s * tile_type::step, a.stride},
                                         {b.data + s * tile_type::step, b.stride});
        if (!Gradient) tile.fetch_vector(stage, n + chunk * width + s * tile_type::step);
      },
      [&](int, int stage) {
        if (!above)
          tile.template multiply<false, true, !Gradient>(stage, vector ? tile.vector(stage) : nullptr);
      });
  float high[4], rest[4], weight[4], partial[4];
  int first[4];
#pragma unroll
  for (int x = 0; x < 4; ++x) {
    const int row = tile.row_of(x / 2, x % 2);
    high[x] = of_rows[0][row], rest[x] = of_rows[1][row], weight[x] = of_rows[mlstm_score_rows::weight][row];
    first[x] = __float_as_int(of_rows[5][row]), partial[x] = 0;
  }
  if (!above)
#pragma unroll
    for (int c = 0; c < tile_type::across; ++c) {
      const int column = tile.column_of(c);
      const float2 shifted = load2(of_rows[2] + column), shifted_rest = load2(of_rows[3] + column);
#pragma unroll
      for (int x = 0; x < 4; ++x)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& e = tile.sum[x / 2][c][x % 2 * 2 + j];
          const float d = exp2_approx(((j ? shifted.y : shifted.x) + high[x]) +
                                      ((j ? shifted_rest.y : shifted_rest.x) + rest[x]));
          const bool seen = column + j <= tile.row_of(x / 2, x % 2) && column + j >= first[x];
          e = seen ? (Gradient ? e + weight[x] : e) * (d * z.scale) : 0;
          partial[x] += e;
        }
    }
  if (!above) tile.store(out + chunk * L * L, L);
  if constexpr (!Gradient) {
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const int row = tile.row_of(x / 2, x % 2);
      partial[x] = row_sum(partial[x]);
      if (vector) partial[x] += weight[x] * tile.extra_of(x / 2, x % 2);
      if (tile.lane % 4 == 0) shared.sums[tile.first_column != 0][row] = partial[x];
    }
    __syncthreads();
    if (threadIdx.x < L) r[chunk * L + threadIdx.x] = shared.sums[0][threadIdx.x] + shared.sums[1][threadIdx.x];
  }
}

/// S D and r of a chunk a block. If the block `Copies` q first, the L2 cache has the copy when it is multiplied.
template <class P, class From, bool Copies>
__global__ void __launch_bounds__(256, 2)
    mlstm_scores_kernel(earlier_kernels earlier, mlstm_sizes z, mlstm_memory<typename P::number> memory,
                        mlstm_rows rows, mlstm_copy<typename P::number, From> q) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ mlstm_score_rows of_rows;
  const unsigned chunks = static_cast<unsigned>(z.chunks), task = blockIdx.x / chunks;
  const index t0 = static_cast<index>(blockIdx.x % chunks) * mlstm_chunk;
  earlier.wait();
  of_rows.fetch(rows, rows.past, static_cast<index>(blockIdx.x) * mlstm_chunk);
  if constexpr (Copies) {
    mlstm_copy_chunk(z, q, task, t0);
    __syncthreads();  // the copy, which is read from memory, is there
  }
  mlstm_make_scores<P, false>(z, of_rows, shared, memory.q.at(z, task, t0), memory.k.at(z, task, t0), z.query,
                              memory.n, memory.gated, memory.r);
}

/// N of a position, and its derivative by r.
inline __device__ distil_xlstm::detail::mlstm_norm<float> mlstm_norm_at(const mlstm_sizes& z, float r,
                                                                        float mu) {
  return distil_xlstm::detail::mlstm_norm_of(z.normaliser, r, expf(-mu));
}

/// sum = factor A B (over `width` numbers, which may be 0) + A' B' (over the chunk); `factor` of each row. A' is lower
/// triangular, and read transposed where TransposeA2 is set. `late` may send for what is read thereafter, and so may
/// `tail`, see run_steps. `Crowded`: what follows from the thread is made anew each step, to keep few registers.
template <class P, bool TransposeB1, bool TransposeA2, bool Crowded = false, class Tile, class Late,
          class Tail = no_tail>
__device__ void mlstm_two_products(Tile& tile, int width, step_operand<typename P::number> a1,
                                   step_operand<typename P::number> b1, const float* factor,
                                   step_operand<typename P::number> a2, step_operand<typename P::number> b2,
                                   const Late& late, const Tail& tail = {}) {
  constexpr int step = Tile::step;
  const int steps = width / step;
  run_steps<P>(
      steps + mlstm_chunk / step,
      [&](int s, int stage) {
        const int thread = Crowded ? Tile::opaque_thread() : static_cast<int>(threadIdx.x);
        if (s < steps) {
          tile.template fetch<false, TransposeB1>(
              stage, {a1.data + s * step, a1.stride},
              {b1.data + s * step * (TransposeB1 ? 1 : b1.stride), b1.stride}, thread);
        } else {
          const int u = (s - steps) * step;
          tile.template fetch<TransposeA2, false>(
              stage, {a2.data + u * (TransposeA2 ? a2.stride : 1), a2.stride},
              {b2.data + u * b2.stride, b2.stride}, thread,
              [u](int row, int column) { return TransposeA2 ? column < u + step : row >= u; });
        }
      },
      [&](int s, int stage) {
        if constexpr (Crowded) tile.forget_lane();
        if (s < steps) return tile.template multiply<false, TransposeB1>(stage);
        if (s == steps) {
          tile.scale_rows([&](int row) { return factor[row]; });
          late();
        }
        const int u = (s - steps) * step;
        if (TransposeA2 ? u + step > tile.first_row : u < tile.first_row + 32)
          tile.template multiply<TransposeA2, false>(stage);
      },
      tail);
}

/// Those of four neighbours that a row of `width` elements has, plus beta times what it had.
template <class S>
__device__ void store_columns(S* row, int column, int width, bool vectorised, float4 x, float beta = 0) {
  if (vectorised && column + 4 <= width)
    return store4(row + column, beta == 0 ? x : add_product(x, beta, load4(row + column)));
  const float each[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (column + j < width) row[column + j] = S(beta == 0 ? each[j] : fmaf(beta, row[column + j], each[j]));
}

template <class S = float>
struct mlstm_output_rows {
  matrix_view<S> to;
  int head;
  bool vectorised;
  __device__ S* row(index task, index heads, index time, index t) const {
    const unsigned i = static_cast<unsigned>(task), n = static_cast<unsigned>(heads);
    return to.row(i / n * time + t) + i % n * static_cast<unsigned>(head);
  }
};

/// Writes a chunk's tile from position t0 on, whose first column is the head's number `column0`.
template <class Tile, class S>
__device__ void mlstm_store_chunk(const Tile& tile, const mlstm_sizes& z, const mlstm_output_rows<S>& out,
                                  index task, index t0, int column0) {
  tile.float4s([&](int row) { return t0 + row < z.time ? out.row(task, z.heads, z.time, t0 + row) : nullptr; },
               [&](S* to, int column, float4 x) {
                 if (to) store_columns(to, column0 + column, out.head, out.vectorised, x);
               });
}

/// Blocks of a multiprocessor that make so many columns of a chunk.
template <class Number>
constexpr int mlstm_chunk_blocks(int columns) {
  return columns > 128 ? 1 : columns <= 96 && sizeof(Number) == 2 ? 3 : 2;
}

/// h of a chunk, N columns a block: (past Q C + (S D) V) / (N + epsilon), without the first where C is known to be 0.
template <class P, int N, class H>
__global__ void __launch_bounds__(product_tile<P, 4, N>::threads, mlstm_chunk_blocks<typename P::number>(N))
    mlstm_outputs_kernel(earlier_kernels earlier, mlstm_sizes z, mlstm_memory<typename P::number> memory,
                         mlstm_rows rows, mlstm_output_rows<H> h) {
  constexpr int L = mlstm_chunk;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float past[L], r[L], mu[L];
  product_tile<P, 4, N> tile(shared);
  const unsigned block = mlstm_block_from_last(), chunks = static_cast<unsigned>(z.chunks),
                 tiles = static_cast<unsigned>(z.value / N), of_all = block / tiles;
  const int column0 = static_cast<int>(block % tiles) * N;
  const index chunk = of_all, row0 = chunk * L;
  const int x = static_cast<int>(threadIdx.x);
  earlier.wait();
  if (x < L) {
    copy_async_4(past + x, rows.past + row0 + x, 4);
    copy_async_4(r + x, memory.r + row0 + x, 4);
    copy_async_4(mu + x, rows.mu + row0 + x, 4);
  }
  const index task = of_all / chunks, t0 = static_cast<index>(of_all % chunks) * L;
  const bool from_zeros = t0 == 0 && rows.empty[task];
  mlstm_two_products<P, false, false>(tile, from_zeros ? 0 : z.query, memory.q.at(z, task, t0),
                                      {memory.states + chunk * z.query * z.value + column0, z.value}, past,
                                      {memory.gated + row0 * L, L}, memory.v.at(z, task, t0, column0), [] {});
  if (x < L) r[x] = 1 / (mlstm_norm_at(z, r[x], mu[x]).value + z.epsilon);
  __syncthreads();
  tile.scale_rows([&](int row) { return r[row]; });
  mlstm_store_chunk(tile, z, h, task, t0, column0);
}

}  // namespace detail
}  // namespace distil_xlstm::device
