// Every job on a GPU. nvcc compiles this file, which instantiates the mathematics, and nothing else of the
// program.
#include <distil_xlstm/device/cuda.cuh>

#include "cache_run.hpp"
#include "evaluate_run.hpp"
#include "generate_run.hpp"
#include "logits_run.hpp"
#include "machine.hpp"
#include "training_run.hpp"

namespace program {

template <class Request>
int run_on_cuda(const machine& where, const Request& request) {
  dx::device::cuda device;
  return run_with(device, where, request);
}

template int run_on_cuda(const machine&, const cache_request&);
template int run_on_cuda(const machine&, const training_request&);
template int run_on_cuda(const machine&, const generate_request&);
template int run_on_cuda(const machine&, const evaluate_request&);
template int run_on_cuda(const machine&, const logits_request&);

}  // namespace program
