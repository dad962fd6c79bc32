#pragma once

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

/// Queries stay in registers; two tiles of keys and two of values are in shared memory: one of each is
/// multiplied, `Keys` rows at a time, one on its way.
template <int Width, int Keys, bool Vectorised>
struct bf16_tile : warp_tile<Width, Keys> {
  using base = warp_tile<Width, Keys>;
  using base::column_of, base::pitch, base::threads;
  using typename base::results, typename base::scores;
  static constexpr int width = Width, keys = Keys, fetched = 64;
  static constexpr int pieces_a_row = Width / 8, pieces = fetched * pieces_a_row;
  static_assert(pieces % threads == 0 && fetched % Keys == 0 && Keys % 16 == 0);
  static constexpr int tile_numbers = fetched * pitch, bytes = 2 * 4 * tile_numbers;
  using rows_held = typename base::piece[Width / 16];

  /// tile <- row(0), row(1), ..., of which `count` are there; the others' numbers do not matter.
  template <class Row>
  static __device__ void fetch(std::uint16_t* tile, int count, int n, const Row& row) {
#pragma unroll
    for (int i = 0; i < pieces; i += threads) {
      const int piece = i + static_cast<int>(threadIdx.x), r = piece / pieces_a_row,
                c = piece % pieces_a_row * 8;
      if (c >= n) continue;
      const bf16* from = row(min(r, count - 1));
      std::uint16_t* to = tile + r * pitch + c;
      if constexpr (Vectorised)
        copy_async_16(to, from + c);
      else
        *reinterpret_cast<uint4*>(to) = {pair(from, c, n), pair(from, c + 2, n), pair(from, c + 4, n),
                                         pair(from, c + 6, n)};
    }
  }
  /// What `fetch` never writes, of all four tiles.
  static __device__ void clear(std::uint16_t* tiles, int n) {
    for (int piece = static_cast<int>(threadIdx.x); piece < 4 * pieces; piece += threads) {
      const int r = piece / pieces_a_row, c = piece % pieces_a_row * 8;
      if (c >= n) *reinterpret_cast<uint4*>(tiles + r * pitch + c) = uint4{0, 0, 0, 0};
    }
  }
  /// Columns c and c + 1, zero from column n on.
  static __device__ std::uint32_t pair(const bf16* row, int c, int n) {
    if constexpr (Vectorised) return c < n ? *reinterpret_cast<const std::uint32_t*>(row + c) : 0u;
    const std::uint32_t first = c < n ? row[c].bits : 0u, second = c + 1 < n ? row[c + 1].bits : 0u;
    return first | second << 16;
  }

  static __device__ void multiply_rows(scores& s, const rows_held& a, const std::uint16_t* b) {
    base::multiply_rows(
        s, [&](int i) -> const typename base::piece& { return a[i]; }, b);
  }
  static __device__ void store(bf16* row, const results& x, int half, float factor, int n) {
    row += column_of(0, 0), n -= column_of(0, 0);
#pragma unroll
    for (int i = 0; i < Width / 8; ++i) {
      const int c = 8 * i;
      const std::uint32_t both = pack_bf16(x[i][2 * half] * factor, x[i][2 * half + 1] * factor);
      if constexpr (Vectorised) {
        if (c < n) *reinterpret_cast<std::uint32_t*>(row + c) = both;
      } else {
        if (c < n) row[c].bits = static_cast<std::uint16_t>(both);
        if (c + 1 < n) row[c + 1].bits = static_cast<std::uint16_t>(both >> 16);
      }
    }
  }
};

/// A row's pairs of columns `low` and, half a head further, `high`, rotated.
__device__ inline void rotate_pairs(std::uint32_t& low, std::uint32_t& high, const query_angles& angles,
                                    index row, int column, int half, const float* bias) {
  float2 x = unpack_bf16(low), y = unpack_bf16(high);
  if (bias) {
    x.x += bias[column], x.y += bias[column + 1];
    y.x += bias[column + half], y.y += bias[column + half + 1];
  }
  const float2 cosine = *reinterpret_cast<const float2*>(angles.cosines + row * angles.stride + column),
               sine = *reinterpret_cast<const float2*>(angles.sines + row * angles.stride + column);
  const auto first = math::rotate(x.x, y.x, cosine.x, sine.x),
             second = math::rotate(x.y, y.y, cosine.y, sine.y);
  low = pack_bf16(first.low, second.low), high = pack_bf16(first.high, second.high);
}

