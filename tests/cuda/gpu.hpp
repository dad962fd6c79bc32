#pragma once

#include <cstdio>
#include <cstdlib>
#include <tuple>
#include <type_traits>

#include <boost/test/unit_test.hpp>

#include <cuda_runtime_api.h>

#include <distil_xlstm/device/precision.hpp>

/// Where there is no GPU, a test of one ends with the status that CTest takes for "skipped".
struct needs_a_gpu {
  needs_a_gpu() {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return;
    std::puts("skipped: no GPU");
    std::fflush(stdout);
    std::_Exit(77);
  }
};
BOOST_TEST_GLOBAL_FIXTURE(needs_a_gpu);

/// Those of float, for test cases that are templates.
using float_precisions = std::tuple<distil_xlstm::fp32, distil_xlstm::bf16_mixed>;
template <class P>
inline constexpr bool is_bf16 = std::is_same_v<P, distil_xlstm::bf16_mixed>;
