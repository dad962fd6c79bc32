#pragma once

#include <array>

#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/op/linear/cuda.cuh>
#include <distil_xlstm/op/norm/cuda.cuh>
#include <distil_xlstm/op/slstm/cuda.cuh>
#include <distil_xlstm/op/slstm_layer/op.hpp>

namespace distil_xlstm::device {

namespace detail {

/// Of a block's threads, the same for all of them. `parts` is read until the next barrier.
__device__ inline float block_sum(float x, float (&parts)[32]) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (unsigned i = 0; i < blockDim.x / 32; ++i) x += parts[i];
  return x;
}

/// The cell, once `recurrent` has R h of the state, and the norm: a block a sequence and head, a thread a channel, of
/// which there are up to `Most`.
template <int Most>
__global__ void __launch_bounds__(Most)
    slstm_layer_step_kernel(earlier_kernels earlier, slstm_layer_arguments<float> a,
                            matrix_view<const float> recurrent) {
  __shared__ float sums[2][32];
  const slstm_step_map<float> cell{a.cell, recurrent};
  const index heads = a.cell.heads, width = a.cell.head_dim, b = blockIdx.x / heads;
  const index c = blockIdx.x % heads * width + threadIdx.x;
  const bool there = threadIdx.x < width;
  earlier.wait([&] {
    if (there) cell.prefetch(b, c), prefetch_far(a.norm.weight + c);
  });
  float scale = 0, skip = 0, h = 0;
  if (there) {
    scale = a.norm.template scale<float>(c);
    if (a.skip.data) skip = a.skip.row(b)[c];
    h = cell.advance<float>(b, c);
  }
  const float count = static_cast<float>(width);
  const float mean = a.norm.subtract_mean ? block_sum(h, sums[0]) / count : 0.f;
  const float u = there ? h - mean : 0.f;
  const float inverse = 1 / sqrtf(block_sum(u * u, sums[1]) / count + a.norm.epsilon);
  if (threadIdx.x == 0) a.statistics[2 * blockIdx.x] = mean, a.statistics[2 * blockIdx.x + 1] = inverse;
  if (!there) return;
  const float y = scale * (u * inverse);
  a.y.row(b)[c] = a.skip.data ? __fadd_rn(y, skip) : y;
}

/// False for more tokens than one, and where the products are none of few rows.
inline bool slstm_layer_step(cuda_base& device, const slstm_layer_arguments<float>& a) {
  const index heads = a.cell.heads, head = a.cell.head_dim, width = a.cell.width(), rows = a.cell.seq.batch;
  if (a.cell.seq.time != 1 || a.norm.groups != heads || a.norm.width != head || head > 1024) return false;
  if (rows == 0 || width == 0 || a.norm.for_products) return false;
  auto memory = device.scratch<float>(rows * 4 * width);
  const matrix_view<float> sums(memory.data(), rows, 4 * width);
  const matrix_view<const float> h(a.cell.state.data, rows, head, a.cell.state.stride);
  std::array<few_rows_set, 8> gates;
  for (std::size_t i = 0; i < 4; ++i) {
    const index gate = static_cast<index>(i);
    const matrix_view<const float> w(a.weight[i], head, head),
        r(a.cell.recurrent + gate * head * head, head, head);
    gates[i] = {product_operand((i < 2 ? a.a : a.x).columns(0, head)),
                product_operand(transposed(w)),
                a.cell.raw.columns(gate * width, head),
                {},
                head * head};
    gates[4 + i] = {product_operand(h),
                    product_operand(transposed(r)),
                    sums.columns(gate * width, head),
                    {},
                    4 * head * head};
  }
  if (!few_rows_product(device, heads, head, head, 0, gates)) return false;
  const unsigned threads = static_cast<unsigned>(32 * blocks_for(head, 32));
  launch(device, "slstm: a step", {static_cast<unsigned>(rows * heads), threads}, slstm_layer_step_kernel<1024>,
         a, matrix_view<const float>(sums));
  return true;
}

}  // namespace detail

/// A single token, where products of few rows take it, with `bf16_mixed`, in two kernels.
template <Precision P, class T>
void slstm_layer_forward(basic_cuda<P>& device, const slstm_layer_arguments<T>& a) {
  if constexpr (std::is_same_v<T, float> && multiplies_in_bf16<P, T>)
    if (detail::slstm_layer_step(device, a)) return;
  distil_xlstm::slstm_layer_forward<basic_cuda<P>, T>(device, a);
}

}  // namespace distil_xlstm::device
