#pragma once

#include <cstdint>

#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/op/attention/cuda/parts.cuh>
#include <distil_xlstm/op/attention/cuda/warp.cuh>

// Attention on the tensor cores: bfloat16 operands, float sums.
namespace distil_xlstm::device::detail::flash {

/// A warp's tile where operands lie in memory as float: they are rounded on their way to registers, the block's rows,
/// which stay, and to shared memory, the moving tiles.
template <int Width, int Moving, int Rows = 128>
struct tensor_tile : warp_tile<Width, Moving, Rows> {
  using base = warp_tile<Width, Moving, Rows>;
  using base::lane, base::pitch, base::threads;
  using typename base::piece, typename base::scores;
  static constexpr int moving_numbers = Moving * pitch, row_bytes = 2 * Rows * Width;

  /// The warp's rows, this thread's pieces: in registers, or in its own places of `row_bytes` of shared memory.
  template <bool Held>
  struct own_rows {
    piece registers[Held ? Width / 16 : 1];
    uint4* memory;
    __device__ explicit own_rows(void* shared) : memory(static_cast<uint4*>(shared) + threadIdx.x) {}
    __device__ void put(int i, std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
      if constexpr (Held)
        registers[i][0] = a, registers[i][1] = b, registers[i][2] = c, registers[i][3] = d;
      else
        memory[i * threads] = {a, b, c, d};
    }
  };
  /// s = a bᵀ
  template <bool Held>
  static __device__ void multiply_rows(scores& s, const own_rows<Held>& a, const std::uint16_t* b) {
    piece read;
    base::multiply_rows(
        s,
        [&](int i) -> const piece& {
          if constexpr (Held) {
            return a.registers[i];
          } else {
            const uint4 x = a.memory[i * threads];
            read[0] = x.x, read[1] = x.y, read[2] = x.z, read[3] = x.w;
            return read;
          }
        },
        b);
  }
};

/// Queries stay, keys and values move. Of 16 columns of a product a thread has 2 i, 2 i + 1, 2 i + 8 and 2 i + 9,
/// i = lane % 4: these are columns 4 i .. 4 i + 3 of the matrices, for one access to memory.
template <int Width, int Moving, bool Vectorised, int Rows>
struct query_tile : tensor_tile<Width, Moving, Rows> {
  using base = tensor_tile<Width, Moving, Rows>;
  using base::lane, base::pitch, base::row_of, base::threads;
  using typename base::results;
  static constexpr int vectors_a_row = Width / 4, rows_a_pass = threads / vectors_a_row;
  static constexpr int passes = Moving / rows_a_pass;
  using two_rows = float4[Width / 16][2];
  /// Whether the next keys and values wait in shared memory, each thread's in its own places: in small blocks a
  /// thread has more of them than registers have room for.
  static constexpr bool copies = Vectorised && Rows < 128;
  static constexpr int next_bytes = copies ? 4 * Moving * Width : 0;
  /// A tile of keys or values on its way: in registers, or in `next_bytes`.
  struct next_rows {
    float4 registers[copies ? 1 : passes];
    uint4* memory;
    __device__ explicit next_rows(void* shared) : memory(static_cast<uint4*>(shared) + threadIdx.x) {}
  };

