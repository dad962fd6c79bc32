#pragma once

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/norm/op.hpp>

namespace distil_xlstm::device {

namespace detail::norms {

/// So many blocks share little.
inline constexpr unsigned few_blocks = 64;

/// `Threads` threads, a warp or a block of 256, hold a short row in registers: `Vectors` times four elements each.
template <int Threads, int Vectors>
struct held_row {
  static constexpr int block = 256, rows_a_block = block / Threads;
  float v[Vectors][4];

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % Threads; }
  static __device__ int part() { return static_cast<int>(threadIdx.x) / Threads; }
  static __device__ int column(int vector) { return 4 * (lane() + Threads * vector); }
  /// f(column) of each vector, where there are so few blocks that what they share is not there already.
  template <class F>
  static __device__ void each_of_few_blocks(int width, const F& f) {
    if (gridDim.x > few_blocks) return;
#pragma unroll
    for (int i = 0; i < Vectors; ++i)
      if (column(i) < width) f(column(i));
  }

  /// Zeros from `width` on.
  __device__ void load(const float* row, int width, bool vectorised) {
#pragma unroll
    for (int i = 0; i < Vectors; ++i) {
      const float4 x = load4(row, column(i), width, vectorised);
      v[i][0] = x.x, v[i][1] = x.y, v[i][2] = x.z, v[i][3] = x.w;
    }
  }
  template <class T>
  __device__ void store(T* row, int width, bool vectorised) const {
#pragma unroll
    for (int i = 0; i < Vectors; ++i)
      store4(row, column(i), width, vectorised, {v[i][0], v[i][1], v[i][2], v[i][3]});
  }
  /// f(x, vector, e) for each element within the width, which `Whole` vectors fill.
  template <bool Whole = false, class F>
  __device__ void each(int width, const F& f) {
#pragma unroll
    for (int i = 0; i < Vectors; ++i) {
      if (Whole && column(i) >= width) continue;
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (Whole || column(i) + e < width) f(v[i][e], i, e);
    }
  }
  /// The sums of each of `Count` numbers over the row's threads, the same for all of them.
  template <int Count>
  static __device__ void sum(float (&x)[Count]) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
#pragma unroll
      for (int i = 0; i < Count; ++i) x[i] += __shfl_xor_sync(~0u, x[i], step);
    if constexpr (Threads > 32) {
      __shared__ float warps[Count][Threads / 32];
      if (lane() % 32 == 0)
        for (int i = 0; i < Count; ++i) warps[i][lane() / 32] = x[i];
      __syncthreads();
#pragma unroll
      for (int i = 0; i < Count; ++i) {
        x[i] = 0;
        for (int w = 0; w < Threads / 32; ++w) x[i] += warps[i][w];
      }
      __syncthreads();
    }
  }
  /// A sum over the row, the same for all of its threads: of each vector by sum = f(sum, x) from 0 on, over the vectors
  /// of a lane, over lanes. A block whose threads have one vector each takes its warps for the vectors of a lane, so that
  /// the sum is the one that a warp has.
  template <bool Whole = false, class F>
  __device__ float fold(int width, const F& f) {
    float total[1] = {0};
#pragma unroll
    for (int i = 0; i < Vectors; ++i) {
      float of_vector = 0;
      if (Whole && column(i) >= width) continue;
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (Whole || column(i) + e < width) of_vector = f(of_vector, v[i][e]);
      total[0] += of_vector;
    }
    if constexpr (Threads > 32 && Vectors == 1) {
      __shared__ float parts[Threads / 32][32];
      parts[lane() / 32][lane() % 32] = total[0];
      __syncthreads();
      total[0] = 0;
#pragma unroll
      for (int w = 0; w < Threads / 32; ++w) total[0] += parts[w][lane() % 32];
      __syncthreads();
      held_row<32, 1>::sum(total);
    } else {
      sum(total);
    }
    return total[0];
  }
};

