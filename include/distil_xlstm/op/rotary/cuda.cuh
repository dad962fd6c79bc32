#pragma once

#include <algorithm>
#include <type_traits>

#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/math/rotary.hpp>
#include <distil_xlstm/op/rotary/op.hpp>

namespace distil_xlstm::device {

namespace detail {

/// A `rotary_heads`, whose y is one of two types.
struct rotary_part {
  int heads;
  bool rotates;
  const float* x;
  index x_stride;
  float* y;  ///< or null
  bf16* rounded;
  index y_stride;
};
template <int N>
struct rotary_parts {
  rotary_part part[N];
};

constexpr int rotary_threads = 256, rotary_rows = 4;
/// A thread has four pairs of one head, threadIdx.x of them along half a head, in `rotary_rows` rows.
template <int N>
__global__ void __launch_bounds__(rotary_threads)
    rotate_heads_kernel(earlier_kernels earlier, rotary_angles<float> angles, rotary_parts<N> parts) {
  earlier.wait();
  int head = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  rotary_part of = parts.part[0];
#pragma unroll
  for (int i = 1; i < N; ++i)
    if (head >= of.heads) head -= of.heads, of = parts.part[i];
  if (head >= of.heads) return;
  const int half = static_cast<int>(angles.cosines.cols), c = 4 * static_cast<int>(threadIdx.x);
  const index row = static_cast<index>(blockIdx.x) * rotary_rows, column = index{2} * head * half + c;
  const int count = static_cast<int>(min(angles.cosines.rows - row, index{rotary_rows}));

  float4 low[rotary_rows], high[rotary_rows], cosine[rotary_rows], sine[rotary_rows];
#pragma unroll
  for (int i = 0; i < rotary_rows; ++i) {
    if (i >= count) break;
    const float* x = of.x + (row + i) * of.x_stride + column;
    low[i] = load4(x), high[i] = load4(x + half);
    if (!of.rotates) continue;
    cosine[i] = load4(angles.cosines.row(row + i) + c), sine[i] = load4(angles.sines.row(row + i) + c);
  }
#pragma unroll
  for (int i = 0; i < rotary_rows; ++i) {
    if (i >= count) break;
    if (of.rotates) {
      const auto rotate = [&](float& a, float& b, float cos, float sin) {
        const auto rotated = math::rotate(a, b, cos, angles.direction * sin);
        a = rotated.low, b = rotated.high;
      };
      rotate(low[i].x, high[i].x, cosine[i].x, sine[i].x), rotate(low[i].y, high[i].y, cosine[i].y, sine[i].y);
      rotate(low[i].z, high[i].z, cosine[i].z, sine[i].z), rotate(low[i].w, high[i].w, cosine[i].w, sine[i].w);
    }
    const index at = (row + i) * of.y_stride + column;
    if (of.y)
      store4_global(of.y + at, low[i]), store4_global(of.y + at + half, high[i]);
    else
      store4(of.rounded + at, low[i]), store4(of.rounded + at + half, high[i]);
  }
}

/// Whether four numbers of the part are read, and written, in one access.
template <class Y>
bool in_fours(const rotary_heads<float, Y>& h) {
  return is_vectorised(h.x) && h.y.stride % 4 == 0 && is_aligned(h.y.data, static_cast<int>(4 * sizeof(Y)));
}
template <class Y>
rotary_part part_of(const rotary_heads<float, Y>& h, index head) {
  rotary_part p{
      static_cast<int>(h.x.cols / head), h.rotates, h.x.data, h.x.stride, nullptr, nullptr, h.y.stride};
  if constexpr (std::is_same_v<Y, bf16>)
    p.rounded = h.y.data;
  else
    p.y = h.y.data;
  return p;
}

}  // namespace detail

/// Where products are in bfloat16: four pairs at a time, where heads and addresses allow it.
template <Precision P, class T, class... Y>
void rotate_heads(basic_cuda<P>& device, const rotary_angles<T>& angles, const rotary_heads<T, Y>&... parts) {
  if constexpr (multiplies_in_bf16<P, T>) {
    const index rows = angles.cosines.rows, half = angles.cosines.cols,
                heads = (parts.x.cols + ...) / (2 * half);
    if (rows == 0 || heads == 0) return;
    const bool fours = half % 4 == 0 && half <= 4 * detail::rotary_threads &&
                       detail::is_vectorised(angles.cosines) && detail::is_vectorised(angles.sines) &&
                       (detail::in_fours(parts) && ...);
    const unsigned x = static_cast<unsigned>(half / 4),
                   y = fours ? static_cast<unsigned>(std::min<index>(heads, detail::rotary_threads / x)) : 1;
    const index blocks = detail::blocks_for(rows, detail::rotary_rows), along = detail::blocks_for(heads, y);
    if (fours && blocks < (index{1} << 31) && along < (1 << 16))
      return detail::launch(
          device, "rotating heads",
          {dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(along)), dim3(x, y)},
          detail::rotate_heads_kernel<static_cast<int>(sizeof...(Y))>, angles,
          detail::rotary_parts<static_cast<int>(sizeof...(Y))>{{detail::part_of(parts, 2 * half)...}});
  }
  distil_xlstm::rotate_heads<basic_cuda<P>, T, Y...>(device, angles, parts...);
}

}  // namespace distil_xlstm::device
