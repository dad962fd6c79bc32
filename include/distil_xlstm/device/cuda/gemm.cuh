#pragma once

#include <type_traits>

#include <distil_xlstm/core/element.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>

namespace distil_xlstm::device {

namespace detail {

/// An operand of a product on the card, row-major; `rounded` are the same numbers in bfloat16, where there are
/// any.
struct cuda_operand {
  const void* data;
  const void* rounded;
  element kind;
  index rows, cols, stride;
  bool transposed;
};
template <class T>
cuda_operand product_operand(matrix_view<T> m) {
  return {m.data, nullptr, element_of<std::remove_const_t<T>>, m.rows, m.cols, m.stride, false};
}
inline cuda_operand product_operand(frozen_matrix m) {
  return {m.data, m.rounded, m.kind, m.rows, m.cols, m.cols, false};
}
template <class M>
cuda_operand product_operand(transposed_matrix<M> m) {
  cuda_operand o = product_operand(m.matrix);
  o.transposed = true;
  return o;
}

/// out[r, c] = in[r, c] for `count` matrices, in another type; rows of `out` are contiguous but for padding.
template <class To, class From>
__global__ void convert_kernel(const From* in, index in_stride, index in_step, To* out, index out_stride,
                               index out_step, index rows, index cols) {
  in += blockIdx.z * in_step, out += blockIdx.z * out_step;
  for (index r = blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += gridDim.y * blockDim.y)
    for (index c = blockIdx.x * blockDim.x + threadIdx.x; c < cols; c += gridDim.x * blockDim.x) {
      const From x = in[r * in_stride + c];
      if constexpr (std::is_same_v<From, bf16>)
        out[r * out_stride + c] = static_cast<To>(static_cast<float>(x));
      else if constexpr (std::is_same_v<To, bf16>)
        out[r * out_stride + c] = bf16(static_cast<float>(x));
      else
        out[r * out_stride + c] = static_cast<To>(x);
    }
}
/// The same, four numbers at a time, where rows allow it.
template <class Float>
__global__ void round_kernel(const Float* in, index in_stride, index in_step, bf16* out, index out_stride,
                             index out_step, index rows, index quads) {
  in += blockIdx.z * in_step, out += blockIdx.z * out_step;
  for (index r = blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += gridDim.y * blockDim.y)
    for (index c = blockIdx.x * blockDim.x + threadIdx.x; c < quads; c += gridDim.x * blockDim.x) {
      const float4 x = *reinterpret_cast<const float4*>(in + r * in_stride + 4 * c);
      const ushort4 y{bf16(x.x).bits, bf16(x.y).bits, bf16(x.z).bits, bf16(x.w).bits};
      *reinterpret_cast<ushort4*>(out + r * out_stride + 4 * c) = y;
    }
}

template <class To, class From>
void convert(cuda& device, index count, const From* in, index in_stride, index in_step, To* out,
             index out_stride, index out_step, index rows, index cols) {
  const unsigned z = static_cast<unsigned>(count);
  if constexpr (std::is_same_v<To, bf16> && std::is_same_v<From, float>) {
    const bool quads = cols % 4 == 0 && in_stride % 4 == 0 && in_step % 4 == 0 && out_step % 4 == 0 &&
                       reinterpret_cast<std::uintptr_t>(in) % 16 == 0;
    if (quads) {
      const unsigned x = cols / 4 >= 128 ? 128 : 32, y = 256 / x;
      round_kernel<<<dim3(grid_size(cols / 4, x, 4096), grid_size(rows, y, 16384), z), dim3(x, y), 0,
                     device.stream()>>>(in, in_stride, in_step, out, out_stride, out_step, rows, cols / 4);
      return check_launch("rounding to bfloat16");
    }
  }
  const unsigned x = cols >= 256 ? 256 : 32, y = 256 / x;
  convert_kernel<<<dim3(grid_size(cols, x, 4096), grid_size(rows, y, 16384), z), dim3(x, y), 0,
                   device.stream()>>>(in, in_stride, in_step, out, out_stride, out_step, rows, cols);
  check_launch("conversion");
}

/// Where a product reads an operand: its own numbers, or a copy in the product's type. Rows of a copy are
/// padded to 16 bytes, which the tensor cores' loads ask for.
template <class P>
struct product_input {
  scratch_lease<P, cuda_memory> memory;
  const P* data;
  index stride, step;

