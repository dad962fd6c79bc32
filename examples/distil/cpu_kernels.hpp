#pragma once

// The CPU's own kernels, for what instantiates blocks for it.
#include <distil_xlstm/device/cpu_attention.hpp>
#include <distil_xlstm/device/cpu_mlstm.hpp>
#include <distil_xlstm/device/cpu_slstm.hpp>