  static __device__ int loaded_row(int pass) {
    return static_cast<int>(threadIdx.x) / vectors_a_row + pass * rows_a_pass;
  }
  static __device__ int loaded_column() { return static_cast<int>(threadIdx.x) % vectors_a_row * 4; }
  static __device__ float4 as_floats(uint4 x) {
    return {__uint_as_float(x.x), __uint_as_float(x.y), __uint_as_float(x.z), __uint_as_float(x.w)};
  }
  static __device__ void put(std::uint16_t* tile, int row, float4 x) {
    const int c = loaded_column();
    auto* at = reinterpret_cast<std::uint32_t*>(tile + row * pitch + c / 16 * 16 + c % 16 / 2);
    at[0] = pack_bf16(x.x, x.y), at[4] = pack_bf16(x.z, x.w);
  }
  /// next = the keys or values at the places from j0 on; of those beyond the end, whose numbers do not matter, the
  /// last. Tiles are zero from column n on, see `clear`.
  static __device__ void fetch(next_rows& next, const key_rows& rows, const visited_keys& visited, int j0,
                               int n) {
    if (loaded_column() >= n) return;
    const auto fetch = [&](const auto& row) {
#pragma unroll
      for (int pass = 0; pass < passes; ++pass) {
        const float* from = row(visited.key(min(j0 + loaded_row(pass), visited.end - 1)));
        if constexpr (copies)
          copy_async_16(next.memory + pass * threads, from + loaded_column());
        else
          next.registers[pass] = load4(from, loaded_column(), n, Vectorised);
      }
    };
    visited.key(j0) >= rows.past ? fetch([&](int j) { return rows.of_now(j); }) : fetch(rows);
    if constexpr (copies) commit_copies();
  }
  static __device__ void put(std::uint16_t* tile, const next_rows& next, int n) {
    if (loaded_column() >= n) return;
    if constexpr (copies) wait_for_copies<0>();
#pragma unroll
    for (int pass = 0; pass < passes; ++pass)
      put(tile, loaded_row(pass),
          copies ? as_floats(next.memory[pass * threads]) : next.registers[copies ? 0 : pass]);
  }
  /// What `put` never writes, of `Tiles` that follow each other.
  template <int Tiles>
  static __device__ void clear(std::uint16_t* tiles, int n) {
    if (loaded_column() < n) return;
#pragma unroll
    for (int pass = 0; pass < Tiles * passes; ++pass) put(tiles, loaded_row(pass), float4{0, 0, 0, 0});
  }

  /// The first of this thread's columns. From a pointer there the others are at constant distances.
  static __device__ int column() { return lane() % 4 * 4; }
  /// x = this thread's numbers of its two of the rows m0 .. end_row - 1; of those beyond, the last's.
  template <class RowOf>
  static __device__ void fetch(two_rows& x, const RowOf& rows, int m0, int end_row, int n) {
    const int left = n - column();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float* row = rows(min(m0 + row_of(h), end_row - 1)) + column();
#pragma unroll
      for (int i = 0; i < Width / 16; ++i)
        if constexpr (Vectorised)
          x[i][h] = 16 * i < left ? load4_last(row + 16 * i) : float4{0, 0, 0, 0};
        else
          x[i][h] = load4(row, 16 * i, left, false);
    }
  }
  template <class Own>
  static __device__ void put(Own& to, const two_rows& x) {
#pragma unroll
    for (int i = 0; i < Width / 16; ++i)
      to.put(i, pack_bf16(x[i][0].x, x[i][0].y), pack_bf16(x[i][1].x, x[i][1].y),
             pack_bf16(x[i][0].z, x[i][0].w), pack_bf16(x[i][1].z, x[i][1].w));
  }
  /// row = factor times this thread's numbers of one of its two rows.
  static __device__ void store(float* row, const results& x, int half, float factor, int n) {
    row += column(), n -= column();
#pragma unroll
    for (int i = 0; i < Width / 16; ++i)
      store4(row, 16 * i, n, Vectorised,
             {x[2 * i][2 * half] * factor, x[2 * i][2 * half + 1] * factor, x[2 * i + 1][2 * half] * factor,
              x[2 * i + 1][2 * half + 1] * factor});
  }
};