/// What a row is normalised by; h <- h - mean. `Whole`: of a width that is a multiple of four.
struct row_statistics {
  float mean, inverse;
};
template <bool Whole = false, class Held>
__device__ row_statistics statistics_of(const norm_view<float>& n, Held& h) {
  const int width = static_cast<int>(n.width);
  float mean = 0;
  if (n.subtract_mean)
    mean =
        h.template fold<Whole>(width, [](float sum, float v) { return sum + v; }) / static_cast<float>(width);
  const float squares = h.template fold<Whole>(width, [mean](float sum, float& v) {
    v -= mean;
    return fmaf(v, v, sum);
  });
  return {mean, 1 / sqrtf(squares / static_cast<float>(width) + n.epsilon)};
}

/// Statistics, and y where `Write`, with `skip` where there is one, and rounded, too, where there is a place for
/// that. Last rows first: they are what a product before left in the cache. (Four blocks a multiprocessor where so few
/// registers hold a row.)
template <int Threads, int Vectors, bool Write, bool Vectorised, class Y>
__global__ void __launch_bounds__(256, Vectorised&& Vectors <= 5 ? 4 : 1)
    forward_kernel(earlier_kernels earlier, norm_view<float> n, matrix_view<const float> x, float* statistics,
                   matrix_view<Y> y, matrix_view<const float> skip, matrix_view<bf16> rounded) {
  using held = held_row<Threads, Vectors>;
  const int width = static_cast<int>(n.width), groups = static_cast<int>(n.groups);
  const index short_row = static_cast<index>(gridDim.x - 1 - blockIdx.x) * held::rows_a_block + held::part();
  index row = short_row;
  if (groups > 1) row = static_cast<unsigned>(short_row) / static_cast<unsigned>(groups);
  const index at = (short_row - row * groups) * width;
  earlier.wait([&] {
    if constexpr (Write) held::each_of_few_blocks(width, [&](int c) { prefetch_far(n.weight + at + c); });
  });
  if (row >= x.rows) return;  // a whole warp, or a whole block
  held h, scale;
  h.load(x.row(row) + at, width, Vectorised);
  if constexpr (Write) scale.load(n.weight + at, width, Vectorised);
  if (Vectorised && skip.data && held::lane() == 0) prefetch_far(skip.row(row) + at, 4 * width);
  // (Five vectors just fit their registers with the checks of every number.)
  constexpr bool whole = Vectorised && Vectors > 5;
  const row_statistics by = statistics_of<whole>(n, h);
  if (held::lane() == 0) statistics[2 * short_row] = by.mean, statistics[2 * short_row + 1] = by.inverse;
  if constexpr (Write) {
    const float base = n.residual_weight ? 1 : 0;
    h.template each<whole>(width,
                           [&](float& v, int i, int e) { v = (base + scale.v[i][e]) * (v * by.inverse); });
    if (skip.data) {  // what it is added to has been rounded, as in the default
      scale.load(skip.row(row) + at, width, Vectorised);
      h.template each<whole>(width, [&](float& v, int i, int e) { v = __fadd_rn(v, scale.v[i][e]); });
    }
    h.store(y.row(row) + at, width, Vectorised);
    if (rounded.data) h.store(rounded.row(row) + at, width, Vectorised);
  }
}

/// @{ For operands that no kernel of a step writes.
template <class X>
__device__ void prefetch_operand(const X&, index) {}
template <class T>
__device__ void prefetch_operand(const broadcast<T>& x, index column) {
  prefetch_far(x.values + column);
}
template <class... Xs>
__device__ void prefetch_operands(const distil_xlstm::detail::operands<Xs...>& xs, index column) {
  if constexpr (sizeof...(Xs) > 0) prefetch_operand(xs.first, column), prefetch_operands(xs.rest, column);
}
/// @}

