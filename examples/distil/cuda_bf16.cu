// What nvcc compiles of the program: the mathematics, and nothing else.
#include <distil_xlstm/device/cuda.cuh>

#include "engine_impl.hpp"

std::unique_ptr<program::engine> program::cuda_bf16(int rank_here) {
  using device = dx::device::basic_cuda<dx::bf16_mixed>;
  return std::make_unique<engine_on<device>>(visible<device>(rank_here));
}
