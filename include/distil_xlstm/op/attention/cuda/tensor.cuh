#pragma once

#include <algorithm>

#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/op/attention/cuda/parts.cuh>
#include <distil_xlstm/op/attention/cuda/warp.cuh>

// Attention on the tensor cores: bfloat16 operands, float sums.
namespace distil_xlstm::device::detail::flash {

/// A warp's tile where operands lie in memory as float: they are rounded on their way to shared memory, the
/// block's rows, which stay, and the moving tiles.
template <int Width, int Moving, bool Vectorised>
struct tensor_tile : warp_tile<Width, Moving> {
  using base = warp_tile<Width, Moving>;
  using base::column_of, base::lane, base::pitch, base::rows, base::threads, base::warp;
  using typename base::piece, typename base::results, typename base::scores;
  static constexpr int vectors_a_row = Width / 4, rows_a_pass = threads / vectors_a_row;
  static constexpr int passes = Moving / rows_a_pass;
  static constexpr int row_numbers = rows * pitch, moving_numbers = Moving * pitch;
  /// Narrow rows stay in registers; of wide ones a piece at a time is read from shared memory.
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
  /// s = a bᵀ, a the warp's rows.
  static __device__ void multiply_rows(scores& s, const rows_held& a, const std::uint16_t* tile,
                                       const std::uint16_t* b) {
    piece read;
    const auto piece_of = [&](int i) -> const piece& {
      if constexpr (held) {
        return a[i];
      } else {
        load_matrices<false>(read, shared_address(mine(tile) + 16 * i));
        return read;
      }
    };
    base::multiply_rows(s, piece_of, b);
  }
  /// row = factor times this thread's numbers of one of its two rows.
  static __device__ void store(float* row, const results& x, int half, float factor, int n) {
#pragma unroll
    for (int i = 0; i < Width / 8; ++i) {
      const int c = column_of(i, 0);
      const float2 pair{x[i][2 * half] * factor, x[i][2 * half + 1] * factor};
      if (Vectorised) {
        if (c < n) *reinterpret_cast<float2*>(row + c) = pair;
      } else {
        if (c < n) row[c] = pair.x;
        if (c + 1 < n) row[c + 1] = pair.y;
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
  const key_tiles visited(p, m0, end_row);
  const int end = visited.end;
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
  fetch(keys_of, visited.begin);
  __syncthreads();
  typename tile::rows_held queries;
  tile::hold(queries, q);
  if (tile::held) __syncthreads();
  tile::clear(k, n), tile::clear(v, n);
  tile::put(k, next, n);
  __syncthreads();

  tensor_softmax<tile, part> softmax(p, m0, end_row);
  typename tile::results out = {};
  for (int j0 = visited.begin, following; j0 < end; j0 = following) {
    following = visited.next(j0, keys);
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

template <int Width, bool Vectorised>
struct backward_tile : tensor_tile<Width, 32, Vectorised> {
  using tile = tensor_tile<Width, 32, Vectorised>;
  static constexpr int moving = 32;
  static constexpr int bytes = 2 * (2 * tile::row_numbers + 2 * tile::moving_numbers) + 128 * 4 + moving * 32;
};
/// dq of 128 queries, and what the other kernel needs to know of them. Keys pass twice: for the sums of the
/// softmax, then for the gradient.
template <int Width, bool Vectorised>
__global__ void __launch_bounds__(256)
    backward_queries_tensor_kernel(attention_backward_arguments<float> g, int tiles, row_sums* kept) {
  using tile = backward_tile<Width, Vectorised>;
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
  const key_tiles visited(p, m0, end_row);
  const int end = visited.end;
  const float scale = a.scale() * log2_e;

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
    if (j0 >= p.past)
      tile::fetch(next, end - j0, n, [&](int r) { return rows.of_now(j0 + r); });
    else
      tile::fetch(next, end - j0, n, [&](int r) { return rows(j0 + r); });
  };
  fetch(next_k, keys_of, visited.begin);
  tile::clear(k, n), tile::clear(v, n);
  __syncthreads();
  typename tile::rows_held queries, gradients;
  tile::hold(queries, q);
  tile::hold(gradients, dy);
  tensor_softmax<tile, part> softmax(p, m0, end_row);
  typename tile::scores s, dp;
  for (int j0 = visited.begin, following; j0 < end; j0 = following) {
    following = visited.next(j0, keys);
    tile::put(k, next_k, n);
    __syncthreads();
    if (following < end) fetch(next_k, keys_of, following);
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
  fetch(next_k, keys_of, visited.begin);
  fetch(next_v, values_of, visited.begin);
  for (int j0 = visited.begin, following; j0 < end; j0 = following) {
    following = visited.next(j0, keys);
    tile::put(k, next_k, n);
    tile::put(v, next_v, n);
    __syncthreads();
    if (following < end) {
      fetch(next_k, keys_of, following);
      fetch(next_v, values_of, following);
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
          const float weight = exp2_approx((s[c][e] - softmax.largest[h]) * scale) * inverse[h];
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
  seen_keys keys;
};
/// dk and dv of 128 of this call's keys, over all queries that see one of them.
template <int Width, bool Vectorised>
__global__ void __launch_bounds__(256)
    backward_keys_tensor_kernel(attention_backward_arguments<float> g, int tiles, const row_sums* kept) {
  using tile = backward_tile<Width, Vectorised>;
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
    next = {{0, 0, 0, 0}, no_keys};
    if (r < queries && r < count) next = {kept[static_cast<index>(task) * p.rows + m0 + r], p.seen(m0 + r)};
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
  for (; m0 < p.rows && p.reaches(m0, p.past + s0, p.past + end_key); m0 += queries) {
    tile::put(q, next_q, n);
    tile::put(dy, next_dy, n);
    if (threadIdx.x < queries) seen[threadIdx.x] = next;
    __syncthreads();
    if (m0 + queries < p.rows) fetch(m0 + queries);
    const seen_keys first = seen[0].keys, last = seen[min(m0 + queries, p.rows) - 1 - m0].keys;
    if (last.high >= first_key && first.low < first_key + 16 &&
        (first.recent < first_key + 16 || last.sinks_end > first_key)) {
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
            const float weight = exp2_approx((score - from.sums.largest) * scale) * from.sums.inverse;
            const bool sees = from.keys.sees(key);
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
  using tile = backward_tile<Width, Vectorised>;
  const auto& a = g.forward;
  auto kept = device.template scratch<row_sums>(a.seq.rows() * a.shape.heads);
  const int queries = row_tiles(a, tile::rows), keys = static_cast<int>(blocks_for(a.seq.time, tile::rows));
  launch(device, "attention's gradient", {blocks(a, queries), tile::threads, tile::bytes},
         backward_queries_tensor_kernel<Width, Vectorised>, g, queries, kept.data());
  launch(device, "attention's gradient", {blocks(a, keys), tile::threads, tile::bytes},
         backward_keys_tensor_kernel<Width, Vectorised>, g, keys, kept.data());
}
template <int Width>
void backward_tensor(cuda_base& device, const attention_backward_arguments<float>& g) {
  is_vectorised(g) ? backward_tensor<Width, true>(device, g) : backward_tensor<Width, false>(device, g);
}

}  // namespace distil_xlstm::device::detail::flash
