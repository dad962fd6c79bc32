// What nvcc compiles of the program: the mathematics, and nothing else.
#include <distil_xlstm/device/cuda.cuh>

#include "jobs.hpp"

INSTANTIATE_JOBS(distil_xlstm::device::basic_cuda<distil_xlstm::bf16_mixed>);
