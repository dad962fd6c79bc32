#pragma once

#include <algorithm>

#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/device/cuda/columns.cuh>
#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/conv/cuda.cuh>
#include <distil_xlstm/op/linear/cuda.cuh>
#include <distil_xlstm/op/mlstm_inputs/op.hpp>

namespace distil_xlstm::device {

namespace detail::mlstm_inputs {

/// a as the convolution gives it, and q, k and v of what is in registers then: blocks of four columns.
template <int Window, class S>
__global__ void __launch_bounds__(block_columns* block_lanes, 2)
    forward_kernel(const __grid_constant__ mlstm_inputs_arguments<float, S> a, index tiles, int each) {
  __shared__ float4 weight[3][4][block_columns];
  const int time = static_cast<int>(a.conv.in.seq.time), x = static_cast<int>(threadIdx.x);
  const conv_stretch s(tiles, time, each);
  const bool inside = s.column < a.conv.in.width;
  for (int i = static_cast<int>(threadIdx.y); inside && i < 12; i += block_lanes)
    weight[i / 4][i % 4][x] = load4_readonly(a.maps[i / 4].weight + 4 * s.column + i % 4 * 4);
  __syncthreads();
  if (!inside || s.begin >= s.end) return;
  convolve<Window>(a.conv, s, [&](int t, const float4(&y)[conv_ahead], const float4* e) {
    const index row = s.b * time + t;
    float4 activated[conv_ahead];
#pragma unroll
    for (int i = 0; i < conv_ahead; ++i) {
      activated[i] = silu_of(y[i]);
      if (t + i < s.end) store_convolved(a.conv, row + i, s.column, y[i], activated[i]);
    }
#pragma unroll
    for (int m = 0; m < 3; ++m) {
      const headwise_arguments<float, S>& map = a.maps[m];
      float four[conv_ahead][4];
#pragma unroll
      for (int o = 0; o < 4; ++o) {
        const float4 w = weight[m][o][x];
#pragma unroll
        for (int i = 0; i < conv_ahead; ++i) four[i][o] = dot(w, m < 2 ? activated[i] : e[i]);
      }
#pragma unroll
      for (int i = 0; i < conv_ahead; ++i)
        if (t + i < s.end)
          store4(map.y.row(row + i) + s.column, {four[i][0], four[i][1], four[i][2], four[i][3]});
    }
  });
}

/// Whether q and k are of the convolution's result and v is of its input, in blocks of four columns.
template <class S>
bool fits(const mlstm_inputs_arguments<float, S>& a) {
  const auto alike = [](matrix_view<const float> x, matrix_view<const float> y) {
    return x.data == y.data && x.stride == y.stride;
  };
  const auto& in = a.conv.in;
  bool fit = in.seq.time > 1 && a.conv.activated.data && is_conv_vectorised(in) && is_vectorised(a.conv.y) &&
             is_vectorised(a.conv.activated);
  for (std::size_t i = 0; i < 3; ++i) {
    const headwise_arguments<float, S>& m = a.maps[i];
    fit = fit && m.width == 4 && 4 * m.blocks == in.width && m.y.stride % 4 == 0 &&
          is_aligned(m.y.data, 4 * sizeof(S)) && is_vectorised(m.weight) &&
          alike(m.x, i < 2 ? a.conv.activated : in.x);
  }
  return fit;
}

/// Gates of both kinds that the kernel is made for.
constexpr int gates = 8;

/// `Maps` of one x, and their part of the gates: views of what they read and write.
template <int Maps, class S>
struct maps {
  int blocks;
  const float *weight[Maps],
      *gate_weight[2];  ///< the latter from the first map's columns on, rows `stride` apart
  index stride;
  matrix_view<const S> y;  ///< results side by side, as is dy
  matrix_view<const float> x, dy, dgates;
  matrix_view<float> dx;
  static constexpr bool adds = Maps == 2;  ///< to dx
  float* dweight;                          ///< a row a block row: [Maps, blocks, 4, 4]
  float* dgate_weight;  ///< a row a block row: [gates, stride], from the first map's columns on
};

/// What the threads of a block have sent for: of twice `ahead` rows each its own four columns, and its warp's gates.
template <int Maps, class S>
struct sent_rows {
  static constexpr int ahead = 2, stages = 2, threads = block_columns * block_lanes;
  static constexpr bool adds = maps<Maps, S>::adds;
  float4 x[stages][ahead][threads], dx[stages][ahead][adds ? threads : 1], dy[stages][ahead][Maps][threads],
      dgates[stages][ahead][block_lanes][2];
  stored<S, 4> y[stages][ahead][Maps][threads];

