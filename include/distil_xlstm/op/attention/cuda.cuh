#pragma once

#include <type_traits>

#include <distil_xlstm/op/attention/cuda/float.cuh>
#include <distil_xlstm/op/attention/cuda/step.cuh>
#include <distil_xlstm/op/attention/cuda/tensor.cuh>

namespace distil_xlstm::device {

/// Tiles of queries against tiles of keys with a running softmax: no scores in memory. Keys between a window and
/// the sinks are passed over. With `bf16_mixed` heads up to 128 wide go through the tensor cores, q, k, v and the
/// weights rounded to bfloat16. Single tokens (of any past) are float and read the past once. Double, and wider heads
/// than 256, take the default.
template <Precision P, class T>
void attention_forward(basic_cuda<P>& device, const attention_arguments<T>& a) {
  const index n = a.shape.width;
  if constexpr (std::is_same_v<T, float>) {
    if (a.seq.rows() == 0 || n == 0) return;
    if (a.seq.time == 1 && n <= 256) return detail::flash::decode(device, a);
    if constexpr (multiplies_in_bf16<P, T>) {
      if (n <= 64) return detail::flash::forward_tensor<64>(device, a);
      if (n <= 128) return detail::flash::forward_tensor<128>(device, a);
    }
    if (n <= 64) return detail::flash::forward_float<64, 4>(device, a);
    if (n <= 128) return detail::flash::forward_float<128, 4>(device, a);
    if (n <= 256) return detail::flash::forward_float<256, 2>(device, a);
  }
  distil_xlstm::attention_forward<basic_cuda<P>, T>(device, a);
}

/// First the queries' gradients and the sums of their softmax, then the keys' and values'; on the tensor cores
/// as forward is.
template <Precision P, class T>
void attention_backward(basic_cuda<P>& device, const attention_backward_arguments<T>& g) {
  if constexpr (std::is_same_v<T, float>) {
    const index n = g.forward.shape.width;
    if (g.forward.seq.rows() == 0 || n == 0) return;
    if constexpr (multiplies_in_bf16<P, T>) {
      if (n <= 64) return detail::flash::backward_tensor<64>(device, g);
      if (n <= 128) return detail::flash::backward_tensor<128>(device, g);
    }
    if (n <= 64) return detail::flash::backward_float<64, 4>(device, g);
    if (n <= 128) return detail::flash::backward_float<128, 4>(device, g);
    if (n <= 256) return detail::flash::backward_float<256, 2>(device, g);
  }
  distil_xlstm::attention_backward<basic_cuda<P>, T>(device, g);
}

}  // namespace distil_xlstm::device
