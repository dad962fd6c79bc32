#include "fixed.hpp"

#include <distil_xlstm/device/cpu.hpp>

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  distil_xlstm::bench::compare<distil_xlstm::device::cpu, 64>();
  distil_xlstm::bench::compare<distil_xlstm::device::cpu, 576>();
  benchmark::RunSpecifiedBenchmarks();
}
