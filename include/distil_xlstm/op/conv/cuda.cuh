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
__device__ inline float4 read_bias(const float* bias, int column) {
  return {bias[column], bias[column + 1], bias[column + 2], bias[column + 3]};
}
/// y of the inputs x[0] .. x[Window - 1], of which those before tap `first` lie in another document.
template <int Window, class W>
__device__ float4 convolved(float4 bias, const W& w, const float4* x, int first) {
#pragma unroll
  for (int j = 0; j < Window; ++j)
    if (j >= first) bias = add_product(bias, w(j), x[j]);
  return bias;
}
__device__ inline float4 silu_of(float4 y) {
  const math::silu_forward silu;
  return {silu(y.x), silu(y.y), silu(y.z), silu(y.w)};
}
/// Four numbers of y, and of SiLU(y), as far as they are asked for.
__device__ inline void store_convolved(const causal_conv_arguments<float>& a, index row, int column, float4 y,
                                       float4 activated) {
  if (a.y.data) store4(a.y.row(row) + column, y);
  if (a.activated.data) store4(a.activated.row(row) + column, activated);
}

/// Rows of which a thread asks for the inputs at once.
constexpr int conv_ahead = 4;
/// f(t, y, x) for every `conv_ahead` times from t on, as far as they lie in the stretch: what the convolution gives
/// and its inputs at those times.
template <int Window, class F>
__device__ void convolve(const causal_conv_arguments<float>& a, const conv_stretch& s, const F& f) {
  float4 w[Window], x[Window - 1 + conv_ahead];
  read_taps<Window>(a.weight, s.column, w);
  const float4 bias = read_bias(a.bias, s.column);
  const auto tap = [&](int j) { return w[j]; };
#pragma unroll
  for (int j = 0; j + 1 < Window; ++j)
    x[j] = read_input<Window>(a.in, s.b, s.begin - (Window - 1) + j, s.column);
  for (int t = s.begin; t < s.end; t += conv_ahead) {
    float4 y[conv_ahead];
    int first[conv_ahead];
#pragma unroll
    for (int i = 0; i < conv_ahead; ++i) {
      const bool there = t + i < s.end;
      x[Window - 1 + i] = there ? read_input<Window>(a.in, s.b, t + i, s.column) : float4{0, 0, 0, 0};
      first[i] = there ? static_cast<int>(a.in.first_tap(s.b, t + i)) : 0;
    }
#pragma unroll
    for (int i = 0; i < conv_ahead; ++i) y[i] = convolved<Window>(bias, tap, x + i, first[i]);
    f(t, y, x + Window - 1);
#pragma unroll
    for (int j = 0; j + 1 < Window; ++j) x[j] = x[j + conv_ahead];
  }
}

template <int Window>
__global__ void __launch_bounds__(block_columns* block_lanes, 3)
    conv_forward_kernel(causal_conv_arguments<float> a, index tiles, int each) {
  const int time = static_cast<int>(a.in.seq.time);
  const conv_stretch s(tiles, time, each);
  if (s.column >= a.in.width || s.begin >= s.end) return;
  convolve<Window>(a, s, [&](int t, const float4(&y)[conv_ahead], const float4*) {
#pragma unroll
    for (int i = 0; i < conv_ahead; ++i)
      if (t + i < s.end) store_convolved(a, s.b * time + t + i, s.column, y[i], silu_of(y[i]));
  });
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
  const int first = static_cast<int>(a.in.first_tap(b, 0));
  const auto tap = [&](int j) { return w[j]; };
  const float4 y = convolved<Window>(read_bias(a.bias, column), tap, x, first);
#pragma unroll
  for (int j = 0; j + 1 < Window; ++j) {
    store4(before + j * width, x[j]);
    // Of a document that begins here nothing before it is kept.
    store4(past + j * width, j + 1 > first || j + 2 == Window ? x[j + 1] : float4{0, 0, 0, 0});
  }
  return y;
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
  const float4 y = conv_step<Window>(a, b, column, load4(a.in.x.row(b) + column));
  store_convolved(a, b, column, y, silu_of(y));
}

/// The gradient by y where dy is that by SiLU(y), rounded as one that memory holds.
__device__ inline float4 through_silu(float4 y, float4 dy) {
  const auto by = [](float y, float dy) { return __fmul_rn(dy, math::silu(y).slope); };
  return {by(y.x, dy.x), by(y.y, dy.y), by(y.z, dy.z), by(y.w, dy.w)};
}