/// While a tile of keys and values is multiplied, the next are on their way.
template <class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::width <= 64 ? 2 : 1)
    forward_bf16_kernel(attention_arguments<bf16> a, query_angles angles, int tiles) {
  using tile = Tile;
  constexpr int keys = tile::keys, fetched = tile::fetched, width = tile::width;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* k = reinterpret_cast<std::uint16_t*>(memory);
  std::uint16_t* v = k + 2 * tile::tile_numbers;

  // Late tiles see the most keys: they go first.
  const int m0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * tile::rows;
  const part_of<bf16> p(a, static_cast<int>(blockIdx.x) / tiles);
  const int n = p.width(), end_row = min(m0 + tile::rows, p.rows);
  const visited_keys visited(p, m0, end_row);
  const int end = visited.end;
  const float scale = p.scale() * log2_e;
  const auto keys_of = p.now(a.k), values_of = p.now(a.v);
  const auto fetch = [&](int j0, int place) {
    tile::fetch(k + place * tile::tile_numbers, end - j0, n,
                [&](int r) { return keys_of(visited.key(j0 + r)); });
    tile::fetch(v + place * tile::tile_numbers, end - j0, n,
                [&](int r) { return values_of(visited.key(j0 + r)); });
    commit_copies();
  };
  fetch(visited.begin, 0);
  if (n < width) tile::clear(k, n);

  typename tile::rows_held queries;
  const auto rows = p.queries(a.q);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int m = min(m0 + tile::row_of(h), end_row - 1), column = tile::column_of(0, 0);
    const bf16* row = rows(m);
#pragma unroll
    for (int i = 0; i < width / 16; ++i) {
      queries[i][h] = tile::pair(row, 16 * i + column, n);
      queries[i][h + 2] = tile::pair(row, 16 * i + 8 + column, n);
    }
    if (!angles.cosines) continue;
    const int token = p.token(m);
    const float* bias = angles.bias ? angles.bias + (p.kv * p.group + m - token * p.group) * n : nullptr;
#pragma unroll
    for (int i = 0; i < width / 32; ++i)
#pragma unroll
      for (int e = h; e < 4; e += 2)
        rotate_pairs(queries[i][e], queries[i + width / 32][e], angles, p.b * a.seq.time + token,
                     16 * i + e / 2 * 8 + column, width / 2, bias);
  }

  tensor_softmax<tile, part_of<bf16>> softmax(p, visited, m0, end_row);
  typename tile::results out = {};
  int place = 0;
  for (int j0 = visited.begin; j0 < end; j0 += fetched, place ^= 1) {
    wait_for_copies<0>();
    __syncthreads();
    if (j0 + fetched < end) fetch(j0 + fetched, place ^ 1);
#pragma unroll 1
    for (int first = 0; first < fetched; first += keys) {
      if (softmax.idle(j0 + first, keys)) continue;
      const int at = place * tile::tile_numbers + first * tile::pitch;
      typename tile::scores s;
      tile::multiply_rows(s, queries, k + at);
      softmax.mask(s, j0 + first, keys);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float keep = softmax.take(h, s, scale);
#pragma unroll
        for (auto& four : out) four[2 * h] *= keep, four[2 * h + 1] *= keep;
      }
      tile::combine(out, s, v + at);
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int m = m0 + tile::row_of(h);
    const float inverse = softmax.inverse(h);
    if (m < end_row) tile::store(p.queries(a.y).of(m, visited.key(softmax.high[h])), out, h, inverse, n);
  }
}

template <int Width, int Keys, bool Vectorised>
void run_forward_bf16(cuda_base& device, const attention_arguments<bf16>& a, const query_angles& angles) {
  using tile = bf16_tile<Width, Keys, Vectorised>;
  const int tiles = row_tiles(a, tile::rows);
  launch(device, "attention", {blocks(a, tiles), tile::threads, tile::bytes}, forward_bf16_kernel<tile>, a,
         angles, tiles);
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
      run_forward_bf16<64, 32, Vectorised>(device, a, angles);
    else
      run_forward_bf16<128, 64, Vectorised>(device, a, angles);
  };
  is_vectorised(a) ? run.template operator()<true>() : run.template operator()<false>();
}

}  // namespace distil_xlstm::device::detail::flash
