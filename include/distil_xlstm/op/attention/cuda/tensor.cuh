#pragma once

#include <algorithm>
#include <cstdint>

#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/op/attention/cuda/parts.cuh>
#include <distil_xlstm/op/attention/cuda/warp.cuh>

// Attention on the tensor cores: bfloat16 operands, float sums.
namespace distil_xlstm::device::detail::flash {

/// A warp's tile where operands lie in memory as float: they are rounded on their way to shared memory, the
/// block's rows, which stay, and the moving tiles.
template <int Width, int Moving, bool Vectorised, int Rows = 128>
struct tensor_tile : warp_tile<Width, Moving, Rows> {
  using base = warp_tile<Width, Moving, Rows>;
  using base::column_of, base::lane, base::pitch, base::rows, base::threads, base::warp;
  using typename base::piece, typename base::results, typename base::scores;
  static constexpr int vectors_a_row = Width / 4, rows_a_pass = threads / vectors_a_row;
  static constexpr int passes = Moving / rows_a_pass;
  static constexpr int row_numbers = rows * pitch, moving_numbers = Moving * pitch;
  /// Whether rows may stay in registers, where there is nothing else to hold; else a piece at a time is read from
  /// shared memory.
  static constexpr bool held = Width <= 64;
  using rows_held = piece[held ? Width / 16 : 1];
  using next_rows = float4[passes];