template <int Width, bool Vectorised, int Rows>
struct forward_tile : query_tile<Width, 32, Vectorised, Rows> {
  using tile = query_tile<Width, 32, Vectorised, Rows>;
  /// At work on a multiprocessor at a time: one more of small ones, which leave queries to shared memory for it.
  static constexpr int keys = 32, blocks = tile::copies ? 5 : 256 / Rows;
  /// Whether registers have room for keys and values on their way at a time, and for queries.
  static constexpr bool roomy = Width <= 64, held = roomy && !tile::copies;
  /// Two tiles of keys and two of values: one of each is multiplied, one on its way.
  static constexpr int rows_at = 2 * 4 * tile::moving_numbers, next_at = rows_at + (held ? 0 : tile::row_bytes),
                       bytes = next_at + 2 * tile::next_bytes;
};
/// While a tile of keys and values is multiplied, the next are on their way, or first its keys, then its values.
/// `Whole`: heads are as wide as tiles, which saves asking where they end.
template <int Width, bool Vectorised, bool Whole, int Rows>
__global__ void __launch_bounds__(2 * Rows, forward_tile<Width, Vectorised, Rows>::blocks)
    forward_tensor_kernel(attention_arguments<float> a, int tiles) {
  using tile = forward_tile<Width, Vectorised, Rows>;
  constexpr int keys = tile::keys, numbers = tile::moving_numbers;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* k = reinterpret_cast<std::uint16_t*>(memory);
  std::uint16_t* v = k + 2 * numbers;

  // Late tiles see the most keys: they go first.
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part p(a, static_cast<int>(blockIdx.x) / tiles);
  const int n = Whole ? Width : p.width(), end_row = min(m0 + tile::rows, p.rows);
  const visited_keys visited(p, m0, end_row);
  const int end = visited.end;
  const float scale = p.scale() * log2_e;

  const auto keys_of = p.keys_of(a.k, a.past.keys), values_of = p.keys_of(a.v, a.past.values);
  typename tile::next_rows next_k(memory + tile::next_at), next_v(memory + tile::next_at + tile::next_bytes);
  typename tile::template own_rows<tile::held> queries(memory + tile::rows_at);
  {
    typename tile::two_rows rows;
    tile::fetch(next_k, keys_of, visited, visited.begin, n);
    tile::fetch(next_v, values_of, visited, visited.begin, n);
    tile::fetch(rows, p.queries(a.q), m0, end_row, n);
    __syncwarp();  // all loads are on their way before the first is waited for
    tile::put(queries, rows);
    tile::template clear<4>(k, n);
    tile::put(k, next_k, n), tile::put(v, next_v, n);
  }

  tensor_softmax<tile, part> softmax(p, visited, m0, end_row);
  typename tile::results out = {};
  int now = 0, other = numbers;
  for (int j0 = visited.begin; j0 < end; j0 += keys, now = numbers - now, other = numbers - other) {
    __syncthreads();
    const bool idle = softmax.idle(j0, keys), more = j0 + keys < end;
    typename tile::scores s;
    if (more) tile::fetch(next_k, keys_of, visited, j0 + keys, n);
    if (more && tile::roomy) tile::fetch(next_v, values_of, visited, j0 + keys, n);
    if (!idle) {
      tile::multiply_rows(s, queries, k + now);
      softmax.mask(s, j0, keys);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float keep = softmax.take(h, s, scale);
#pragma unroll
        for (auto& four : out) four[2 * h] *= keep, four[2 * h + 1] *= keep;
      }
    }
    if (more) tile::put(k + other, next_k, n);
    if (more && !tile::roomy) tile::fetch(next_v, values_of, visited, j0 + keys, n);
    if (!idle) tile::combine(out, s, v + now);
    if (more) tile::put(v + other, next_v, n);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int m = m0 + tile::row_of(h);
    const float inverse = softmax.inverse(h);
    if (m < end_row)
      tile::store(p.queries(a.y).of(m, visited.key(softmax.high[h]) - p.past), out, h, inverse, n);
  }
}

/// What a query has to say to keys: which it sees, its softmax p_s = 2^(score_s log2(e) / sqrt(width) - shift), and
/// mean = dy . y.
struct alignas(16) seen_from {
  seen_keys keys;
  float shift, mean;
};
/// What the backward pass keeps of queries between its two kernels: which keys they see and how, and q and dy in
/// bfloat16, `Width` numbers a row. Those of a part follow each other, up to whole blocks with some that see nothing.
struct kept_queries {
  seen_from* seen;
  std::uint16_t *q, *dy;
  int rows;  ///< of a part
  __device__ index row(int task, int m) const { return static_cast<index>(task) * rows + m; }
};

