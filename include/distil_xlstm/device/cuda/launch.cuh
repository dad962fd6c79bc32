#pragma once

#include <algorithm>

#include <distil_xlstm/device/cuda.hpp>

namespace distil_xlstm::device::detail {

/// Throws `error` when the launch just made was refused.
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

constexpr index blocks_for(index n, index each) { return (n + each - 1) / each; }

/// Blocks along a dimension of the grid, of which the kernel's loops do the rest.
inline unsigned grid_size(index n, index each, index most = 65535) {
  return static_cast<unsigned>(std::clamp<index>(blocks_for(n, each), 1, most));
}

}  // namespace distil_xlstm::device::detail
