#pragma once

#include <algorithm>

#include <distil_xlstm/device/cuda.hpp>

namespace distil_xlstm::device::detail {

constexpr index blocks_for(index n, index each) { return (n + each - 1) / each; }

/// Blocks along a dimension of the grid, of which the kernel's loops do the rest.
inline unsigned grid_size(index n, index each, index max = 65535) {
  return static_cast<unsigned>(std::clamp<index>(blocks_for(n, each), 1, max));
}

struct launch_shape {
  dim3 blocks, threads;
  index shared = 0;  ///< bytes of dynamic shared memory
  int cluster = 1;   ///< blocks along x that reach each other's shared memory
};

/// The first parameter of a kernel that may start while earlier kernels still run, so that its blocks are there when
/// those end (programmatic dependent launch, from compute capability 9.0 on).
///
/// Every thread calls `wait`, before it returns and before it reads or writes global memory: then whoever waits for
/// this kernel has waited for all those before it, too. What it reads it must not read as constant (`__ldg`,
/// `__restrict__`): compilers move such loads.
class earlier_kernels {
 public:
  explicit earlier_kernels(bool next_starts) : next_starts_(next_starts) {}
  /// Until they have ended, and what they wrote can be read. `meanwhile()`, called where there is time for it, may
  /// `prefetch_far`; what it reads to guess where, an earlier kernel may be writing.
  template <class F>
  __device__ void wait(const F& meanwhile) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (next_starts_) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    meanwhile();
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  }
  __device__ void wait() const {
    wait([] {});
  }

 private:
  bool next_starts_;  ///< the next such kernel may start when all blocks of this one have
};
/// Whether what this device runs was compiled for compute capability 9.0 or later. Where one of the architectures is
/// older, only the device's own is sure to be chosen.
inline bool runs_code_of_90(const cuda_base& device) {
  bool own = false, all = true;
#if defined(__CUDA_ARCH_LIST__)
  for (const int architecture : {__CUDA_ARCH_LIST__})
    own |= architecture == 10 * device.capability(), all &= architecture >= 900;
#else
  all = false;
#endif
  return device.capability() >= 90 && (own || all);
}

/// @{ Asks for the 32 bytes around p, or for that many from p on, both multiples of 16, to be in the L2 cache when
/// they are read. Until then they may be written.
__device__ inline void prefetch_far(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
}
__device__ inline void prefetch_far(const void* p, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(p)), "r"(bytes));
#endif
}
/// @}

/// Queues a kernel, which starts after the earlier ones have ended unless it `starts_early`.
template <class... Parameters, class... Arguments>
void start(cuda_base& device, const char* what, const launch_shape& shape, bool starts_early,
           void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (shape.shared > 32 * 1024)  // 48 KiB, of which the kernel may have some of its own, need asking for
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared)),
          what);
  cudaLaunchConfig_t config{};
  config.gridDim = shape.blocks, config.blockDim = shape.threads;
  config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared), config.stream = device.stream();
  cudaLaunchAttribute attributes[2]{};
  config.attrs = attributes;
  if (shape.cluster > 1) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeClusterDimension;
    a.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    a.val.clusterDim.y = a.val.clusterDim.z = 1;
  }
  if (starts_early) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a.val.programmaticStreamSerializationAllowed = 1;
  }
  cudaLaunchKernelEx(&config, kernel, arguments...);
  check(cudaGetLastError(), what);
}

/// @{ Queues a kernel whose writes the copies of operands are told of by the caller. Throws `error` when it is
/// refused.
template <class... Parameters, class... Arguments>
void enqueue(cuda_base& device, const char* what, const launch_shape& shape, void (*kernel)(Parameters...),
             const Arguments&... arguments) {
  start(device, what, shape, false, kernel, arguments...);
}
template <class... Parameters, class... Arguments>
void enqueue(cuda_base& device, const char* what, const launch_shape& shape,
             void (*kernel)(earlier_kernels, Parameters...), const Arguments&... arguments) {
  // Started early, the next kernel's blocks would take the multiprocessors that a large one's own blocks wait for.
  const index blocks = index{1} * shape.blocks.x * shape.blocks.y * shape.blocks.z;
  const earlier_kernels earlier(blocks <= 4 * device.multiprocessors());
  start(device, what, shape, runs_code_of_90(device), kernel, earlier, arguments...);
}
/// @}

/// Queues a kernel, which may write anything: the way to launch one.
template <class... Parameters, class... Arguments>
void launch(cuda_base& device, const char* what, const launch_shape& shape, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  device.operand_copies().invalidate();
  enqueue(device, what, shape, kernel, arguments...);
}

}  // namespace distil_xlstm::device::detail
