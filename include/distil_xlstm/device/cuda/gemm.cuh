#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <type_traits>

#include <cuda_bf16.h>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/cuda/blas.cuh>
#include <distil_xlstm/device/cuda/few_rows.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/device/transform.hpp>

namespace distil_xlstm::device {

namespace detail {

/// An operand of a product on the card, row-major; `bf16_copy` is the same in bfloat16, where there is one.
struct cuda_operand {
  const void* data;
  const void* bf16_copy;
  distil_xlstm::dtype dtype;
  index rows, cols, stride;
  bool transposed, frozen = false;
};
template <class T>
cuda_operand product_operand(matrix_view<T> m) {
  return {m.data, nullptr, dtype_of<std::remove_const_t<T>>, m.rows, m.cols, m.stride, false};
}
inline cuda_operand product_operand(frozen_matrix m) {
  return {m.data, m.bf16_copy, m.dtype, m.rows, m.cols, m.cols, false, true};
}
template <class M>
cuda_operand product_operand(transposed_matrix<M> m) {
  cuda_operand o = product_operand(m.matrix);
  o.transposed = true;
  return o;
}

/// out[r, c] = in[r, c] for `count` matrices, in another type, and zeros in `out`'s further rows and columns.
template <class To, class From>
__global__ void convert_kernel(const From* in, index in_stride, index in_step, To* out, index out_stride,
                               index out_step, index rows, index cols, index out_rows, index out_cols) {
  in += blockIdx.z * in_step, out += blockIdx.z * out_step;
  for (index r = blockIdx.y * blockDim.y + threadIdx.y; r < out_rows; r += gridDim.y * blockDim.y)
    for (index c = blockIdx.x * blockDim.x + threadIdx.x; c < out_cols; c += gridDim.x * blockDim.x) {
      From x{};
      if (r < rows && c < cols) x = in[r * in_stride + c];
      if constexpr (std::is_same_v<From, bf16>)
        out[r * out_stride + c] = static_cast<To>(static_cast<float>(x));
      else if constexpr (std::is_same_v<To, bf16>)
        out[r * out_stride + c] = bf16(static_cast<float>(x));
      else
        out[r * out_stride + c] = static_cast<To>(x);
    }
}
/// Eight numbers a thread, where memory allows it: `octs` runs of eight in a row, and zeros in `out`'s further rows
/// and runs.
template <class Float>
__global__ void round_kernel(earlier_kernels earlier, const Float* in, index in_stride, bf16* out,
                             index out_stride, index rows, unsigned octs, index out_rows, unsigned out_octs) {
  earlier.wait();
  for (index r = blockIdx.y * blockDim.y + threadIdx.y; r < out_rows; r += gridDim.y * blockDim.y)
    for (unsigned c = blockIdx.x * blockDim.x + threadIdx.x; c < out_octs; c += gridDim.x * blockDim.x) {
      float4 x{}, y{};
      if (r < rows && c < octs) {
        const float4* from = reinterpret_cast<const float4*>(in + r * in_stride + 8 * c);
        x = from[0], y = from[1];
      }
      union {
        __nv_bfloat162 pairs[4];
        uint4 all;
      } to;
      to.pairs[0] = __floats2bfloat162_rn(x.x, x.y), to.pairs[1] = __floats2bfloat162_rn(x.z, x.w);
      to.pairs[2] = __floats2bfloat162_rn(y.x, y.y), to.pairs[3] = __floats2bfloat162_rn(y.z, y.w);
      *reinterpret_cast<uint4*>(out + r * out_stride + 8 * c) = to.all;
    }
}

/// Of `count` matrices [rows, cols]; `more_rows` and `more_cols` of zeros follow in `out`.
template <class To, class From>
void convert(cuda_base& device, index count, const From* in, index in_stride, index in_step, To* out,
             index out_stride, index out_step, index rows, index cols, index more_rows = 0,
             index more_cols = 0) {
  const unsigned z = static_cast<unsigned>(count);
  const index out_rows = rows + more_rows, out_cols = cols + more_cols;
  device.operand_copies().written(out, out + (count - 1) * out_step + out_rows * out_stride);
  if constexpr (std::is_same_v<To, bf16> && std::is_same_v<From, float>) {
    if (count == 1 && cols % 8 == 0 && more_cols == 0 && in_stride % 4 == 0 && out_stride % 8 == 0 &&
        is_aligned(in)) {
      if (in_stride == cols && out_stride == cols && out_rows * cols / 8 < (index{1} << 29)) {
        const unsigned octs = static_cast<unsigned>(rows * cols / 8),
                       out_octs = static_cast<unsigned>(out_rows * cols / 8);
        enqueue(device, "rounding to bfloat16", {grid_size(out_octs, 256), 256}, round_kernel<float>, in, 0,
                out, 0, 1, octs, 1, out_octs);
      } else {
        const unsigned octs = static_cast<unsigned>(cols / 8),
                       x = octs >= 128  ? 128
                           : octs >= 64 ? 64
                                        : 16,
                       y = 256 / x;
        enqueue(device, "rounding to bfloat16",
                {dim3(grid_size(octs, x, 4096), grid_size(out_rows, y, 16384)), dim3(x, y)},
                round_kernel<float>, in, in_stride, out, out_stride, rows, octs, out_rows, octs);
      }
      return;
    }
  }
  const unsigned x = out_cols >= 256 ? 256 : 32, y = 256 / x;
  enqueue(device, "conversion",
          {dim3(grid_size(out_cols, x, 4096), grid_size(out_rows, y, 16384), z), dim3(x, y)},
          convert_kernel<To, From>, in, in_stride, in_step, out, out_stride, out_step, rows, cols, out_rows,
          out_cols);
}

/// Where a product reads an operand: its own numbers, or a copy in the product's type. Rows of a copy are
/// padded to 16 bytes, which the tensor cores' loads ask for.
template <class P>
struct product_input {
  scratch_lease<P, cuda_memory> memory;
  const P* data;
  index stride, step;
  bool zeros_beside = false;  ///< behind its rows and columns, up to multiples of `padding`

