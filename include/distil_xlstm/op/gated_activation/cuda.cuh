#pragma once

#include <array>
#include <type_traits>

#include <distil_xlstm/device/cuda/fast_scalar.cuh>
#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/gated_activation/op.hpp>

namespace distil_xlstm::device {

namespace detail::silu_gate {

/// What is rounded to bfloat16 afterwards loses nothing by it.
using number = fast_scalar<float, approximate::all>;

struct forward {
  gated_activation_arguments<bf16> a;
  matrix_view<bf16> y;
  __device__ void operator()(index r, int c) const {
    const auto gate = read_pack<bf16>::last(a.gate.row(r) + c),
               value = read_pack<bf16>::last(a.value.row(r) + c);
    const distil_xlstm::detail::gated_activation f{activation::silu};
    float to[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = f(number(gate.at<float>(i)), number(value.at<float>(i))).x;
    store_eight_global(y.row(r) + c, to);
  }
};
struct backward {
  gated_activation_backward_arguments<bf16> g;
  __device__ void operator()(index r, int c) const {
    const auto gate = read_pack<bf16>::last(g.forward.gate.row(r) + c),
               value = read_pack<bf16>::last(g.forward.value.row(r) + c),
               dy = read_pack<bf16>::last(g.dy.row(r) + c);
    const distil_xlstm::detail::gated_activation_backward f{activation::silu};
    float dgate[8], dvalue[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const auto d = f(number(gate.at<float>(i)), number(value.at<float>(i)), number(dy.at<float>(i)));
      dgate[i] = d.gate.x, dvalue[i] = d.value.x;
    }
    store_eight_global(g.dgate.row(r) + c, dgate);
    store_eight_global(g.dvalue.row(r) + c, dvalue);
  }
};

/// f(r, c) for every row and every eighth column, last rows first: they are what a product before left in the cache.
template <class F>
__global__ void __launch_bounds__(256) kernel(F f, index rows, int octs) {
  for (index r = static_cast<index>(blockIdx.y) * blockDim.y + threadIdx.y; r < rows;
       r += static_cast<index>(gridDim.y) * blockDim.y)
    for (int oct = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); oct < octs;
         oct += static_cast<int>(gridDim.x * blockDim.x))
      f(rows - 1 - r, 8 * oct);
}
template <class F, index N>
void run(cuda_base& device, const F& f, const outputs<bf16, N>& written) {
  const index rows = written.first.rows, octs = written.first.cols / 8;
  const unsigned x = octs >= 64 ? 64 : 32, y = 256 / x;
  enqueue(device, "a gated activation", {dim3(grid_size(octs, x, 4096), grid_size(rows, y)), dim3(x, y)},
          kernel<F>, f, rows, static_cast<int>(octs));
  distil_xlstm::detail::tell_written(device.operand_copies(), written);
}

/// Whether all can be read and written eight at a time.
template <class... Views>
bool fits(const gated_activation_arguments<bf16>& a, const Views&... others) {
  const index rows = a.gate.rows, cols = a.gate.cols;
  const auto one = [&](const auto& m) { return m.rows == rows && m.cols == cols && is_vectorised(m, cols); };
  constexpr index most = index{1} << 31;  // a column fits into 32 bits
  return a.act == activation::silu && rows > 0 && cols > 0 && cols < most && one(a.gate) && one(a.value) &&
         (one(others) && ...);
}

}  // namespace detail::silu_gate

/// SiLU of a gate in bfloat16, eight numbers a thread; the function itself to float's last digits.
template <Precision P, class S, class Y>
void gated_activation_forward(basic_cuda<P>& device, const gated_activation_arguments<S>& a, matrix_view<Y> y) {
  if constexpr (std::is_same_v<S, bf16> && std::is_same_v<Y, bf16>)
    if (detail::silu_gate::fits(a, y))
      return detail::silu_gate::run(device, detail::silu_gate::forward{a, y}, outputs{y});
  distil_xlstm::gated_activation_forward<basic_cuda<P>, S, Y>(device, a, y);
}
/// Likewise, where y is not asked for.
template <Precision P, class S, class G>
void gated_activation_backward(basic_cuda<P>& device, const gated_activation_backward_arguments<S, G>& g) {
  if constexpr (std::is_same_v<S, bf16> && std::is_same_v<G, bf16>)
    if (!g.y.data && detail::silu_gate::fits(g.forward, g.dy, g.dgate, g.dvalue))
      return detail::silu_gate::run(device, detail::silu_gate::backward{g}, outputs{g.dgate, g.dvalue});
  distil_xlstm::gated_activation_backward<basic_cuda<P>, S, G>(device, g);
}
/// Few rows in one kernel, with products in bfloat16.
template <Precision P, class T, class X, class Matrix>
void gated_product_forward(basic_cuda<P>& device, const gated_product_arguments<T, X, Matrix>& a,
                           matrix_view<T> y) {
  const auto x = detail::product_operand(a.x), w = detail::product_operand(transposed(a.weight));
  detail::require_product("gated_product_forward", x, w, y.rows, 2 * y.cols);
  if constexpr (multiplies_in_bf16<P, T> && std::is_same_v<T, float>) {
    const std::array sets{detail::few_rows_set{x, detail::rows_of(w, 0, y.cols), y},
                          detail::few_rows_set{x, detail::rows_of(w, y.cols, y.cols), y}};
    if (y.size() > 0 &&
        detail::few_rows_product<detail::few_rows::handling::gated>(device, 1, 0, 0, 0, sets, a.act))
      return;
  }
  distil_xlstm::gated_product_forward<basic_cuda<P>, T, X, Matrix>(device, a, y);
}

}  // namespace distil_xlstm::device