/// 16 warps of them are at work on a multiprocessor at a time, where heads are narrow.
template <int Width, bool Vectorised, int Rows>
struct backward_queries_tile : query_tile<Width, 32, Vectorised, Rows> {
  using tile = query_tile<Width, 32, Vectorised, Rows>;
  using tile::column, tile::row_of, tile::threads;
  static constexpr int keys = 32, blocks = (Width <= 64 ? 256 : 128) / Rows;
  static constexpr int rows_at = 2 * 4 * tile::moving_numbers, next_at = rows_at + 2 * tile::row_bytes,
                       bytes = next_at + 2 * tile::next_bytes;
  /// What `fetch` reads, of rows as wide as the tile, by way of the memory of both `own_rows` before these are put
  /// there: the other matrices fill the registers.
  template <class RowOf>
  static __device__ void copy(void* own, const RowOf& rows, int m0, int end_row) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float* row = rows(min(m0 + row_of(h), end_row - 1)) + column();
#pragma unroll
      for (int i = 0; i < Width / 16; ++i)
        copy_async_16(static_cast<uint4*>(own) + (2 * i + h) * threads + threadIdx.x, row + 16 * i);
    }
    commit_copies();
  }
  static __device__ void take_copied(typename tile::two_rows& x, const void* own) {
    wait_for_copies<0>();
#pragma unroll
    for (int i = 0; i < Width / 16; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        x[i][h] = tile::as_floats(static_cast<const uint4*>(own)[(2 * i + h) * threads + threadIdx.x]);
  }
  /// kept = the block's rows. An intrinsic: of an assignment the compiler makes two accesses.
  static __device__ void keep(std::uint16_t* kept, const typename tile::two_rows& x) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      auto* to = reinterpret_cast<uint2*>(kept + row_of(h) * Width + column());
#pragma unroll
      for (int i = 0; i < Width / 16; ++i)
        __stcg(to + 4 * i, uint2{pack_bf16(x[i][h].x, x[i][h].y), pack_bf16(x[i][h].z, x[i][h].w)});
    }
  }
  static __device__ void keep(seen_from* kept, const seen_from& x) {
    auto* to = reinterpret_cast<int4*>(kept);
    __stcg(to, int4{x.keys.low, x.keys.sinks_end, x.keys.recent, x.keys.high});
    __stcg(to + 1, int4{__float_as_int(x.shift), __float_as_int(x.mean), 0, 0});
  }
};
/// dq of a block's queries, and what the other kernel needs to know of them: like forward, with p (dy . v - dy . y)
/// in place of p and keys in place of values, one pass over the keys.
template <int Width, bool Vectorised, bool Whole, int Rows>
__global__ void __launch_bounds__(2 * Rows, backward_queries_tile<Width, Vectorised, Rows>::blocks)
    backward_queries_tensor_kernel(attention_backward_arguments<float> g, int tiles, kept_queries kept) {
  using tile = backward_queries_tile<Width, Vectorised, Rows>;
  constexpr int keys = tile::keys, numbers = tile::moving_numbers;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* k = reinterpret_cast<std::uint16_t*>(memory);
  std::uint16_t* v = k + 2 * numbers;
  const auto& a = g.forward;
  const int task = static_cast<int>(blockIdx.x) / tiles;
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part p(a, task);
  const int n = Whole ? Width : p.width(), end_row = min(m0 + tile::rows, p.rows);
  const visited_keys visited(p, m0, end_row);
  const int end = visited.end;
  const float score_scale = p.scale(), scale = score_scale * log2_e;

  typename tile::next_rows next_k(memory + tile::next_at), next_v(memory + tile::next_at + tile::next_bytes);
  const auto keys_of = p.keys_of(a.k, a.past.keys), values_of = p.keys_of(a.v, a.past.values);
  typename tile::template own_rows<false> queries(memory + tile::rows_at),
      gradients(memory + tile::rows_at + tile::row_bytes);
  float mean[2] = {0, 0};
  {
    typename tile::two_rows q, dy, y;
    tile::fetch(next_k, keys_of, visited, visited.begin, n);
    tile::fetch(next_v, values_of, visited, visited.begin, n);
    if constexpr (Whole) tile::copy(memory + tile::rows_at, p.queries(a.y), m0, end_row);
    tile::fetch(q, p.queries(a.q), m0, end_row, n);
    tile::fetch(dy, p.queries(g.dy), m0, end_row, n);
    if constexpr (!Whole) tile::fetch(y, p.queries(a.y), m0, end_row, n);
    __syncwarp();  // as above
    if constexpr (Whole) tile::take_copied(y, memory + tile::rows_at);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < Width / 16; ++i) mean[h] = add_dot(mean[h], dy[i][h], y[i][h]);
      mean[h] = row_sum(mean[h]);
    }
    tile::put(queries, q), tile::put(gradients, dy);
    tile::template clear<4>(k, n);
    tile::put(k, next_k, n), tile::put(v, next_v, n);
    tile::keep(kept.q + kept.row(task, m0) * Width, q);
    tile::keep(kept.dy + kept.row(task, m0) * Width, dy);
  }

  tensor_softmax<tile, part> softmax(p, visited, m0, end_row);
  typename tile::results dq = {};
  int now = 0, other = numbers;
  for (int j0 = visited.begin; j0 < end; j0 += keys, now = numbers - now, other = numbers - other) {
    __syncthreads();
    const bool more = j0 + keys < end;
    if (more) {
      tile::fetch(next_k, keys_of, visited, j0 + keys, n);
      tile::fetch(next_v, values_of, visited, j0 + keys, n);
    }
    if (!softmax.idle(j0, keys)) {
      typename tile::scores s, dp;
      tile::multiply_rows(s, queries, k + now);
      tile::multiply_rows(dp, gradients, v + now);
      softmax.mask(s, j0, keys);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float keep = softmax.take(h, s, scale);
#pragma unroll
        for (auto& four : dq) four[2 * h] *= keep, four[2 * h + 1] *= keep;
#pragma unroll
        for (int c = 0; c < keys / 8; ++c)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) s[c][e] *= dp[c][e] - mean[h];
      }
      tile::combine(dq, s, k + now);
    }
    if (more) tile::put(k + other, next_k, n), tile::put(v + other, next_v, n);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int m = m0 + tile::row_of(h);
    const int first = visited.key(softmax.low[h]), last = visited.key(softmax.high[h]);
    const float sum = row_sum(softmax.sum[h]);
    if (tile::lane() % 4 == 0)
      tile::keep(kept.seen + kept.row(task, m), {m < end_row ? p.seen(first, last) : no_keys,
                                                 fmaf(softmax.largest[h], scale, log2_approx(sum)), mean[h]});
    if (m < end_row) tile::store(p.queries(g.dq).of(m, last - p.past), dq, h, score_scale / sum, n);
  }
}

