// resave STUDENT FOLDER KIND: loads a student's folder and saves it again, its numbers as F32, BF16 or F64.

#include <iostream>
#include <string_view>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>

namespace dx = distil_xlstm;

int main(int argc, char** argv) {
  if (argc != 4) return std::cerr << "usage: resave STUDENT FOLDER KIND\n", 2;
  for (const auto type : {dx::dtype::f32, dx::dtype::bf16, dx::dtype::f64}) {
    if (std::string_view(argv[3]) != traits(type).name) continue;
    dx::device::cpu device(1);
    dx::save_xlstm(device, dx::load_xlstm<double>(device, argv[1]), argv[2], type);
    return 0;
  }
  return std::cerr << "resave: " << argv[3] << " is none of F32, BF16, F64\n", 2;
}