/// A value that an operand had.
template <class V>
struct value_of_operand {
  V value;
  template <class>
  __device__ const V& load(const element&) const {
    return value;
  }
};
/// Operands of what another's elements are.
struct keep_values {
  template <class... Vs>
  __device__ auto operator()(const Vs&... values) const {
    return distil_xlstm::detail::operands_of(value_of_operand<Vs>{values}...);
  }
};

/// Statistics, and y = f(scale, u, ...) of rows of whole packs. `Few`: of so few rows that what f takes is read before the
/// statistics are there, for which registers are at hand.
template <int Threads, int Vectors, bool Few, class Y, class F, class Operands>
__global__ void __launch_bounds__(256)
    transform_kernel(earlier_kernels earlier, norm_view<float> n, matrix_view<const float> x, float* statistics,
                     matrix_view<Y> y, F f, Operands operands) {
  using held = held_row<Threads, Vectors>;
  using V = cuda_pack<float>;
  const int width = static_cast<int>(n.width), groups = static_cast<int>(n.groups);
  const index short_row = static_cast<index>(blockIdx.x) * held::rows_a_block + held::part();
  const index row = static_cast<unsigned>(short_row) / static_cast<unsigned>(groups);
  const index at = (short_row - row * groups) * width;
  earlier.wait([&] {
    held::each_of_few_blocks(
        width, [&](int c) { prefetch_far(n.weight + at + c), prefetch_operands(operands, at + c); });
  });
  if (row >= x.rows) return;  // a whole warp, or a whole block
  held h;
  h.load(x.row(row) + at, width, is_vectorised(x, width));
  const auto element_of = [&](int i) { return element{row, at + held::column(i), short_row}; };
  const auto read = [&](const element& e) {
    return operands.template apply<V>(keep_values(), e, n.template scale<V>(e.column));
  };
  decltype(read(element())) early[Few ? Vectors : 1];
  if constexpr (Few) {
#pragma unroll
    for (int i = 0; i < Vectors; ++i)
      if (held::column(i) < width) early[i] = read(element_of(i));
  }
  const row_statistics by = statistics_of<true>(n, h);
  if (held::lane() == 0) statistics[2 * short_row] = by.mean, statistics[2 * short_row + 1] = by.inverse;
#pragma unroll
  for (int i = 0; i < Vectors; ++i) {
    if (held::column(i) >= width) break;
    const element e = element_of(i);
    V u;
#pragma unroll
    for (int j = 0; j < 4; ++j) u.v[j] = h.v[i][j] * by.inverse;
    const auto& [scale, others] = Few ? early[i] : read(e);
    distil_xlstm::detail::write<V>(y, e, others.template apply<V>(f, e, scale.value, u));
  }
}

/// y alone, in bfloat16, of whole rows, last ones first: a thread keeps its weights from row to row.
template <int Threads, int Vectors, bool Vectorised>
__global__ void __launch_bounds__(256, Vectors <= 5 ? 3 : 1)
    bf16_rows_kernel(norm_view<float> n, matrix_view<const float> x, matrix_view<bf16> y) {
  using held = held_row<Threads, Vectors>;
  const int width = static_cast<int>(n.width);
  const float base = n.residual_weight ? 1 : 0;
  held scale;
  scale.load(n.weight, width, Vectorised);
  for (index before = static_cast<index>(blockIdx.x) * held::rows_a_block + held::part(); before < x.rows;
       before += static_cast<index>(gridDim.x) * held::rows_a_block) {
    const index row = x.rows - 1 - before;
    held h;
    h.load(x.row(row), width, Vectorised);
    const float inverse = statistics_of(n, h).inverse;
    h.each(width, [&](float& v, int i, int e) { v = (base + scale.v[i][e]) * (v * inverse); });
    h.store(y.row(row), width, Vectorised);
  }
}

