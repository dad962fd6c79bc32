#pragma once

#include <algorithm>
#include <concepts>
#include <type_traits>

#include <distil_xlstm/device/cuda/columns.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/op/conv/cuda.cuh>
#include <distil_xlstm/op/linear/cuda.cuh>
#include <distil_xlstm/op/mlstm/cuda.cuh>
#include <distil_xlstm/op/mlstm_inputs/cuda.cuh>
#include <distil_xlstm/op/mlstm_layer/op.hpp>

namespace distil_xlstm::device {

namespace detail {

/// a, q, k and v of a token of each sequence, a row of the block each: four columns are a thread's from e on.
template <int Window, class Matrix>
__global__ void __launch_bounds__(block_columns* block_lanes, 2)
    mlstm_layer_inputs_kernel(earlier_kernels earlier,
                              const __grid_constant__ mlstm_layer_arguments<float, float, Matrix> a) {
  const int column = 4 * static_cast<int>(blockIdx.y * block_columns + threadIdx.x);
  const index b = static_cast<index>(blockIdx.x) * block_lanes + threadIdx.y;
  const bool there = column < a.conv.in.width && b < a.conv.in.seq.batch;
  earlier.wait([&] {
    if (!there) return;
    prefetch_conv_step<Window>(a.conv, b, column);
#pragma unroll
    for (int i = 0; i < 3; ++i)
      prefetch_far(a.weight[i] + 4 * column), prefetch_far(a.weight[i] + 4 * column + 8);
  });
  if (!there) return;
  const float4 e = load4(a.conv.in.x.row(b) + column);
  float4 w[3][4];
#pragma unroll
  for (int i = 0; i < 3; ++i)
#pragma unroll
    for (int o = 0; o < 4; ++o) w[i][o] = load4(a.weight[i] + 4 * column + 4 * o);
  const float4 y = conv_step<Window>(a.conv, b, column, e);
  const float4 activated = silu_of(y);
  store_convolved(a.conv, b, column, y, activated);
  float* to = a.qkv.row(b) + column;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const float4 x = i < 2 ? activated : e;
    store4(to + i * a.conv.in.width, {dot(w[i][0], x), dot(w[i][1], x), dot(w[i][2], x), dot(w[i][3], x)});
  }
}

/// False for more tokens than one, where a backward follows, and for what is not read four numbers at a time.
template <class Matrix>
bool mlstm_layer_step(cuda_base& device, const mlstm_layer_arguments<float, float, Matrix>& a) {
  const auto& seq = a.conv.in.seq;
  if (seq.time != 1 || a.chunk_states || a.shape.heads == 0 || a.width != 4) return false;
  if (!is_conv_step(a.conv) || !a.conv.activated.data || !is_vectorised(a.qkv)) return false;
  if (!std::all_of(a.weight.begin(), a.weight.end(), [](const float* w) { return is_vectorised(w); }) ||
      !std::all_of(a.bias.begin(), a.bias.end(), [](const float* b) { return b == nullptr; }))
    return false;
  mlstm_step_products products{a.qkv, {}, {}, {}};
  for (std::size_t i = 0; i < 2; ++i) {
    products.weight[i] = a.gate_weight[i], products.bias[i] = a.gate_bias[i], products.y[i] = a.gates[i];
    if (!is_vectorised(products.weight[i])) return false;
  }
  return with_window(a.conv.in.window, [&]<int Window>(std::integral_constant<int, Window>) {
    launch(device, "mlstm: a step",
           {column_grid(blocks_for(seq.batch, block_lanes), a.inner()), dim3(block_columns, block_lanes)},
           mlstm_layer_inputs_kernel<Window, Matrix>, a);
    mlstm_step(device, a.cell(), products);
  });
}

}  // namespace detail

/// A single token that no backward follows, of blocks of four columns without biases and a window up to 4, with
/// `bf16_mixed`: in three kernels, two for few sequences, and the gates in float.
template <Precision P, class T, class S, class Matrix>
void mlstm_layer_forward(basic_cuda<P>& device, const mlstm_layer_arguments<T, S, Matrix>& a) {
  if constexpr (std::is_same_v<T, float> && std::is_same_v<S, float> && multiplies_in_bf16<P, T> &&
                std::convertible_to<Matrix, matrix_view<const float>>)
    if (detail::mlstm_layer_step(device, a)) return;
  distil_xlstm::mlstm_layer_forward<basic_cuda<P>, T, S, Matrix>(device, a);
}

}  // namespace distil_xlstm::device