  static __device__ int loaded_row(int pass) {
    return static_cast<int>(threadIdx.x) / vectors_a_row + pass * rows_a_pass;
  }
  static __device__ int loaded_column() { return static_cast<int>(threadIdx.x) % vectors_a_row * 4; }
  static __device__ void put(std::uint16_t* tile, int row, float4 x) {
    store4(reinterpret_cast<bf16*>(tile + row * pitch + loaded_column()), x);
  }
  /// next = row(i), for i < count; of those beyond, whose numbers do not matter, some other row. `Moving` tiles
  /// are zero from column n on, see `clear`.
  template <class Row>
  static __device__ void fetch(next_rows& next, int count, int n, const Row& row) {
    if (loaded_column() >= n) return;
#pragma unroll
    for (int pass = 0; pass < passes; ++pass)
      next[pass] = load4(row(min(loaded_row(pass), count - 1)), loaded_column(), n, Vectorised);
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
        x[i] = r < count ? load4(row(r), loaded_column(), n, Vectorised) : float4{0, 0, 0, 0};
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
      for (int i = 0; i < Width / 16; ++i) load_matrices<false>(r[i], shared_address(mine(tile) + 16 * i));
  }
  /// s = a bᵀ, a the warp's rows of `tile`.
  static __device__ void multiply_rows(scores& s, const std::uint16_t* tile, const std::uint16_t* b) {
    piece read;
    const auto piece_of = [&](int i) -> const piece& {
      load_matrices<false>(read, shared_address(mine(tile) + 16 * i));
      return read;
    };
    base::multiply_rows(s, piece_of, b);
  }
  static __device__ void multiply_rows(scores& s, const rows_held& a, const std::uint16_t* tile,
                                       const std::uint16_t* b) {
    if constexpr (held)
      base::multiply_rows(
          s, [&](int i) -> const piece& { return a[i]; }, b);
    else
      multiply_rows(s, tile, b);
  }
  /// row = factor times this thread's numbers of one of its two rows, or where `Add`, row += as much.
  template <bool Add = false>
  static __device__ void store(float* row, const results& x, int half, float factor, int n) {
#pragma unroll
    for (int i = 0; i < Width / 8; ++i) {
      const int c = column_of(i, 0);
      float2 pair{x[i][2 * half] * factor, x[i][2 * half + 1] * factor};
      if (Vectorised) {
        if (c >= n) continue;
        auto& there = *reinterpret_cast<float2*>(row + c);
        if (Add) pair.x += there.x, pair.y += there.y;
        there = pair;
      } else {
        if (c < n) row[c] = Add ? row[c] + pair.x : pair.x;
        if (c + 1 < n) row[c + 1] = Add ? row[c + 1] + pair.y : pair.y;
      }
    }
  }
};

template <int Width, bool Vectorised>
struct forward_tile : tensor_tile<Width, Width <= 64 ? 64 : 32, Vectorised> {
  using tile = tensor_tile<Width, Width <= 64 ? 64 : 32, Vectorised>;
  static constexpr int keys = Width <= 64 ? 64 : 32;
  /// Where queries are held in registers, keys and values take their place.
  static constexpr int keys_at = tile::held ? 0 : tile::row_numbers;
  static constexpr int bytes = 2 * std::max(tile::row_numbers, keys_at + 2 * tile::moving_numbers);
};
/// While a tile of keys is multiplied, its values are on their way, and while these are, the next keys.
template <int Width, bool Vectorised>
__global__ void __launch_bounds__(256, 2) forward_tensor_kernel(attention_arguments<float> a, int tiles) {
  using tile = forward_tile<Width, Vectorised>;
  constexpr int keys = tile::keys;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* q = reinterpret_cast<std::uint16_t*>(memory);
  std::uint16_t *k = q + tile::keys_at, *v = k + tile::moving_numbers;

  // Late tiles see the most keys: they go first.
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part p(a, static_cast<int>(blockIdx.x) / tiles);
  const int n = p.width(), end_row = min(m0 + tile::rows, p.rows);
  const visited_keys visited(p, m0, end_row);
  const int end = visited.end;
  const float scale = p.scale() * log2_e;

  typename tile::next_rows next;
  const auto keys_of = p.keys_of(a.k, a.past.keys), values_of = p.keys_of(a.v, a.past.values);
  const auto fetch = [&](const key_rows& rows, int j0) {
    if (visited.key(j0) >= p.past)
      tile::fetch(next, end - j0, n, [&](int r) { return rows.of_now(visited.key(j0 + r)); });
    else
      tile::fetch(next, end - j0, n, [&](int r) { return rows(visited.key(j0 + r)); });
  };
  tile::load(q, end_row - m0, n, [rows = p.queries(a.q), m0](int r) { return rows(m0 + r); });
  fetch(keys_of, visited.begin);
  __syncthreads();
  typename tile::rows_held queries;
  tile::hold(queries, q);
  if (tile::held) __syncthreads();
  tile::clear(k, n), tile::clear(v, n);
  tile::put(k, next, n);
  __syncthreads();

  tensor_softmax<tile, part> softmax(p, visited, m0, end_row);
  typename tile::results out = {};
  for (int j0 = visited.begin, following; j0 < end; j0 = following) {
    following = j0 + keys;
    const bool idle = softmax.idle(j0, keys), more = following < end;
    typename tile::scores s;
    fetch(values_of, j0);
    if (!idle) tile::multiply_rows(s, queries, q, k);
    tile::put(v, next, n);
    __syncthreads();
    if (more) fetch(keys_of, following);
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

/// What a query has to say to keys: its softmax, and which it sees.
struct seen_from {
  row_sums sums;
  seen_keys keys;
};
/// What the backward pass keeps of queries between its two kernels: which keys they see and how, and q and dy in
/// bfloat16, `Width` numbers a row. Those of a part follow each other, up to whole blocks with some that see nothing.
struct kept_queries {
  seen_from* seen;
  std::uint16_t *q, *dy;
  int rows;  ///< of a part
  __device__ index row(int task, int m) const { return static_cast<index>(task) * rows + m; }
};

/// Two blocks of them are at work on a multiprocessor at a time, where heads are narrow.
template <int Width, bool Vectorised>
struct backward_queries_tile : tensor_tile<Width, 32, Vectorised> {
  using tile = tensor_tile<Width, 32, Vectorised>;
  static constexpr int moving = 32, blocks = Width <= 64 ? 2 : 1;
  static constexpr int bytes = 2 * (2 * tile::row_numbers + 2 * tile::moving_numbers) + tile::rows * 4;
  /// kept = the block's rows
  static __device__ void keep(std::uint16_t* kept, const std::uint16_t* rows) {
    constexpr int pieces = Width / 8;
    for (int i = static_cast<int>(threadIdx.x); i < tile::rows * pieces; i += tile::threads)
      *reinterpret_cast<uint4*>(kept + i * 8) =
          *reinterpret_cast<const uint4*>(rows + i / pieces * tile::pitch + i % pieces * 8);
  }
};
/// dq of 128 queries, and what the other kernel needs to know of them: like forward, with p (dy . v - dy . y) in place
/// of p and keys in place of values, one pass over the keys.
template <int Width, bool Vectorised>
__global__ void __launch_bounds__(256, backward_queries_tile<Width, Vectorised>::blocks)
    backward_queries_tensor_kernel(attention_backward_arguments<float> g, int tiles, kept_queries kept) {
  using tile = backward_queries_tile<Width, Vectorised>;
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
  const visited_keys visited(p, m0, end_row);
  const int end = visited.end;
  const float scale = p.scale() * log2_e;

  tile::load(q, end_row - m0, n, [rows = p.queries(a.q), m0](int r) { return rows(m0 + r); });
  tile::load(
      dy, end_row - m0, n, [rows = p.queries(g.dy), m0](int r) { return rows(m0 + r); },
      [&](int r, float4 x) {
        float mean = 0;
        if (m0 + r < end_row) {
          const float4 y = load4(p.queries(a.y)(m0 + r), tile::loaded_column(), n, Vectorised);
          mean = dot(x, y);
        }
        mean = warp_sum<tile::vectors_a_row>(mean);
        if (tile::loaded_column() == 0) means[r] = mean;
      });
  typename tile::next_rows next_k, next_v;
  const auto keys_of = p.keys_of(a.k, a.past.keys), values_of = p.keys_of(a.v, a.past.values);
  const auto fetch = [&](typename tile::next_rows& next, const key_rows& rows, int j0) {
    if (visited.key(j0) >= p.past)
      tile::fetch(next, end - j0, n, [&](int r) { return rows.of_now(visited.key(j0 + r)); });
    else
      tile::fetch(next, end - j0, n, [&](int r) { return rows(visited.key(j0 + r)); });
  };
  fetch(next_k, keys_of, visited.begin);
  fetch(next_v, values_of, visited.begin);
  tile::clear(k, n), tile::clear(v, n);
  __syncthreads();
  tile::keep(kept.q + kept.row(task, m0) * Width, q);
  tile::keep(kept.dy + kept.row(task, m0) * Width, dy);
  const float mean[2] = {means[tile::row_of(0)], means[tile::row_of(1)]};
  tensor_softmax<tile, part> softmax(p, visited, m0, end_row);
  typename tile::results dq = {};
  for (int j0 = visited.begin, following; j0 < end; j0 = following) {
    following = j0 + keys;
    tile::put(k, next_k, n);
    tile::put(v, next_v, n);
    __syncthreads();
    if (following < end) {
      fetch(next_k, keys_of, following);
      fetch(next_v, values_of, following);
    }
    if (!softmax.idle(j0, keys)) {
      typename tile::scores s, dp;
      tile::multiply_rows(s, q, k);
      tile::multiply_rows(dp, dy, v);
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
      tile::combine(dq, s, k);
    }
    __syncthreads();
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int m = m0 + tile::row_of(h);
    const float inverse = softmax.inverse(h);
    if (tile::lane() % 4 == 0)
      kept.seen[kept.row(task, m)] = m < end_row
                                         ? seen_from{{softmax.largest[h], inverse, mean[h], 0}, p.seen(m)}
                                         : seen_from{{0, 0, 0, 0}, no_keys};
    if (m < end_row) tile::store(p.queries(g.dq)(m), dq, h, inverse * p.scale(), n);
  }
}

/// 64 keys and values in shared memory, and a ring of tiles of queries on their way there.
template <int Width, bool Vectorised>
struct backward_keys_tile : tensor_tile<Width, Width <= 64 ? 32 : 16, Vectorised, 64> {
  using tile = tensor_tile<Width, Width <= 64 ? 32 : 16, Vectorised, 64>;
  using tile::pitch, tile::threads;
  static constexpr int moving = Width <= 64 ? 32 : 16, warps = threads / 32, blocks = Width <= 64 ? 3 : 2;
  struct place {
    std::uint16_t q[tile::moving_numbers], dy[tile::moving_numbers];
    seen_from seen[moving];
  };
  static constexpr int bytes = 2 * 2 * tile::row_numbers + warps * static_cast<int>(sizeof(place));
  /// to <- the queries from `row` of those kept on, as thread `i` of `Threads` does it.
  template <int Threads>
  static __device__ void fetch(place& to, const kept_queries& kept, index row, int i) {
    constexpr int pieces = Width / 8;
#pragma unroll
    for (int piece = i; piece < moving * pieces; piece += Threads) {
      const int at = piece / pieces * pitch + piece % pieces * 8;
      copy_async_16(to.q + at, kept.q + row * Width + piece * 8);
      copy_async_16(to.dy + at, kept.dy + row * Width + piece * 8);
    }
    constexpr int halves = static_cast<int>(sizeof to.seen) / 16;
    for (int half = i; half < halves; half += Threads)
      copy_async_16(reinterpret_cast<uint4*>(to.seen) + half,
                    reinterpret_cast<const uint4*>(kept.seen + row) + half);
  }
};
/// dk and dv of 64 of this call's keys, over all queries that see one of them. First over those whose window reaches
/// back to the keys: all warps take the same queries, each for its own keys. Those after them are of one document,
/// and see its sinks among the keys: the warps share these queries, and their sums are added in the order of warps.
template <int Width, bool Vectorised>
__global__ void __launch_bounds__(128, backward_keys_tile<Width, Vectorised>::blocks)
    backward_keys_tensor_kernel(attention_backward_arguments<float> g, int tasks, kept_queries kept) {
  using tile = backward_keys_tile<Width, Vectorised>;
  constexpr int queries = tile::moving, places = tile::warps, ahead = places - 1;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* k = reinterpret_cast<std::uint16_t*>(memory);
  std::uint16_t* v = k + tile::row_numbers;
  auto* ring = reinterpret_cast<typename tile::place*>(v + tile::row_numbers);
  const auto& a = g.forward;
  // Early keys are seen the most: they go first.
  const int task = static_cast<int>(blockIdx.x) % tasks, s0 = static_cast<int>(blockIdx.x) / tasks * tile::rows;
  const part p(a, task);
  const int n = p.width(), time = static_cast<int>(a.seq.time), end_key = min(s0 + tile::rows, time);
  const int begin = p.past + s0, end = p.past + end_key;  // counted from the oldest key
  const int near = min(time, end_key + p.window - 1) * p.group;
  const float scale = p.scale() * log2_e;

  int m0 = s0 * p.group;
  const auto fetch = [&](int m, int place) {
    if (m < near)
      tile::template fetch<tile::threads>(ring[place], kept, kept.row(task, m), static_cast<int>(threadIdx.x));
    commit_copies();
  };
#pragma unroll
  for (int i = 0; i < ahead; ++i) fetch(m0 + i * queries, i);
  tile::load(k, end_key - s0, n, [rows = p.now(a.k), s0](int r) { return rows(s0 + r); });
  tile::load(v, end_key - s0, n, [rows = p.now(a.v), s0](int r) { return rows(s0 + r); });

  typename tile::results dk = {}, dv = {};
  // Adds what these queries give to the block's keys from 16 * sixteen on, 16 of them.
  const auto take = [&](const typename tile::place& of, int sixteen) {
    const int shift = 16 * (sixteen - tile::warp());
    typename tile::scores s, dp;
    tile::multiply_rows(s, k + shift * tile::pitch, of.q);
    tile::multiply_rows(dp, v + shift * tile::pitch, of.dy);
#pragma unroll
    for (int c = 0; c < queries / 8; ++c)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const seen_from from = of.seen[tile::column_of(c, e)];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float& score = s[c][2 * h + e];
          const float weight = exp2_approx((score - from.sums.largest) * scale) * from.sums.inverse;
          const bool sees = from.keys.sees(begin + shift + tile::row_of(h));
          score = sees ? weight : 0.f;
          dp[c][2 * h + e] = sees ? weight * (dp[c][2 * h + e] - from.sums.mean) : 0.f;
        }
      }
    tile::combine(dv, s, of.dy);
    tile::combine(dk, dp, of.q);
  };
  const auto store = [&]<bool Add>(int sixteen) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int s = s0 + 16 * (sixteen - tile::warp()) + tile::row_of(h);
      if (s >= end_key) continue;
      tile::template store<Add>(p.now(g.dk)(s), dk, h, p.scale(), n);
      tile::template store<Add>(p.now(g.dv)(s), dv, h, 1, n);
    }
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
      take(now, tile::warp());
  }
  wait_for_copies<0>();
  store.template operator()<false>(tile::warp());

  if (m0 >= p.rows) return;
  const seen_keys far = p.seen(m0);
  const int first_sink = max(far.low, begin) - begin, last_sink = min(far.sinks_end, end) - 1 - begin;
  if (first_sink > last_sink) return;
  const int sixteens = last_sink / 16 - first_sink / 16 + 1, shares = tile::warps / sixteens;
  const int sixteen = first_sink / 16 + tile::warp() % sixteens, share = tile::warp() / sixteens;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Width / 8; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) dk[i][e] = dv[i][e] = 0;
  auto& own = ring[tile::warp()];
  for (int m = m0 + share * queries; share < shares && m < p.rows; m += shares * queries) {
    tile::template fetch<32>(own, kept, kept.row(task, m), tile::lane());
    commit_copies();
    wait_for_copies<0>();
    __syncwarp();
    if (own.seen[0].keys.low != far.low) break;
    take(own, sixteen);
    __syncwarp();
  }
  for (int turn = 0; turn < shares; ++turn) {
    __syncthreads();
    if (turn == share) store.template operator()<true>(sixteen);
  }
}