/// dx, with `skip` where there is one, and rounded, too, where there is a place for that; and each block's part of dw:
/// blockIdx.y is the group, whose rows the blocks share, last ones first: of these the cache has what a product left of
/// dy, and then the product that follows finds the first rows of dx.
template <int Threads, int Vectors, bool Vectorised>
__global__ void __launch_bounds__(256, Vectors <= (Vectorised ? 5 : 4) ? 2 : 1)
    backward_kernel(norm_view<float> n, matrix_view<const float> x, const float* statistics,
                    matrix_view<const float> dy, matrix_view<const float> skip, matrix_view<float> dx,
                    matrix_view<bf16> rounded, float* partial) {
  using held = held_row<Threads, Vectors>;
  const int width = static_cast<int>(n.width), group = static_cast<int>(blockIdx.y);
  const int at = group * width;
  const float base = n.residual_weight ? 1 : 0;
  held dw;
#pragma unroll
  for (auto& four : dw.v)
#pragma unroll
    for (float& v : four) v = 0;
  for (index before = static_cast<index>(blockIdx.x) * held::rows_a_block + held::part(); before < x.rows;
       before += static_cast<index>(gridDim.x) * held::rows_a_block) {
    const index row = x.rows - 1 - before;
    held u, g;
    u.load(x.row(row) + at, width, Vectorised);
    g.load(dy.row(row) + at, width, Vectorised);
    const float* s = statistics + 2 * (row * n.groups + group);
    const float mean = s[0], inverse = s[1];
    float means[2] = {0, 0};
    {
      held scale;
      scale.load(n.weight + at, width, Vectorised);
      u.each(width, [&](float& v, int i, int e) {
        v = (v - mean) * inverse;
        dw.v[i][e] = fmaf(g.v[i][e], v, dw.v[i][e]);
        g.v[i][e] *= base + scale.v[i][e];
        means[0] += g.v[i][e];
        means[1] = fmaf(g.v[i][e], v, means[1]);
      });
    }
    held::sum(means);
    const float of_g = n.subtract_mean ? means[0] / static_cast<float>(width) : 0.f;
    const float of_gu = means[1] / static_cast<float>(width);
    g.each(width, [&](float& v, int i, int e) { v = inverse * (v - of_g - u.v[i][e] * of_gu); });
    if (skip.data) {
      u.load(skip.row(row) + at, width, Vectorised);
      g.each(width, [&](float& v, int i, int e) { v += u.v[i][e]; });
    }
    g.store(dx.row(row) + at, width, Vectorised);
    if (rounded.data) g.store(rounded.row(row) + at, width, Vectorised);
  }
  float* out = partial + (static_cast<index>(blockIdx.x) * n.groups + group) * width;
  if constexpr (held::rows_a_block == 1) {
    dw.store(out, width, false);
  } else {
    __shared__ __align__(16) float all[held::rows_a_block][4 * Threads * Vectors];
    dw.store(all[held::part()], 4 * Threads * Vectors, true);
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < width; c += held::block) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < held::rows_a_block; ++i) sum += all[i][c];
      out[c] = sum;
    }
  }
}
/// dw[c] += the parts' sum, in their order.
template <class T>
__global__ void __launch_bounds__(512) weight_kernel(const T* partial, index parts, index cols, T* dw) {
  __shared__ T all[16][33];
  const index c = static_cast<index>(blockIdx.x) * 32 + threadIdx.x;
  T sum = 0;
  if (c < cols)
#pragma unroll 4
    for (index p = threadIdx.y; p < parts; p += 16) sum += partial[p * cols + c];
  all[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= cols) return;
  for (int i = 1; i < 16; ++i) sum += all[i][threadIdx.x];
  dw[c] += sum;
}

