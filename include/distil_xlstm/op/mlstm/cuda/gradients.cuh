#pragma once

#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/op/mlstm/cuda/parts.cuh>

// What mLSTM's backward does besides.
namespace distil_xlstm::device {
namespace detail {

/// What backward needs of each position: dU, and the gradients of r and mu.
template <class Number>
struct mlstm_row_gradients {
  Number* du;  ///< dh / (N + epsilon): [tasks, padded time, value]
  float *dr, *dmu;
};

/// Threads that have a row of a multiple of 32 numbers, eight each at a time: a power of two up to 32.
inline __device__ int mlstm_row_threads(int width) { return width <= 64 ? 8 : width <= 128 ? 16 : 32; }

/// What dU and the gradients of r and mu are made of.
template <class S, class H>
struct mlstm_row_inputs {
  matrix_view<const H> h;
  matrix_view<const S> dh;
  const float* r;
  bool vectorised;  ///< heads fill their tiles, and all eight numbers lie at 16 bytes
};

/// Those of the rows of the block's chunk, 8, 16 or 32 lanes of a warp a row, and dr once more in shared memory. A
/// thread has four rows at once, for it waits for their memory. `Whole`: nothing is padded.
template <bool Whole, class Number, class S, class H>
__device__ void mlstm_make_row_gradients(const mlstm_sizes& z, const mlstm_row_inputs<S, H>& from,
                                         const mlstm_rows& rows, const mlstm_row_gradients<Number>& out,
                                         index task, index t0, float* dr) {
  constexpr int together = 4;
  const int lanes = mlstm_row_threads(z.value), lane = static_cast<int>(threadIdx.x) % lanes;
  const int groups = static_cast<int>(blockDim.x) / lanes;
  const int time = Whole ? mlstm_chunk : static_cast<int>(min(z.time - t0, index{mlstm_chunk}));
  const index row0 = static_cast<index>(blockIdx.x) * mlstm_chunk;
  const unsigned heads = static_cast<unsigned>(z.heads), of_all = static_cast<unsigned>(task);
  const index position = of_all / heads * z.time + t0, head = of_all % heads * static_cast<index>(z.dv);
  for (int row = static_cast<int>(threadIdx.x) / lanes; row < mlstm_chunk; row += together * groups) {
    float over[together], slope[together], along[together] = {};
#pragma unroll
    for (int i = 0; i < together; ++i) {
      const int t = row + i * groups;
      const bool there = t < time;
      const auto norm = mlstm_norm_at(z, there ? from.r[row0 + t] : 1, there ? rows.mu[row0 + t] : 0);
      over[i] = 1 / (norm.value + z.epsilon), slope[i] = norm.slope;
    }
    for (int x = lane * 8; x < z.value; x += lanes * 8) {
      float g[together][8] = {}, y[together][8] = {};
#pragma unroll
      for (int i = 0; i < together; ++i) {
        const int t = row + i * groups;
        const S* gradient = from.dh.row(position + t) + head;
        const H* result = from.h.row(position + t) + head;
        if constexpr (Whole)
          load_eight(g[i], gradient + x), load_eight(y[i], result + x);
        else if (t < time)
          load_eight(g[i], gradient, x, z.dv), load_eight(y[i], result, x, z.dv);
      }
#pragma unroll
      for (int i = 0; i < together; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) along[i] += g[i][j] * y[i][j], g[i][j] *= over[i];
        store_eight(out.du + (row0 + row + i * groups) * z.value + x, g[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < together; ++i) {
      for (int step = lanes / 2; step > 0; step /= 2) along[i] += __shfl_xor_sync(~0u, along[i], step);
      const int t = row + i * groups;
      if (lane != 0) continue;
      along[i] *= over[i];
      dr[t] = out.dr[row0 + t] = t < time ? -along[i] * slope[i] : 0;
      out.dmu[row0 + t] = t < time ? -along[i] * z.epsilon : 0;
    }
  }
}

/// dU, the gradients of r and mu, and dS of a chunk a block.
template <class P, class S, class H>
__global__ void __launch_bounds__(256, 2)
    mlstm_score_gradients_kernel(earlier_kernels earlier, mlstm_sizes z, mlstm_row_inputs<S, H> from,
                                 mlstm_operand<typename P::number> v, mlstm_rows rows,
                                 mlstm_row_gradients<typename P::number> of_rows, typename P::number* ds) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ mlstm_score_rows score_rows;
  const index row0 = static_cast<index>(blockIdx.x) * mlstm_chunk;
  const unsigned chunks = static_cast<unsigned>(z.chunks);
  const index task = blockIdx.x / chunks, t0 = static_cast<index>(blockIdx.x % chunks) * mlstm_chunk;
  earlier.wait();
  score_rows.fetch(rows, nullptr, row0);
  float* dr = score_rows.of_rows[mlstm_score_rows::weight];
  if (from.vectorised && t0 + mlstm_chunk <= z.time)
    mlstm_make_row_gradients<true>(z, from, rows, of_rows, task, t0, dr);
  else
    mlstm_make_row_gradients<false>(z, from, rows, of_rows, task, t0, dr);
  __syncthreads();  // dU, which is read from memory, and dr are there
  mlstm_make_scores<P, true>(z, score_rows, shared, {of_rows.du + row0 * z.value, z.value}, v.at(z, task, t0),
                             z.value, nullptr, ds, nullptr);
}

/// dq and dk are stored as S.
template <class Number, class S>
struct mlstm_chunk_gradients {
  mlstm_memory<Number> memory;
  mlstm_rows rows;
  mlstm_row_gradients<Number> of_rows;
  const Number *ds, *dc;  ///< dS of each chunk, and the gradient of the state that leaves it
  const float* dn;
  mlstm_output_rows<S> dq, dk;
  mlstm_output_rows<> dv;
  float *q_dq, *k_dk;  ///< [parts, tasks, padded time]: a part of N columns, or of all
  bool to_zeros;       ///< no gradient enters the last chunk: its dC is 0, and not written
  float beta = 0;      ///< of what dv held; 0 but for mlstm_whole_chunk

  /// Whether dq of the task's chunk number `chunk` has no part of C, which is 0 and not written; dk and dv none of dC.
  __device__ bool without_state(bool queries, index task, unsigned chunk, unsigned chunks) const {
    return queries ? chunk == 0 && rows.empty[task] : to_zeros && chunk + 1 == chunks;
  }
};

/// The rows of a tile's height and width that are read once its products are made, sent for while the last steps are
/// multiplied: into the stages that have been read by then, 32 columns each.
template <class P, class Tile>
struct mlstm_rows_behind_products {
  using number = typename P::number;
  static constexpr int stride = Tile::step + Tile::padding, pieces = Tile::width / Tile::step;
  static constexpr bool fit = pieces < P::stages && Tile::rows * stride <= Tile::stage;

  number* memory;  ///< the tile's
  step_operand<number> from;
  int steps;  ///< of the products

  /// As run_steps calls its tail.
  __device__ void operator()(int piece, int stage) const {
    if (piece < pieces)
      Tile::template copy<Tile::rows, Tile::step>(
          memory + stage * Tile::stage, {from.data + piece * Tile::step, from.stride}, Tile::opaque_thread());
  }
  /// Two neighbours, once they have come.
  __device__ float2 pair(int row, int column) const {
    return load2(memory + (steps + column / Tile::step) % P::stages * Tile::stage + row * stride +
                 column % Tile::step);
  }
};

/// What a block of mlstm_chunk_gradients_kernel has in shared memory: behind the tile's operands, of wide tiles,
/// those rows of q or k that meet dq or dk. Of narrow tiles in bfloat16 they take the operands' place in the end, of
/// others they are read where they lie.
template <class P, int N>
struct mlstm_chunk_gradients_memory {
  using tile = product_tile<P, 4, N>;
  using later = mlstm_rows_behind_products<P, tile>;
  static constexpr bool keeps = N > 128, follows = N < 128 && later::fit;
  static constexpr int stride = N + tile::padding;
  static constexpr int bytes =
      tile::bytes + (keeps ? mlstm_chunk * stride * static_cast<int>(sizeof(typename P::number)) : 0);
};

/// dq, dk and dv of a chunk, N columns of one of them a block.
///   dq = past (dU Cᵀ + dr n) + dS K;  dk = left (V dC'ᵀ + dn') + dSᵀ Q;  dv = left K dC' + (S D)ᵀ dU
/// without the products with C or dC' where that is known to be 0.
template <class P, int N, class S>
__global__ void __launch_bounds__(product_tile<P, 4, N>::threads, mlstm_chunk_blocks<typename P::number>(N))
    mlstm_chunk_gradients_kernel(earlier_kernels earlier, mlstm_sizes z,
                                 mlstm_chunk_gradients<typename P::number, S> g) {
  using number = typename P::number;
  using memory = mlstm_chunk_gradients_memory<P, N>;
  using tile_type = typename memory::tile;
  constexpr int L = mlstm_chunk;
  constexpr bool crowded = mlstm_chunk_blocks<number>(N) > 2 || sizeof(number) == 4;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ __align__(8) float sums[N / tile_type::columns][L], factor[L], dr[L], added[N];
  tile_type tile(shared);
  const int of_query = z.query / N;
  const unsigned block = mlstm_block_from_last(), chunks = static_cast<unsigned>(z.chunks),
                 tiles = static_cast<unsigned>(2 * of_query + z.value / N), of_all = block / tiles;
  const index chunk = of_all, row0 = chunk * L;
  int part = static_cast<int>(block % tiles);
  const index task = of_all / chunks, t0 = static_cast<index>(of_all % chunks) * L;
  const index state = chunk * z.query * z.value, vector = chunk * z.query;
  const auto& m = g.memory;
  const step_operand<number> q = m.q.at(z, task, t0), k = m.k.at(z, task, t0), v = m.v.at(z, task, t0);
  const number *du = g.of_rows.du + row0 * z.value, *ds = g.ds + row0 * L;
  const bool queries = part < of_query, keys = !queries && part < 2 * of_query;
  earlier.wait();
  if (threadIdx.x < L) {
    const index row = row0 + threadIdx.x;
    copy_async_4(factor + threadIdx.x, (queries ? g.rows.past : g.rows.left) + row, 4);
    if (queries) copy_async_4(dr + threadIdx.x, g.of_rows.dr + row, 4);
  }

  const bool alone = g.without_state(queries, task, of_all % chunks, chunks);
  if (!queries && !keys) {
    const int column0 = (part - 2 * of_query) * N;
    mlstm_two_products<P, false, true, crowded>(tile, alone ? 0 : z.query, k, {g.dc + state + column0, z.value},
                                                factor, {m.gated + row0 * L, L}, {du + column0, z.value},
                                                [] {});
    mlstm_store_chunk(tile, z, g.dv, task, t0, column0);
    return;
  }

  if (keys) part -= of_query;
  const int column0 = part * N;
  const index of_state = state + static_cast<index>(column0) * z.value;
  static_assert(N <= tile_type::threads);
  if (threadIdx.x < N)
    copy_async_4(added + threadIdx.x, (keys ? g.dn : m.n) + vector + column0 + threadIdx.x, 4);
  const step_operand<number> own{(keys ? k : q).data + column0, keys ? k.stride : q.stride};
  number* const kept = reinterpret_cast<number*>(shared + tile_type::bytes);
  const auto keep = [&] {
    if constexpr (memory::keeps) tile_type::template copy<L, N>(kept, own, tile_type::opaque_thread());
  };
  const int width = alone ? 0 : z.value;
  const typename memory::later later{tile.memory, own, (width + L) / tile_type::step};
  const auto tail = [&](int i, int stage) {
    if constexpr (memory::follows) later(i, stage);
  };
  if (keys)
    mlstm_two_products<P, true, true, crowded>(tile, width, v, {g.dc + of_state, z.value}, factor, {ds, L},
                                               {q.data + column0, q.stride}, keep, tail);
  else
    mlstm_two_products<P, true, false, crowded>(tile, width, {du, z.value}, {m.states + of_state, z.value},
                                                factor, {ds, L}, {k.data + column0, k.stride}, keep, tail);
  if constexpr (memory::keeps || memory::follows) {
    wait_for_copies<0>();
    __syncthreads();
  }
  float weight[4], dot[4] = {};
#pragma unroll
  for (int x = 0; x < 4; ++x) {
    const int row = tile.row_of(x / 2, x % 2);
    weight[x] = queries ? factor[row] * dr[row] : factor[row];
  }
#pragma unroll
  for (int c = 0; c < tile.across; ++c) {
    const int column = tile.column_of(c);
    const float2 a = load2(added + column);
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const int row = tile.row_of(x / 2, x % 2);
      const float2 with = memory::keeps     ? load2(kept + row * memory::stride + column)
                          : memory::follows ? later.pair(row, column)
                                            : load2(own.data + static_cast<index>(row) * own.stride + column);
      float* e = tile.sum[x / 2][c] + x % 2 * 2;
      e[0] += weight[x] * a.x, e[1] += weight[x] * a.y;
      dot[x] += e[0] * with.x + e[1] * with.y;
    }
  }
  mlstm_store_chunk(tile, z, keys ? g.dk : g.dq, task, t0, column0);
#pragma unroll
  for (int x = 0; x < 4; ++x) {
    dot[x] = row_sum(dot[x]);
    if (tile.lane % 4 == 0) sums[tile.first_column / tile.columns][tile.row_of(x / 2, x % 2)] = dot[x];
  }
  __syncthreads();
  if (threadIdx.x < L) {
    float sum = sums[0][threadIdx.x];
#pragma unroll
    for (int c = 1; c < N / tile.columns; ++c) sum += sums[c][threadIdx.x];
    (keys ? g.k_dk : g.q_dq)[part * z.tasks * z.padded() + row0 + threadIdx.x] = sum;
  }
}

/// The same of heads padded to 128 and 64, in bfloat16: all of dq, dk or dv of a chunk a block, dv of all heads that
/// share a v. What is multiplied is sent for long before its use, but for the quarters of dS and S D that lie in the
/// future.
template <class S>
struct mlstm_whole_chunk {
  static constexpr int L = mlstm_chunk, query = 128, value = 64, threads = 256;
  static constexpr int bytes = 96 * 1024;
  static_assert(L == 128);
  static bool fits(const mlstm_sizes& z) { return z.query == query && z.value == value; }

