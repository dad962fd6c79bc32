// What nvcc compiles of the program: the mathematics, and nothing else.
#include <distil_xlstm/device/cuda.cuh>

#include "jobs.hpp"

INSTANTIATE_JOBS(float, distil_xlstm::device::cuda);
