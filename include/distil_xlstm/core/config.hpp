#pragma once

/// Marks the scalar functions (math/, loss terms, device functors) that a host loop and a CUDA kernel share.
#if defined(__CUDACC__)
#define DISTIL_XLSTM_HD __host__ __device__
#else
#define DISTIL_XLSTM_HD
#endif

/// The library compiled once: who links distil_xlstm::compiled has DISTIL_XLSTM_COMPILED defined, and what is no template
/// is only declared in headers. Else it is defined in them, inline, by the .ipp file beside each.
#if defined(DISTIL_XLSTM_COMPILED)
#define DISTIL_XLSTM_INLINE
#else
#define DISTIL_XLSTM_INLINE inline
#endif
