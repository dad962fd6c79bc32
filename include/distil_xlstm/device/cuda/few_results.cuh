#pragma once

#include <algorithm>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>

// Products y = x Wᵀ + b of many rows and eight results, in float: x is read once, and not rounded for them alone.
namespace distil_xlstm::device::detail::few_results {

/// Weights of a call, and results of each.
constexpr int sets = 2, results = 4;
struct products {
  matrix_view<const float> weight[sets];  ///< [results, k]
  const float* bias[sets];                ///< null: zeros
  matrix_view<float> y[sets];             ///< [rows, results]
};

constexpr int warps = 8, rows_a_warp = 4;
/// W lies in shared memory; a warp has a few rows at a time, of which its lanes have four columns each.
template <class X>
__global__ void __launch_bounds__(32 * warps, 2)
    kernel(matrix_view<const X> in, const __grid_constant__ products p) {
  extern __shared__ float4 weights[];  // [sets * results, quads]
  constexpr int all = sets * results;
  const int quads = static_cast<int>(in.cols / 4), lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = static_cast<int>(threadIdx.x); i < all * quads; i += 32 * warps) {
    const int j = i / quads;
    weights[i] = load4_readonly(p.weight[j / results].row(j % results) + 4 * (i - j * quads));
  }
  __syncthreads();
  for (index first = (static_cast<index>(blockIdx.x) * warps + threadIdx.x / 32) * rows_a_warp; first < in.rows;
       first += static_cast<index>(gridDim.x) * warps * rows_a_warp) {
    const X* row[rows_a_warp];
#pragma unroll
    for (int i = 0; i < rows_a_warp; ++i) row[i] = in.row(first + i < in.rows ? first + i : first);
    float sum[rows_a_warp][all] = {};
#pragma unroll 2
    for (int q = lane; q < quads; q += 32) {
      float4 x[rows_a_warp];
#pragma unroll
      for (int i = 0; i < rows_a_warp; ++i) x[i] = load4(row[i] + 4 * q);
#pragma unroll
      for (int j = 0; j < all; ++j) {
        const float4 w = weights[j * quads + q];
#pragma unroll
        for (int i = 0; i < rows_a_warp; ++i) sum[i][j] = add_dot(sum[i][j], x[i], w);
      }
    }
    static_assert(rows_a_warp * all == 32, "a result a lane");
    float mine = 0;
#pragma unroll
    for (int i = 0; i < rows_a_warp; ++i)
#pragma unroll
      for (int j = 0; j < all; ++j) {
        const float total = warp_sum(sum[i][j]);
        if (lane == i * all + j) mine = total;
      }
    const int j = lane % all, set = j / results;
    const index r = first + lane / all;
    if (r < in.rows) p.y[set].row(r)[j % results] = mine + (p.bias[set] ? p.bias[set][j % results] : 0.f);
  }
}

/// Where the weights fit a block's shared memory. Returns whether they do.
template <class X>
bool run(cuda_base& device, matrix_view<const X> x, const products& p) {
  const index bytes = index{sets} * results * x.cols * index{sizeof(float)};
  if (bytes > device.shared_bytes() - 1024 || !is_vectorised(x, x.cols) || x.rows == 0) return false;
  for (const auto& w : p.weight)
    if (!is_vectorised(w)) return false;
  const auto blocks = static_cast<unsigned>(
      std::min(blocks_for(x.rows, warps * rows_a_warp), index{2} * device.multiprocessors()));
  launch(device, "a product of few results", {blocks, 32 * warps, bytes}, kernel<X>, x, p);
  return true;
}

}  // namespace distil_xlstm::device::detail::few_results