/// 64 keys and values stay, and a ring of tiles of queries is on its way to shared memory.
template <int Width, bool Vectorised>
struct backward_keys_tile : tensor_tile<Width, Width <= 64 ? 32 : 16, 64> {
  using tile = tensor_tile<Width, Width <= 64 ? 32 : 16, 64>;
  using tile::column_of, tile::pitch, tile::threads;
  using typename tile::results;
  static constexpr int moving = Width <= 64 ? 32 : 16, warps = threads / 32, blocks = Width <= 64 ? 3 : 2;
  static constexpr bool held = Width <= 64;
  using rows_held = typename tile::template own_rows<held>;
  struct place {
    std::uint16_t q[tile::moving_numbers], dy[tile::moving_numbers];
    seen_from seen[moving];
  };
  static constexpr int rows_at = warps * static_cast<int>(sizeof(place)),
                       bytes = rows_at + (held ? 0 : 2 * tile::row_bytes);
  /// to <- the queries from `row` of those kept on, as thread `i` of `Threads` does it.
  template <int Threads>
  static __device__ void fetch(place& to, const kept_queries& kept, index row, int i) {
    constexpr int pieces = Width / 8, halves = static_cast<int>(sizeof to.seen) / 16;
    static_assert(moving * pieces % Threads == 0);
#pragma unroll
    for (int first = 0; first < moving * pieces; first += Threads) {
      const int piece = first + i, at = piece / pieces * pitch + piece % pieces * 8;
      copy_async_16(to.q + at, kept.q + row * Width + piece * 8);
      copy_async_16(to.dy + at, kept.dy + row * Width + piece * 8);
    }
#pragma unroll
    for (int first = 0; first < halves; first += Threads)
      if (const int half = first + i; half < halves)
        copy_async_16(reinterpret_cast<uint4*>(to.seen) + half,
                      reinterpret_cast<const uint4*>(kept.seen + row) + half);
  }
  /// Columns c and c + 1 of a row of n.
  static __device__ std::uint32_t pair(const float* row, int c, int n) {
    float2 x{0, 0};
    if constexpr (Vectorised) {
      if (c < n) x = load2(row + c);
    } else {
      if (c < n) x.x = row[c];
      if (c + 1 < n) x.y = row[c + 1];
    }
    return pack_bf16(x.x, x.y);
  }
  /// to = the thread's pieces of two rows
  static __device__ void hold(rows_held& to, const float* first, const float* second, int n) {
    const int column = column_of(0, 0);
    first += column, second += column, n -= column;
#pragma unroll
    for (int i = 0; i < Width / 16; ++i) {
      const int c = 16 * i;
      to.put(i, pair(first, c, n), pair(second, c, n), pair(first, c + 8, n), pair(second, c + 8, n));
    }
  }
  /// row = factor times this thread's numbers of one of its two rows
  static __device__ void store(float* row, const results& x, int half, float factor, int n) {
    row += column_of(0, 0), n -= column_of(0, 0);
#pragma unroll
    for (int i = 0; i < Width / 8; ++i) {
      const int c = 8 * i;
      const float2 pair{x[i][2 * half] * factor, x[i][2 * half + 1] * factor};
      if constexpr (Vectorised) {
        if (c < n) *reinterpret_cast<float2*>(row + c) = pair;
      } else {
        if (c < n) row[c] = pair.x;
        if (c + 1 < n) row[c + 1] = pair.y;
      }
    }
  }

