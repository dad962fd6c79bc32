#pragma once

#include <cstdint>
#include <type_traits>

#include <cublasLt.h>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>

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

/// c [m, n] = addend + a [m, k] b [k, n] in one product, which cuBLASLt has where all rows begin at 16 bytes. Returns
/// whether it does.
inline bool blas_product_plus(cuda_base& device, index k, const blas_operand<bf16>& a,
                              const blas_operand<bf16>& b, matrix_view<const float> addend,
                              matrix_view<float> c) {
  if (!is_vectorised(a.data, a.stride) || !is_vectorised(b.data, b.stride) || !is_vectorised(addend, c.cols) ||
      !is_vectorised(c, c.cols))
    return false;
  // Counted by columns, as above.
  const auto layout = [](cudaDataType type, index rows, index cols, index stride) {
    cublasLtMatrixLayoutOpaque_t l;
    check(cublasLtMatrixLayoutInit(&l, type, static_cast<std::uint64_t>(cols), static_cast<std::uint64_t>(rows),
                                   stride),
          "describing a matrix");
    return l;
  };
  const auto operand = [&](const blas_operand<bf16>& o, index rows, index cols) {
    return o.transposed ? layout(CUDA_R_16BF, cols, rows, o.stride) : layout(CUDA_R_16BF, rows, cols, o.stride);
  };
  cublasLtMatrixLayoutOpaque_t la = operand(a, c.rows, k), lb = operand(b, k, c.cols),
                               ladd = layout(CUDA_R_32F, c.rows, c.cols, addend.stride),
                               lc = layout(CUDA_R_32F, c.rows, c.cols, c.stride);
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatmulPreferenceOpaque_t wish;
  check(cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
  check(cublasLtMatmulPreferenceInit(&wish), "describing a product");
  const auto turn = [&](cublasLtMatmulDescAttributes_t which, bool transposed) {
    const cublasOperation_t op = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(&product, which, &op, sizeof op), "describing a product");
  };
  turn(CUBLASLT_MATMUL_DESC_TRANSA, b.transposed), turn(CUBLASLT_MATMUL_DESC_TRANSB, a.transposed);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(&wish, which, &value, sizeof value), "describing a product");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, cuda_base::workspace_bytes);
  // The least that any address is, so that the sums do not depend on where matrices lie.
  for (const auto which :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    prefer(which, std::uint32_t{16});
  // A handle of cuBLAS is one of cuBLASLt.
  const auto handle = reinterpret_cast<cublasLtHandle_t>(device.products());
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  if (cublasLtMatmulAlgoGetHeuristic(handle, &product, &lb, &la, &ladd, &lc, &wish, 1, &found, &count) !=
          CUBLAS_STATUS_SUCCESS ||
      count == 0)
    return false;
  const float one = 1;
  check(cublasLtMatmul(handle, &product, &one, b.data, &lb, a.data, &la, &one, addend.data, &ladd, c.data, &lc,
                       &found.algo, device.workspace(), cuda_base::workspace_bytes, device.stream()),
        "a matrix product");
  device.operand_copies().written(c.data, c.row(c.rows - 1) + c.cols);
  return true;
}

}  // namespace distil_xlstm::device::detail