  struct row_numbers {
    float sums[2][L], factor[L], weights[L], added[query];
  };

  mlstm_sizes z;
  const mlstm_chunk_gradients<bf16, S>& g;
  bf16* shared;
  row_numbers& of_rows;
  index chunk, row0, task, t0;
  bool alone;  ///< see mlstm_chunk_gradients::without_state

  template <int Width>
  __device__ whole_operand<Width> operand_at(int kilobytes) const {
    return {shared + kilobytes * 512};
  }
  template <int Rows, int Columns, int Width>
  __device__ static void fetch(whole_operand<Width> to, int row, int column, step_operand<bf16> from) {
    to.template fetch<threads, Rows, Columns>(row, column, from);
  }
  /// All threads' copies have arrived, but for the newest `Open` groups of each.
  template <int Open>
  __device__ static void arrive() {
    wait_for_copies<Open>();
    __syncthreads();
  }
  template <int From, bool TransposeA, bool TransposeB, class Tile, int WidthA, int WidthB>
  __device__ static void multiply(Tile& tile, whole_operand<WidthA> a, whole_operand<WidthB> b) {
#pragma unroll
    for (int k = From; k < From + 64; k += 16) tile.template multiply<TransposeA, TransposeB>(a, b, k);
  }
  /// The same where A is dS or S D, or its transpose: of the triangle that is not 0.
  template <int From, bool TransposeA, class Tile, int WidthB>
  __device__ static void multiply_triangle(Tile& tile, whole_operand<L> a, whole_operand<WidthB> b) {
#pragma unroll
    for (int k = From; k < From + 64; k += 16)
      if (TransposeA ? k >= tile.first_row : k < tile.first_row + 32)
        tile.template multiply<TransposeA, false>(a, b, k);
  }
  template <class Tile, class Out>
  __device__ void write(const Tile& tile, const mlstm_output_rows<Out>& out, unsigned group = 1,
                        float beta = 0) const {
    const index at = task / group, heads = z.heads / group;
    if (out.vectorised && out.head == 16 * Tile::across && t0 + L <= z.time)
      tile.float4s([&](int row) { return out.row(at, heads, z.time, t0 + row); },
                   [&](Out* to, int column, float4 x) {
                     store4(to + column, beta == 0 ? x : add_product(x, beta, load4(to + column)));
                   });
    else
      tile.float4s([&](int row) { return t0 + row < z.time ? out.row(at, heads, z.time, t0 + row) : nullptr; },
                   [&](Out* to, int column, float4 x) {
                     if (to) store_columns(to, column, out.head, out.vectorised, x, beta);
                   });
  }

