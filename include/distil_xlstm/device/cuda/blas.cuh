#pragma once

#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>

namespace distil_xlstm::device::detail {

/// A row-major operand of a product: item i of a batch starts i * step elements further on.
template <class P>
struct blas_operand {
  const P* data;
  index stride;
  bool transposed = false;
  index step = 0;
};
/// Products of one shape in one call; item i's result starts i * step elements further on.
struct blas_batch {
  index count, step;
};

template <class S>
constexpr cudaDataType blas_type = std::is_same_v<S, double>  ? CUDA_R_64F
                                   : std::is_same_v<S, float> ? CUDA_R_32F
                                                              : CUDA_R_16BF;

/// c [m, n] = beta c + a [m, k] b [k, n] through cuBLAS, in the types that memory holds; sums in float, of doubles in
/// double. A batch of one is not the same as none: cuBLAS may sum it in another order.
template <class P, class C>
void blas_product(cuda_base& device, index m, index n, index k, const blas_operand<P>& a,
                  const blas_operand<P>& b, double beta, C* c, index stride_c,
                  const blas_batch* batch = nullptr) {
  using S = std::conditional_t<std::is_same_v<P, double>, double, float>;
  constexpr auto compute = std::is_same_v<S, double> ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  const S one = 1, keep = static_cast<S>(beta);
  // cuBLAS counts by columns: what is row-major here is the transposed there, and so is the result.
  const auto op = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  const auto size = [](index x) { return static_cast<int>(x); };
  check(batch ? cublasGemmStridedBatchedEx(device.products(), op(b.transposed), op(a.transposed), size(n),
                                           size(m), size(k), &one, b.data, blas_type<P>, size(b.stride), b.step,
                                           a.data, blas_type<P>, size(a.stride), a.step, &keep, c, blas_type<C>,
                                           size(stride_c), batch->step, size(batch->count), compute,
                                           CUBLAS_GEMM_DEFAULT)
              : cublasGemmEx(device.products(), op(b.transposed), op(a.transposed), size(n), size(m), size(k),
                             &one, b.data, blas_type<P>, size(b.stride), a.data, blas_type<P>, size(a.stride),
                             &keep, c, blas_type<C>, size(stride_c), compute, CUBLAS_GEMM_DEFAULT),
        "a matrix product");
  device.operand_copies().written(c,
                                  c + (batch ? (batch->count - 1) * batch->step : 0) + (m - 1) * stride_c + n);
}

}  // namespace distil_xlstm::device::detail