  /// Adds what the queries from m on give to dk and dv of the thread's keys; `scale`: of scores, in exponents of 2.
  static __device__ void take(results& dk, results& dv, const rows_held& k, const rows_held& v, const place& of,
                              const part& p, const int (&key)[2], int m, float scale) {
    typename tile::scores s, dp;
    tile::multiply_rows(s, k, of.q);
    tile::multiply_rows(dp, v, of.dy);
#pragma unroll
    for (int c = 0; c < moving / 8; ++c)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const seen_from& from = of.seen[column_of(c, e)];
        const float shift = from.shift, mean = from.mean;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          s[c][2 * h + e] = exp2_approx(fmaf(s[c][2 * h + e], scale, -shift));
          dp[c][2 * h + e] -= mean;
        }
      }
    const bool all = m + moving <= p.rows && of.seen[0].keys.high >= p.past + key[1] &&
                     of.seen[moving - 1].keys.recent <= p.past + key[0];
    if (!__all_sync(~0u, all))
#pragma unroll
      for (int c = 0; c < moving / 8; ++c)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const seen_keys keys = of.seen[column_of(c, e)].keys;
#pragma unroll
          for (int h = 0; h < 2; ++h)
            if (!keys.sees(p.past + key[h])) s[c][2 * h + e] = 0;
        }
