#include <distil_xlstm/device/cpu.hpp>

#include "jobs.hpp"

INSTANTIATE_JOBS(float, distil_xlstm::device::cpu);
