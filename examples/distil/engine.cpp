#include "engine.hpp"
#include "processes.hpp"

namespace program {

std::unique_ptr<engine> make_engine(const machine& where) {
  if (where.device == "cuda" && processes().size() > 1)
    throw usage_error("--device cuda: one process works there; several do on the CPU");
#if defined(DISTIL_WITH_CUDA)
  if (where.device == "cuda")
    return where.precision == "fp64" ? cuda_fp64() : where.precision == "bf16" ? cuda_bf16() : cuda_fp32();
#endif
  const int threads = where.threads > 0 ? where.threads : threads_each();
  return where.precision == "fp64"   ? cpu_fp64(threads)
         : where.precision == "bf16" ? cpu_bf16(threads)
                                     : cpu_fp32(threads);
}

}  // namespace program
