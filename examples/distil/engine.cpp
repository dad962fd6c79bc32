#include "engine.hpp"

namespace program {

std::unique_ptr<engine> make_engine(const machine& where) {
#if defined(DISTIL_WITH_CUDA)
  if (where.device == "cuda")
    return where.precision == "fp64" ? cuda_fp64() : where.precision == "bf16" ? cuda_bf16() : cuda_fp32();
#endif
  return where.precision == "fp64"   ? cpu_fp64(where.threads)
         : where.precision == "bf16" ? cpu_bf16(where.threads)
                                     : cpu_fp32(where.threads);
}

}  // namespace program
