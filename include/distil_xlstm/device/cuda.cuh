#pragma once

#if !defined(__CUDACC__)
#error "distil_xlstm/device/cuda.cuh holds kernels: compile this file with nvcc, or include device/cuda.hpp"
#endif

// What makes device::cuda a device: its verbs, and the kernels that replace defaults of theirs.
#include <distil_xlstm/device/cuda/attention.cuh>
#include <distil_xlstm/device/cuda/columns.cuh>
#include <distil_xlstm/device/cuda/decoder_layer.cuh>
#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/head.cuh>
#include <distil_xlstm/device/cuda/mlstm.cuh>
#include <distil_xlstm/device/cuda/norm.cuh>
#include <distil_xlstm/device/cuda/slstm.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
