#pragma once

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>

namespace distil_xlstm::device::detail {

/// Four columns of a row: what a thread holds. A warp has 32 of them side by side, a block 8 rows or stretches.
constexpr int quad_columns = 32, quad_lanes = 8;

__device__ inline float4 read_quad(const float* p) { return __ldg(reinterpret_cast<const float4*>(p)); }
__device__ inline void write_quad(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }
/// s + a b
__device__ inline float4 add_product(float4 s, float4 a, float4 b) {
  return {fmaf(a.x, b.x, s.x), fmaf(a.y, b.y, s.y), fmaf(a.z, b.z, s.z), fmaf(a.w, b.w, s.w)};
}
__device__ inline float4 add_product(float4 s, float a, float4 b) { return add_product(s, {a, a, a, a}, b); }
__device__ inline float4 add(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ inline float dot(float4 a, float4 b) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, a.x * b.x)));
}

inline bool in_quads(const float* p, index stride = 0) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0 && stride % 4 == 0;
}
inline bool in_quads(matrix_view<const float> m) { return in_quads(m.data, m.stride); }

/// The sum of x over a block's lanes, in lane 0, in their order.
__device__ inline float4 sum_of_lanes(float4 x) {
  __shared__ float4 all[quad_lanes][quad_columns];
  __syncthreads();
  all[threadIdx.y][threadIdx.x] = x;
  __syncthreads();
  if (threadIdx.y == 0)
    for (int lane = 1; lane < quad_lanes; ++lane) x = add(x, all[lane][threadIdx.x]);
  return x;
}

/// Rows that a thread takes, and blocks that so take `rows` of them.
struct stretches {
  int each;
  index tiles;
  explicit stretches(index rows)
      : each(static_cast<int>(std::clamp<index>(blocks_for(rows, quad_lanes), 1, 16))),
        tiles(blocks_for(rows, quad_lanes * each)) {}
};
inline dim3 quad_grid(index tiles, index width) {
  return {static_cast<unsigned>(tiles), static_cast<unsigned>(blocks_for(width, 4 * quad_columns))};
}

}  // namespace distil_xlstm::device::detail
