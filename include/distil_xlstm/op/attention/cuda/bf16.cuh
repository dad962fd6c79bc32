#pragma once

#include <cmath>
#include <cstdint>

#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/math/rotary.hpp>
#include <distil_xlstm/op/attention/cuda/parts.cuh>
#include <distil_xlstm/op/attention/cuda/warp.cuh>

// Attention where queries, keys, values and results lie in memory in bfloat16, without a past: what the tensor
// cores take is copied to shared memory as it is.
namespace distil_xlstm::device::detail::flash {

/// How queries are rotated on their way to the product, where `cosines` is not null.
struct query_angles {
  const float *cosines, *sines;  ///< [rows, width / 2]
  index stride;
  const float* bias;  ///< [heads * width] or null, added before
};

/// rows(r). In assembly: of a stride that is known ahead of a loop the compiler multiplies all 64 bits.
template <class T>
__device__ T* row_at(const now_rows<T>& rows, int r) {
  index offset;
  asm("mul.wide.s32 %0, %1, %2;" : "=l"(offset) : "r"(r), "r"(rows.stride));
  return rows.data + offset;
}

/// 128 queries a block, `Strips` of 16 a warp, stay in registers: what is read of keys and values serves all strips.
/// Shared memory has two places of `fetched` keys and values: one is multiplied, `keys` rows at a time, one filled.
template <int Width, int Strips, bool Vectorised>
struct bf16_tile {
  static constexpr int width = Width, rows = 128, keys = 32, fetched = 64;
  static constexpr int warp_rows = 16 * Strips, threads = 32 * rows / warp_rows, own_rows = 2 * Strips;
  static constexpr int pitch = Width + 8;  ///< so that eight rows lie in different banks
  static constexpr int pieces_a_row = Width / 8, rows_a_pass = threads / pieces_a_row;
  static constexpr int values_at = fetched * pitch, place = 2 * values_at, bytes = 2 * 2 * place;
  static_assert(fetched % rows_a_pass == 0 && rows * pitch <= place);
  /// A thread's rows are 8 apart, its columns in pairs, 8 apart; as `multiply_add` has them.
  using rows_held = std::uint32_t[Strips][Width / 16][4];
  using scores = float[Strips][keys / 8][4];
  using results = float[Strips][Width / 8][4];
  using of_rows = float[own_rows];  ///< a number for each

  static __device__ int lane() { return static_cast<int>(threadIdx.x % 32); }
  static __device__ int warp() { return static_cast<int>(threadIdx.x / 32); }
  /// Which of the warp's rows is the thread's row h, and which column its first.
  static __device__ int row_of(int h) { return lane() / 4 + 8 * h; }
  static __device__ int column() { return lane() % 4 * 2; }

