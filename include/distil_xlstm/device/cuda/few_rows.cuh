#pragma once

#include <cstdint>
#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/tensor_core.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/math/activation.hpp>

// Products of few rows, as a step of a decoder has them: bound by the time in which a matrix is read, once, and by
// the number of kernels.
namespace distil_xlstm::device::detail::few_rows {

/// Products of one kernel that share neither operands nor result.
constexpr int most_sets = 8;

/// Rows of such a product.
constexpr index most_rows = 64;

/// Whether blocks that read one another's operands again cost less than what else a product needs.
constexpr bool pays(index rows, index n, index k) {
  constexpr index most = 1 << 24;
  return rows <= most_rows && n <= most && k <= most && (rows <= 4 || rows * n * k <= index{1} << 27);
}

/// What an RMS norm multiplies rows by, and what it adds to their mean square.
struct rms_scale {
  const float* weight;  ///< [k], at 16 bytes
  float base, epsilon;
};
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
  rms_scale norm;  ///< of x, as `handling` says
  bf16* gated;     ///< [rows, n]; as `handling` says
  index stride_gated;
  activation act = activation::silu;  ///< of gated products
};
/// What a kernel knows, and does, beside its products. `frozen`: no earlier kernel writes w, so that it is read before
/// they have ended. `gated`: of two such products of one shape act(c0) c1 is all that is written, as c0. `normed`:
/// frozen, and x is the norm's, c = (x (base + weight)) wᵀ / sqrt(mean(x²) + epsilon). `normed_and_gated`: both, and
/// what is written is rounded.
enum class handling { none, frozen, gated, normed, normed_and_gated };
constexpr bool is_normed(handling h) { return h == handling::normed || h == handling::normed_and_gated; }
constexpr bool is_gated(handling h) { return h == handling::gated || h == handling::normed_and_gated; }
constexpr bool reads_frozen(handling h) { return h == handling::frozen || is_normed(h); }

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

/// x (base + w), rounded; adds the squares of x to `squares`.
__device__ inline void round_scaled(const eight<float>& x, const eight<float>& w, float base, float& squares,
                                    std::uint32_t (&to)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint4 &of_x = x.words[i / 2], &of_w = w.words[i / 2];
    const float low = __uint_as_float(i % 2 ? of_x.z : of_x.x), high = __uint_as_float(i % 2 ? of_x.w : of_x.y);
    const float scale_low = base + __uint_as_float(i % 2 ? of_w.z : of_w.x),
                scale_high = base + __uint_as_float(i % 2 ? of_w.w : of_w.y);
    squares = fmaf(low, low, squares), squares = fmaf(high, high, squares);
    to[i] = pack_bf16(low * scale_low, high * scale_high);
  }
}

constexpr int chunk = 32;

/// Of a kernel's blocks on a multiprocessor.
constexpr int blocks_at_once(int products, int warps, std::size_t bytes, handling h) {
  if (products == 2 && h == handling::gated) return 8 / warps;
  return (bytes == 2 && products == 1 && h == handling::none ? 24 : 16) / warps;
}
/// Chunks of k whose loads are under way at once: of two matrices, so many that rows of 768 are one round.
constexpr int chunks_ahead(int products, handling h, bool all_bf16) {
  if (h == handling::frozen && products == 1 && all_bf16) return 6;
  return products >= 4 ? 1 : products == 2 && (is_normed(h) || is_gated(h)) ? 3 : 4 / products;
}

/// Leaves what a warp has summed of c, by row and column.
template <int Strips, int Tiles, int Columns>
__device__ void leave_sums(const float (&sum)[Strips][Tiles][4], float (&to)[8 * Tiles][Columns]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int s = 0; s < Strips; ++s)
#pragma unroll
    for (int t = 0; t < Tiles; ++t)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        to[8 * t + lane % 4 * 2 + e % 2][16 * s + lane / 4 + e / 2 * 8] = sum[s][t][e];
}
/// Leaves the sums of four neighbours, of which each row of x has four.
template <int Tiles>
__device__ void leave_squares(const float (&squares)[Tiles], float (&to)[8 * Tiles]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int t = 0; t < Tiles; ++t) {
    float sum = squares[t] + __shfl_xor_sync(~0u, squares[t], 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (lane % 4 == 0) to[8 * t + lane / 4] = sum;
  }
}
/// of(warp) of all warps, in their order.
template <int Warps, class Of>
__device__ float sum_of_warps(const Of& of) {
  float total = of(0);
#pragma unroll
  for (int other = 1; other < Warps; ++other) total += of(other);
  return total;
}

