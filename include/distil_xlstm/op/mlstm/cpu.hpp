#pragma once

#include <distil_xlstm/device/cpu/machine.hpp>
#include <distil_xlstm/op/mlstm/op.hpp>

namespace distil_xlstm::device {

namespace detail {
/// A worker's product kernels, as the chunkwise form calls them.
template <class T>
struct worker_products {
  cpu_base::worker* worker;
  void multiply(index m, index n, index k, const T* a, index lda, bool transpose_a, const T* b, index ldb,
                bool transpose_b, T beta, T* c, index ldc) const {
    gemm_block<T>(m, n, k, {a, lda, dtype_of<T>, transpose_a}, {b, ldb, dtype_of<T>, transpose_b}, beta, c, ldc,
                  worker->template packing<T>());
  }
};
}  // namespace detail

/// One sequence and head a task, chunk after chunk, each chunk a handful of products in the core's cache.
template <Precision P, class T>
void mlstm_forward(basic_cpu<P>& device, const mlstm_arguments<T>& a) {
  using cell = distil_xlstm::detail::mlstm_chunkwise<T, pack<T>, detail::worker_products<T>>;
  device.tasks(a.seq.batch * a.shape.heads, [&](index task, cpu_base::worker& w) {
    auto memory = w.template scratch<T>(cell::scratch(a.shape, a.seq.time));
    distil_xlstm::detail::mlstm_forward_head<T, pack<T>>(a, task / a.shape.heads, task % a.shape.heads,
                                                         detail::worker_products<T>{&w}, memory.data());
  });
}

template <Precision P, class T>
void mlstm_backward(basic_cpu<P>& device, const mlstm_backward_arguments<T>& a) {
  using cell = distil_xlstm::detail::mlstm_chunkwise<T, pack<T>, detail::worker_products<T>>;
  const index carry = a.shape.query * (a.shape.value + 1);
  distil_xlstm::detail::with_own_dv(device, a, [&](const mlstm_backward_arguments<T>& own) {
    device.tasks(a.seq.batch * a.shape.heads, [&](index task, cpu_base::worker& w) {
      auto memory = w.template scratch<T>(cell::scratch(a.shape, a.seq.time) + carry);
      distil_xlstm::detail::mlstm_backward_head<T, pack<T>>(own, task / a.shape.heads, task % a.shape.heads,
                                                            detail::worker_products<T>{&w},
                                                            memory.data() + carry, memory.data());
    });
  });
}

}  // namespace distil_xlstm::device
