#pragma once

#include <algorithm>

#include <distil_xlstm/op/mlstm_output/op.hpp>
#include <distil_xlstm/op/norm/cuda.cuh>

namespace distil_xlstm::device {

namespace detail::norms {

/// All gradients but the weights', and each block's part of those: a row a block row of `dweight` and of `dskip`;
/// blockIdx.y is the group, whose rows the blocks share.
template <int Vectors, class Z>
__global__ void __launch_bounds__(256, Vectors <= 3 ? 2 : 1)
    mlstm_output_backward_kernel(mlstm_output_backward_arguments<float, Z> a) {
  using held = held_row<32, Vectors>;
  const int width = static_cast<int>(a.norm.width), group = static_cast<int>(blockIdx.y), at = group * width;
  const float base = a.norm.residual_weight ? 1 : 0;
  const distil_xlstm::detail::mlstm_output_gradients gradients;
  held dw, dskip;
#pragma unroll
  for (int i = 0; i < Vectors; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) dw.v[i][e] = dskip.v[i][e] = 0;
  for (index row = static_cast<index>(blockIdx.x) * held::rows_a_block + held::part(); row < a.h.rows;
       row += static_cast<index>(gridDim.x) * held::rows_a_block) {
    held u, g, x, z;
    u.load(a.h.row(row) + at, width, true);
    g.load(a.dy.row(row) + at, width, true);
    x.load(a.a.row(row) + at, width, true);
    z.load(a.z.row(row) + at, width, true);
    const float* s = a.statistics + 2 * (row * a.norm.groups + group);
    const float mean = s[0], inverse = s[1];
    float means[2] = {0, 0};
    {
      held scale, skip;
      scale.load(a.norm.weight + at, width, true);
      skip.load(a.skip + at, width, true);
      u.each(width, [&](float& v, int i, int e) {
        v = (v - mean) * inverse;
        const float weight = base + scale.v[i][e];
        const auto d = gradients(weight, v, skip.v[i][e], x.v[i][e], z.v[i][e], g.v[i][e]);
        dskip.v[i][e] = fmaf(d.norm, x.v[i][e], dskip.v[i][e]);
        dw.v[i][e] = fmaf(d.norm, v, dw.v[i][e]);
        x.v[i][e] = d.a, z.v[i][e] = d.z, g.v[i][e] = d.norm * weight;
        means[0] += g.v[i][e];
        means[1] = fmaf(g.v[i][e], v, means[1]);
      });
    }
    x.store(a.da.row(row) + at, width, true);
    z.store(a.dz.row(row) + at, width, true);
    held::sum(means);
    const float of_g = a.norm.subtract_mean ? means[0] / static_cast<float>(width) : 0.f;
    const float of_gu = means[1] / static_cast<float>(width);
    g.each(width, [&](float& v, int i, int e) { v = inverse * (v - of_g - u.v[i][e] * of_gu); });
    g.store(a.dh.row(row) + at, width, true);
  }
  __shared__ __align__(16) float all[held::rows_a_block][4 * 32 * Vectors];
  const auto write = [&](const held& part, float* to) {
    __syncthreads();
    part.store(all[held::part()], 4 * 32 * Vectors, true);
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < width; c += held::block) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < held::rows_a_block; ++i) sum += all[i][c];
      to[(static_cast<index>(blockIdx.x) * a.norm.groups + group) * width + c] = sum;
    }
  };
  write(dw, a.dweight), write(dskip, a.dskip);
}

/// Whether a warp holds a row, four numbers at a time.
template <class Z>
bool fits(const mlstm_output_backward_arguments<float, Z>& a) {
  const auto vectorised = [&](const auto&... m) { return (is_vectorised(m, a.norm.width) && ...); };
  return a.norm.width > distil_xlstm::detail::narrow_norm_input_gradient<float>::widest &&
         a.norm.width <= 640 && held(a.norm, a.h.rows) && vectorised(a.h, a.a, a.z, a.dy, a.dh, a.da) &&
         a.dz.stride % 4 == 0 && is_aligned(a.dz.data, static_cast<int>(4 * sizeof(Z))) &&
         is_vectorised(a.skip) && is_vectorised(a.norm.weight);
}

}  // namespace detail::norms

/// Where products round: rows of up to 640 numbers in one pass, in registers.
template <Precision P, class T, class Z>
void mlstm_output_backward(basic_cuda<P>& device, const mlstm_output_backward_arguments<T, Z>& a) {
  if (a.h.rows == 0) return;
  if constexpr (std::is_same_v<T, float> && multiplies_in_bf16<P, T>)
    if (detail::norms::fits(a))
      return detail::norms::choose(a.norm.width, false, [&]<int Threads, int Vectors>() {
        if constexpr (Threads == 32 && Vectors <= 5) {
          const index groups = a.norm.groups, cols = groups * a.norm.width;
          const index blocks =
              std::min(detail::blocks_for(a.h.rows, 8),
                       std::max<index>(1, detail::blocks_for(index{2} * device.multiprocessors(), groups)));
          auto partial = device.template scratch<float>(2 * blocks * cols);
          auto in_parts = a;
          in_parts.dweight = partial.data(), in_parts.dskip = partial.data() + blocks * cols;
          detail::launch(device, "mlstm_output_backward",
                         {dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(groups)), 256},
                         detail::norms::mlstm_output_backward_kernel<Vectors, Z>, in_parts);
          const auto sum = [&](const float* parts, float* total) {
            detail::launch(device, "mlstm_output_backward",
                           {static_cast<unsigned>(detail::blocks_for(cols, 32)), dim3(32, 16)},
                           detail::norms::weight_kernel<float>, parts, blocks, cols, total);
          };
          sum(in_parts.dweight, a.dweight), sum(in_parts.dskip, a.dskip);
        }
      });
  distil_xlstm::mlstm_output_backward<basic_cuda<P>, T>(device, a);
}

}  // namespace distil_xlstm::device
