#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/attention/cuda/warp.cuh>
#include <distil_xlstm/op/feature_map/op.hpp>

// Softmax features on the tensor cores: a pass over x and phi in each direction, no products in memory.
namespace distil_xlstm::device {

namespace detail {

/// 128 rows of one head, 16 a warp; width and features up to 64, padded with zeros. A thread's numbers are of two
/// rows, in pairs of columns, as those of a product are.
struct feature_tile : flash::warp_tile<64, 64> {
  static constexpr int size = 64, weight_numbers = size * pitch, row_numbers = rows * pitch;
  using numbers = float[size / 8][4];

  /// The head's weights [n, f].
  static __device__ void load_weight(std::uint16_t* tile, const float* weight, int n, int f) {
    for (int i = static_cast<int>(threadIdx.x); i < size * size / 2; i += threads) {
      const int r = i / (size / 2), c = i % (size / 2) * 2;
      const float2 x = r < n && c < f ? load2(weight + r * f + c) : float2{0, 0};
      *reinterpret_cast<std::uint32_t*>(tile + r * pitch + c) = pack_bf16(x.x, x.y);
    }
  }
  /// One of the two rows, n numbers from `row` on; zeros where there is none.
  static __device__ void load(numbers& x, int half, const float* row, int n) {
#pragma unroll
    for (int c = 0; c < size / 8; ++c) {
      const int column = column_of(c, 0);
      const float2 pair = row && column < n ? load2(row + column) : float2{0, 0};
      x[c][2 * half] = pair.x, x[c][2 * half + 1] = pair.y;
    }
  }
  /// Both, rounded.
  static __device__ void put(std::uint16_t* tile, const numbers& x) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int c = 0; c < size / 8; ++c)
        *reinterpret_cast<std::uint32_t*>(tile + row_of(half) * pitch + column_of(c, 0)) =
            pack_bf16(x[c][2 * half], x[c][2 * half + 1]);
  }
  /// row = softmax(sign z) of one of the two rows, f numbers; all lanes have to call.
  static __device__ void store_softmax(float* row, const numbers& z, int half, float sign, int f) {
    float top = -INFINITY, sum = 0, p[size / 4];
#pragma unroll
    for (int i = 0; i < size / 4; ++i) {
      p[i] = sign * z[i / 2][2 * half + i % 2];
      if (column_of(i / 2, i % 2) < f) top = fmaxf(top, p[i]);
    }
    top = row_max(top);
#pragma unroll
    for (int i = 0; i < size / 4; ++i) {
      p[i] = column_of(i / 2, i % 2) < f ? exp2_approx((p[i] - top) * flash::log2_e) : 0.f;
      sum += p[i];
    }
    const float inverse = 1 / row_sum(sum);
#pragma unroll
    for (int c = 0; c < size / 8; ++c)
      if (row && column_of(c, 0) < f)
        *reinterpret_cast<float2*>(row + column_of(c, 0)) = {p[2 * c] * inverse, p[2 * c + 1] * inverse};
  }
  /// dz += sign p (dp - sum p dp) of one of the two rows.
  static __device__ void add_gradient(numbers& dz, int half, const float* p, const float* dp, float sign,
                                      int f) {
    float2 weight[size / 8], gradient[size / 8];
    float sum = 0;
#pragma unroll
    for (int c = 0; c < size / 8; ++c) {
      const int column = column_of(c, 0);
      const bool there = p && column < f;
      weight[c] = there ? load2(p + column) : float2{0, 0};
      gradient[c] = there ? load2(dp + column) : float2{0, 0};
      sum = fmaf(weight[c].x, gradient[c].x, fmaf(weight[c].y, gradient[c].y, sum));
    }
    sum = row_sum(sum);
#pragma unroll
    for (int c = 0; c < size / 8; ++c) {
      dz[c][2 * half] += sign * weight[c].x * (gradient[c].x - sum);
      dz[c][2 * half + 1] += sign * weight[c].y * (gradient[c].y - sum);
    }
  }
  /// s = a bᵀ
  static __device__ void multiply_transposed(numbers& s, const numbers& a, const std::uint16_t* b) {
    piece left;
    multiply_rows(
        s,
        [&](int i) -> const piece& {
          left[0] = pack_bf16(a[2 * i][0], a[2 * i][1]), left[1] = pack_bf16(a[2 * i][2], a[2 * i][3]);
          left[2] = pack_bf16(a[2 * i + 1][0], a[2 * i + 1][1]);
          left[3] = pack_bf16(a[2 * i + 1][2], a[2 * i + 1][3]);
          return left;
        },
        b);
  }
};

