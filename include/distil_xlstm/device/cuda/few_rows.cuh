#pragma once

#include <cstdint>
#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/tensor_core.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>

// Products of few rows, as a step of a decoder has them: bound by the time in which a matrix is read, once, and by
// the number of kernels.
namespace distil_xlstm::device::detail::few_rows {

/// Products of one kernel that share neither operands nor result.
constexpr int most_sets = 4;

/// c = beta c + x wᵀ + addend, x and w rounded to bfloat16 as they are read, sums in float: `count` times in each set,
/// item i's matrices start i * step numbers further on. All rows of x and w are read 16 bytes at a time.
template <class X, class W>
struct products {
  struct {
    const X* x;           ///< [rows, k]
    const W* w;           ///< [n, k]
    float* c;             ///< [rows, n]
    const float* addend;  ///< [rows, n], of the first item; or null
    index stride_c, stride_addend;
    int n;
  } sets[most_sets];
  index stride_x, stride_w;
  index step_x, step_w, step_c;
  int rows, n, k, count;  ///< n: the largest
  float beta;
};

/// Eight numbers, rounded; zeros where they are not `there`.
__device__ inline void load_rounded(std::uint32_t (&to)[4], const bf16* from, bool there) {
  uint4 x{};
  if (there) x = __ldg(reinterpret_cast<const uint4*>(from));
  to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}
__device__ inline void load_rounded(std::uint32_t (&to)[4], const float* from, bool there) {
  float4 x{}, y{};
  if (there) x = load4_readonly(from), y = load4_readonly(from + 4);
  to[0] = pack_bf16(x.x, x.y), to[1] = pack_bf16(x.z, x.w);
  to[2] = pack_bf16(y.x, y.y), to[3] = pack_bf16(y.z, y.w);
}

constexpr int warps = 8, chunk = 32;

/// A block has 16 `Strips` columns of c and 8 `Tiles` rows; its warps take chunks of k in turn, and their sums are added
/// in the order of the warps: a row's result depends neither on the others nor on the shape of the block. wᵀ is the
/// tensor cores' left operand, so that rows are its narrow side. A lane reads eight neighbours of a row at once: which of
/// k a place in the product stands for does not matter where it is the same for both operands.
template <int Strips, int Tiles, class X, class W>
__global__ void __launch_bounds__(32 * warps, 2) kernel(const __grid_constant__ products<X, W> p) {
  constexpr int columns = 16 * Strips, rows = 8 * Tiles;
  constexpr int ahead =
      Strips * Tiles < 4 ? 4 / (Strips * Tiles) : 1;  // chunks whose loads are under way at once
  __shared__ float sums[warps][rows][columns + 4];    // 4: lanes of a warp write to 32 banks
  const auto& set = p.sets[static_cast<int>(blockIdx.z) / p.count];
  const index item = static_cast<int>(blockIdx.z) % p.count;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int of_eight = lane / 4, part = lane % 4 * 8;
  const int column0 = static_cast<int>(blockIdx.x) * columns, row0 = static_cast<int>(blockIdx.y) * rows;
  if (column0 >= set.n) return;  // the whole block
  const X* x = set.x + item * p.step_x + (row0 + of_eight) * p.stride_x + part;
  const W* w = set.w + item * p.step_w + (column0 + of_eight) * p.stride_w + part;
  float sum[Strips][Tiles][4] = {};
  for (int first = warp * chunk; first < p.k; first += ahead * warps * chunk) {
    std::uint32_t left[ahead][Strips][2][4], right[ahead][Tiles][4];
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int at = first + u * warps * chunk;
      const bool there = at + part < p.k;
#pragma unroll
      for (int s = 0; s < 2 * Strips; ++s)
        load_rounded(left[u][s / 2][s % 2], w + 8 * s * p.stride_w + at,
                     there && column0 + of_eight + 8 * s < set.n);
#pragma unroll
      for (int t = 0; t < Tiles; ++t)
        load_rounded(right[u][t], x + 8 * t * p.stride_x + at, there && row0 + of_eight + 8 * t < p.rows);
    }
#pragma unroll
    for (int u = 0; u < ahead; ++u)
#pragma unroll
      for (int half = 0; half < 4; half += 2)
#pragma unroll
        for (int s = 0; s < Strips; ++s) {
          const auto& l = left[u][s];
          const std::uint32_t a[4] = {l[0][half], l[1][half], l[0][half + 1], l[1][half + 1]};
#pragma unroll
          for (int t = 0; t < Tiles; ++t) multiply_add(sum[s][t], a, right[u][t][half], right[u][t][half + 1]);
        }
  }
#pragma unroll
  for (int s = 0; s < Strips; ++s)
#pragma unroll
    for (int t = 0; t < Tiles; ++t)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        sums[warp][8 * t + lane % 4 * 2 + e % 2][16 * s + of_eight + e / 2 * 8] = sum[s][t][e];
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < rows * columns; i += 32 * warps) {
    const int r = i / columns, c = i % columns;
    if (row0 + r >= p.rows || column0 + c >= set.n) continue;
    float total = sums[0][r][c];
#pragma unroll
    for (int other = 1; other < warps; ++other) total += sums[other][r][c];
    float* to = set.c + item * p.step_c + (row0 + r) * set.stride_c + column0 + c;
    if (p.beta != 0) total = fmaf(p.beta, *to, total);
    if (set.addend) total += set.addend[(row0 + r) * set.stride_addend + column0 + c];
    *to = total;
  }
}

/// The first `sets` of p, which writes c's of which the caller tells the copies of operands.
template <class X, class W>
void run(cuda_base& device, const products<X, W>& p, int sets) {
  const auto with = [&]<int Strips, int Tiles>() {
    const dim3 blocks(static_cast<unsigned>(blocks_for(p.n, 16 * Strips)),
                      static_cast<unsigned>(blocks_for(p.rows, 8 * Tiles)),
                      static_cast<unsigned>(sets * p.count));
    enqueue(device, "a product of few rows", {blocks, 32 * warps}, kernel<Strips, Tiles, X, W>, p);
  };
  // Larger blocks read less in all, where there are enough of them.
  const auto enough = [&](index columns, index rows) {
    return blocks_for(p.n, columns) * blocks_for(p.rows, rows) * sets * p.count >= device.multiprocessors() / 2;
  };
  if (p.rows > 16 && enough(32, 32))
    with.template operator()<2, 4>();
  else if (p.rows > 8 && enough(16, 16))
    with.template operator()<1, 2>();
  else
    with.template operator()<1, 1>();
}

}  // namespace distil_xlstm::device::detail::few_rows
