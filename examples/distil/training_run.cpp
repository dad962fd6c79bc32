#include "training_run.hpp"

#include "cpu_kernels.hpp"

namespace program {

template int training_request::run<float>(dx::device::cpu&) const;
template int training_request::run<double>(dx::device::cpu&) const;

}  // namespace program
