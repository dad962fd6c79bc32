#pragma once

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>

namespace distil_xlstm::device::detail {

/// Four columns of a row: what a thread holds. A warp has 32 of them side by side, a block 8 rows or stretches.
constexpr int block_columns = 32, block_lanes = 8;

/// The sum of x over a block's lanes, in lane 0, in their order.
__device__ inline float4 sum_of_lanes(float4 x) {
  __shared__ float4 all[block_lanes][block_columns];
  __syncthreads();
  all[threadIdx.y][threadIdx.x] = x;
  __syncthreads();
  if (threadIdx.y == 0)
    for (int lane = 1; lane < block_lanes; ++lane) x = add(x, all[lane][threadIdx.x]);
  return x;
}

/// Rows that a thread takes, and blocks that so take `rows` of them.
struct stretches {
  int each;
  index tiles;
  explicit stretches(index rows)
      : each(static_cast<int>(std::clamp<index>(blocks_for(rows, block_lanes), 1, 16))),
        tiles(blocks_for(rows, block_lanes * each)) {}
};
inline dim3 column_grid(index tiles, index width) {
  return {static_cast<unsigned>(tiles), static_cast<unsigned>(blocks_for(width, 4 * block_columns))};
}

}  // namespace distil_xlstm::device::detail