template <int Width, bool Vectorised>
void forward_tensor(cuda_base& device, const attention_arguments<float>& a) {
  using tile = forward_tile<Width, Vectorised>;
  const int tiles = row_tiles(a, tile::rows);
  launch(device, "attention", {blocks(a, tiles), tile::threads, tile::bytes},
         forward_tensor_kernel<Width, Vectorised>, a, tiles);
}
template <int Width>
void forward_tensor(cuda_base& device, const attention_arguments<float>& a) {
  is_vectorised(a) ? forward_tensor<Width, true>(device, a) : forward_tensor<Width, false>(device, a);
}
template <int Width, bool Vectorised>
void backward_tensor(cuda_base& device, const attention_backward_arguments<float>& g) {
  using by_queries = backward_queries_tile<Width, Vectorised>;
  using by_keys = backward_keys_tile<Width, Vectorised>;
  const auto& a = g.forward;
  const int tiles = row_tiles(a, by_queries::rows), tasks = static_cast<int>(a.seq.batch * a.shape.kv_heads);
  const index rows = index{tiles} * by_queries::rows, all = rows * tasks;
  auto seen = device.template scratch<seen_from>(all);
  auto numbers = device.template scratch<std::uint16_t>(2 * all * Width);
  const kept_queries kept{seen.data(), numbers.data(), numbers.data() + all * Width, static_cast<int>(rows)};
  launch(device, "attention's gradient", {blocks(a, tiles), by_queries::threads, by_queries::bytes},
         backward_queries_tensor_kernel<Width, Vectorised>, g, tiles, kept);
  launch(device, "attention's gradient",
         {blocks(a, static_cast<int>(blocks_for(a.seq.time, by_keys::rows))), by_keys::threads, by_keys::bytes},
         backward_keys_tensor_kernel<Width, Vectorised>, g, tasks, kept);
}
template <int Width>
void backward_tensor(cuda_base& device, const attention_backward_arguments<float>& g) {
  is_vectorised(g) ? backward_tensor<Width, true>(device, g) : backward_tensor<Width, false>(device, g);
}

}  // namespace distil_xlstm::device::detail::flash
