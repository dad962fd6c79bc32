// What nvcc compiles of the program: the mathematics, and nothing else.
#include <distil_xlstm/device/cuda.cuh>

#include "engine_impl.hpp"

std::unique_ptr<program::engine> program::cuda_fp32(int rank_here) {
  using device = dx::device::basic_cuda<dx::fp32>;
  return std::make_unique<engine_on<device>>(visible<device>(rank_here));
}
