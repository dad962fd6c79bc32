#pragma once

// Sums and maxima over the lanes of a warp.
namespace distil_xlstm::device::detail {

/// Over groups of `Lanes` neighbours; over every `Alike`-th lane of them where the ones between hold the same.
template <int Lanes = 32, int Alike = 1>
__device__ float warp_sum(float x) {
#pragma unroll
  for (int step = Lanes / 2; step >= Alike; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}
template <int Lanes = 32, int Alike = 1>
__device__ float warp_max(float x) {
#pragma unroll
  for (int step = Lanes / 2; step >= Alike; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}

}  // namespace distil_xlstm::device::detail