  static constexpr index padding = 16 / static_cast<index>(sizeof(P));
  static index padded(index n) { return (n + padding - 1) / padding * padding; }
  static bool as_it_is(const cuda_operand& o) {
    return o.kind == kind_of() || (kind_of() == element::bf16 && o.rounded);
  }
  static constexpr element kind_of() {
    if constexpr (std::is_same_v<P, bf16>)
      return element::bf16;
    else
      return element_of<P>;
  }
  product_input(cuda& device, const cuda_operand& o, index count, index from_step)
      : memory(device.template scratch<P>(as_it_is(o)      ? 0
                                          : from_step == 0 ? o.rows * padded(o.cols)
                                                           : count * o.rows * padded(o.cols))),
        stride(o.stride),
        step(from_step) {
    if (as_it_is(o)) {
      data = static_cast<const P*>(o.kind == kind_of() ? o.data : o.rounded);
      return;
    }
    stride = padded(o.cols);
    const index copies = from_step == 0 ? 1 : count, to_step = o.rows * stride;
    const auto from = [&]<class From>(const From* in) {
      convert(device, copies, in, o.stride, from_step, memory.data(), stride, to_step, o.rows, o.cols);
    };
    switch (o.kind) {
      case element::f32: from(static_cast<const float*>(o.data)); break;
      case element::f64: from(static_cast<const double*>(o.data)); break;
      case element::bf16: from(static_cast<const bf16*>(o.data)); break;
      default:
        fail("cuda: a product of ", traits(o.kind).name, " numbers; place the matrix on the device first");
    }
    data = memory.data();
    step = from_step == 0 ? 0 : to_step;
  }
};

template <class T, class P>
void run_product(cuda& device, index count, const cuda_operand& a, index step_a, const cuda_operand& b,
                 index step_b, matrix_view<T> c, index step_c, T beta) {
  const index m = c.rows, n = c.cols, k = a.transposed ? a.rows : a.cols;
  const product_input<P> pa(device, a, count, step_a), pb(device, b, count, step_b);
  constexpr auto type = [] {
    return std::is_same_v<P, double> ? CUDA_R_64F : std::is_same_v<P, float> ? CUDA_R_32F : CUDA_R_16BF;
  }();
  constexpr auto out = std::is_same_v<T, double> ? CUDA_R_64F : CUDA_R_32F;
  constexpr auto compute = std::is_same_v<T, double> ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  const T one = 1;
  // cuBLAS counts by columns: what is row-major here is the transposed there, and so is the result.
  const auto turn = [](bool t) { return t ? CUBLAS_OP_T : CUBLAS_OP_N; };
  check(cublasGemmStridedBatchedEx(
            device.products(), turn(b.transposed), turn(a.transposed), static_cast<int>(n), static_cast<int>(m),
            static_cast<int>(k), &one, pb.data, type, static_cast<int>(pb.stride), pb.step, pa.data, type,
            static_cast<int>(pa.stride), pa.step, &beta, c.data, out, static_cast<int>(c.stride), step_c,
            static_cast<int>(count), compute, CUBLAS_GEMM_DEFAULT),
        "a matrix product");
}

/// Whether a float product goes through bfloat16: not one of few rows over weights that would be rounded for
/// it.
inline bool rounds(const cuda& device, const cuda_operand& b, index m) {
  return device.bf16_products && (m > 16 || b.kind == element::bf16 || b.rounded);
}

template <class T>
void product(cuda& device, index count, const cuda_operand& a, index step_a, const cuda_operand& b,
             index step_b, matrix_view<T> c, index step_c, T beta) {
  if (c.rows == 0 || c.cols == 0) return;
  if constexpr (std::is_same_v<T, float>)
    if (rounds(device, b, c.rows))
      return run_product<T, bf16>(device, count, a, step_a, b, step_b, c, step_c, beta);
  run_product<T, T>(device, count, a, step_a, b, step_b, c, step_c, beta);
}

inline void require_product(const char* verb, const cuda_operand& a, const cuda_operand& b, index rows,
                            index cols) {
  const index m = a.transposed ? a.cols : a.rows, k = a.transposed ? a.rows : a.cols;
  const index kb = b.transposed ? b.cols : b.rows, n = b.transposed ? b.rows : b.cols;
  require(kb == k && rows == m && cols == n, verb, ": [", m, ", ", k, "] by [", kb, ", ", n,
          "] does not give [", rows, ", ", cols, "]");
}

}  // namespace detail

/// c = beta c + a b, through cuBLAS.
template <class A, class B, class T>
void gemm(cuda& device, A a, B b, matrix_view<T> c, std::type_identity_t<T> beta = 0) {
  const auto oa = detail::product_operand(a), ob = detail::product_operand(b);
  detail::require_product("gemm", oa, ob, c.rows, c.cols);
  detail::product<T>(device, 1, oa, 0, ob, 0, c, 0, beta);
}

/// `count` products of one shape: item i's operands start i * step numbers further on.
template <class A, class B, class T>
void gemm_batched(cuda& device, index count, A a, index step_a, B b, index step_b, matrix_view<T> c,
                  index step_c, std::type_identity_t<T> beta = 0) {
  const auto oa = detail::product_operand(a), ob = detail::product_operand(b);
  detail::require_product("gemm_batched", oa, ob, c.rows, c.cols);
  detail::product<T>(device, count, oa, step_a, ob, step_b, c, step_c, beta);
}

}  // namespace distil_xlstm::device