  /// @{ Eight numbers of a row of n, from column c on, to shared memory, zeros from n on; and back.
  static __device__ void read(std::uint16_t* to, const bf16* row, int c, int n) {
    if constexpr (Vectorised)
      copy_async_16(shared_address(to), row + (c < n ? c : 0), c < n ? 16 : 0);
    else
      for (int e = 0; e < 8; ++e) to[e] = c + e < n ? row[c + e].bits : std::uint16_t{0};
  }
  static __device__ void write(bf16* row, const std::uint16_t* from, int c, int n) {
    if constexpr (Vectorised) {
      if (c < n) *reinterpret_cast<uint4*>(row + c) = *reinterpret_cast<const uint4*>(from);
    } else {
      for (int e = 0; e < 8 && c + e < n; ++e) row[c + e].bits = from[e];
    }
  }
  /// @}
  /// visit(row, column) of eight numbers at a time of the warp's rows, by all lanes together.
  template <class Visit>
  static __device__ void for_pieces(const Visit& visit) {
    constexpr int rows_a_visit = 32 / pieces_a_row;
#pragma unroll
    for (int r = 0; r < warp_rows; r += rows_a_visit)
      visit(r + lane() / pieces_a_row, lane() % pieces_a_row * 8);
  }
  /// q = the warp's rows in shared memory
  static __device__ void hold(rows_held& q, const std::uint16_t* rows) {
    const std::uint32_t at = shared_address(rows + lane() % 16 * pitch + lane() / 16 * 8);
#pragma unroll
    for (int strip = 0; strip < Strips; ++strip)
#pragma unroll
      for (int i = 0; i < Width / 16; ++i) load_matrices<false>(q[strip][i], at + 2 * 16 * (strip * pitch + i));
  }
  /// @{ Where a lane reads in a tile of keys, and of values, in bytes.
  static __device__ std::uint32_t in_keys() {
    return static_cast<std::uint32_t>(2 * ((lane() / 16 * 8 + lane() % 8) * pitch + lane() / 8 % 2 * 8));
  }
  static __device__ std::uint32_t in_values() {
    return static_cast<std::uint32_t>(2 * (lane() % 16 * pitch + lane() / 16 * 8));
  }
  /// @}
  /// s = q kᵀ; `at`: of k in shared memory, with `in_keys`
  static __device__ void multiply_rows(scores& s, const rows_held& q, std::uint32_t at) {
#pragma unroll
    for (auto& strip : s)
#pragma unroll
      for (auto& four : strip) four[0] = four[1] = four[2] = four[3] = 0;
#pragma unroll
    for (int i = 0; i < Width / 16; ++i)
#pragma unroll
      for (int c = 0; c < keys / 16; ++c) {
        std::uint32_t right[4];
        load_matrices<false>(right, at + 2 * 16 * (c * pitch + i));
#pragma unroll
        for (int strip = 0; strip < Strips; ++strip) {
          multiply_add(s[strip][2 * c], q[strip][i], right[0], right[1]);
          multiply_add(s[strip][2 * c + 1], q[strip][i], right[2], right[3]);
        }
      }
  }
  /// out += w v; `at`: of v, with `in_values`
  static __device__ void combine(results& out, const scores& w, std::uint32_t at) {
#pragma unroll
    for (int i = 0; i < keys / 16; ++i) {
      std::uint32_t left[Strips][4];
#pragma unroll
      for (int strip = 0; strip < Strips; ++strip)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          left[strip][e] =
              pack_bf16(w[strip][2 * i + e / 2][e % 2 * 2], w[strip][2 * i + e / 2][e % 2 * 2 + 1]);
#pragma unroll
      for (int c = 0; c < Width / 16; ++c) {
        std::uint32_t right[4];
        load_matrices<true>(right, at + 2 * 16 * (i * pitch + c));
#pragma unroll
        for (int strip = 0; strip < Strips; ++strip) {
          multiply_add(out[strip][2 * c], left[strip], right[0], right[1]);
          multiply_add(out[strip][2 * c + 1], left[strip], right[2], right[3]);
        }
      }
    }
  }
  /// Scores of keys that the warp's rows do not see become -inf: lane i says by bits which row i sees.
  static __device__ void mask(scores& s, std::uint32_t seen) {
#pragma unroll
    for (int h = 0; h < own_rows; ++h) {
      const std::uint32_t bits = __shfl_sync(~0u, seen, row_of(h)) >> column();
#pragma unroll
      for (int c = 0; c < keys / 8; ++c)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if (!(bits & 1u << (8 * c + e))) s[h / 2][c][h % 2 * 2 + e] = -INFINITY;
    }
  }
  /// to <- x, row h times factor[h]
  static __device__ void put(std::uint16_t* to, const results& x, const of_rows& factor) {
#pragma unroll
    for (int h = 0; h < own_rows; ++h)
#pragma unroll
      for (int i = 0; i < Width / 8; ++i)
        *reinterpret_cast<std::uint32_t*>(to + row_of(h) * pitch + 8 * i + column()) =
            pack_bf16(x[h / 2][i][h % 2 * 2] * factor[h], x[h / 2][i][h % 2 * 2 + 1] * factor[h]);
  }
};

/// The softmax of a thread's rows, tile after tile: weights 2^(scale score + lift), `scale` with the factor log2 e.
/// Any lift gives the same: it follows a row's largest score only where a weight would pass 2^8, seldom after the
/// first keys, and only then are sums and results rescaled.
template <class Tile>
struct lazy_softmax {
  static constexpr int rows = Tile::own_rows;
  float scale;
  float lift[rows], sum[rows];  ///< `sum`: of this thread's columns

  __device__ explicit lazy_softmax(float scale_of_scores) : scale(scale_of_scores) {
#pragma unroll
    for (int h = 0; h < rows; ++h) lift[h] = -no_score, sum[h] = 0;
  }
  /// s <- their weights; sums and `out` by the same lift.
  __device__ void take(typename Tile::scores& s, typename Tile::results& out) {
    float top[rows];
    bool passed = false;
#pragma unroll
    for (int h = 0; h < rows; ++h) {
      const auto of_pair = [&](int c) { return fmaxf(s[h / 2][c][h % 2 * 2], s[h / 2][c][h % 2 * 2 + 1]); };
      top[h] = of_pair(0);
#pragma unroll
      for (int c = 1; c < Tile::keys / 8; ++c) top[h] = fmaxf(top[h], of_pair(c));
      passed |= fmaf(top[h], scale, lift[h]) > 8;
    }
    if (__any_sync(~0u, passed)) follow(top, out);
#pragma unroll
    for (int h = 0; h < rows; ++h)
#pragma unroll
      for (auto& four : s[h / 2])
#pragma unroll
        for (int e = h % 2 * 2; e < h % 2 * 2 + 2; ++e) {
          four[e] = exp2_approx(fmaf(four[e], scale, lift[h]));
          sum[h] += four[e];
        }
  }
  /// 1 / the sums of whole rows.
  __device__ void inverse(typename Tile::of_rows& to) const {
#pragma unroll
    for (int h = 0; h < rows; ++h) to[h] = reciprocal_approx(row_sum(sum[h]));
  }

