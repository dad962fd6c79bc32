#pragma once

#include <distil_xlstm/device/cuda/columns.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/conv/op.hpp>

namespace distil_xlstm::device {

namespace detail {

/// Where a thread of a convolution works: four columns from `column` on, times begin .. end - 1 of sequence b.
struct conv_stretch {
  int column, begin, end;
  index b;
  __device__ conv_stretch(index tiles, int time, int each)
      : column(4 * static_cast<int>(blockIdx.y * block_columns + threadIdx.x)), b(blockIdx.x / tiles) {
    begin = (static_cast<int>(blockIdx.x % tiles) * block_lanes + static_cast<int>(threadIdx.y)) * each;
    end = begin + each < time ? begin + each : time;
  }
};
/// The input of a convolution as its sequences see it: times before 0 lie in the past.
template <int Window>
__device__ float4 read_input(const distil_xlstm::detail::window_view<float>& in, index b, int t, int column) {
  return load4_readonly(in.input(b, t, Window - 1) + column);
}
/// w[j]: tap j's weights of four columns.
template <int Window>
__device__ void read_taps(const float* weight, int column, float4 (&w)[Window]) {
#pragma unroll
  for (int j = 0; j < Window; ++j) {
    const float* p = weight + column * Window + j;
    w[j] = {p[0], p[Window], p[2 * Window], p[3 * Window]};
  }
}

/// Four numbers of y, and of SiLU(y), which it gives, where those are asked for.
__device__ inline float4 store_convolved(const causal_conv_arguments<float>& a, index row, int column,
                                         float4 y) {
  store4(a.y.row(row) + column, y);
  if (!a.activated.data) return y;
  const math::silu_forward silu;
  const float4 activated{silu(y.x), silu(y.y), silu(y.z), silu(y.w)};
  store4(a.activated.row(row) + column, activated);
  return activated;
}

template <int Window>
__global__ void __launch_bounds__(block_columns* block_lanes)
    conv_forward_kernel(causal_conv_arguments<float> a, index tiles, int each) {
  const int time = static_cast<int>(a.in.seq.time);
  const conv_stretch s(tiles, time, each);
  if (s.column >= a.in.width || s.begin >= s.end) return;
  float4 w[Window], x[Window];
  read_taps<Window>(a.weight, s.column, w);
  const float4 bias{a.bias[s.column], a.bias[s.column + 1], a.bias[s.column + 2], a.bias[s.column + 3]};
#pragma unroll
  for (int j = 1; j < Window; ++j) x[j] = read_input<Window>(a.in, s.b, s.begin - Window + j, s.column);
  constexpr int ahead = 4;
  for (int t = s.begin; t < s.end; t += ahead) {
    float4 next[ahead];
    int first[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (t + i < s.end) {
        next[i] = read_input<Window>(a.in, s.b, t + i, s.column);
        first[i] = static_cast<int>(a.in.first_tap(s.b, t + i));
      }
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      if (t + i >= s.end) break;
#pragma unroll
      for (int j = 0; j + 1 < Window; ++j) x[j] = x[j + 1];
      x[Window - 1] = next[i];
      float4 sum = bias;
#pragma unroll
      for (int j = 0; j < Window; ++j)
        if (j >= first[i]) sum = add_product(sum, w[j], x[j]);
      store_convolved(a, s.b * time + t + i, s.column, sum);
    }
  }
}

/// @{ Of a token of sequence b, four columns of what is there already; and of y: the past is read and written once.
template <int Window>
__device__ void prefetch_conv_step(const causal_conv_arguments<float>& a, index b, int column) {
  const float* past = a.past.of(b) + column;
#pragma unroll
  for (int j = 0; j + 1 < Window; ++j) prefetch_far(past + j * a.in.width);
#pragma unroll
  for (int i = 0; i < 4 * Window; i += 8) prefetch_far(a.weight + column * Window + i);
  prefetch_far(a.bias + column);
}
template <int Window>
__device__ float4 conv_step(const causal_conv_arguments<float>& a, index b, int column, float4 present) {
  const index width = a.in.width;
  float *past = a.past.of(b) + column, *before = a.before + b * (Window - 1) * width + column;
  float4 w[Window], x[Window];
#pragma unroll
  for (int j = 0; j + 1 < Window; ++j) x[j] = load4(past + j * width);
  x[Window - 1] = present;
  read_taps<Window>(a.weight, column, w);
  float4 sum{a.bias[column], a.bias[column + 1], a.bias[column + 2], a.bias[column + 3]};
  const int first = static_cast<int>(a.in.first_tap(b, 0));
#pragma unroll
  for (int j = 0; j < Window; ++j)
    if (j >= first) sum = add_product(sum, w[j], x[j]);
#pragma unroll
  for (int j = 0; j + 1 < Window; ++j) {
    store4(before + j * width, x[j]);
    // Of a document that begins here nothing before it is kept.
    store4(past + j * width, j + 1 > first || j + 2 == Window ? x[j + 1] : float4{0, 0, 0, 0});
  }
  return sum;
}
/// @}

/// One token of each sequence, a row of the block each.
template <int Window>
__global__ void __launch_bounds__(block_columns* block_lanes, 2)
    conv_step_kernel(earlier_kernels earlier, causal_conv_arguments<float> a) {
  const int column = 4 * static_cast<int>(blockIdx.y * block_columns + threadIdx.x);
  const index b = static_cast<index>(blockIdx.x) * block_lanes + threadIdx.y;
  const bool there = column < a.in.width && b < a.in.seq.batch;
  earlier.wait([&] {
    if (there) prefetch_conv_step<Window>(a, b, column);
  });
  if (!there) return;
  store_convolved(a, b, column, conv_step<Window>(a, b, column, load4(a.in.x.row(b) + column)));
}

/// What the way back reads of a row: dy, and u where there is one.
struct conv_gradient_row {
  float4 dy, u;
  template <class G>
  static __device__ conv_gradient_row of(const causal_conv_backward_arguments<float, dynamic, G>& a, index row,
                                         int column) {
    return {load4_readonly(a.dy.row(row) + column),
            a.u.data ? load4_readonly(a.u.row(row) + column) : float4{0, 0, 0, 0}};
  }
  /// The gradient by y, rounded as one that memory holds.
  __device__ float4 gradient(bool by_silu) const {
    if (!by_silu) return dy;
    const auto by = [](float u, float dy) { return __fmul_rn(dy, math::silu(u).slope); };
    return {by(u.x, dy.x), by(u.y, dy.y), by(u.z, dy.z), by(u.w, dy.w)};
  }
};

/// `partial`, a row a block row: [width, Window] of the weight's gradient, [width] of the bias's.
template <int Window, class G>
__global__ void __launch_bounds__(block_columns* block_lanes, 2)
    conv_backward_kernel(causal_conv_backward_arguments<float, dynamic, G> a, index tiles, int each,
                         float* partial) {
  const int time = static_cast<int>(a.in.seq.time), width = static_cast<int>(a.in.width);
  const conv_stretch s(tiles, time, each);
  const float4 zero{0, 0, 0, 0};
  const bool by_silu = a.u.data != nullptr;
  __shared__ float4 taps[Window][block_columns];
  if (threadIdx.y == 0 && s.column < width) {
    float4 w[Window];
    read_taps<Window>(a.weight, s.column, w);
#pragma unroll
    for (int j = 0; j < Window; ++j) taps[j][threadIdx.x] = w[j];
  }
  __syncthreads();
  float4 dw[Window], db = zero;
#pragma unroll
  for (int j = 0; j < Window; ++j) dw[j] = zero;
  if (s.column < width && s.begin < s.end) {
    const index row = s.b * time;
    G* dx_of = a.dx.row(row) + s.column;
    const float* addend_of = a.addend.data ? a.addend.row(row) + s.column : nullptr;
    // dy[i] and start[i] are of time t + i, as far as there is one, x[j] is what tap j of time t reads.
    float4 x[Window], dy[Window];
    int start[Window];
    const auto start_of = [&](int t) {
      return t < time ? static_cast<int>(a.in.seq.document_start(s.b, t)) : time;
    };
    const auto row_of = [&](int t) {
      return t < time ? conv_gradient_row::of(a, row + t, s.column) : conv_gradient_row{zero, zero};
    };
#pragma unroll
    for (int j = 1; j < Window; ++j) {
      const int t = s.begin + j - 1;
      x[j] = read_input<Window>(a.in, s.b, s.begin - Window + j, s.column);
      dy[j] = row_of(t).gradient(by_silu);
      start[j] = start_of(t);
    }
    constexpr int ahead = 2;
    for (int first = s.begin; first < s.end; first += ahead) {
      float4 next[ahead], old[ahead];
      conv_gradient_row above[ahead];
      int start_above[ahead];
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const int t = first + i < s.end ? first + i : s.end - 1, last = t + Window - 1;
        next[i] = read_input<Window>(a.in, s.b, t, s.column);
        above[i] = row_of(last), start_above[i] = start_of(last);
        old[i] = addend_of ? load4(addend_of + t * a.addend.stride) : zero;
      }
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const int t = first + i;
        if (t >= s.end) break;
#pragma unroll
        for (int j = 0; j + 1 < Window; ++j) x[j] = x[j + 1], dy[j] = dy[j + 1], start[j] = start[j + 1];
        x[Window - 1] = next[i], dy[Window - 1] = above[i].gradient(by_silu);
        start[Window - 1] = start_above[i];
        float4 sum = old[i];
#pragma unroll
        for (int k = 0; k < Window; ++k)
          if (t >= start[k]) sum = add_product(sum, taps[Window - 1 - k][threadIdx.x], dy[k]);
        store4(dx_of + t * a.dx.stride, sum);
        db = add(db, dy[0]);
        // Taps before the first read another document, or what lies before the past.
        const int back = start[0] < 0 ? Window - 1 : t - start[0];
#pragma unroll
        for (int j = 0; j < Window; ++j)
          if (Window - 1 - j <= back) dw[j] = add_product(dw[j], dy[0], x[j]);
      }
    }
  }
  partial += static_cast<index>(blockIdx.x) * width * (Window + 1);
#pragma unroll
  for (int j = 0; j <= Window; ++j) {
    const float4 sum = sum_of_lanes(j < Window ? dw[j < Window ? j : 0] : db);
    if (threadIdx.y != 0 || s.column >= width) continue;
    const float four[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      partial[j < Window ? (s.column + i) * Window + j : width * Window + s.column + i] = four[i];
  }
}

/// Calls f(window as a constant) and gives true, where a kernel is there for it.
template <class F>
bool with_window(index window, const F& f) {
  switch (window) {
    case 2: return f(std::integral_constant<int, 2>{}), true;
    case 3: return f(std::integral_constant<int, 3>{}), true;
    case 4: return f(std::integral_constant<int, 4>{}), true;
    default: return false;
  }
}
inline bool is_conv_vectorised(const distil_xlstm::detail::window_view<float>& in) {
  return in.width % 4 == 0 && in.width < (1 << 24) && in.seq.time < (1 << 24) && is_vectorised(in.x) &&
         is_vectorised(in.past) && in.seq.rows() > 0 && in.width > 0;
}
inline bool is_conv_vectorised(const causal_conv_arguments<float>& a) {
  return is_conv_vectorised(a.in) && is_vectorised(a.y) && is_vectorised(a.activated);
}
/// Whether it is one token, of arrays that a step's kernel reads and writes.
inline bool is_conv_step(const causal_conv_arguments<float>& a) {
  return a.in.seq.time == 1 && is_conv_vectorised(a) && is_vectorised(a.past.data, a.past.stride);
}

}  // namespace detail

