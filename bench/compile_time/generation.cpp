// Reads a student and continues a text: what a program that only runs one compiles.
#include <array>
#include <cstdint>
#include <cstdio>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>

namespace dx = distil_xlstm;

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  dx::device::cpu device;
  const auto student = dx::load_xlstm<float>(device, argv[1]);
  const std::array<std::int32_t, 3> prompt{1, 2, 3};
  dx::generate(device, student, prompt, 60, {.temperature = 0.8, .seed = 1},
               [](std::int32_t id) { return std::printf("%d ", id) > 0; });
}
