#pragma once

#include <cstdint>

#include <distil_xlstm/device/cuda/tensor_core.cuh>

// Warps, and blocks that work together.
namespace distil_xlstm::device::detail {

/// The number of this warp, the same register for all its lanes.
__device__ inline int warp_number() { return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0); }

// Blocks of one cluster meet in each other's shared memory, from sm_90 on. Kernels that do are compiled for
// older chips as empty ones and not launched there; so are the functions below, which may stand alone.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool has_clusters = true;
#else
inline constexpr bool has_clusters = false;
#endif

__device__ inline int cluster_rank() {
  std::uint32_t r = 0;
  if constexpr (has_clusters) asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return static_cast<int>(r);
}
__device__ inline int cluster_size() {
  std::uint32_t n = 1;
  if constexpr (has_clusters) asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
  return static_cast<int>(n);
}
/// Every thread of every block of the cluster; what was written before is seen after.
__device__ inline void cluster_sync() {
  if constexpr (has_clusters)
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/// In two parts, where nothing that was written before needs to be seen after: this block has come, and all have.
__device__ inline void cluster_arrive() {
  if constexpr (has_clusters) asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() {
  if constexpr (has_clusters) asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}
/// The address of block `rank`'s copy of what this block has at `address`.
__device__ inline std::uint32_t address_in(int rank, std::uint32_t address) {
  std::uint32_t there = address;
  if constexpr (has_clusters)
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

/// A block's barrier that counts the bytes which blocks of the cluster send to it; a phase ends when the bytes
/// that were announced have come.
struct arrival {
  std::uint32_t address;
  /// By one thread, before the cluster's first meeting.
  __device__ void begin() const {
    if constexpr (has_clusters)
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(address)
                   : "memory");
  }
  /// By one thread, once a phase.
  __device__ void announce(int bytes) const {
    if constexpr (has_clusters)
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes)
                   : "memory");
  }
  __device__ void wait(int phase) const {
    std::uint32_t done = !has_clusters;
    while (!done)
      if constexpr (has_clusters)
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(address), "r"(phase & 1)
            : "memory");
  }
};
/// Writes into a block's shared memory and counts the bytes at its `arrival`; both addresses are of
/// `address_in`.
__device__ inline void send(std::uint32_t to, std::uint32_t arrival, std::uint32_t value) {
  if constexpr (has_clusters)
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to),
                 "r"(value), "r"(arrival)
                 : "memory");
}
__device__ inline void send(std::uint32_t to, std::uint32_t arrival, float x, float y) {
  if constexpr (has_clusters)
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to),
                 "f"(x), "f"(y), "r"(arrival)
                 : "memory");
}

/// *p = v in block `rank`.
__device__ inline void write_in(int rank, float* p, float v) {
  if constexpr (has_clusters)
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address_in(rank, shared_address(p))), "f"(v)
                 : "memory");
}

}  // namespace distil_xlstm::device::detail