  /// dq, or dk.
  template <bool Keys>
  __device__ void queries() const {
    const auto& m = g.memory;
    const step_operand<bf16> q = m.q.at(z, task, t0), k = m.k.at(z, task, t0);
    const step_operand<bf16> own = Keys ? k : q, other = Keys ? q : k, ds{g.ds + row0 * L, L};
    const auto a1 = operand_at<value>(0), b1 = operand_at<value>(16);
    const auto a2 = operand_at<L>(32), b2 = operand_at<query>(64), with = operand_at<query>(0);
    if (!alone) {
      fetch<L, value>(a1, 0, 0,
                      Keys ? m.v.at(z, task, t0) : step_operand<bf16>{g.of_rows.du + row0 * value, value});
      fetch<query, value>(b1, 0, 0, {(Keys ? g.dc : m.states) + chunk * query * value, value});
    }
    commit_copies();
    fetch<Keys ? 64 : L, 64>(a2, 0, 0, ds);
    fetch<64, query>(b2, 0, 0, other);
    commit_copies();
    fetch<64, Keys ? L : 64>(a2, 64, Keys ? 0 : 64, ds);
    fetch<64, query>(b2, 64, 0, other);
    commit_copies();
    const int x = static_cast<int>(threadIdx.x);
    if (x < L) {
      const float weight = (Keys ? g.rows.left : g.rows.past)[row0 + x];
      of_rows.factor[x] = weight;
      of_rows.weights[x] = Keys ? weight : weight * g.of_rows.dr[row0 + x];
    } else {
      of_rows.added[x - L] = (Keys ? g.dn : m.n)[chunk * query + x - L];
    }

    product_tile<bf16_products, 4, query> tile(shared);
    arrive<2>();
    if (!alone) {
      multiply<0, false, true>(tile, a1, b1);
      tile.scale_rows([&](int row) { return of_rows.factor[row]; });
    }
    arrive<1>();
    fetch<L, query>(with, 0, 0, own);  // over a1 and b1, which have been read
    commit_copies();
    multiply_triangle<0, Keys>(tile, a2, b2);
    arrive<1>();
    multiply_triangle<64, Keys>(tile, a2, b2);
    arrive<0>();

    float weight[4], dot[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) weight[i] = of_rows.weights[tile.row_of(i / 2, i % 2)];
#pragma unroll
    for (int c = 0; c < tile.across; ++c) {
      const int column = tile.column_of(c);
      const float2 a = load2(of_rows.added + column);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 y = load2(with.at(tile.row_of(i / 2, i % 2), column));
        float* e = tile.sum[i / 2][c] + i % 2 * 2;
        e[0] += weight[i] * a.x, e[1] += weight[i] * a.y;
        dot[i] += e[0] * y.x + e[1] * y.y;
      }
    }
    write(tile, Keys ? g.dk : g.dq);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      dot[i] = row_sum(dot[i]);
      if (tile.lane % 4 == 0) of_rows.sums[tile.first_column != 0][tile.row_of(i / 2, i % 2)] = dot[i];
    }
    __syncthreads();
    if (x < L) (Keys ? g.k_dk : g.q_dq)[row0 + x] = of_rows.sums[0][x] + of_rows.sums[1][x];
  }

