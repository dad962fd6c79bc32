#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include <distil_xlstm/device/cuda/blas.cuh>
#include <distil_xlstm/device/cuda/columns.cuh>
#include <distil_xlstm/device/cuda/few_results.cuh>
#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/linear/op.hpp>

namespace distil_xlstm::device {

namespace detail {

/// Blocks of four columns; blockIdx.z says of which arguments.
template <class T, class Y, std::size_t N>
__global__ void __launch_bounds__(block_columns* block_lanes)
    headwise_forward_kernel(earlier_kernels earlier,
                            const __grid_constant__ std::array<headwise_arguments<T, Y>, N> several, int each) {
  const headwise_arguments<T, Y>& a = several[blockIdx.z];
  const int block = static_cast<int>(blockIdx.y * block_columns + threadIdx.x);
  earlier.wait([&] {
    if (block < a.blocks) prefetch_far(a.weight + 16 * block), prefetch_far(a.weight + 16 * block + 8);
  });
  if (block >= a.blocks) return;
  float4 w[4];
#pragma unroll
  for (int o = 0; o < 4; ++o) w[o] = load4(a.weight + 16 * block + 4 * o);
  const index begin = static_cast<index>(blockIdx.x) * block_lanes * each + threadIdx.y;
  const float* x = a.x.data + 4 * block;
  Y* y = a.y.data + 4 * block;
  constexpr int ahead = 4;
  for (int i = 0; i < each; i += ahead) {
    float4 in[ahead];
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      const index r = begin + (i + k) * block_lanes;
      if (i + k < each && r < a.x.rows) in[k] = load4(x + r * a.x.stride);
    }
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      const index r = begin + (i + k) * block_lanes;
      if (i + k < each && r < a.x.rows)
        store4(y + r * a.y.stride, {dot(w[0], in[k]), dot(w[1], in[k]), dot(w[2], in[k]), dot(w[3], in[k])});
    }
  }
}
/// `partial`, a row a block row: [blocks, 4, 4] of the weight's gradient.
template <class T>
__global__ void __launch_bounds__(block_columns* block_lanes)
    headwise_backward_kernel(headwise_backward_arguments<T> a, int each, float* partial) {
  const int block = static_cast<int>(blockIdx.y * block_columns + threadIdx.x);
  const float4 zero{0, 0, 0, 0};
  float4 w[4], dw[4];
#pragma unroll
  for (int o = 0; o < 4; ++o) w[o] = dw[o] = zero;
  if (block < a.blocks) {
#pragma unroll
    for (int o = 0; o < 4; ++o) w[o] = load4_readonly(a.weight + 16 * block + 4 * o);
    const index begin = static_cast<index>(blockIdx.x) * block_lanes * each + threadIdx.y;
    const float *x = a.x.data + 4 * block, *dy = a.dy.data + 4 * block;
    float* dx = a.dx.data + 4 * block;
    constexpr int ahead = 2;
    for (int i = 0; i < each; i += ahead) {
      float4 in[ahead], out[ahead], old[ahead];
#pragma unroll
      for (int k = 0; k < ahead; ++k) {
        const index r = begin + (i + k) * block_lanes;
        in[k] = out[k] = old[k] = zero;
        if (i + k >= each || r >= a.x.rows) continue;
        in[k] = load4_readonly(x + r * a.x.stride), out[k] = load4_readonly(dy + r * a.dy.stride);
        if (a.beta != 0) old[k] = load4(dx + r * a.dx.stride);
      }
#pragma unroll
      for (int k = 0; k < ahead; ++k) {
        const index r = begin + (i + k) * block_lanes;
        if (i + k >= each || r >= a.x.rows) continue;
        const float g[4] = {out[k].x, out[k].y, out[k].z, out[k].w};
        float4 sum = add_product(zero, a.beta, old[k]);
#pragma unroll
        for (int o = 0; o < 4; ++o) {
          sum = add_product(sum, g[o], w[o]);
          dw[o] = add_product(dw[o], g[o], in[k]);
        }
        store4(dx + r * a.dx.stride, sum);
      }
    }
  }
#pragma unroll
  for (int o = 0; o < 4; ++o) {
    const float4 sum = sum_of_lanes(dw[o]);
    if (threadIdx.y == 0 && block < a.blocks)
      store4(partial + (static_cast<index>(blockIdx.x) * a.blocks + block) * 16 + 4 * o, sum);
  }
}