/// aᵀ b over the tile's rows: a warp has 16 of the result's rows and half of its columns.
struct feature_weight_gradient {
  using tile = feature_tile;
  float sum[4][4] = {};
  static __device__ int first_row() { return 16 * (tile::warp() % 4); }
  static __device__ int first_column() { return 32 * (tile::warp() / 4); }

  __device__ void add(const std::uint16_t* a, const std::uint16_t* b) {
    const int lane = tile::lane();
#pragma unroll
    for (int k = 0; k < tile::rows; k += 16) {
      tile::piece left;
      load_matrices<true>(left, shared_address(a + (k + lane % 8 + lane / 16 * 8) * tile::pitch + first_row() +
                                               lane / 8 % 2 * 8));
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        tile::piece right;
        load_matrices<true>(
            right, shared_address(b + (k + lane % 16) * tile::pitch + first_column() + 16 * c + lane / 16 * 8));
        multiply_add(sum[2 * c], left, right[0], right[1]);
        multiply_add(sum[2 * c + 1], left, right[2], right[3]);
      }
    }
  }
  /// Its [n, f].
  __device__ void store(float* to, int n, int f) const {
    const int lane = tile::lane();
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int row = first_row() + lane / 4 + 8 * half, column = first_column() + 8 * c + lane % 4 * 2;
        if (row < n && column < f)
          *reinterpret_cast<float2*>(to + row * f + column) = {sum[c][2 * half], sum[c][2 * half + 1]};
      }
  }
};

/// A tile of a head's rows a block.
inline __global__ void __launch_bounds__(256, 3) feature_map_kernel(feature_map_arguments<float> a) {
  using tile = feature_tile;
  __shared__ __align__(16) std::uint16_t weight[tile::weight_numbers];
  const feature_map_shape& s = a.shape;
  const int n = static_cast<int>(s.width), f = static_cast<int>(s.features);
  const index r0 = static_cast<index>(blockIdx.x) * tile::rows, head = blockIdx.y, input = head / s.group();
  tile::numbers x, z = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const index r = r0 + tile::row_of(half);
    tile::load(x, half, r < a.x.rows ? a.x.row(r) + input * n : nullptr, n);
  }
  tile::load_weight(weight, a.weight + head * n * f, n, f);
  __syncthreads();
  tile::combine(z, x, weight);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const index r = r0 + tile::row_of(half);
    float* phi = r < a.x.rows ? a.phi.row(r) + head * s.size() : nullptr;
    tile::store_softmax(phi, z, half, 1, f);
    if (s.both) tile::store_softmax(phi ? phi + f : nullptr, z, half, -1, f);
  }
}

