#pragma once

#include <cstdint>

#include <distil_xlstm/device/cuda/tensor_core.cuh>

// cp.async: from global to shared memory, beside what the thread does meanwhile.
namespace distil_xlstm::device::detail {

/// 16 bytes of this thread's next group; `shared` is of `shared_address`.
__device__ inline void copy_async_16(std::uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
/// Of a line of 128 bytes, of which the rest is wanted soon: the L2 cache asks the memory for all of it.
__device__ inline void copy_async_16_of_line(std::uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
/// `bytes` of them, or of four, and zeros for the rest.
__device__ inline void copy_async_16(std::uint32_t shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes)
               : "memory");
}
/// What is read once shall leave the L2 cache before all else: a `policy` of its copies.
__device__ inline std::uint64_t read_once_policy() {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ inline void copy_async_16(std::uint32_t shared, const void* global, int bytes,
                                     std::uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(shared), "l"(global),
               "r"(bytes), "l"(policy)
               : "memory");
}
__device__ inline void copy_async_4(std::uint32_t shared, const void* global, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(bytes)
               : "memory");
}
__device__ inline void copy_async_16(void* shared, const void* global) {
  copy_async_16(shared_address(shared), global);
}
__device__ inline void copy_async_8(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}
__device__ inline void copy_async_4(float* shared, const float* global, int bytes) {
  copy_async_4(shared_address(shared), global, bytes);
}
/// The group ends.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for all groups of this thread but the newest `Open`.
template <int Open>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Open) : "memory");
}
/// The same where `open`, 0 at least, is known at run time: for all but the newest Most where it is more than Most.
template <int Most>
__device__ void wait_for_copies_but(int open) {
  if (open >= Most)
    wait_for_copies<Most>();
  else if constexpr (Most > 0)
    wait_for_copies_but<Most - 1>(open);
}

}  // namespace distil_xlstm::device::detail