/// c[i] = a b[i] + addend[i], whose stride may be 0, or that has no data, where few rows take one kernel for all.
/// Returns whether they do.
template <Precision P, class A, class B, class U, class T, std::size_t N>
bool few_rows_plus(basic_cuda<P>& device, const A& a, const std::array<B, N>& b,
                   const std::array<matrix_view<const U>, N>& addend, const std::array<matrix_view<T>, N>& c) {
  const auto x = product_operand(a);
  std::array<few_rows_set, N> sets;
  for (std::size_t i = 0; i < N; ++i) {
    const auto w = product_operand(b[i]);
    require_product("gemm_plus", x, w, c[i].rows, c[i].cols);
    if constexpr (std::is_same_v<T, float> && std::is_same_v<U, float>) sets[i] = {x, w, c[i], addend[i]};
  }
  if constexpr (multiplies_in_bf16<P, T> && std::is_same_v<T, float> && std::is_same_v<U, float>)
    return c.front().size() > 0 && few_rows_product(device, 1, 0, 0, 0, sets);
  return false;
}

/// c[i] = a b[i] + bias[i], four results each, in float where products would round. Returns whether it does.
template <Precision P, class A, class B, class U, class T, std::size_t N>
bool few_results_plus(basic_cuda<P>& device, const A& a, const std::array<B, N>& b,
                      const std::array<broadcast<U>, N>& bias, const std::array<matrix_view<T>, N>& c) {
  if constexpr (N == few_results::sets && multiplies_in_bf16<P, T> && std::is_same_v<T, float> &&
                std::is_same_v<std::remove_const_t<U>, float>) {
    const auto x = product_operand(a);
    few_results::products p{};
    if (x.transposed) return false;
    for (std::size_t i = 0; i < N; ++i) {
      const auto w = product_operand(b[i]);
      require_product("gemm_plus", x, w, c[i].rows, c[i].cols);
      if (w.dtype != dtype::f32 || !w.transposed || w.rows != few_results::results) return false;
      p.weight[i] = {static_cast<const float*>(w.data), w.rows, w.cols, w.stride};
      p.bias[i] = bias[i].values, p.y[i] = c[i];
    }
    const auto run = [&]<class X>(const X* from) {
      return few_results::run(device, matrix_view<const X>(from, x.rows, x.cols, x.stride), p);
    };
    if (x.dtype == dtype::bf16) return run(static_cast<const bf16*>(x.data));
    return x.dtype == dtype::f32 && run(static_cast<const float*>(x.data));
  }
  return false;
}

}  // namespace detail

/// In bfloat16 one product; few rows that it does not have take the default, as they may not be rounded.
template <Precision P, class A, class B, class T>
void gemm_plus(basic_cuda<P>& device, A a, B b, const_view<T> addend, matrix_view<T> c) {
  distil_xlstm::detail::require_fit(c, addend);
  if (detail::few_rows_plus(device, a, std::array{b}, std::array{addend}, std::array{c})) return;
  if constexpr (std::is_same_v<T, float> && multiplies_in_bf16<P, T>)
    if (c.rows > 16) {
      const auto oa = detail::product_operand(a), ob = detail::product_operand(b);
      const detail::product_input<bf16> pa(device, oa, 1, 0), pb(device, ob, 1, 0);
      const detail::blas_operand<bf16> left{pa.data, pa.stride, oa.transposed},
          right{pb.data, pb.stride, ob.transposed};
      if (detail::blas_product_plus(device, oa.transposed ? oa.rows : oa.cols, left, right, addend, c)) return;
    }
  distil_xlstm::gemm_plus<basic_cuda<P>, A, B, T>(device, a, b, addend, c);
}

