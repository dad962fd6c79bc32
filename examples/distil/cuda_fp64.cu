// What nvcc compiles of the program: the mathematics, and nothing else.
#include <distil_xlstm/device/cuda.cuh>

#include "jobs.hpp"

INSTANTIATE_JOBS(double, distil_xlstm::device::cuda);
