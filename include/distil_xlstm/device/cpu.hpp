#pragma once

// The CPU with every operation: who includes it has the fused form of each, so that no two translation units
// can differ.
#include <distil_xlstm/device/cpu/machine.hpp>
#include <distil_xlstm/op/attention/cpu.hpp>
#include <distil_xlstm/op/mlstm/cpu.hpp>
#include <distil_xlstm/op/slstm/cpu.hpp>
