#pragma once

#include <memory>
#include <string>

#include <distil_xlstm/comm/any.hpp>
#include <distil_xlstm/comm/progress.hpp>

namespace program {

namespace dx = distil_xlstm;

/// The GPUs of processes that are connected already, one a process, through NCCL.
class gpu_ranks {
 public:
  virtual ~gpu_ranks() = default;
  /// As long as this lives.
  virtual dx::comm::any ranks() = 0;
};
/// `host` exchanges what lies in the host's memory; `progress` is its own.
std::unique_ptr<gpu_ranks> make_gpu_ranks(dx::comm::any host, dx::comm::progress& progress);
/// Of the NCCL that is found: "2.27.3".
std::string nccl_version();

}  // namespace program
