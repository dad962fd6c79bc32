#pragma once

// Sums and maxima over the lanes of a warp; who of several blocks is the last.
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

/// Whether n - 1 others have counted before, of n that count once each: the counter is 0 again behind the last.
__device__ inline bool counts_last(unsigned* counter, int n) {
  const auto last = static_cast<unsigned>(n - 1);
  return n == 1 || atomicInc(counter, last) == last;
}
/// Whether the block is the last of n to come here, which then sees what all of them wrote, past the caches of its
/// multiprocessor.
__device__ inline bool comes_last(unsigned* counter, int n) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = counts_last(counter, n);
    __threadfence();
  }
  __syncthreads();
  return last;
}

}  // namespace distil_xlstm::device::detail
