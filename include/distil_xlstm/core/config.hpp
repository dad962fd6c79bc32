#pragma once

/// Marks the scalar functions (math/, loss terms, device functors) that a host loop and a CUDA kernel share.
#if defined(__CUDACC__)
#define DISTIL_XLSTM_HD __host__ __device__
#else
#define DISTIL_XLSTM_HD
#endif
