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
constexpr int most_sets = 8;

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
    index stride_x, step_w;
    int n;
  } sets[most_sets];
  index stride_w;
  index step_x, step_c;
  int rows, n, k, count;  ///< n: the largest
  int wave;               ///< blocks that run at once
  float beta;
};

/// Eight numbers as they are stored.
template <class S>
struct eight {
  uint4 words[sizeof(S) / 2];

  /// Zeros where they are not `there`. Predicated in assembly: of an if the compiler makes a branch, and waits before
  /// it for the loads that came earlier.
  __device__ void load(const S* from, bool there) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(S) / 2); ++i)
      asm volatile(
          "{\n.reg .pred there;\n"
          "setp.ne.s32 there, %5, 0;\n"
          "mov.b32 %0, 0;\nmov.b32 %1, 0;\nmov.b32 %2, 0;\nmov.b32 %3, 0;\n"
          "@there ld.global.v4.b32 {%0, %1, %2, %3}, [%4];\n}"
          : "=r"(words[i].x), "=r"(words[i].y), "=r"(words[i].z), "=r"(words[i].w)
          : "l"(__cvta_generic_to_global(from + 4 * i)), "r"(static_cast<int>(there)));
  }
  __device__ void round(std::uint32_t (&to)[4]) const {
    if constexpr (std::is_same_v<S, bf16>) {
      to[0] = words[0].x, to[1] = words[0].y, to[2] = words[0].z, to[3] = words[0].w;
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint4& x = words[i];
        to[2 * i] = pack_bf16(__uint_as_float(x.x), __uint_as_float(x.y));
        to[2 * i + 1] = pack_bf16(__uint_as_float(x.z), __uint_as_float(x.w));
      }
    }
  }
};

constexpr int chunk = 32;

/// Of a kernel's blocks on a multiprocessor.
constexpr int blocks_at_once(int products, int warps, std::size_t bytes) {
  return (bytes == 2 && products == 1 ? 24 : 16) / warps;
}

