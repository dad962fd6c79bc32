#include "engine.hpp"
#include "processes.hpp"

namespace program {

std::unique_ptr<engine> make_engine(const machine& where) {
#if !defined(DISTIL_WITH_NCCL)
  if (where.device == "cuda" && processes().size() > 1)
    throw usage_error("--device cuda: this distil was built without NCCL, and one process works on a GPU");
#endif
#if defined(DISTIL_WITH_CUDA)
  if (where.device == "cuda") {
    const int gpu = local_rank();
    return where.precision == "fp64"   ? cuda_fp64(gpu)
           : where.precision == "bf16" ? cuda_bf16(gpu)
                                       : cuda_fp32(gpu);
  }
#endif
  const int threads = where.threads > 0 ? where.threads : threads_each();
  return where.precision == "fp64"   ? cpu_fp64(threads)
         : where.precision == "bf16" ? cpu_bf16(threads)
                                     : cpu_fp32(threads);
}

}  // namespace program