 private:
  __device__ void follow(const float (&top)[rows], typename Tile::results& out) {
#pragma unroll
    for (int h = 0; h < rows; ++h) {
      const float next = fminf(lift[h], -row_max(top[h]) * scale), keep = exp2_approx(next - lift[h]);
      lift[h] = next, sum[h] *= keep;
#pragma unroll
      for (auto& four : out[h / 2]) four[h % 2 * 2] *= keep, four[h % 2 * 2 + 1] *= keep;
    }
  }
};

/// Rotates the warp's queries: lane i says where in the angles, and in the bias, row i has its own.
template <class Tile, bool Biased>
__device__ void rotate_queries(typename Tile::rows_held& queries, const query_angles& angles, index own_angles,
                               int own_bias) {
  constexpr int half = Tile::width / 2;
#pragma unroll
  for (int h = 0; h < Tile::own_rows; ++h) {
    const index at = __shfl_sync(~0u, own_angles, Tile::row_of(h)) + Tile::column();
    const float* bias = nullptr;
    if constexpr (Biased) bias = angles.bias + __shfl_sync(~0u, own_bias, Tile::row_of(h)) + Tile::column();
    const auto biased = [&](std::uint32_t pair, int c) {
      float2 x = unpack_bf16(pair);
      if constexpr (Biased) x.x += bias[c], x.y += bias[c + 1];
      return x;
    };
#pragma unroll
    for (int i = 0; i < half / 16; ++i)
#pragma unroll
      for (int e = h % 2; e < 4; e += 2) {
        const int c = 16 * i + e / 2 * 8;
        std::uint32_t &low = queries[h / 2][i][e], &high = queries[h / 2][i + half / 16][e];
        const float2 x = biased(low, c), y = biased(high, c + half);
        const float2 cosine = load2(angles.cosines + at + c), sine = load2(angles.sines + at + c);
        const auto first = math::rotate(x.x, y.x, cosine.x, sine.x),
                   second = math::rotate(x.y, y.y, cosine.y, sine.y);
        low = pack_bf16(first.low, second.low), high = pack_bf16(first.high, second.high);
      }
  }
}

/// While a tile of keys and values is multiplied, the next are on their way. Blocks: x and z are parts, y tiles.
template <class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::width <= 64 ? 3 : 1)
    forward_bf16_kernel(attention_arguments<bf16> a, query_angles angles, float scale) {
  using tile = Tile;
  constexpr int keys = tile::keys, fetched = tile::fetched;
  extern __shared__ __align__(16) std::uint16_t shared[];
  const int task = static_cast<int>(blockIdx.z * gridDim.x + blockIdx.x);
  if (task >= static_cast<int>(a.seq.batch * a.shape.kv_heads)) return;

  // Late tiles see the most keys: they go first.
  const int m0 = static_cast<int>(gridDim.y - 1 - blockIdx.y) * tile::rows;
  const part_of<bf16> p(a, task);
  const int n = p.width(), end_row = min(m0 + tile::rows, p.rows);
  // Of the warp's rows each lane knows one, and asks for others'.
  const int warp_row = tile::warp() * tile::warp_rows;
  const int m = min(m0 + warp_row + tile::lane() % tile::warp_rows, end_row - 1), token = p.token(m);
  const auto of_row = [](auto* own, int r) {
    return reinterpret_cast<decltype(own)>(__shfl_sync(~0u, reinterpret_cast<unsigned long long>(own), r));
  };
  // The warp's own rows in the place that has no keys: the second before the loop, the other than the last after it.
  const auto rows_in = [&](int place) { return shared + place * tile::place + warp_row * tile::pitch; };
  const bf16* query = p.queries(a.q).of(m, token);
  tile::for_pieces([&](int r, int c) { tile::read(rows_in(1) + r * tile::pitch + c, of_row(query, r), c, n); });
  commit_copies();

  const visited_keys visited(p, m0, end_row);
  const seen_keys seen = p.seen(visited.place(p.first(m)), visited.place(token));
  const int end = visited.end;
  const auto keys_of = p.now(a.k), values_of = p.now(a.v);
  const auto fetch = [&](int j0, int place) {
    const int c = static_cast<int>(threadIdx.x % tile::pieces_a_row) * 8;
#pragma unroll
    for (int i = 0; i < fetched; i += tile::rows_a_pass) {
      const int r = i + static_cast<int>(threadIdx.x / tile::pieces_a_row);
      const int key = visited.key(min(j0 + r, end - 1));
      std::uint16_t* to = shared + place * tile::place + r * tile::pitch + c;
      tile::read(to, row_at(keys_of, key), c, n);
      tile::read(to + tile::values_at, row_at(values_of, key), c, n);
    }
    commit_copies();
  };
  fetch(visited.begin, 0);

  typename tile::rows_held queries;
  wait_for_copies<1>();
  __syncwarp();
  tile::hold(queries, rows_in(1));
  if (angles.cosines) {
    const index own_angles = (p.b * a.seq.time + token) * angles.stride;
    const int own_bias = (p.kv * p.group + m - token * p.group) * n;
    angles.bias ? rotate_queries<tile, true>(queries, angles, own_angles, own_bias)
                : rotate_queries<tile, false>(queries, angles, own_angles, own_bias);
  }

  lazy_softmax<tile> softmax(scale);
  typename tile::results out = {};
  const std::uint32_t keys_at = shared_address(shared) + tile::in_keys(),
                      values_at = shared_address(shared + tile::values_at) + tile::in_values();
  int place = 0;
  for (int j0 = visited.begin; j0 < end; j0 += fetched, place ^= 1) {
    wait_for_copies<0>();
    __syncthreads();
    if (j0 + fetched < end) fetch(j0 + fetched, place ^ 1);
#pragma unroll 1
    for (int i = 0; i < fetched; i += keys) {
      const std::uint32_t bits = seen.bits(j0 + i);
      if (__all_sync(~0u, bits == 0)) continue;
      const auto at = static_cast<std::uint32_t>(2 * (place * tile::place + i * tile::pitch));
      typename tile::scores s;
      tile::multiply_rows(s, queries, keys_at + at);
      if (!__all_sync(~0u, bits == ~0u)) tile::mask(s, bits);
      softmax.take(s, out);
      tile::combine(out, s, values_at + at);
    }
  }
  typename tile::of_rows inverse;
  softmax.inverse(inverse);
  tile::put(rows_in(place), out, inverse);
  __syncwarp();
  bf16* result = p.queries(a.y).of(m, token);
  tile::for_pieces([&](int r, int c) {
    bf16* row = of_row(result, r);
    if (m0 + warp_row + r < end_row) tile::write(row, rows_in(place) + r * tile::pitch + c, c, n);
  });
}

