#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <distil_xlstm/device/cuda/cluster.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/op/sampling/op.hpp>

namespace distil_xlstm::device {

namespace detail {

/// The larger of two numbers, of equal ones the first in its row.
struct number_at {
  float x;
  int column;
  __device__ void take_larger(number_at other) {
    if (other.x > x || (other.x == x && other.column < column)) *this = other;
  }
  /// The largest of a warp, in all its lanes.
  __device__ void reduce_warp() {
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      take_larger({__shfl_xor_sync(~0u, x, step), __shfl_xor_sync(~0u, column, step)});
  }
};

/// A cluster a row, of one block or `likeliest_parts`, whose threads ask for several packs of it at once.
constexpr int likeliest_parts = 8;
template <int Threads>
__global__ void __launch_bounds__(Threads)
    likeliest_kernel(earlier_kernels earlier, matrix_view<const float> logits, std::int32_t* ids,
                     float* highest) {
  constexpr int ahead = 6, warps = Threads / 32;
  static_assert(warps <= 32, "one for each lane of the first");
  __shared__ number_at found[warps], found_by[likeliest_parts];
  const int parts = cluster_size(), part = cluster_rank(), cols = static_cast<int>(logits.cols);
  const index r = static_cast<int>(blockIdx.x) / parts;
  const float* row = logits.row(r);
  const int share = (cols + 4 * parts - 1) / (4 * parts) * 4, begin = min(part * share, cols),
            end = min(begin + share, cols);
  const int packed = is_vectorised(logits) ? begin + (end - begin) / 4 * 4 : begin;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  number_at best{-INFINITY, cols};
  cluster_sync();  // all of it has begun, so that it can be written to
  earlier.wait();
  const auto visit = [&](float x, int c) {
    if (fabsf(x) <= std::numeric_limits<float>::max() && x > best.x) best = {x, c};
  };
  for (int first = begin + 4 * thread; first < packed; first += ahead * 4 * Threads) {
    float4 x[ahead];
#pragma unroll
    for (int u = 0; u < ahead; ++u)
      if (const int c = first + u * 4 * Threads; c < packed) x[u] = load4(row + c);
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int c = first + u * 4 * Threads;
      if (c >= packed) break;
      visit(x[u].x, c), visit(x[u].y, c + 1), visit(x[u].z, c + 2), visit(x[u].w, c + 3);
    }
  }
  for (int c = packed + thread; c < end; c += Threads) visit(row[c], c);
  best.reduce_warp();
  if (lane == 0) found[thread / 32] = best;
  __syncthreads();
  // The first warp reduces what `count` warps or blocks have found.
  const auto reduce = [&](const number_at* all, int count) {
    if (thread >= 32) return;
    best = lane < count ? all[lane] : number_at{-INFINITY, cols};
    best.reduce_warp();
  };
  reduce(found, warps);
  if (parts > 1) {
    if (thread == 0) {
      write_in(0, &found_by[part].x, best.x);
      write_in(0, reinterpret_cast<float*>(&found_by[part].column), __int_as_float(best.column));
    }
    cluster_sync();
    reduce(found_by, parts);
  }
  if (thread != 0 || part != 0) return;
  ids[r] = best.x == -INFINITY ? -1 : best.column;
  if (highest) highest[r] = best.x;
}

}  // namespace detail

/// Of floats one pass that waits for memory once or twice.
template <Precision P, class T>
void choose_likeliest(basic_cuda<P>& device, matrix_view<const T> logits, std::int32_t* ids, T* highest) {
  if constexpr (std::is_same_v<T, float>) {
    const auto rows = static_cast<unsigned>(logits.rows);
    if (rows == 0) return;
    if (detail::runs_code_of_90(device))
      detail::launch(device, "choosing tokens",
                     {detail::likeliest_parts * rows, 256, 0, detail::likeliest_parts},
                     detail::likeliest_kernel<256>, logits, ids, highest);
    else
      detail::launch(device, "choosing tokens", {rows, 1024}, detail::likeliest_kernel<1024>, logits, ids,
                     highest);
  } else {
    distil_xlstm::choose_likeliest<basic_cuda<P>, T>(device, logits, ids, highest);
  }
}

}  // namespace distil_xlstm::device