/// A block has 16 `Strips` columns of c and 8 `Tiles` rows; its warps take chunks of k in turn, and their sums are added
/// in the order of the warps: a row's result depends neither on the others nor on Strips and Tiles. wᵀ is the
/// tensor cores' left operand, so that rows are its narrow side. A lane reads eight neighbours of a row at once: which of
/// k a place in the product stands for does not matter where it is the same for both operands.
template <int Strips, int Tiles, int Warps, class X, class W>
__global__ void __launch_bounds__(32 * Warps, blocks_at_once(Strips* Tiles, Warps, sizeof(W)))
    kernel(earlier_kernels earlier, const __grid_constant__ products<X, W> p) {
  constexpr int columns = 16 * Strips, rows = 8 * Tiles;
  constexpr int ahead =
      Strips * Tiles < 4 ? 4 / (Strips * Tiles) : 1;  // chunks whose loads are under way at once
  __shared__ float sums[Warps][rows][columns + 4];    // 4: lanes of a warp write to 32 banks
  const auto& set = p.sets[static_cast<int>(blockIdx.z) / p.count];
  const index item = static_cast<int>(blockIdx.z) % p.count;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int of_eight = lane / 4, part = lane % 4 * 8;
  const int column0 = static_cast<int>(blockIdx.x) * columns, row0 = static_cast<int>(blockIdx.y) * rows;
  const X* x = set.x + item * p.step_x + (row0 + of_eight) * set.stride_x + part;
  const W* w = set.w + item * set.step_w + (column0 + of_eight) * p.stride_w + part;
  // The first blocks have their rows of w fetched, and all of them those of the block that will follow.
  const int bytes = min(p.k * static_cast<int>(sizeof(W)), 1 << 16);
  const auto fetch = [&](int block) {
    const int row = block * columns + warp * (columns / Warps) + lane;
    if (lane < columns / Warps && row < set.n && bytes > 0)
      prefetch_far(set.w + item * set.step_w + row * p.stride_w, bytes);
  };
  earlier.wait([&] {
    const int block = static_cast<int>(blockIdx.x);
    if (block < p.wave) fetch(block);
    fetch(block + p.wave);
  });
  if (column0 >= set.n) return;  // the whole block
  float sum[Strips][Tiles][4] = {};
  for (int first = warp * chunk; first < p.k; first += ahead * Warps * chunk) {
    eight<W> left[ahead][Strips][2];
    eight<X> right[ahead][Tiles];
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int at = first + u * Warps * chunk;
      const bool there = at + part < p.k;
#pragma unroll
      for (int s = 0; s < 2 * Strips; ++s)
        left[u][s / 2][s % 2].load(w + 8 * s * p.stride_w + at, there && column0 + of_eight + 8 * s < set.n);
#pragma unroll
      for (int t = 0; t < Tiles; ++t)
        right[u][t].load(x + 8 * t * set.stride_x + at, there && row0 + of_eight + 8 * t < p.rows);
    }
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      std::uint32_t l[Strips][2][4], r[Tiles][4];
#pragma unroll
      for (int s = 0; s < 2 * Strips; ++s) left[u][s / 2][s % 2].round(l[s / 2][s % 2]);
#pragma unroll
      for (int t = 0; t < Tiles; ++t) right[u][t].round(r[t]);
#pragma unroll
      for (int half = 0; half < 4; half += 2)
#pragma unroll
        for (int s = 0; s < Strips; ++s) {
          const std::uint32_t a[4] = {l[s][0][half], l[s][1][half], l[s][0][half + 1], l[s][1][half + 1]};
#pragma unroll
          for (int t = 0; t < Tiles; ++t) multiply_add(sum[s][t], a, r[t][half], r[t][half + 1]);
        }
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
  for (int i = static_cast<int>(threadIdx.x); i < rows * columns; i += 32 * Warps) {
    const int r = i / columns, c = i % columns;
    if (row0 + r >= p.rows || column0 + c >= set.n) continue;
    float total = sums[0][r][c];
#pragma unroll
    for (int other = 1; other < Warps; ++other) total += sums[other][r][c];
    float* to = set.c + item * p.step_c + (row0 + r) * set.stride_c + column0 + c;
    if (p.beta != 0) total = fmaf(p.beta, *to, total);
    if (set.addend) total += set.addend[(row0 + r) * set.stride_addend + column0 + c];
    *to = total;
  }
}

/// The first `sets` of p, which writes c's of which the caller tells the copies of operands.
template <class X, class W>
void run(cuda_base& device, products<X, W> p, int sets) {
  const auto with = [&]<int Strips, int Tiles, int Warps>() {
    p.wave = blocks_at_once(Strips * Tiles, Warps, sizeof(W)) * device.multiprocessors();
    const dim3 blocks(static_cast<unsigned>(blocks_for(p.n, 16 * Strips)),
                      static_cast<unsigned>(blocks_for(p.rows, 8 * Tiles)),
                      static_cast<unsigned>(sets * p.count));
    enqueue(device, "a product of few rows", {blocks, 32 * Warps}, kernel<Strips, Tiles, Warps, X, W>, p);
  };
  // Larger blocks read less in all, where there are enough of them.
  const auto enough = [&](index columns, index rows) {
    return blocks_for(p.n, columns) * blocks_for(p.rows, rows) * sets * p.count >= device.multiprocessors() / 2;
  };
  const auto of_warps = [&]<int Warps>() {
    if (p.rows > 16 && enough(32, 32))
      with.template operator()<2, 4, Warps>();
    else if (p.rows > 8 && enough(16, 16))
      with.template operator()<1, 2, Warps>();
    else
      with.template operator()<1, 1, Warps>();
  };
  // More or fewer warps add another way, so that it is not for the rows to say how many there are.
  if (p.n <= 32 && p.k >= 2048)
    with.template operator()<1, 1, 16>();
  else if (p.k <= 5 * chunk)
    of_warps.template operator()<4>();
  else
    of_warps.template operator()<8>();
}

}  // namespace distil_xlstm::device::detail::few_rows
