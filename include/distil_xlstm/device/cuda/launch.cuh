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
  int cluster = 1;   ///< blocks along x that meet in each other's shared memory
};

/// Queues a kernel whose writes the copies of operands are told of by the caller. Throws `error` when it is refused.
template <class... Parameters, class... Arguments>
void enqueue(cuda_base& device, const char* what, const launch_shape& shape, void (*kernel)(Parameters...),
             const Arguments&... arguments) {
  if (shape.shared > 32 * 1024)  // 48 KiB, of which the kernel may have some of its own, need asking for
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared)),
          what);
  cudaLaunchConfig_t config{};
  config.gridDim = shape.blocks, config.blockDim = shape.threads;
  config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared), config.stream = device.stream();
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.attrs = &cluster, config.numAttrs = shape.cluster > 1 ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, arguments...);
  check(cudaGetLastError(), what);
}

/// Queues a kernel, which may write anything: the way to launch one.
template <class... Parameters, class... Arguments>
void launch(cuda_base& device, const char* what, const launch_shape& shape, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  device.operand_copies().invalidate();
  enqueue(device, what, shape, kernel, arguments...);
}

}  // namespace distil_xlstm::device::detail