#pragma unroll
    for (int c = 0; c < moving / 8; ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e) dp[c][e] *= s[c][e];
    tile::combine(dv, s, of.dy);
    tile::combine(dk, dp, of.q);
  }

  /// A warp's results in a place of the ring, rows `pitch` apart.
  static __device__ float* sums_at(place& at) {
    static_assert(16 * pitch * sizeof(float) <= sizeof(place));
    return reinterpret_cast<float*>(&at);
  }
  static __device__ void keep(place& at, const results& x) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int i = 0; i < Width / 8; ++i) {
        float* to = sums_at(at) + (tile::lane() / 4 + 8 * h) * pitch + column_of(i, 0);
        *reinterpret_cast<float2*>(to) = {x[i][2 * h], x[i][2 * h + 1]};
      }
  }
  /// rows(r) += factor times the results that the warps keep, in the order of their `shares` of the queries: of
  /// `sixteens` times 16 keys from `first` on, as far as `end`.
  template <class Rows>
  static __device__ void add_shares(const Rows& rows, place* ring, int first, int end, int sixteens, int shares,
                                    float factor, int n) {
    constexpr int vectors = Width / 4;
    for (int i = static_cast<int>(threadIdx.x); i < 16 * sixteens * vectors; i += threads) {
      const int r = i / vectors, c = i % vectors * 4, to = first + r;
      if (to >= end || c >= n) continue;
      float4 sum = load4(rows(to), c, n, Vectorised);
      for (int k = 0; k < shares; ++k)
        sum = add_product(sum, factor, load4(sums_at(ring[k * sixteens + r / 16]) + r % 16 * pitch + c));
      store4(rows(to), c, n, Vectorised, sum);
    }
  }
};
/// dk and dv of 64 of this call's keys, over all queries that see one of them. First over those whose window reaches
/// back to the keys: all warps take the same queries, each for its own keys. Those after them are of one document,
/// and see its sinks among the keys: the warps share these queries, and their sums are added in the order of warps.
template <int Width, bool Vectorised, bool Whole>
__global__ void __launch_bounds__(128, backward_keys_tile<Width, Vectorised>::blocks)
    backward_keys_tensor_kernel(attention_backward_arguments<float> g, int tasks, kept_queries kept) {
  using tile = backward_keys_tile<Width, Vectorised>;
  constexpr int queries = tile::moving, places = tile::warps, ahead = places - 1;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* ring = reinterpret_cast<typename tile::place*>(memory);
  const auto& a = g.forward;
  // Early keys are seen the most: they go first.
  const int task = static_cast<int>(blockIdx.x) % tasks, s0 = static_cast<int>(blockIdx.x) / tasks * tile::rows;
  const part p(a, task);
  const int n = Whole ? Width : p.width(), time = static_cast<int>(a.seq.time),
            end_key = min(s0 + tile::rows, time);
  const int begin = p.past + s0, end = p.past + end_key;  // counted from the oldest key
  const int near = min(time, end_key + p.window - 1) * p.group;
  const float score_scale = p.scale(), scale = score_scale * log2_e;

  int m0 = s0 * p.group;
  const auto fetch = [&](int m, int place) {
    if (m < near)
      tile::template fetch<tile::threads>(ring[place], kept, kept.row(task, m), static_cast<int>(threadIdx.x));
    commit_copies();
  };
#pragma unroll
  for (int i = 0; i < ahead; ++i) fetch(m0 + i * queries, i);

  // Which of the block's keys this thread's two rows are.
  int key[2];
  typename tile::rows_held k(memory + tile::rows_at), v(memory + tile::rows_at + tile::row_bytes);
  typename tile::results dk, dv;
  const auto start = [&](int sixteen) {
#pragma unroll
    for (int h = 0; h < 2; ++h) key[h] = s0 + 16 * (sixteen - tile::warp()) + tile::row_of(h);
    const int first = min(key[0], end_key - 1), second = min(key[1], end_key - 1);
    tile::hold(k, p.now(a.k)(first), p.now(a.k)(second), n);
    tile::hold(v, p.now(a.v)(first), p.now(a.v)(second), n);
#pragma unroll
    for (int i = 0; i < Width / 8; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) dk[i][e] = dv[i][e] = 0;
  };
  start(tile::warp());
  const auto take = [&](const typename tile::place& of, int m) {
    tile::take(dk, dv, k, v, of, p, key, m, scale);
  };

  const int first_key = begin + 16 * tile::warp();
  for (int place = 0; m0 < near; m0 += queries, place = (place + 1) % places) {
    wait_for_copies<ahead - 1>();
    __syncthreads();
    fetch(m0 + ahead * queries, (place + ahead) % places);
    const auto& now = ring[place];
    const seen_keys first = now.seen[0].keys, last = now.seen[min(queries, p.rows - m0) - 1].keys;
    if (first.low >= end) break;
    if (last.high >= first_key && first.low < first_key + 16 &&
        (first.recent < first_key + 16 || last.sinks_end > first_key))
      take(now, m0);
  }
  wait_for_copies<0>();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (key[h] >= end_key) continue;
    tile::store(p.now(g.dk)(key[h]), dk, h, score_scale, n);
    tile::store(p.now(g.dv)(key[h]), dv, h, 1, n);
  }

  if (m0 >= p.rows) return;
  const seen_keys far = p.seen(m0);
  const int first_sink = max(far.low, begin) - begin, last_sink = min(far.sinks_end, end) - 1 - begin;
  if (first_sink > last_sink) return;
  const int sixteens = last_sink / 16 - first_sink / 16 + 1, shares = tile::warps / sixteens;
  const int sixteen = first_sink / 16 + tile::warp() % sixteens, share = tile::warp() / sixteens;
  start(sixteen);
  __syncthreads();
  auto& own = ring[tile::warp()];
  for (int m = m0 + share * queries; share < shares && m < p.rows; m += shares * queries) {
    tile::template fetch<32>(own, kept, kept.row(task, m), tile::lane());
    commit_copies();
    wait_for_copies<0>();
    __syncwarp();
    if (own.seen[0].keys.low != far.low) break;
    take(own, m);
    __syncwarp();
  }
  const auto add = [&](const auto& rows, const typename tile::results& x, float factor) {
    __syncthreads();
    tile::keep(own, x);
    __syncthreads();
    tile::add_shares(rows, ring, s0 + first_sink / 16 * 16, end_key, sixteens, shares, factor, n);
  };
  add(p.now(g.dk), dk, score_scale);
  add(p.now(g.dv), dv, 1);
}

