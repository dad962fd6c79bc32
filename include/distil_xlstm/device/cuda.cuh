#pragma once

#if !defined(__CUDACC__)
#error "distil_xlstm/device/cuda.cuh holds kernels: compile this file with nvcc, or include device/cuda.hpp"
#endif

// The GPU with every operation: the verbs, and the kernels that replace defaults.
#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/attention/cuda.cuh>
#include <distil_xlstm/op/conv/cuda.cuh>
#include <distil_xlstm/op/decoder_layer/cuda.cuh>
#include <distil_xlstm/op/feature_map/cuda.cuh>
#include <distil_xlstm/op/gated_activation/cuda.cuh>
#include <distil_xlstm/op/gated_mix/cuda.cuh>
#include <distil_xlstm/op/linear/cuda.cuh>
#include <distil_xlstm/op/logits/cuda.cuh>
#include <distil_xlstm/op/mlstm/cuda.cuh>
#include <distil_xlstm/op/mlstm_inputs/cuda.cuh>
#include <distil_xlstm/op/mlstm_layer/cuda.cuh>
#include <distil_xlstm/op/mlstm_output/cuda.cuh>
#include <distil_xlstm/op/norm/cuda.cuh>
#include <distil_xlstm/op/sampling/cuda.cuh>
#include <distil_xlstm/op/slstm/cuda.cuh>
#include <distil_xlstm/op/slstm_inputs/cuda.cuh>
#include <distil_xlstm/op/slstm_layer/cuda.cuh>