/// One pass over the input, in columns of four; for single tokens also over the past, else one before it. But for those,
/// copies of the input stay good.
template <Precision P, class T>
void causal_conv_forward(basic_cuda<P>& device, const causal_conv_arguments<T>& a) {
  if constexpr (std::is_same_v<T, float>)
    if (detail::is_conv_vectorised(a)) {
      const bool step = detail::is_conv_step(a);
      const detail::stretches s(a.in.seq.time);
      const auto run = [&]<int Window>(std::integral_constant<int, Window>) {
        const dim3 threads(detail::block_columns, detail::block_lanes);
        if (step)
          return detail::launch(
              device, "causal_conv_forward",
              {detail::column_grid(detail::blocks_for(a.in.seq.batch, detail::block_lanes), a.in.width),
               threads},
              detail::conv_step_kernel<Window>, a);
        map(device, a.in.seq.batch, a.in.width,
            distil_xlstm::detail::conv_keep_past<T>{a.in.seq, a.in.window, a.in.width, a.in.x, a.past,
                                                    a.before});
        detail::enqueue(device, "causal_conv_forward",
                        {detail::column_grid(a.in.seq.batch * s.tiles, a.in.width), threads},
                        detail::conv_forward_kernel<Window>, a, s.tiles, s.each);
        distil_xlstm::detail::tell_written(device.operand_copies(), outputs{a.y});
        if (a.activated.data) distil_xlstm::detail::tell_written(device.operand_copies(), outputs{a.activated});
      };
      if (detail::with_window(a.in.window, run)) return;
    }
  distil_xlstm::causal_conv_forward<basic_cuda<P>, T>(device, a);
}
/// One pass over input and gradient, in columns of four, and the sums of what its blocks found.
template <Precision P, class T, class G>
void causal_conv_backward(basic_cuda<P>& device, const causal_conv_backward_arguments<T, dynamic, G>& a) {
  if constexpr (std::is_same_v<T, float>)
    if (detail::is_conv_vectorised(a.in) && detail::is_vectorised(a.dy) && a.dx.stride % 4 == 0 &&
        detail::is_aligned(a.dx.data, static_cast<int>(4 * sizeof(G))) && detail::is_vectorised(a.addend) &&
        detail::is_vectorised(a.u)) {
      const detail::stretches s(a.in.seq.time);
      const index parts = a.in.seq.batch * s.tiles, width = a.in.width, window = a.in.window;
      const auto run = [&]<int Window>(std::integral_constant<int, Window>) {
        auto partial = device.template scratch<float>(parts * width * (Window + 1));
        detail::launch(device, "causal_conv_backward",
                       {detail::column_grid(parts, width), dim3(detail::block_columns, detail::block_lanes)},
                       detail::conv_backward_kernel<Window, G>, a, s.tiles, s.each, partial.data());
        const matrix_view<const float> sums(partial.data(), parts, width * (window + 1));
        add_column_sums(device, sums.columns(0, width * window), a.dweight);
        add_column_sums(device, sums.columns(width * window, width), a.dbias);
      };
      if (detail::with_window(window, run)) return;
    }
  distil_xlstm::causal_conv_backward<basic_cuda<P>, T>(device, a);
}

}  // namespace distil_xlstm::device