/// run<Vectorised, Whole, Rows>() by how heads lie in memory and how far they look. Blocks of 64 queries visit less
/// beyond a short window, and more of them are at work at a time, so that some load while others multiply; without a
/// window, larger blocks load the same keys less often.
template <int Width, class Arguments, class Run>
void by_layout(const Arguments& arguments, const attention_shape& shape, const Run& run) {
  if (!is_vectorised(arguments)) return run.template operator()<false, false, 128>();
  if (shape.width < Width) return run.template operator()<true, false, 128>();
  if constexpr (Width <= 64)
    if (shape.window > 0 && shape.window <= 128) return run.template operator()<true, true, 64>();
  run.template operator()<true, true, 128>();
}
template <int Width>
void forward_tensor(cuda_base& device, const attention_arguments<float>& a) {
  by_layout<Width>(a, a.shape, [&]<bool Vectorised, bool Whole, int Rows>() {
    using tile = forward_tile<Width, Vectorised, Rows>;
    const int tiles = row_tiles(a, tile::rows);
    launch(device, "attention", {blocks(a, tiles), tile::threads, tile::bytes},
           forward_tensor_kernel<Width, Vectorised, Whole, Rows>, a, tiles);
  });
}
template <int Width>
void backward_tensor(cuda_base& device, const attention_backward_arguments<float>& g) {
  const auto& a = g.forward;
  by_layout<Width>(g, a.shape, [&]<bool Vectorised, bool Whole, int Rows>() {
    using by_queries = backward_queries_tile<Width, Vectorised, Rows>;
    using by_keys = backward_keys_tile<Width, Vectorised>;
    const int tiles = row_tiles(a, by_queries::rows), tasks = static_cast<int>(a.seq.batch * a.shape.kv_heads);
    const index rows = index{tiles} * by_queries::rows, all = rows * tasks;
    auto seen = device.template scratch<seen_from>(all);
    auto numbers = device.template scratch<std::uint16_t>(2 * all * Width);
    const kept_queries kept{seen.data(), numbers.data(), numbers.data() + all * Width, static_cast<int>(rows)};
    launch(device, "attention's gradient", {blocks(a, tiles), by_queries::threads, by_queries::bytes},
           backward_queries_tensor_kernel<Width, Vectorised, Whole, Rows>, g, tiles, kept);
    launch(
        device, "attention's gradient",
        {blocks(a, static_cast<int>(blocks_for(a.seq.time, by_keys::rows))), by_keys::threads, by_keys::bytes},
        backward_keys_tensor_kernel<Width, Vectorised, Whole>, g, tasks, kept);
  });
}

}  // namespace distil_xlstm::device::detail::flash
