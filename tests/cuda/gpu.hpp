#pragma once

#include <cstdio>
#include <cstdlib>

#include <boost/test/unit_test.hpp>

#include <cuda_runtime_api.h>

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