/// Whether registers hold a row, and 32 bits the number of rows.
inline bool held(const norm_view<float>& n, index rows) {
  return n.width <= 8192 && rows * n.groups <= 0x7fffffff;
}
/// Short rows of which each has a block, as a step of a decoder has them: nothing else hides how long a warp would take,
/// whose sums are the same.
constexpr bool are_few(index short_rows) { return short_rows <= 16; }
/// f<Threads, Vectors>() for a width that registers hold.
template <class F>
void choose(index width, bool few, const F& f) {
  if (few && width > 128 && width <= 1024) return f.template operator()<256, 1>();
  if (width <= 128) return f.template operator()<32, 1>();
  if (width <= 256) return f.template operator()<32, 2>();
  if (width <= 384) return f.template operator()<32, 3>();
  if (width <= 640) return f.template operator()<32, 5>();
  if (width <= 1024) return f.template operator()<32, 8>();
  if (width <= 2048) return f.template operator()<256, 2>();
  if (width <= 4096) return f.template operator()<256, 4>();
  f.template operator()<256, 8>();
}
/// For products that round: y's copy for them, too; so that older copies are made void before, not by `launch`.
template <bool Write, class Y>
void forward(cuda_base& device, const norm_view<float>& n, matrix_view<const float> x, float* statistics,
             matrix_view<Y> y, matrix_view<const float> skip, bool round = false) {
  device.operand_copies().invalidate();
  matrix_view<bf16> rounded;
  if constexpr (std::is_same_v<Y, float>)
    if (round) rounded = product_input<bf16>::copy_to_make(device, y);
  const bool vectorised =
      is_vectorised(x, n.width) && (!Write || (is_vectorised(n.weight) && is_vectorised(skip, n.width) &&
                                               y.stride % 4 == 0 && is_aligned(y.data)));
  choose(n.width, are_few(x.rows * n.groups), [&]<int Threads, int Vectors>() {
    const auto run = [&](auto* kernel) {
      const index blocks = blocks_for(x.rows * n.groups, 256 / Threads);
      enqueue(device, "norm", {static_cast<unsigned>(blocks), 256}, kernel, n, x, statistics, y, skip, rounded);
    };
    if (vectorised)
      run(forward_kernel<Threads, Vectors, Write, true, Y>);
    else
      run(forward_kernel<Threads, Vectors, Write, false, Y>);
  });
}
/// y in bfloat16, of rows that are one group.
template <class T>
void forward_bf16(cuda_base& device, const norm_view<T>& n, matrix_view<const T> x, matrix_view<bf16> y) {
  const bool vectorised =
      is_vectorised(x, n.width) && y.stride % 4 == 0 && is_aligned(y.data) && is_aligned(n.weight);
  choose(n.width, false, [&]<int Threads, int Vectors>() {
    const unsigned blocks =
        static_cast<unsigned>(std::min(blocks_for(x.rows, 256 / Threads), index{8} * device.multiprocessors()));
    if (vectorised)
      launch(device, "norm", {blocks, 256}, bf16_rows_kernel<Threads, Vectors, true>, n, x, y);
    else
      launch(device, "norm", {blocks, 256}, bf16_rows_kernel<Threads, Vectors, false>, n, x, y);
  });
}

}  // namespace detail::norms

