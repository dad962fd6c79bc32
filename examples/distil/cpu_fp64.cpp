#include <distil_xlstm/device/cpu.hpp>

#include "engine_impl.hpp"

std::unique_ptr<program::engine> program::cpu_fp64(int threads) {
  return std::make_unique<engine_on<dx::device::basic_cpu<dx::fp64>>>(threads);
}