  /// dv of this head and of those after it that share its v.
  __device__ void values() const {
    const unsigned group = g.memory.v.group;
    const auto a1 = operand_at<query>(0), a2 = operand_at<L>(32);
    const auto b1 = operand_at<value>(64), b2 = operand_at<value>(80);
    const auto send_keys = [&](unsigned head) {
      const bool there = head < group && !alone;
      const step_operand<bf16> k = g.memory.k.at(z, task + head, t0),
                               dc{g.dc + (chunk + head * z.chunks) * query * value, value};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (there) {
          fetch<L, 64>(a1, 0, 64 * half, k);
          fetch<64, value>(b1, 64 * half, 0, dc);
        }
        commit_copies();
      }
    };
    const auto send_scores = [&](unsigned head) {
      const index row = row0 + head * z.padded();
      const step_operand<bf16> gated{g.memory.gated + row * L, L}, du{g.of_rows.du + row * value, value};
      fetch<64, 64>(a2, 0, 0, gated);
      fetch<64, value>(b2, 0, 0, du);
      commit_copies();
      fetch<64, L>(a2, 64, 0, gated);
      fetch<64, value>(b2, 64, 0, du);
      commit_copies();
    };

    product_tile<bf16_products, 4, value> tile(shared);
    send_keys(0);
    for (unsigned head = 0; head < group; ++head) {
      if (threadIdx.x < L) of_rows.factor[threadIdx.x] = g.rows.left[row0 + head * z.padded() + threadIdx.x];
      product_tile<bf16_products, 4, value> later(shared);
      tile.forget_lane(), later.forget_lane();
      arrive<1>();
      send_scores(head);  // over those of the head before, which have been read
      if (!alone) multiply<0, false, false>(later, a1, b1);
      arrive<2>();
      if (!alone) {
        multiply<64, false, false>(later, a1, b1);
        tile.add_rows(later, [&](int row) { return of_rows.factor[row]; });
      }
      arrive<1>();
      send_keys(head + 1);  // likewise; of no head after the last
      multiply_triangle<0, true>(tile, a2, b2);
      arrive<2>();
      multiply_triangle<64, true>(tile, a2, b2);
    }
    write(tile, g.dv, group, g.beta);
  }
};

