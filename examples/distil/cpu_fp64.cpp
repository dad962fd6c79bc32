#include <distil_xlstm/device/cpu.hpp>

#include "jobs.hpp"

INSTANTIATE_JOBS(distil_xlstm::device::basic_cpu<distil_xlstm::fp64>);
