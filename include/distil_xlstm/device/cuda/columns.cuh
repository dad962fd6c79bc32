#pragma once

#include <cstdint>

#include <distil_xlstm/device/causal_conv.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/device/headwise.hpp>

// Layers whose columns, or fours of them, do not meet: they read and write each number once.
namespace distil_xlstm::device {

namespace detail {

/// Four columns of a row: what a thread holds. A warp has 32 of them side by side, a block 8 rows or stretches.
constexpr int quad_columns = 32, quad_lanes = 8;

__device__ inline float4 read_quad(const float* p) { return __ldg(reinterpret_cast<const float4*>(p)); }
__device__ inline void write_quad(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }
/// s + a b
__device__ inline float4 add_product(float4 s, float4 a, float4 b) {
  return {fmaf(a.x, b.x, s.x), fmaf(a.y, b.y, s.y), fmaf(a.z, b.z, s.z), fmaf(a.w, b.w, s.w)};
}
__device__ inline float4 add_product(float4 s, float a, float4 b) { return add_product(s, {a, a, a, a}, b); }
__device__ inline float4 add(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ inline float dot(float4 a, float4 b) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, a.x * b.x)));
}

inline bool in_quads(const float* p, index stride = 0) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0 && stride % 4 == 0;
}
inline bool in_quads(matrix_view<const float> m) { return in_quads(m.data, m.stride); }

/// The sum of x over a block's lanes, in lane 0, in their order.
__device__ inline float4 sum_of_lanes(float4 x) {
  __shared__ float4 all[quad_lanes][quad_columns];
  __syncthreads();
  all[threadIdx.y][threadIdx.x] = x;
  __syncthreads();
  if (threadIdx.y == 0)
    for (int lane = 1; lane < quad_lanes; ++lane) x = add(x, all[lane][threadIdx.x]);
  return x;
}

