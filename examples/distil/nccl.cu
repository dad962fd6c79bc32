#include <distil_xlstm/comm/nccl.cuh>

#include "gpu_ranks.hpp"

namespace program {
namespace {

class nccl_ranks final : public gpu_ranks {
 public:
  nccl_ranks(dx::comm::any host, dx::comm::progress& progress) : ranks_(host, progress) {}
  dx::comm::any ranks() override { return ranks_; }

 private:
  dx::comm::nccl ranks_;
};

}  // namespace

std::unique_ptr<gpu_ranks> make_gpu_ranks(dx::comm::any host, dx::comm::progress& progress) {
  return std::make_unique<nccl_ranks>(host, progress);
}
std::string nccl_version() { return dx::comm::nccl::version_text(dx::comm::nccl::version()); }

}  // namespace program