/// Few rows in one kernel, and two times four results.
template <Precision P, class A, class B, class U, class T, std::size_t N>
void gemm_plus(basic_cuda<P>& device, A a, const std::array<B, N>& b, const std::array<broadcast<U>, N>& bias,
               const std::array<matrix_view<T>, N>& c) {
  std::array<matrix_view<const U>, N> rows;
  for (std::size_t i = 0; i < N; ++i) rows[i] = {bias[i].values, c[i].rows, c[i].cols, 0};
  if (detail::few_rows_plus(device, a, b, rows, c) || detail::few_results_plus(device, a, b, bias, c)) return;
  for (std::size_t i = 0; i < N; ++i)
    if (bias[i].values)
      distil_xlstm::gemm_plus<basic_cuda<P>, A, B, U, T>(device, a, b[i], bias[i], c[i]);
    else
      gemm(device, a, b[i], c[i]);
}
template <Precision P, class A, class B, class U, class T>
void gemm_plus(basic_cuda<P>& device, A a, B b, broadcast<U> bias, matrix_view<T> c) {
  gemm_plus(device, a, std::array{b}, std::array{bias}, std::array{c});
}

/// Blocks of four columns in one pass, in float whatever the products are; wider ones as products of few rows, in one
/// kernel, or as the default does.
template <Precision P, class T, class Y, std::size_t N>
void headwise_forward(basic_cuda<P>& device, const std::array<headwise_arguments<T, Y>, N>& several) {
  const headwise_arguments<T, Y>& one = several.front();
  const bool alike = std::all_of(several.begin(), several.end(), [&](const headwise_arguments<T, Y>& a) {
    return a.width == one.width && a.blocks == one.blocks && a.x.rows == one.x.rows;
  });
  if constexpr (std::is_same_v<T, float>)
    if (alike && one.x.rows > 0 && one.blocks > 0) {
      const bool narrow = std::all_of(several.begin(), several.end(), [](const headwise_arguments<T, Y>& a) {
        return a.width == 4 && detail::is_vectorised(a.weight) && detail::is_vectorised(a.x) &&
               detail::is_vectorised(a.y);
      });
      if (narrow) {
        const detail::stretches s(one.x.rows);
        dim3 grid = detail::column_grid(s.tiles, 4 * one.blocks);
        grid.z = N;
        return detail::launch(device, "headwise_forward",
                              {grid, dim3(detail::block_columns, detail::block_lanes)},
                              detail::headwise_forward_kernel<T, Y, N>, several, s.each);
      }
      if constexpr (multiplies_in_bf16<P, T> && std::is_same_v<Y, T>) {
        const index n = one.width;
        std::array<detail::few_rows_set, N> sets;
        std::transform(several.begin(), several.end(), sets.begin(), [n](const headwise_arguments<T>& a) {
          const auto weight = transposed(matrix_view<const T>(a.weight, n, n));
          return detail::few_rows_set{detail::product_operand(a.x.columns(0, n)),
                                      detail::product_operand(weight),
                                      a.y.columns(0, n),
                                      {},
                                      n * n};
        });
        if (detail::few_rows_product(device, one.blocks, n, n, 0, sets)) return;
      }
    }
  for (const auto& a : several) distil_xlstm::headwise_forward<basic_cuda<P>, T, Y>(device, a);
}
template <Precision P, class T, class Y>
void headwise_forward(basic_cuda<P>& device, const headwise_arguments<T, Y>& a) {
  headwise_forward(device, std::array{a});
}
template <Precision P, class T>
void headwise_backward(basic_cuda<P>& device, const headwise_backward_arguments<T>& a) {
  if constexpr (std::is_same_v<T, float>)
    if (a.width == 4 && a.x.rows > 0 && a.blocks > 0 && detail::is_vectorised(a.weight) &&
        detail::is_vectorised(a.x) && detail::is_vectorised(a.dy) && detail::is_vectorised(a.dx)) {
      const detail::stretches s(a.x.rows);
      auto partial = device.template scratch<float>(s.tiles * 16 * a.blocks);
      detail::launch(
          device, "headwise_backward",
          {detail::column_grid(s.tiles, 4 * a.blocks), dim3(detail::block_columns, detail::block_lanes)},
          detail::headwise_backward_kernel<T>, a, s.each, partial.data());
      return add_column_sums(device, matrix_view<const float>(partial.data(), s.tiles, 16 * a.blocks),
                             a.dweight);
    }
  distil_xlstm::headwise_backward<basic_cuda<P>, T>(device, a);
}

}  // namespace distil_xlstm::device
