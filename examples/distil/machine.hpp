#pragma once

#include <string>

#include <distil_xlstm/device/precision.hpp>

namespace program {

/// Where a job runs, and with which numbers.
struct machine {
  std::string device = "cpu", precision = "fp32";
  int threads = 0;  ///< of the CPU; 0: as many as there are cores
};

/// request.run<T>(device) on a `Device` of the precision that was asked for, made of `arguments`.
template <template <class> class Device, class Request, class... Arguments>
int run_with(const machine& where, const Request& request, const Arguments&... arguments) {
  const auto run = [&]<class P>(P) {
    Device<P> device(arguments...);
    return request.template run<typename P::scalar>(device);
  };
  if (where.precision == "fp64") return run(distil_xlstm::fp64());
  if (where.precision == "bf16") return run(distil_xlstm::bf16_mixed());
  return run(distil_xlstm::fp32());
}

}  // namespace program