/// A block has 16 `Strips` columns of c and 8 `Tiles` rows; its warps take chunks of k in turn, and their sums are added
/// in the order of the warps: a row's result depends neither on the others nor on Strips and Tiles. wᵀ is the
/// tensor cores' left operand, so that rows are its narrow side. A lane reads eight neighbours of a row at once: which of
/// k a place in the product stands for does not matter where it is the same for both operands.
template <int Strips, int Tiles, int Warps, class X, class W, handling H>
__global__ void __launch_bounds__(32 * Warps, blocks_at_once(Strips* Tiles, Warps, sizeof(W), H))
    kernel(earlier_kernels earlier, const __grid_constant__ products<X, W> p) {
  constexpr bool normed = is_normed(H), gated = is_gated(H), frozen = reads_frozen(H);
  // Half of a gated block's columns are the second product's.
  constexpr int columns = 16 * Strips, rows = 8 * Tiles, own = gated ? columns / 2 : columns;
  constexpr int ahead = chunks_ahead(Strips * Tiles, H, sizeof(X) + sizeof(W) == 4),
                step = ahead * Warps * chunk;
  static_assert(!gated || Strips % 2 == 0);
  __shared__ float sums[Warps][rows][columns + 4];  // 4: lanes of a warp write to 32 banks
  __shared__ float row_squares[normed ? Warps : 1][rows];
  const auto& set = p.sets[static_cast<int>(blockIdx.z) / p.count];
  const index item = static_cast<int>(blockIdx.z) % p.count;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int of_eight = lane / 4, part = lane % 4 * 8;
  const int column0 = static_cast<int>(blockIdx.x) * own, row0 = static_cast<int>(blockIdx.y) * rows;
  const X* x = set.x + item * p.step_x + (row0 + of_eight) * set.stride_x + part;
  const W* w = set.w + item * set.step_w + (column0 + of_eight) * p.stride_w + part;
  const W* second = gated ? p.sets[1].w + (column0 + of_eight) * p.stride_w + part : nullptr;
  hold_global(x), hold_global(w);
  eight<W> left[ahead][Strips][2];
  const auto load_weights = [&](int first) {
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int at = first + u * Warps * chunk;
      const bool there = at + part < p.k;
#pragma unroll
      for (int s = 0; s < 2 * Strips; ++s) {
        const int c = gated ? 8 * s % own : 8 * s;
        left[u][s / 2][s % 2].load((gated && c < 8 * s ? second : w) + c * p.stride_w + at,
                                   there && column0 + of_eight + c < set.n);
      }
    }
  };
  // The first blocks have their rows of w fetched, and all of them those of the block that will follow.
  const int bytes = min(p.k * static_cast<int>(sizeof(W)), 1 << 16);
  const auto fetch = [&](int block) {
    const int c = warp * (columns / Warps) + lane, row = block * own + (gated ? c % own : c);
    const W* matrix = gated && c >= own ? p.sets[1].w : set.w;
    if (lane < columns / Warps && row < set.n && bytes > 0)
      prefetch_far(matrix + item * set.step_w + row * p.stride_w, bytes);
  };
  earlier.wait([&] {
    const int block = static_cast<int>(blockIdx.x);
    if (block < p.wave) fetch(block);
    fetch(block + p.wave);
    if constexpr (normed)
      for (int c = 8 * static_cast<int>(threadIdx.x); block == 0 && c < p.k; c += 8 * 32 * Warps)
        prefetch_far(p.norm.weight + c);
    if constexpr (frozen) load_weights(warp * chunk);
  });
  if (column0 >= set.n) return;  // the whole block
  float sum[Strips][Tiles][4] = {}, squares[Tiles] = {};
  for (int first = warp * chunk; first < p.k;) {
    eight<X> right[ahead][Tiles];
    eight<float> scale[normed ? ahead : 1];
    if constexpr (!frozen) load_weights(first);
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int at = first + u * Warps * chunk;
      const bool there = at + part < p.k;
#pragma unroll
      for (int t = 0; t < Tiles; ++t)
        right[u][t].load(x + 8 * t * set.stride_x + at, there && row0 + of_eight + 8 * t < p.rows);
      if constexpr (normed) scale[u].load(p.norm.weight + at + part, there);
    }
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      std::uint32_t l[Strips][2][4], r[Tiles][4];
#pragma unroll
      for (int s = 0; s < 2 * Strips; ++s) left[u][s / 2][s % 2].round(l[s / 2][s % 2]);