/// `partial`, a row a block row: [width, Window] of the weight's gradient, [width] of the bias's.
template <int Window, class G>
__global__ void __launch_bounds__(block_columns* block_lanes, 2)
    conv_backward_kernel(causal_conv_backward_arguments<float, dynamic, G> a, index tiles, int each,
                         float* partial) {
  const int time = static_cast<int>(a.in.seq.time), width = static_cast<int>(a.in.width);
  const conv_stretch s(tiles, time, each);
  const float4 zero{0, 0, 0, 0};
  __shared__ float4 taps[Window][block_columns], biases[block_columns];
  if (threadIdx.y == 0 && s.column < width) {
    float4 w[Window];
    read_taps<Window>(a.weight, s.column, w);
#pragma unroll
    for (int j = 0; j < Window; ++j) taps[j][threadIdx.x] = w[j];
    if (a.bias) biases[threadIdx.x] = read_bias(a.bias, s.column);
  }
  __syncthreads();
  float4 dw[Window], db = zero;
#pragma unroll
  for (int j = 0; j < Window; ++j) dw[j] = zero;
  if (s.column < width && s.begin < s.end) {
    const index row = s.b * time;
    // Of the newest time and those before it: x[j], and the gradient by y, dy[j], of time - (Window - 1) + j.
    float4 x[Window], dy[Window];
    int start[Window];
    const auto tap = [&](int j) { return taps[j][threadIdx.x]; };
#pragma unroll
    for (int j = 0; j < Window; ++j) {
      x[j] = j > 0 ? read_input<Window>(a.in, s.b, s.begin - Window + j, s.column) : zero;
      dy[j] = zero, start[j] = 0;
    }
    constexpr int ahead = 2;
    // dx of a time needs the gradients of those up to Window - 1 later.
    const int last = s.end + Window - 1;
    for (int first = s.begin; first < last; first += ahead) {
      float4 next[ahead], next_dy[ahead], old[ahead];
      int next_start[ahead];
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const int now = first + i, t = now - (Window - 1);
        const bool there = now < time && now < last;
        next[i] = there ? read_input<Window>(a.in, s.b, now, s.column) : zero;
        next_dy[i] = there ? load4_readonly(a.dy.row(row + now) + s.column) : zero;
        next_start[i] = there ? static_cast<int>(a.in.seq.document_start(s.b, now)) : time;
        old[i] = a.addend.data && t >= s.begin && now < last ? load4(a.addend.row(row + t) + s.column) : zero;
      }
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const int now = first + i, t = now - (Window - 1);
        if (now >= last) break;
#pragma unroll
        for (int j = 0; j + 1 < Window; ++j) x[j] = x[j + 1], dy[j] = dy[j + 1], start[j] = start[j + 1];
        x[Window - 1] = next[i], start[Window - 1] = next_start[i];
        // Taps before the first read another document, or what lies before the past.
        const int back = next_start[i] < 0 ? Window - 1 : now - next_start[i];
        const int first_tap = Window - 1 - back;
        float4& newest = dy[Window - 1];
        newest = next_dy[i];
        if (a.bias) newest = through_silu(convolved<Window>(biases[threadIdx.x], tap, x, first_tap), newest);
        if (now < s.end) {
          db = add(db, newest);
#pragma unroll
          for (int j = 0; j < Window; ++j)
            if (j >= first_tap) dw[j] = add_product(dw[j], newest, x[j]);
        }
        if (t < s.begin) continue;
        float4 sum = old[i];
#pragma unroll
        for (int k = 0; k < Window; ++k)
          if (t >= start[k]) sum = add_product(sum, tap(Window - 1 - k), dy[k]);
        store4(a.dx.row(row + t) + s.column, sum);
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

/// The past, for a kernel that writes all else.
inline void keep_past(cuda_base& device, const causal_conv_arguments<float>& a) {
  map(device, a.in.seq.batch, a.in.width,
      distil_xlstm::detail::conv_keep_past<float>{a.in.seq, a.in.window, a.in.width, a.in.x, a.past, a.before});
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

/// One pass over the input, in columns of four; for single tokens also over the past, else one before it. But for
/// these, copies of the input stay good.
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
        detail::keep_past(device, a);
        detail::enqueue(device, "causal_conv_forward",
                        {detail::column_grid(a.in.seq.batch * s.tiles, a.in.width), threads},
                        detail::conv_forward_kernel<Window>, a, s.tiles, s.each);
        const auto tell = [&](matrix_view<T> m) {
          if (m.data) distil_xlstm::detail::tell_written(device.operand_copies(), outputs{m});
        };
        tell(a.y), tell(a.activated);
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
        detail::is_aligned(a.dx.data, static_cast<int>(4 * sizeof(G))) && detail::is_vectorised(a.addend)) {
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
