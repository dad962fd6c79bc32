#include <distil_xlstm/device/cpu_attention.hpp>
#include <distil_xlstm/device/cpu_mlstm.hpp>
#include <distil_xlstm/device/cpu_slstm.hpp>

#include "jobs.hpp"

INSTANTIATE_JOBS(float, distil_xlstm::device::cpu);