  /// Of row r, the thread's `block` of four columns.
  __device__ void send(const maps<Maps, S>& a, int stage, int k, index r, int block) {
    const int thread = static_cast<int>(threadIdx.y * block_columns + threadIdx.x);
    copy_async_16(&x[stage][k][thread], a.x.row(r) + 4 * block);
    if constexpr (adds) copy_async_16(&dx[stage][k][thread], a.dx.row(r) + 4 * block);
#pragma unroll
    for (int m = 0; m < Maps; ++m) {
      const int column = 4 * (m * a.blocks + block);
      copy_async_16(&dy[stage][k][m][thread], a.dy.row(r) + column);
      if constexpr (sizeof(S) == 2)
        copy_async_8(&y[stage][k][m][thread], a.y.row(r) + column);
      else
        copy_async_16(&y[stage][k][m][thread], a.y.row(r) + column);
    }
    if (threadIdx.x != 0) return;
    for (int half = 0; half < 2; ++half)
      copy_async_16(&dgates[stage][k][threadIdx.y][half], a.dgates.row(r) + 4 * half);
  }
};

/// Blocks of four columns: of each row, dy with the gates' part, dx, and what both add to the weights' gradients.
template <int Maps, class S>
__global__ void __launch_bounds__(block_columns* block_lanes, Maps == 1 ? 2 : 1)
    backward_kernel(const __grid_constant__ maps<Maps, S> a, int each) {
  extern __shared__ __align__(16) unsigned char memory[];
  using sent_type = sent_rows<Maps, S>;
  sent_type& sent = *reinterpret_cast<sent_type*>(memory);
  __shared__ float4 weight[Maps][4][block_columns], gate_weight[Maps][gates][block_columns];
  const int lane = static_cast<int>(threadIdx.y), x = static_cast<int>(threadIdx.x);
  const int block = static_cast<int>(blockIdx.y) * block_columns + x, inner = 4 * a.blocks;
  const bool inside = block < a.blocks;
  const float4 zero{0, 0, 0, 0};
  static_assert(block_lanes == gates);
#pragma unroll
  for (int m = 0; m < Maps; ++m) {
    const float* of_gate = a.gate_weight[lane / 4] + lane % 4 * a.stride + m * inner + 4 * block;
    gate_weight[m][lane][x] = inside ? load4_readonly(of_gate) : zero;
    if (lane < 4) weight[m][lane][x] = inside ? load4_readonly(a.weight[m] + 16 * block + 4 * lane) : zero;
  }
  __syncthreads();
  float4 dw[Maps][4], dgate[Maps][gates];
#pragma unroll
  for (int m = 0; m < Maps; ++m) {
    for (float4& v : dw[m]) v = zero;
    for (float4& v : dgate[m]) v = zero;
  }
  constexpr int ahead = sent_type::ahead, stages = sent_type::stages;
  const int thread = lane * block_columns + x;
  const index begin = static_cast<index>(blockIdx.x) * block_lanes * each + lane;
  const auto row_of = [&](int i) { return begin + i * block_lanes; };
  const auto there = [&](int i) { return inside && i < each && row_of(i) < a.x.rows; };
  const auto send = [&](int i) {
#pragma unroll
    for (int k = 0; k < ahead; ++k)
      if (there(i + k)) sent.send(a, i / ahead % stages, k, row_of(i + k), block);
    commit_copies();
  };
#pragma unroll
  for (int s = 0; s < stages; ++s) send(s * ahead);
  for (int i = 0; i < each; i += ahead) {
    float4 in[ahead], old[ahead], result[ahead][Maps], d[ahead][Maps], g[ahead][2];
    wait_for_copies<stages - 1>();
    __syncwarp();
    const int stage = i / ahead % stages;
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      const bool read = there(i + k);
      in[k] = read ? sent.x[stage][k][thread] : zero;
      old[k] = read && a.adds ? sent.dx[stage][k][a.adds ? thread : 0] : zero;
#pragma unroll
      for (int m = 0; m < Maps; ++m) {
        result[k][m] = read ? load4(sent.y[stage][k][m][thread].s) : zero;
        d[k][m] = read ? sent.dy[stage][k][m][thread] : zero;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) g[k][half] = read ? sent.dgates[stage][k][lane][half] : zero;
    }
    __syncwarp();  // before what the warp shares is sent for again
    send(i + stages * ahead);
#pragma unroll
    for (int m = 0; m < Maps; ++m) {
#pragma unroll
      for (int j = 0; j < gates; ++j) {
        const float4 w = gate_weight[m][j][x];
#pragma unroll
        for (int k = 0; k < ahead; ++k) {
          const float4 four = g[k][j / 4];
          const float dg = j % 4 == 0 ? four.x : j % 4 == 1 ? four.y : j % 4 == 2 ? four.z : four.w;
          d[k][m] = add_product(d[k][m], dg, w);
          dgate[m][j] = add_product(dgate[m][j], dg, result[k][m]);
        }
      }
#pragma unroll
      for (int o = 0; o < 4; ++o) {
        const float4 w = weight[m][o][x];
#pragma unroll
        for (int k = 0; k < ahead; ++k) {
          const float4 four = d[k][m];
          const float dy = o == 0 ? four.x : o == 1 ? four.y : o == 2 ? four.z : four.w;
          old[k] = add_product(old[k], dy, w);
          dw[m][o] = add_product(dw[m][o], dy, in[k]);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < ahead; ++k)
      if (there(i + k)) store4(a.dx.row(row_of(i + k)) + 4 * block, old[k]);
  }
  const bool writes = inside && lane == 0;
#pragma unroll
  for (int m = 0; m < Maps; ++m) {
    float* to = a.dweight + ((static_cast<index>(blockIdx.x) * Maps + m) * a.blocks + block) * 16;
#pragma unroll
    for (int o = 0; o < 4; ++o) {
      const float4 sum = sum_of_lanes(dw[m][o]);
      if (writes) store4(to + 4 * o, sum);
    }
    float* to_gate = a.dgate_weight + static_cast<index>(blockIdx.x) * gates * a.stride + m * inner + 4 * block;
#pragma unroll
    for (int j = 0; j < gates; ++j) {
      const float4 sum = sum_of_lanes(dgate[m][j]);
      if (writes) store4(to_gate + j * a.stride, sum);
    }
  }
}

/// Blocks along the rows, and rows of a thread: a few rounds of the card.
struct cut {
  index tiles;
  int each;
  cut(const cuda_base& device, index rows, index inner) {
    const index wanted =
        std::max<index>(1, 4 * device.multiprocessors() / blocks_for(inner, 4 * block_columns));
    each = static_cast<int>(blocks_for(rows, block_lanes * std::min(wanted, blocks_for(rows, block_lanes))));
    tiles = blocks_for(rows, block_lanes * index{each});
  }
};

/// The maps from number `First` on, which are `Maps`.
template <int First, int Maps, class S>
void run(cuda_base& device, const mlstm_inputs_backward_arguments<float, S>& a, const cut& c,
         matrix_view<const float> x, matrix_view<float> dx, float* dgate_weight) {
  const index inner = a.inner(), first = First * inner;
  auto partial = device.scratch<float>(c.tiles * Maps * 16 * a.blocks);
  maps<Maps, S> m{static_cast<int>(a.blocks)};
  for (int i = 0; i < Maps; ++i) m.weight[i] = a.weight[First + i];
  for (int i = 0; i < 2; ++i) m.gate_weight[i] = a.gate_weight[i] + first;
  m.stride = 3 * inner, m.x = x, m.dgates = a.dgates, m.dx = dx;
  static_assert(m.adds == (First == 0));
  m.y = a.qkv.columns(first, Maps * inner), m.dy = a.dqkv.columns(first, Maps * inner);
  m.dweight = partial.data(), m.dgate_weight = dgate_weight + first;
  launch(device, "mlstm_inputs_backward",
         {column_grid(c.tiles, inner), dim3(block_columns, block_lanes), sizeof(sent_rows<Maps, S>)},
         backward_kernel<Maps, S>, m, c.each);
  const matrix_view<const float> sums(partial.data(), c.tiles, Maps * 16 * a.blocks);
  for (int i = 0; i < Maps; ++i)
    add_column_sums(device, sums.columns(i * 16 * a.blocks, 16 * a.blocks), a.dweight[First + i]);
}

template <class S>
void backward(cuda_base& device, const mlstm_inputs_backward_arguments<float, S>& a) {
  const cut c(device, a.a.rows, a.inner());
  const index each = a.heads * 3 * a.inner();
  auto partial = device.scratch<float>(c.tiles * 2 * each);
  run<0, 2>(device, a, c, a.a, a.da, partial.data());
  run<2, 1>(device, a, c, a.e, a.de, partial.data());
  const matrix_view<const float> sums(partial.data(), c.tiles, 2 * each);
  for (int i = 0; i < 2; ++i) {
    add_column_sums(device, sums.columns(i * each, each), a.dgate_weight[i]);
    add_column_sums(device, a.dgates.columns(i * a.heads, a.heads), a.dgate_bias[i]);
  }
}
template <class S>
bool fits(const cuda_base& device, const mlstm_inputs_backward_arguments<float, S>& a) {
  const auto vectorised = [](const auto&... x) { return (is_vectorised(x) && ...); };
  constexpr index weights = 16 * 1024;  // of the block's shared memory, and what sums take
  return index{sizeof(sent_rows<2, S>)} + weights <= device.shared_bytes() && a.width == 4 &&
         2 * a.heads == gates && a.a.rows > 0 && a.blocks > 0 && a.blocks < (1 << 24) && !a.dbias[0] &&
         !a.dbias[1] && !a.dbias[2] && vectorised(a.a, a.e, a.qkv, a.dgates, a.dqkv, a.da, a.de) &&
         vectorised(a.weight[0], a.weight[1], a.weight[2], a.gate_weight[0], a.gate_weight[1]);
}

}  // namespace detail::mlstm_inputs

/// Blocks of four columns in one pass over the input, where there are several tokens a sequence.
template <Precision P, class T, class S>
void mlstm_inputs_forward(basic_cuda<P>& device, const mlstm_inputs_arguments<T, S>& a) {
  if constexpr (std::is_same_v<T, float>)
    if (detail::mlstm_inputs::fits(a)) {
      const detail::stretches s(a.conv.in.seq.time);
      const index width = a.conv.in.width;
      const auto run = [&]<int Window>(std::integral_constant<int, Window>) {
        detail::keep_past(device, a.conv);
        detail::launch(device, "mlstm_inputs_forward",
                       {detail::column_grid(a.conv.in.seq.batch * s.tiles, width),
                        dim3(detail::block_columns, detail::block_lanes)},
                       detail::mlstm_inputs::forward_kernel<Window, S>, a, s.tiles, s.each);
      };
      if (detail::with_window(a.conv.in.window, run)) return;
    }
  distil_xlstm::mlstm_inputs_forward<basic_cuda<P>, T, S>(device, a);
}

/// Where products round: blocks of four columns and four heads in two passes, one of q and k, one of v, in float.
template <Precision P, class T, class S>
void mlstm_inputs_backward(basic_cuda<P>& device, const mlstm_inputs_backward_arguments<T, S>& a) {
  if constexpr (std::is_same_v<T, float> && multiplies_in_bf16<P, T>)
    if (detail::mlstm_inputs::fits(device, a)) return detail::mlstm_inputs::backward(device, a);
  distil_xlstm::mlstm_inputs_backward<basic_cuda<P>, T, S>(device, a);
}

}  // namespace distil_xlstm::device
