#pragma once

// What the library takes for granted, each said in one sentence. A file that is not there ends the compilation, so that
// no further errors hide it.
#if !defined(__cplusplus) || __cplusplus < 202002L
#error \
    "distil_xlstm is C++20: compile with -std=c++20 (CMake: target_compile_features(mine PRIVATE cxx_std_20))"
#include <distil_xlstm: see the error above>
#elif !defined(__cpp_exceptions) && !defined(__EXCEPTIONS)
#error "distil_xlstm reports mistakes as exceptions: compile without -fno-exceptions"
#include <distil_xlstm: see the error above>
#elif defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0
#error \
    "distil_xlstm computes with infinities and looks for NaN: compile without -ffast-math, -Ofast, -ffinite-math-only"
#include <distil_xlstm: see the error above>
#endif

/// Marks the scalar functions (math/, loss terms, device functors) that a host loop and a CUDA kernel share.
#if defined(__CUDACC__)
#define DISTIL_XLSTM_HD __host__ __device__
#else
#define DISTIL_XLSTM_HD
#endif

/// The library compiled once: who links distil_xlstm::compiled has DISTIL_XLSTM_COMPILED defined, and what is no
/// template is only declared in headers, which declare some templates extern, too. Else it is defined in them, inline,
/// by the .ipp file beside each. Some of it is a template with a default argument, such as a configuration's `stack()`:
/// what it calls is then compiled where it is used.
#if defined(DISTIL_XLSTM_COMPILED)
#define DISTIL_XLSTM_INLINE
#else
#define DISTIL_XLSTM_INLINE inline
#endif
