#include "../block/fixed.hpp"

#include <distil_xlstm/device/cuda.cuh>

// On the GPU, whose kernels choose their tiles by size when they are launched, fixed or not.
int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  distil_xlstm::bench::compare<distil_xlstm::device::cuda, 64>();
  distil_xlstm::bench::compare<distil_xlstm::device::cuda, 576>();
  benchmark::RunSpecifiedBenchmarks();
}