/// Rows are read once and kept in registers. Double, and rows longer than 8192, take the defaults.
template <Precision P, class T>
void norm_statistics(basic_cuda<P>& device, const norm_view<T>& n, matrix_view<const T> x, T* statistics) {
  if (x.rows == 0) return;
  if constexpr (std::is_same_v<T, float>)
    if (detail::norms::held(n, x.rows))
      return detail::norms::forward<false>(device, n, x, statistics, matrix_view<float>(), {});
  distil_xlstm::norm_statistics<basic_cuda<P>, T>(device, n, x, statistics);
}
template <Precision P, class T, class Y>
void norm_forward(basic_cuda<P>& device, const norm_view<T>& n, matrix_view<const T> x, T* statistics,
                  matrix_view<Y> y, const_view<T> skip) {
  if (x.rows == 0) return;
  if constexpr (std::is_same_v<T, float>)
    if (detail::norms::held(n, x.rows)) {
      if (skip.data) distil_xlstm::detail::require_fit(y, skip);
      return detail::norms::forward<true>(device, n, x, statistics, y, skip,
                                          n.for_products && multiplies_in_bf16<P, T>);
    }
  distil_xlstm::norm_forward<basic_cuda<P>, T, Y>(device, n, x, statistics, y, skip);
}
template <Precision P, class T, class Y, class F, class... Xs>
void norm_transform(basic_cuda<P>& device, const norm_view<T>& n, matrix_view<const T> x, T* statistics,
                    matrix_view<Y> y, const F& f, const Xs&... operands) {
  if (x.rows == 0) return;
  if constexpr (std::is_same_v<T, float>)
    if (detail::norms::held(n, x.rows) && n.width % 4 == 0) {
      (distil_xlstm::detail::require_fit(y, operands), ...);
      const auto all = distil_xlstm::detail::operands_of(operands...);
      using all_type = std::remove_const_t<decltype(all)>;
      return detail::norms::choose(
          n.width, detail::norms::are_few(x.rows * n.groups), [&]<int Threads, int Vectors>() {
            const auto blocks = static_cast<unsigned>(detail::blocks_for(x.rows * n.groups, 256 / Threads));
            const auto run = [&](auto* kernel) {
              detail::launch(device, "norm", {blocks, 256}, kernel, n, x, statistics, y, f, all);
            };
            if (blocks <= detail::norms::few_blocks)
              run(detail::norms::transform_kernel<Threads, Vectors, true, Y, F, all_type>);
            else
              run(detail::norms::transform_kernel<Threads, Vectors, false, Y, F, all_type>);
          });
    }
  distil_xlstm::norm_transform<basic_cuda<P>, T, Y, F, Xs...>(device, n, x, statistics, y, f, operands...);
}
/// dw is summed row by row in registers, then over the blocks. Rows that the default knows to be narrow are
/// its.
template <Precision P, class T>
void norm_backward(basic_cuda<P>& device, const norm_view<T>& n, matrix_view<const T> x, const T* statistics,
                   matrix_view<const T> dy, T* dw, matrix_view<T> dx, const_view<T> skip) {
  if (x.rows == 0) return;
  if constexpr (std::is_same_v<T, float>)
    if (n.width > distil_xlstm::detail::narrow_norm_input_gradient<T>::widest &&
        detail::norms::held(n, x.rows)) {
      const index cols = n.groups * n.width;
      const auto fits = [&](auto m) { return detail::is_vectorised(m, n.width); };
      const bool vectorised =
          fits(x) && fits(dy) && fits(dx) && fits(skip) && detail::is_vectorised(n.weight, 0, n.width);
      detail::norms::choose(n.width, false, [&]<int Threads, int Vectors>() {
        const index blocks =
            std::min(detail::blocks_for(x.rows, 256 / Threads),
                     std::max<index>(1, detail::blocks_for(index{2} * device.multiprocessors(), n.groups)));
        auto partial = device.template scratch<float>(blocks * cols);
        // As in `forward`; dw is no operand of the products that follow.
        device.operand_copies().invalidate();
        matrix_view<bf16> rounded;
        if (n.for_products && multiplies_in_bf16<P, T>)
          rounded = detail::product_input<bf16>::copy_to_make(device, dx);
        const auto run = [&](auto* kernel) {
          detail::enqueue(device, "norm's gradient",
                          {dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(n.groups)), 256}, kernel,
                          n, x, statistics, dy, skip, dx, rounded, partial.data());
        };
        if (vectorised)
          run(detail::norms::backward_kernel<Threads, Vectors, true>);
        else
          run(detail::norms::backward_kernel<Threads, Vectors, false>);
        detail::enqueue(device, "norm's gradient",
                        {static_cast<unsigned>(detail::blocks_for(cols, 32)), dim3(32, 16)},
                        detail::norms::weight_kernel<T>, partial.data(), blocks, cols, dw);
      });
      return;
    }
  distil_xlstm::norm_backward<basic_cuda<P>, T>(device, n, x, statistics, dy, dw, dx, skip);
}

}  // namespace distil_xlstm::device