#pragma unroll
      for (int t = 0; t < Tiles; ++t)
        if constexpr (normed)
          round_scaled(right[u][t], scale[u], p.norm.base, squares[t], r[t]);
        else
          right[u][t].round(r[t]);
#pragma unroll
      for (int half = 0; half < 4; half += 2)
#pragma unroll
        for (int s = 0; s < Strips; ++s) {
          const std::uint32_t a[4] = {l[s][0][half], l[s][1][half], l[s][0][half + 1], l[s][1][half + 1]};
#pragma unroll
          for (int t = 0; t < Tiles; ++t) multiply_add(sum[s][t], a, r[t][half], r[t][half + 1]);
        }
    }
    first += step;
    if (frozen && first < p.k) load_weights(first);
  }
  leave_sums(sum, sums[warp]);
  if constexpr (normed) leave_squares(squares, row_squares[warp]);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < rows * own; i += 32 * Warps) {
    const int r = i / own, c = i % own;
    if (row0 + r >= p.rows || column0 + c >= set.n) continue;
    float total = sum_of_warps<Warps>([&](int of) { return sums[of][r][c]; }), inverse = 1;
    if constexpr (normed) {
      const float all = sum_of_warps<Warps>([&](int of) { return row_squares[of][r]; });
      inverse = 1 / sqrtf(all / static_cast<float>(p.k) + p.norm.epsilon);
      total = __fmul_rn(total, inverse);
    }
    if constexpr (gated) {
      float value = sum_of_warps<Warps>([&](int of) { return sums[of][r][own + c]; });
      if constexpr (normed) value = __fmul_rn(value, inverse);
      total = math::activate(p.act, total).value * value;
    }
    if constexpr (gated && normed) {
      p.gated[(row0 + r) * p.stride_gated + column0 + c] = bf16(total);
      continue;
    }
    float* to = set.c + item * p.step_c + (row0 + r) * set.stride_c + column0 + c;
    if (p.beta != 0) total = fmaf(p.beta, *to, total);
    if (set.addend) total += set.addend[(row0 + r) * set.stride_addend + column0 + c];
    *to = total;
  }
}

/// The first `sets` of p, which writes what the caller tells the copies of operands of. One, of both products, where
/// they are gated.
template <handling H = handling::none, class X, class W>
void run(cuda_base& device, products<X, W> p, int sets) {
  constexpr int matrices = is_gated(H) ? 2 : 1;
  const auto with = [&]<int Strips, int Tiles, int Warps>() {
    p.wave = blocks_at_once(matrices * Strips * Tiles, Warps, sizeof(W), H) * device.multiprocessors();
    const dim3 blocks(static_cast<unsigned>(blocks_for(p.n, 16 * Strips)),
                      static_cast<unsigned>(blocks_for(p.rows, 8 * Tiles)),
                      static_cast<unsigned>(sets * p.count));
    enqueue(device, "a product of few rows", {blocks, 32 * Warps},
            kernel<matrices * Strips, Tiles, Warps, X, W, H>, p);
  };
  // Larger blocks read less in all, where there are enough of them.
  const auto enough = [&](index columns, index rows) {
    return blocks_for(p.n, columns) * blocks_for(p.rows, rows) * sets * p.count >= device.multiprocessors() / 2;
  };
  const auto of_warps = [&]<int Warps>() {
    if (p.rows > 16 && enough(32 / matrices, 32))
      with.template operator()<2 / matrices, 4, Warps>();
    else if (p.rows > 8 && enough(16, 16))
      with.template operator()<1, 2, Warps>();
    else
      with.template operator()<1, 1, Warps>();
  };
  // More or fewer warps add another way, so that it is not for the rows to say how many there are.
  if constexpr (H == handling::none || H == handling::frozen) {
    if (p.n <= 32 && p.k >= 2048) return with.template operator()<1, 1, 16>();
    if (p.k <= 5 * chunk) return of_warps.template operator()<4>();
  }
  of_warps.template operator()<8>();
}

}  // namespace distil_xlstm::device::detail::few_rows
