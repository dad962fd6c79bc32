#pragma once

#include <string>

namespace program {

/// Where a job runs, and with which numbers.
struct machine {
  std::string device = "cpu", precision = "fp32";
  int threads = 0;  ///< of the CPU; 0: as many as there are cores
};

/// request.run<T>(device), with the numbers that were asked for.
template <class Request, class D>
int run_with(D& device, const machine& where, const Request& request) {
  device.bf16_products = where.precision == "bf16";
  return where.precision == "fp64" ? request.template run<double>(device) : request.template run<float>(device);
}

}  // namespace program
