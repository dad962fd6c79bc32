#include <distil_xlstm/device/cpu.hpp>

#include "jobs.hpp"

INSTANTIATE_JOBS(double, distil_xlstm::device::cpu);