template <class P, class S>
__global__ void __launch_bounds__(mlstm_whole_chunk<S>::threads, 2)
    mlstm_whole_chunk_gradients_kernel(earlier_kernels earlier, mlstm_sizes z,
                                       mlstm_chunk_gradients<typename P::number, S> g) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ typename mlstm_whole_chunk<S>::row_numbers of_rows;
  earlier.wait();
  // From the last chunk on, whose dS the kernel before wrote last: it may still lie in the L2 cache. Of a chunk of
  // the heads that share a v: dq and dk of each, and dv, which goes first.
  const unsigned group = g.memory.v.group, chunks = static_cast<unsigned>(z.chunks);
  const unsigned block = gridDim.x - 1 - blockIdx.x, part = block % (2 * group + 1),
                 of_group = block / (2 * group + 1);
  const bool values = part == 2 * group;
  const unsigned task = of_group / chunks * group + (values ? 0 : part / 2),
                 chunk = task * chunks + of_group % chunks;
  const mlstm_whole_chunk<S> whole{z,
                                   g,
                                   reinterpret_cast<bf16*>(shared),
                                   of_rows,
                                   chunk,
                                   static_cast<index>(chunk) * mlstm_chunk,
                                   task,
                                   static_cast<index>(chunk % chunks) * mlstm_chunk,
                                   g.without_state(!values && part % 2 == 0, task, chunk % chunks, chunks)};
  if (values)
    whole.values();
  else if (part % 2 == 0)
    whole.template queries<false>();
  else
    whole.template queries<true>();
}

/// <dC, C> + <dn, n> of each sequence and head, a block each.
template <int Threads>
__global__ void __launch_bounds__(Threads)
    mlstm_inner_kernel(earlier_kernels earlier, mlstm_sizes z, mlstm_state_view gradient,
                       mlstm_state_view state, double* inner) {
  __shared__ double sums[Threads];
  earlier.wait();
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
__global__ void __launch_bounds__(Threads) mlstm_keep_state_kernel(earlier_kernels earlier, mlstm_sizes z,
                                                                   mlstm_state_view from, mlstm_state_view to) {
  earlier.wait();
  const index b = blockIdx.y / z.heads, e = blockIdx.y % z.heads, size = static_cast<index>(z.dq) * z.dv;
  for (index x = static_cast<index>(blockIdx.x) * Threads + threadIdx.x; x < size;
       x += static_cast<index>(gridDim.x) * Threads)
    to.c_of(b, e)[x] = from.c_of(b, e)[x];
  if (blockIdx.x == 0)
    for (index x = threadIdx.x; x < z.dq; x += Threads) to.n_of(b, e)[x] = from.n_of(b, e)[x];
}

}  // namespace detail
}  // namespace distil_xlstm::device
