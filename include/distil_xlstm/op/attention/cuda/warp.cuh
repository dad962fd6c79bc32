#pragma once

#include <cmath>
#include <cstdint>

#include <distil_xlstm/device/cuda/fast_scalar.cuh>
#include <distil_xlstm/device/cuda/tensor_core.cuh>
#include <distil_xlstm/op/attention/cuda/parts.cuh>

// What a warp of 16 rows does in attention on the tensor cores.
namespace distil_xlstm::device::detail::flash {

inline constexpr float log2_e = 1.4426950408889634f;

/// `Rows` rows a block, 16 a warp, against tiles of `Moving` rows that pass through shared memory; both in
/// bfloat16. A thread's scores and results are of two rows, 8 apart, in pairs of columns.
template <int Width, int Moving, int Rows = 128>
struct warp_tile {
  static constexpr int threads = 2 * Rows, rows = Rows;
  static constexpr int pitch = Width + 8;  ///< so that eight rows lie in different banks
  using piece = std::uint32_t[4];          ///< of the warp's rows, 16 columns
  using scores = float[Moving / 8][4];
  using results = float[Width / 8][4];

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  /// Which of the block's rows, and which of a tile's, this thread's number e of pair c belongs to.
  static __device__ int row_of(int half) { return 16 * warp() + lane() / 4 + 8 * half; }
  static __device__ int column_of(int c, int e) { return 8 * c + lane() % 4 * 2 + e % 2; }

  /// s = a bᵀ; piece_of(i) are columns 16 i and on of a, the warp's rows.
  template <class Pieces>
  static __device__ void multiply_rows(scores& s, const Pieces& piece_of, const std::uint16_t* b) {
    const std::uint16_t* at = b + (lane() / 16 * 8 + lane() % 8) * pitch + lane() / 8 % 2 * 8;
#pragma unroll
    for (auto& four : s)
#pragma unroll
      for (float& x : four) x = 0;
#pragma unroll
    for (int i = 0; i < Width / 16; ++i) {
      const auto& left = piece_of(i);
#pragma unroll
      for (int c = 0; c < Moving / 16; ++c) {
        piece right;
        load_matrices<false>(right, shared_address(at + 16 * c * pitch + 16 * i));
        multiply_add(s[2 * c], left, right[0], right[1]);
        multiply_add(s[2 * c + 1], left, right[2], right[3]);
      }
    }
  }
  /// out += w b
  static __device__ void combine(results& out, const scores& w, const std::uint16_t* b) {
    const std::uint16_t* at = b + (lane() / 8 % 2 * 8 + lane() % 8) * pitch + lane() / 16 * 8;
#pragma unroll
    for (int i = 0; i < Moving / 16; ++i) {
      const piece left = {pack_bf16(w[2 * i][0], w[2 * i][1]), pack_bf16(w[2 * i][2], w[2 * i][3]),
                          pack_bf16(w[2 * i + 1][0], w[2 * i + 1][1]),
                          pack_bf16(w[2 * i + 1][2], w[2 * i + 1][3])};
#pragma unroll
      for (int c = 0; c < Width / 16; ++c) {
        piece right;
        load_matrices<true>(right, shared_address(at + 16 * i * pitch + 16 * c));
        multiply_add(out[2 * c], left, right[0], right[1]);
        multiply_add(out[2 * c + 1], left, right[2], right[3]);
      }
    }
  }
};

/// Masks and softmax of a thread's two rows of scores, tile after tile of visited keys. Exponentials are powers of 2,
/// `scale` has the factor log2 e.
template <class Tile, class Part>
struct tensor_softmax {
  const Part& part;
  int low[2], high[2];  ///< places
  float largest[2] = {no_score, no_score}, sum[2] = {0, 0};

  __device__ tensor_softmax(const Part& p, const visited_keys& visited, int m0, int end_row) : part(p) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int m = min(m0 + Tile::row_of(h), end_row - 1);
      low[h] = visited.place(p.first(m)), high[h] = visited.place(p.last(m));
    }
  }
  __device__ seen_keys seen(int half) const { return part.seen(low[half], high[half]); }
  /// None of the warp's rows sees any of the keys.
  __device__ bool idle(int j0, int keys) const {
    const seen_keys first = seen(0), second = seen(1);
    return __all_sync(~0u, j0 > second.high || (j0 + keys <= first.recent &&
                                                (j0 >= second.sinks_end || j0 + keys <= first.low)));
  }
  __device__ void mask(typename Tile::scores& s, int j0, int keys) const {
    const seen_keys of[2] = {seen(0), seen(1)};
    if (__all_sync(~0u, j0 >= of[1].recent && j0 + keys - 1 <= of[0].high)) return;
    constexpr int pairs = static_cast<int>(sizeof s / sizeof s[0]), pairs_of_bits = 4;
#pragma unroll
    for (int i = 0; i < pairs; i += pairs_of_bits)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const std::uint32_t seen = of[h].bits(j0 + 8 * i) >> Tile::column_of(0, 0);
#pragma unroll
        for (int c = 0; c < pairs_of_bits; ++c)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            if (!(seen & 1u << (8 * c + e))) s[i + c][2 * h + e] = -INFINITY;
      }
  }
  /// s <- weights by the new largest score; returns what old sums are worth by it.
  __device__ float take(int half, typename Tile::scores& s, float scale) {
    constexpr int pairs = static_cast<int>(sizeof s / sizeof s[0]);
    float top = largest[half];
#pragma unroll
    for (int c = 0; c < pairs; ++c) top = fmaxf(top, fmaxf(s[c][2 * half], s[c][2 * half + 1]));
    top = row_max(top);
    const float keep = exp2_approx((largest[half] - top) * scale), shift = top * scale;
    largest[half] = top;
    float more = 0;
#pragma unroll
    for (int c = 0; c < pairs; ++c)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        s[c][e] = exp2_approx(fmaf(s[c][e], scale, -shift));
        more += s[c][e];
      }
    sum[half] = fmaf(sum[half], keep, more);
    return keep;
  }
  /// 1 / the sum, of all threads of the row.
  __device__ float inverse(int half) const { return 1 / row_sum(sum[half]); }
};

}  // namespace distil_xlstm::device::detail::flash