template <int Width, int Strips, bool Vectorised>
void run_forward_bf16(cuda_base& device, const attention_arguments<bf16>& a, const query_angles& angles) {
  using tile = bf16_tile<Width, Strips, Vectorised>;
  // Blocks start by x, then y, then z: of some parts together the longest tiles first, and not of all, so that their
  // keys and values stay in the L2 cache.
  const index parts = a.seq.batch * a.shape.kv_heads, groups = blocks_for(parts, 64);
  const dim3 grid(static_cast<unsigned>(blocks_for(parts, groups)),
                  static_cast<unsigned>(row_tiles(a, tile::rows)), static_cast<unsigned>(groups));
  const float scale = log2_e / std::sqrt(static_cast<float>(a.shape.width));
  launch(device, "attention", {grid, tile::threads, tile::bytes}, forward_bf16_kernel<tile>, a, angles, scale);
}
/// Whether a thread has both numbers of a pair that is rotated, and reads its angles in twos.
inline bool rotates_queries(const attention_arguments<bf16>& a, const query_angles& angles) {
  const auto even = [](const float* p) { return is_aligned(p, 8); };
  return (a.shape.width == 64 || a.shape.width == 128) && is_vectorised(a) && angles.stride % 2 == 0 &&
         even(angles.cosines) && even(angles.sines);
}
/// y = attention of queries that are rotated, if there are `angles`, on their way. Heads up to 128 wide.
template <class S>
void forward_bf16(cuda_base& device, const attention_arguments<S>& a, const query_angles& angles) {
  const auto run = [&]<bool Vectorised>() {
    if (a.shape.width <= 64)
      run_forward_bf16<64, 2, Vectorised>(device, a, angles);
    else
      run_forward_bf16<128, 1, Vectorised>(device, a, angles);
  };
  is_vectorised(a) ? run.template operator()<true>() : run.template operator()<false>();
}

}  // namespace distil_xlstm::device::detail::flash