  static constexpr index padding = 16 / static_cast<index>(sizeof(P));
  static index padded(index n) { return (n + padding - 1) / padding * padding; }
  static constexpr dtype dtype_of_operand() {
    if constexpr (std::is_same_v<P, bf16>)
      return dtype::bf16;
    else
      return dtype_of<P>;
  }
  static bool as_it_is(const cuda_operand& o) {
    return o.dtype == dtype_of_operand() || (dtype_of_operand() == dtype::bf16 && o.bf16_copy);
  }
  /// A float operand, rounded, is kept for the next product. Items that are columns of one matrix are copied as
  /// that matrix.
  static bool kept(const cuda_operand& o) {
    return dtype_of_operand() == dtype::bf16 && o.dtype == dtype::f32 && !as_it_is(o);
  }
  static index needed(const cuda_operand& o, index count, index from_step) {
    if (as_it_is(o) || kept(o)) return 0;
    return (from_step == 0 ? 1 : count) * o.rows * padded(o.cols);
  }

  product_input(cuda_base& device, const cuda_operand& o, index count, index from_step)
      : memory(device.template scratch<P>(needed(o, count, from_step))), stride(o.stride), step(from_step) {
    if (as_it_is(o)) {
      data = static_cast<const P*>(o.dtype == dtype_of_operand() ? o.data : o.bf16_copy);
      return;
    }
    if constexpr (dtype_of_operand() == dtype::bf16)
      if (o.dtype == dtype::f32) {
        round(device, o, count, from_step);
        return;
      }
    stride = padded(o.cols);
    const index copies = from_step == 0 ? 1 : count, to_step = o.rows * stride;
    const auto from = [&]<class From>(const From* in) {
      convert(device, copies, in, o.stride, from_step, memory.data(), stride, to_step, o.rows, o.cols);
    };
    switch (o.dtype) {
      case dtype::f32: from(static_cast<const float*>(o.data)); break;
      case dtype::f64: from(static_cast<const double*>(o.data)); break;
      case dtype::bf16: from(static_cast<const bf16*>(o.data)); break;
      default:
        fail("cuda: a product of ", traits(o.dtype).name, " numbers; place the matrix on the device first");
    }
    data = memory.data();
    step = from_step == 0 ? 0 : to_step;
  }