/// Where a thread of a convolution works: four columns from `column` on, times begin .. end - 1 of sequence b.
struct conv_stretch {
  int column, begin, end;
  index b;
  __device__ conv_stretch(index tiles, int time, int each)
      : column(4 * static_cast<int>(blockIdx.y * quad_columns + threadIdx.x)), b(blockIdx.x / tiles) {
    begin = (static_cast<int>(blockIdx.x % tiles) * quad_lanes + static_cast<int>(threadIdx.y)) * each;
    end = begin + each < time ? begin + each : time;
  }
};
/// The input of a convolution as its sequences see it: times before 0 lie in the past.
template <int Window>
__device__ float4 read_input(const distil_xlstm::detail::window_view<float>& in, index b, int t, int column) {
  return read_quad(in.input(b, t, Window - 1) + column);
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

template <int Window>
__global__ void __launch_bounds__(quad_columns* quad_lanes)
    conv_forward_kernel(causal_conv_arguments<float> a, index tiles, int each) {
  const int time = static_cast<int>(a.in.seq.time);
  const conv_stretch s(tiles, time, each);
  if (s.column >= a.in.width || s.begin >= s.end) return;
  float4 w[Window], x[Window];
  read_taps<Window>(a.weight, s.column, w);
  const float4 bias{a.bias[s.column], a.bias[s.column + 1], a.bias[s.column + 2], a.bias[s.column + 3]};
#pragma unroll
  for (int j = 1; j < Window; ++j) x[j] = read_input<Window>(a.in, s.b, s.begin - Window + j, s.column);
  float* y = a.y.row(s.b * time) + s.column;
  constexpr int ahead = 4;
  for (int t = s.begin; t < s.end; t += ahead) {
    float4 next[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (t + i < s.end) next[i] = read_input<Window>(a.in, s.b, t + i, s.column);
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      if (t + i >= s.end) break;
#pragma unroll
      for (int j = 0; j + 1 < Window; ++j) x[j] = x[j + 1];
      x[Window - 1] = next[i];
      const int first = static_cast<int>(a.in.first_tap(s.b, t + i));
      float4 sum = bias;
#pragma unroll
      for (int j = 0; j < Window; ++j)
        if (j >= first) sum = add_product(sum, w[j], x[j]);
      write_quad(y + (t + i) * a.y.stride, sum);
    }
  }
}

/// `partial`, a row a block row: [width, Window] of the weight's gradient, [width] of the bias's.
template <int Window>
__global__ void __launch_bounds__(quad_columns* quad_lanes)
    conv_backward_kernel(causal_conv_backward_arguments<float> a, index tiles, int each, float* partial) {
  const int time = static_cast<int>(a.in.seq.time), width = static_cast<int>(a.in.width);
  const conv_stretch s(tiles, time, each);
  const float4 zero{0, 0, 0, 0};
  float4 dw[Window], db = zero;
#pragma unroll
  for (int j = 0; j < Window; ++j) dw[j] = zero;
  if (s.column < width && s.begin < s.end) {
    const index row = s.b * time;
    const float* dy_of = a.dy.row(row) + s.column;
    float* dx_of = a.dx.row(row) + s.column;
    // dy[i] and start[i] are of time t + i, as far as there is one, x[j] is what tap j of time t reads.
    float4 w[Window], x[Window], dy[Window];
    int start[Window];
    const auto start_of = [&](int t) { return static_cast<int>(a.in.seq.document_start(s.b, t)); };
    read_taps<Window>(a.weight, s.column, w);
#pragma unroll
    for (int j = 1; j < Window; ++j) {
      const int t = s.begin + j - 1;
      x[j] = read_input<Window>(a.in, s.b, s.begin - Window + j, s.column);
      dy[j] = t < time ? read_quad(dy_of + t * a.dy.stride) : zero;
      start[j] = t < time ? start_of(t) : time;
    }
    for (int t = s.begin; t < s.end; ++t) {
      const int last = t + Window - 1;
#pragma unroll
      for (int j = 0; j + 1 < Window; ++j) x[j] = x[j + 1], dy[j] = dy[j + 1], start[j] = start[j + 1];
      x[Window - 1] = read_input<Window>(a.in, s.b, t, s.column);
      dy[Window - 1] = last < time ? read_quad(dy_of + last * a.dy.stride) : zero;
      start[Window - 1] = last < time ? start_of(last) : time;
      float4 sum = a.accumulate ? *reinterpret_cast<const float4*>(dx_of + t * a.dx.stride) : zero;
#pragma unroll
      for (int i = 0; i < Window; ++i)
        if (t >= start[i]) sum = add_product(sum, w[Window - 1 - i], dy[i]);
      write_quad(dx_of + t * a.dx.stride, sum);
      db = add(db, dy[0]);
      // Taps before the first read another document, or what lies before the past.
      const int back = start[0] < 0 ? Window - 1 : t - start[0];
#pragma unroll
      for (int j = 0; j < Window; ++j)
        if (Window - 1 - j <= back) dw[j] = add_product(dw[j], dy[0], x[j]);
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
inline bool conv_in_quads(const distil_xlstm::detail::window_view<float>& in) {
  return in.width % 4 == 0 && in.width < (1 << 24) && in.seq.time < (1 << 24) && in_quads(in.x) &&
         in_quads(in.past) && in.seq.rows() > 0 && in.width > 0;
}
/// Rows that a thread takes, and blocks that so take `rows` of them.
struct stretches {
  int each;
  index tiles;
  explicit stretches(index rows)
      : each(static_cast<int>(std::clamp<index>(blocks_for(rows, quad_lanes), 1, 16))),
        tiles(blocks_for(rows, quad_lanes * each)) {}
};
inline dim3 quad_grid(index tiles, index width) {
  return {static_cast<unsigned>(tiles), static_cast<unsigned>(blocks_for(width, 4 * quad_columns))};
}

/// Blocks of four columns.
template <class T>
__global__ void __launch_bounds__(quad_columns* quad_lanes)
    headwise_forward_kernel(headwise_arguments<T> a, int each) {
  const int block = static_cast<int>(blockIdx.y * quad_columns + threadIdx.x);
  if (block >= a.blocks) return;
  float4 w[4];
#pragma unroll
  for (int o = 0; o < 4; ++o) w[o] = read_quad(a.weight + 16 * block + 4 * o);
  const index begin = static_cast<index>(blockIdx.x) * quad_lanes * each + threadIdx.y;
  const float* x = a.x.data + 4 * block;
  float* y = a.y.data + 4 * block;
  constexpr int ahead = 4;
  for (int i = 0; i < each; i += ahead) {
    float4 in[ahead];
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      const index r = begin + (i + k) * quad_lanes;
      if (i + k < each && r < a.x.rows) in[k] = read_quad(x + r * a.x.stride);
    }
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      const index r = begin + (i + k) * quad_lanes;
      if (i + k < each && r < a.x.rows)
        write_quad(y + r * a.y.stride,
                   {dot(w[0], in[k]), dot(w[1], in[k]), dot(w[2], in[k]), dot(w[3], in[k])});
    }
  }
}
/// `partial`, a row a block row: [blocks, 4, 4] of the weight's gradient.
template <class T>
__global__ void __launch_bounds__(quad_columns* quad_lanes)
    headwise_backward_kernel(headwise_backward_arguments<T> a, int each, float* partial) {
  const int block = static_cast<int>(blockIdx.y * quad_columns + threadIdx.x);
  const float4 zero{0, 0, 0, 0};
  float4 w[4], dw[4];
#pragma unroll
  for (int o = 0; o < 4; ++o) w[o] = dw[o] = zero;
  if (block < a.blocks) {
#pragma unroll
    for (int o = 0; o < 4; ++o) w[o] = read_quad(a.weight + 16 * block + 4 * o);
    const index begin = static_cast<index>(blockIdx.x) * quad_lanes * each + threadIdx.y;
    const float *x = a.x.data + 4 * block, *dy = a.dy.data + 4 * block;
    float* dx = a.dx.data + 4 * block;
    constexpr int ahead = 2;
    for (int i = 0; i < each; i += ahead) {
      float4 in[ahead], out[ahead], old[ahead];
#pragma unroll
      for (int k = 0; k < ahead; ++k) {
        const index r = begin + (i + k) * quad_lanes;
        in[k] = out[k] = old[k] = zero;
        if (i + k >= each || r >= a.x.rows) continue;
        in[k] = read_quad(x + r * a.x.stride), out[k] = read_quad(dy + r * a.dy.stride);
        if (a.beta != 0) old[k] = *reinterpret_cast<const float4*>(dx + r * a.dx.stride);
      }
#pragma unroll
      for (int k = 0; k < ahead; ++k) {
        const index r = begin + (i + k) * quad_lanes;
        if (i + k >= each || r >= a.x.rows) continue;
        const float g[4] = {out[k].x, out[k].y, out[k].z, out[k].w};
        float4 sum = add_product(zero, a.beta, old[k]);
#pragma unroll
        for (int o = 0; o < 4; ++o) {
          sum = add_product(sum, g[o], w[o]);
          dw[o] = add_product(dw[o], g[o], in[k]);
        }
        write_quad(dx + r * a.dx.stride, sum);
      }
    }
  }
#pragma unroll
  for (int o = 0; o < 4; ++o) {
    const float4 sum = sum_of_lanes(dw[o]);
    if (threadIdx.y == 0 && block < a.blocks)
      write_quad(partial + (static_cast<index>(blockIdx.x) * a.blocks + block) * 16 + 4 * o, sum);
  }
}

}  // namespace detail

/// One pass over the input, in columns of four.
template <class T>
void causal_conv_forward(cuda& device, const causal_conv_arguments<T>& a) {
  if constexpr (std::is_same_v<T, float>)
    if (detail::conv_in_quads(a.in) && detail::in_quads(a.y)) {
      const detail::stretches s(a.in.seq.time);
      const auto run = [&]<int Window>(std::integral_constant<int, Window>) {
        detail::conv_forward_kernel<Window>
            <<<detail::quad_grid(a.in.seq.batch * s.tiles, a.in.width),
               dim3(detail::quad_columns, detail::quad_lanes), 0, device.stream()>>>(a, s.tiles, s.each);
        detail::check_launch("causal_conv_forward");
      };
      if (detail::with_window(a.in.window, run)) return;
    }
  distil_xlstm::causal_conv_forward<cuda, T>(device, a);
}
/// One pass over input and gradient, in columns of four, and the sums of what its blocks found.
template <class T>
void causal_conv_backward(cuda& device, const causal_conv_backward_arguments<T>& a) {
  if constexpr (std::is_same_v<T, float>)
    if (detail::conv_in_quads(a.in) && detail::in_quads(a.dy) && detail::in_quads(a.dx)) {
      const detail::stretches s(a.in.seq.time);
      const index parts = a.in.seq.batch * s.tiles, width = a.in.width, window = a.in.window;
      const auto run = [&]<int Window>(std::integral_constant<int, Window>) {
        auto partial = device.template scratch<float>(parts * width * (Window + 1));
        detail::conv_backward_kernel<Window>
            <<<detail::quad_grid(parts, width), dim3(detail::quad_columns, detail::quad_lanes), 0,
               device.stream()>>>(a, s.tiles, s.each, partial.data());
        detail::check_launch("causal_conv_backward");
        const matrix_view<const float> sums(partial.data(), parts, width * (window + 1));
        add_column_sums(device, sums.columns(0, width * window), a.dweight);
        add_column_sums(device, sums.columns(width * window, width), a.dbias);
      };
      if (detail::with_window(window, run)) return;
    }
  distil_xlstm::causal_conv_backward<cuda, T>(device, a);
}

/// Blocks of four columns in one pass, in float whatever the products are; wider ones as the default does.
template <class T>
void headwise_forward(cuda& device, const headwise_arguments<T>& a) {
  if constexpr (std::is_same_v<T, float>)
    if (a.width == 4 && a.x.rows > 0 && a.blocks > 0 && detail::in_quads(a.weight) && detail::in_quads(a.x) &&
        detail::in_quads(a.y)) {
      const detail::stretches s(a.x.rows);
      detail::headwise_forward_kernel<T>
          <<<detail::quad_grid(s.tiles, 4 * a.blocks), dim3(detail::quad_columns, detail::quad_lanes), 0,
             device.stream()>>>(a, s.each);
      return detail::check_launch("headwise_forward");
    }
  distil_xlstm::headwise_forward<cuda, T>(device, a);
}
template <class T>
void headwise_backward(cuda& device, const headwise_backward_arguments<T>& a) {
  if constexpr (std::is_same_v<T, float>)
    if (a.width == 4 && a.x.rows > 0 && a.blocks > 0 && detail::in_quads(a.weight) && detail::in_quads(a.x) &&
        detail::in_quads(a.dy) && detail::in_quads(a.dx)) {
      const detail::stretches s(a.x.rows);
      auto partial = device.template scratch<float>(s.tiles * 16 * a.blocks);
      detail::headwise_backward_kernel<T>
          <<<detail::quad_grid(s.tiles, 4 * a.blocks), dim3(detail::quad_columns, detail::quad_lanes), 0,
             device.stream()>>>(a, s.each, partial.data());
      detail::check_launch("headwise_backward");
      return add_column_sums(device, matrix_view<const float>(partial.data(), s.tiles, 16 * a.blocks),
                             a.dweight);
    }
  distil_xlstm::headwise_backward<cuda, T>(device, a);
}

}  // namespace distil_xlstm::device