/// Some tiles of rows of all heads of an input a block: dx, and the block's share of dW to `partial` [gridDim.x, heads,
/// width, features].
inline __global__ void __launch_bounds__(256, 2)
    feature_map_backward_kernel(feature_map_backward_arguments<float> g, float* partial) {
  using tile = feature_tile;
  __shared__ __align__(16) std::uint16_t weight[tile::weight_numbers], xs[tile::row_numbers],
      dzs[tile::row_numbers];
  const auto& a = g.forward;
  const feature_map_shape& s = a.shape;
  const int n = static_cast<int>(s.width), f = static_cast<int>(s.features);
  const index input = blockIdx.y;
  for (index j = 0; j < s.group(); ++j) {
    const index head = input * s.group() + j, features = head * s.size();
    const float beta = j > 0 ? 1.f : g.beta;
    __syncthreads();  // the head before has been multiplied
    tile::load_weight(weight, a.weight + head * n * f, n, f);
    feature_weight_gradient dw;
    for (index r0 = static_cast<index>(blockIdx.x) * tile::rows; r0 < a.x.rows;
         r0 += static_cast<index>(gridDim.x) * tile::rows) {
      tile::numbers dz = {}, x;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const index r = r0 + tile::row_of(half);
        const bool there = r < a.x.rows;
        const float *phi = there ? a.phi.row(r) + features : nullptr,
                    *dphi = there ? g.dphi.row(r) + features : nullptr;
        tile::add_gradient(dz, half, phi, dphi, 1, f);
        if (s.both) tile::add_gradient(dz, half, there ? phi + f : nullptr, there ? dphi + f : nullptr, -1, f);
        tile::load(x, half, there ? a.x.row(r) + input * n : nullptr, n);
      }
      __syncthreads();  // the tile before has been multiplied
      tile::put(xs, x), tile::put(dzs, dz);
      __syncthreads();
      tile::numbers dx;
      tile::multiply_transposed(dx, dz, weight);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const index r = r0 + tile::row_of(half);
        if (r >= a.x.rows) continue;
        float* to = g.dx.row(r) + input * n;
#pragma unroll
        for (int c = 0; c < tile::size / 8; ++c) {
          const int column = tile::column_of(c, 0);
          if (column >= n) continue;
          const float2 old = beta != 0 ? load2(to + column) : float2{0, 0};
          *reinterpret_cast<float2*>(to + column) = {fmaf(beta, old.x, dx[c][2 * half]),
                                                     fmaf(beta, old.y, dx[c][2 * half + 1])};
        }
      }
      dw.add(xs, dzs);
    }
    dw.store(partial + (static_cast<index>(blockIdx.x) * s.heads + head) * n * f, n, f);
  }
}

/// Whether the kernels' tiles hold it, and all of its rows can be read in pairs.
inline bool fits_feature_tile(const feature_map_arguments<float>& a) {
  return a.shape.width <= feature_tile::size && a.shape.features <= feature_tile::size &&
         a.shape.width % 2 == 0 && a.shape.features % 2 == 0 && is_aligned(a.weight, 8) && in_pairs(a.x) &&
         in_pairs(a.phi);
}
inline bool fits_feature_tile(const feature_map_backward_arguments<float>& g) {
  return fits_feature_tile(g.forward) && in_pairs(g.dphi) && in_pairs(g.dx);
}
}  // namespace detail

/// With `bf16_mixed` one kernel on the tensor cores, where width and features are even numbers up to 64. Else the
/// default.
template <Precision P, class T>
void feature_map_forward(basic_cuda<P>& device, const feature_map_arguments<T>& a) {
  if constexpr (multiplies_in_bf16<P, T>)
    if (detail::fits_feature_tile(a)) {
      if (a.x.rows == 0 || a.shape.heads == 0) return;
      const dim3 grid(static_cast<unsigned>(detail::blocks_for(a.x.rows, detail::feature_tile::rows)),
                      static_cast<unsigned>(a.shape.heads));
      return detail::launch(device, "feature map", {grid, detail::feature_tile::threads},
                            detail::feature_map_kernel, a);
    }
  distil_xlstm::feature_map_forward<basic_cuda<P>, T>(device, a);
}
/// Its gradient; the weights' is summed in an order that depends on the shape alone.
template <Precision P, class T>
void feature_map_backward(basic_cuda<P>& device, const feature_map_backward_arguments<T>& g) {
  if constexpr (multiplies_in_bf16<P, T>)
    if (detail::fits_feature_tile(g)) {
      const auto& a = g.forward;
      const feature_map_shape& s = a.shape;
      if (a.x.rows == 0 || s.heads == 0) return;
      // As many as a large card runs at once, of the shape alone: the order of the sums does not hang on the card.
      const index stretches = std::min(detail::blocks_for(a.x.rows, detail::feature_tile::rows),
                                       std::max<index>(264 / s.inputs, 1)),
                  size = s.heads * s.width * s.features;
      auto partial = device.template scratch<float>(stretches * size);
      detail::launch(device, "feature map's gradient",
                     {dim3(static_cast<unsigned>(stretches), static_cast<unsigned>(s.inputs)),
                      detail::feature_tile::threads},
                     detail::feature_map_backward_kernel, g, partial.data());
      return add_column_sums(device, matrix_view<const float>(partial.data(), stretches, size), g.dweight);
    }
  distil_xlstm::feature_map_backward<basic_cuda<P>, T>(device, g);
}

}  // namespace distil_xlstm::device