  /// The copy of o, if it is held and lies as one that is made would; else null.
  static const bf16* held(cuda_base& device, const cuda_operand& o) {
    if (!kept(o) || o.cols != o.stride || o.cols % padding != 0) return nullptr;
    return device.operand_copies().find_held(static_cast<const float*>(o.data), o.rows * o.cols);
  }

  /// Where products will look for the copy of m, for a kernel that writes both, once copies of what m was are void.
  /// Without data where zeros would have to lie beside.
  static matrix_view<P> copy_to_make(cuda_base& device, matrix_view<const float> m) {
    if (m.rows % padding != 0 || m.cols % padding != 0) return {};
    auto& copies = device.operand_copies();
    void* copy = copies.find({m.data, m.rows, m.cols, m.stride}, m.size() * index{sizeof(P)}, false).first;
    return {static_cast<P*>(copy), m.rows, m.cols};
  }

 private:
  void round(cuda_base& device, const cuda_operand& o, index count, index from_step) {
    // Items one beside another in rows, or one below another, are one matrix.
    cuda_operand whole = o;
    const bool below = from_step == o.rows * o.stride,
               beside = from_step + o.cols <= o.stride && from_step % 8 == 0;
    const bool one = count == 1 || from_step == 0;
    if (!one && below) whole.rows = count * o.rows;
    if (!one && !below && beside) whole.cols = (count - 1) * from_step + o.cols;
    const bool separate = !one && !below && !beside;
    stride = padded(whole.cols);
    const index more_rows = separate ? 0 : padded(whole.rows) - whole.rows;
    const index copies = separate ? count : 1, copy_step = (whole.rows + more_rows) * stride;
    zeros_beside = count == 1;
    step = from_step == 0 ? 0 : separate ? copy_step : below ? o.rows * stride : from_step;
    data = separate || more_rows > 0 ? nullptr : held(device, whole);
    if (data) return;
    const auto* in = static_cast<const float*>(o.data);
    const auto [copy, there] = device.operand_copies().find({o.data, whole.rows, whole.cols, o.stride},
                                                            copies * copy_step * index{2}, separate);
    auto* out = static_cast<bf16*>(copy);
    if (!there)
      convert(device, copies, in, o.stride, from_step, out, stride, copy_step, whole.rows, whole.cols,
              more_rows, stride - whole.cols);
    data = out;
  }
};

/// beta c + x
template <class T>
struct scaled_sum {
  T beta;
  template <class V>
  DISTIL_XLSTM_HD V operator()(V c, V x) const {
    return V(beta) * c + x;
  }
};

/// c = beta c + a b with operands of P. cuBLAS reads and writes 16 bytes at a time where the rows of all three
/// matrices are multiples of that: with zeros beside the copies k grows, or c, where it is small, is a part of a
/// larger product.
template <class P, class T>
void run_product(cuda_base& device, index count, const cuda_operand& a, index step_a, const cuda_operand& b,
                 index step_b, matrix_view<T> c, index step_c, T beta) {
  const product_input<P> pa(device, a, count, step_a), pb(device, b, count, step_b);
  const blas_operand<P> left{pa.data, pa.stride, a.transposed, pa.step},
      right{pb.data, pb.stride, b.transposed, pb.step};
  const auto grown = [](bool grows, index n) { return grows ? product_input<P>::padded(n) : n; };
  const bool small = c.rows * c.cols <= index{1} << 20;
  const index k = grown(pa.zeros_beside && pb.zeros_beside && !(a.transposed && !b.transposed),
                        a.transposed ? a.rows : a.cols),
              m = grown(small && pa.zeros_beside && a.transposed, c.rows),
              n = grown(small && pb.zeros_beside && (!b.transposed || c.cols * index{sizeof(T)} % 16 != 0),
                        c.cols);
  const blas_batch batch{count, step_c};
  if (m == c.rows && n == c.cols)
    return blas_product(device, m, n, k, left, right, beta, c.data, c.stride, &batch);
  auto larger = device.template scratch<T>(m * n);
  blas_product(device, m, n, k, left, right, 0, larger.data(), n, &batch);
  const matrix_view<const T> product(larger.data(), c.rows, c.cols, n);
  if (beta == T(0))
    transform(device, c, math::identity{}, product);
  else
    transform(device, c, scaled_sum<T>{beta}, c, product);
}

/// A batch of products of few rows, c = beta c + a b + addend. Steps are between its items; there is no addend where it
/// has no data, and its stride may be 0.
struct few_rows_set {
  cuda_operand a, b;
  matrix_view<float> c;
  matrix_view<const float> addend = {};
  index step_b = 0;
};
/// Rows first .. first + count - 1 of a matrix of floats or bfloat16.
inline cuda_operand rows_of(const cuda_operand& o, index first, index count) {
  const auto further = [&](const void* p, index bytes) -> const void* {
    return p ? static_cast<const char*>(p) + first * o.stride * bytes : nullptr;
  };
  cuda_operand part = o;
  part.data = further(o.data, o.dtype == dtype::bf16 ? 2 : 4);
  part.bf16_copy = further(o.bf16_copy, 2), part.rows = count;
  return part;
}
/// Computes up to `few_rows::most_sets` in one kernel, of as many rows and with operands stored alike, where b is read
/// the way it lies, as Wᵀ: any product of up to 4 rows, and up to 64 rows while blocks that read one another's operands
/// again cost less than what else a product needs. Returns whether it does.
template <few_rows::handling H = few_rows::handling::none>
bool few_rows_product(cuda_base& device, index count, index step_a, index step_c, float beta,
                      std::span<const few_rows_set> sets, activation act = activation::silu) {
  const cuda_operand &a = sets.front().a, &b = sets.front().b;
  const index rows = sets.front().c.rows, k = b.cols;
  const auto rounded = [](const cuda_operand& o) { return o.dtype == dtype::bf16 || o.bf16_copy; };
  const bool bf16_b = rounded(b), bf16_a = a.dtype == dtype::bf16;
  if (count > 4096 || std::ssize(sets) > few_rows::most_sets) return false;
  index n = 0;
  bool frozen = bf16_b;
  for (const few_rows_set& s : sets) {
    frozen = frozen && s.b.frozen;
    if (s.a.transposed || !s.b.transposed || s.a.dtype != a.dtype || rounded(s.b) != bf16_b) return false;
    if (s.b.stride != b.stride || s.b.cols != k || s.c.rows != rows) return false;
    n = std::max(n, s.c.cols);
  }
  if (!few_rows::pays(rows, n, k)) return false;
  const auto fits = [&]<class S>(const cuda_operand& o, const S* p, index step) {
    return (o.dtype == dtype::bf16 || o.dtype == dtype::f32) && k % 8 == 0 && is_vectorised(p, o.stride, step);
  };
  const auto with = [&]<class X, class W>(X, W) {
    few_rows::products<X, W> p{};
    for (std::size_t i = 0; i < sets.size(); ++i) {
      const few_rows_set& s = sets[i];
      const auto* x = static_cast<const X*>(s.a.data);
      const auto* w = static_cast<const W*>(!bf16_b || s.b.dtype == dtype::bf16 ? s.b.data : s.b.bf16_copy);
      if (!fits(s.a, x, step_a) || !fits(s.b, w, s.step_b)) return false;
      p.sets[i] = {x,
                   w,
                   s.c.data,
                   s.addend.data,
                   s.c.stride,
                   s.addend.stride,
                   s.a.stride,
                   s.step_b,
                   static_cast<int>(s.c.cols)};
    }
    p.stride_w = b.stride, p.step_x = step_a, p.step_c = step_c;
    p.rows = static_cast<int>(rows), p.n = static_cast<int>(n), p.k = static_cast<int>(k);
    p.count = static_cast<int>(count), p.beta = beta;
    p.act = act;
    const int runs = few_rows::is_gated(H) ? 1 : static_cast<int>(sets.size());
    if constexpr (H == few_rows::handling::none && std::is_same_v<W, bf16>)
      frozen ? few_rows::run<few_rows::handling::frozen>(device, p, runs) : few_rows::run<H>(device, p, runs);
    else
      few_rows::run<H>(device, p, runs);
    for (const few_rows_set& s : sets.first(static_cast<std::size_t>(runs)))
      device.operand_copies().written(s.c.data, s.c.row(rows - 1) + (count - 1) * step_c + s.c.cols);
    return true;
  };
  if (bf16_a) return bf16_b ? with(bf16(), bf16()) : with(bf16(), float());
  return bf16_b ? with(float(), bf16()) : with(float(), float());
}

/// In the precision's type, but for few rows that no kernel rounds on the way, over weights that would be rounded for
/// them alone.
template <Precision P, class T>
void product(cuda_base& device, index count, const cuda_operand& a, index step_a, const cuda_operand& b,
             index step_b, matrix_view<T> c, index step_c, T beta) {
  if (c.rows == 0 || c.cols == 0) return;
  if constexpr (multiplies_in_bf16<P, T>) {
    if constexpr (std::is_same_v<T, float>)
      if (few_rows_product(device, count, step_a, step_c, beta, std::array{few_rows_set{a, b, c, {}, step_b}}))
        return;
    if (c.rows > 16 || b.dtype == dtype::bf16 || b.bf16_copy)
      return run_product<bf16>(device, count, a, step_a, b, step_b, c, step_c, beta);
  }
  run_product<T>(device, count, a, step_a, b, step_b, c, step_c, beta);
}

inline void require_product(const char* verb, const cuda_operand& a, const cuda_operand& b, index rows,
                            index cols) {
  const index m = a.transposed ? a.cols : a.rows, k = a.transposed ? a.rows : a.cols;
  const index kb = b.transposed ? b.cols : b.rows, n = b.transposed ? b.rows : b.cols;
  require(kb == k && rows == m && cols == n, verb, ": [", m, ", ", k, "] by [", kb, ", ", n,
          "] does not give [", rows, ", ", cols, "]");
}

}  // namespace detail

/// c = beta c + a b, through cuBLAS; in `bf16_mixed` few rows by xWᵀ through a kernel of our own. Into a bfloat16 c:
/// sums in float, rounded once where beta is 0.
template <Precision P, class A, class B, class T>
void gemm(basic_cuda<P>& device, A a, B b, matrix_view<T> c, std::type_identity_t<T> beta) {
  const auto oa = detail::product_operand(a), ob = detail::product_operand(b);
  detail::require_product("gemm", oa, ob, c.rows, c.cols);
  detail::product<P, T>(device, 1, oa, 0, ob, 0, c, 0, beta);
}

/// `count` products of one shape: item i's operands start i * step numbers further on.
template <Precision P, class A, class B, class T>
void gemm_batched(basic_cuda<P>& device, index count, A a, index step_a, B b, index step_b, matrix_view<T> c,
                  index step_c, std::type_identity_t<T> beta) {
  const auto oa = detail::product_operand(a), ob = detail::product_operand(b);
  detail::require_product("gemm_batched", oa, ob, c.rows, c.cols);
  detail::product<P, T>(device, count, oa, step_a, ob, step_b, c, step_c, beta);
}

}  // namespace distil_xlstm::device
