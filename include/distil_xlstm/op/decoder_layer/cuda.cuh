#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/math/rotary.hpp>
#include <distil_xlstm/op/attention/cuda/bf16.cuh>
#include <distil_xlstm/op/decoder_layer/cuda/step.cuh>
#include <distil_xlstm/op/decoder_layer/op.hpp>
#include <distil_xlstm/op/gated_activation/cuda.cuh>
#include <distil_xlstm/op/norm/cuda.cuh>

// A layer of a frozen decoder with everything but the residual stream in bfloat16: what products read and write
// is rounded once, and lies in memory as they take it.
namespace distil_xlstm::device {

namespace detail::decoder {

/// Columns of matrices that lie side by side begin at 16 bytes.
constexpr index padded(index n) { return (n + 7) / 8 * 8; }

/// Numbers as memory holds them, `Each` in one access: 8, or 1 where addresses do not allow more.
template <int Each>
struct numbers {
  float x[Each];
  __device__ void load(const bf16* p) {
    if constexpr (Each == 1) {
      x[0] = *p;
    } else {
      const auto pack = read_pack<bf16>::first(p);
#pragma unroll
      for (int i = 0; i < Each; ++i) x[i] = pack.template at<float>(i);
    }
  }
  __device__ void load(const float* p) {
#pragma unroll
    for (int i = 0; i < Each; i += 4)
      if constexpr (Each == 1) {
        x[0] = *p;
      } else {
        const float4 four = load4(p + i);
        x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
      }
  }
  __device__ void store(bf16* p) const {
    if constexpr (Each == 1) {
      *p = bf16(x[0]);
    } else {
      stored<bf16, Each> out;
#pragma unroll
      for (int i = 0; i < Each; i += 2) narrow(x[i], x[i + 1], out.s + i);
      *reinterpret_cast<stored<bf16, Each>*>(p) = out;
    }
  }
};

/// Heads of queries, keys or values, side by side in the rows of a matrix.
struct head_columns {
  bf16* data;
  const float* bias;  ///< or null
  int heads;
};
/// q, k <- (q, k + bias) rotated, v <- v + bias, in place: a thread has `Each` pairs of a head at a time, a
/// block `block_rows` rows.
template <int Each>
__global__ void __launch_bounds__(256)
    rotate_kernel(head_columns q, head_columns k, head_columns v, index stride,
                  matrix_view<const float> cosines, matrix_view<const float> sines, index rows,
                  int block_rows) {
  const int half = static_cast<int>(cosines.cols), pieces = half / Each;
  const int units = (q.heads + k.heads + v.heads) * pieces;
  const index row0 = static_cast<index>(blockIdx.x) * block_rows;
  const int count = static_cast<int>(rows - row0 < block_rows ? rows - row0 : block_rows) * units;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    const index r = row0 + i / units;
    const int unit = i % units, pair = unit % pieces * Each;
    int head = unit / pieces;
    const bool rotate = head < q.heads + k.heads;
    head_columns of = q;
    if (head >= q.heads) head -= q.heads, of = k;
    if (!rotate) head -= k.heads, of = v;
    const int column = head * 2 * half + pair;
    bf16* p = of.data + r * stride + column;
    numbers<Each> low, high;
    low.load(p), high.load(p + half);
    if (of.bias) {
      numbers<Each> bias;
      bias.load(of.bias + column);
#pragma unroll
      for (int e = 0; e < Each; ++e) low.x[e] += bias.x[e];
      bias.load(of.bias + column + half);
#pragma unroll
      for (int e = 0; e < Each; ++e) high.x[e] += bias.x[e];
    }
    if (rotate) {
      numbers<Each> cosine, sine;
      cosine.load(cosines.row(r) + pair), sine.load(sines.row(r) + pair);
#pragma unroll
      for (int e = 0; e < Each; ++e) {
        const auto t = math::rotate(low.x[e], high.x[e], cosine.x[e], sine.x[e]);
        low.x[e] = t.low, high.x[e] = t.high;
      }
    }
    low.store(p), high.store(p + half);
  }
}
/// The queries too, where attention does not rotate them.
template <class T>
void rotate(cuda_base& device, const decoder_layer_arguments<T>& a, matrix_view<bf16> qkv, index k_at,
            index v_at, bool queries) {
  const int heads = static_cast<int>(a.shape.heads), kv_heads = static_cast<int>(a.shape.kv_heads);
  const head_columns q{qkv.data, a.q_bias, queries ? heads : 0}, k{qkv.data + k_at, a.k_bias, kv_heads},
      v{qkv.data + v_at, a.v_bias, a.v_bias ? kv_heads : 0};
  const auto run = [&]<int Each>() {
    const index units = (q.heads + k.heads + v.heads) * a.cosines.cols / Each;
    const index block_rows = std::max<index>(1, 512 / units);
    launch(device, "rotating queries and keys", {static_cast<unsigned>(blocks_for(qkv.rows, block_rows)), 256},
           rotate_kernel<Each>, q, k, v, qkv.stride, a.cosines, a.sines, qkv.rows,
           static_cast<int>(block_rows));
  };
  const bool octs = a.cosines.cols % 8 == 0 && a.cosines.stride % 4 == 0 && a.sines.stride % 4 == 0 &&
                    is_aligned(a.cosines.data) && is_aligned(a.sines.data) && is_aligned(a.q_bias) &&
                    is_aligned(a.k_bias) && is_aligned(a.v_bias);
  octs ? run.template operator()<8>() : run.template operator()<1>();
}

inline blas_operand<bf16> operand(matrix_view<const bf16> x) { return {x.data, x.stride}; }
inline blas_operand<bf16> weight(const frozen_matrix& w) { return {in_bf16(w), w.cols, true}; }
/// y = x W_iT, side by side from columns `at[i]` on. Matrices that lie one behind another are one.
template <std::size_t N>
void products(cuda_base& device, matrix_view<const bf16> x, const std::array<frozen_matrix, N>& w,
              const std::array<index, N>& at, matrix_view<bf16> y) {
  for (std::size_t i = 0; i < N;) {
    const std::size_t first = i;
    index n = 0;
    do n += w[i++].rows;
    while (i < N && in_bf16(w[i]) == in_bf16(w[first]) + n * x.cols && at[i] == at[first] + n);
    blas_product(device, x.rows, n, x.cols, operand(x), weight(w[first]), 0, y.data + at[first], y.stride);
  }
}
/// y = x + a Wᵀ; y may be x.
inline void add_product(cuda_base& device, matrix_view<const bf16> a, const frozen_matrix& w,
                        matrix_view<const float> x, matrix_view<float> y) {
  if (y.data != x.data) {
    if (blas_product_plus(device, a.cols, operand(a), weight(w), x, y)) return;
    transform(device, y, math::identity{}, x);
  }
  blas_product(device, y.rows, y.cols, a.cols, operand(a), weight(w), 1, y.data, y.stride);
}

template <Precision P, class T>
void layer(basic_cuda<P>& device, const decoder_layer_arguments<T>& a) {
  const index rows = a.x.rows, d = a.x.cols, inner = a.gate.rows;
  const index queries = a.shape.heads * a.shape.width, keys = a.shape.kv_heads * a.shape.width;
  const index k_at = padded(queries), v_at = k_at + padded(keys), up_at = padded(inner);
  const index narrow = padded(std::max(d, queries)), wide = std::max(v_at + padded(keys), 2 * up_at);
  auto memory = device.template scratch<bf16>(rows * (narrow + wide));
  // Two places, used once for attention and once more for the feed-forward: what products read, and write.
  bf16 *first = memory.data(), *second = first + rows * narrow;
  const matrix_view<bf16> u(first, rows, d, padded(d)), mixed(first, rows, queries, k_at),
      qkv(second, rows, v_at + keys, v_at + padded(keys)), gates(second, rows, up_at + inner, 2 * up_at);

  norms::forward_bf16(device, a.attention_norm, a.x, u);
  products<3>(device, u, {a.q, a.k, a.v}, {0, k_at, v_at}, qkv);
  const attention_arguments<bf16> heads{
      a.seq, a.shape, qkv.columns(0, queries), qkv.columns(k_at, keys), qkv.columns(v_at, keys), {}, mixed};
  const flash::query_angles angles{a.cosines.data, a.sines.data, a.cosines.stride, a.q_bias};
  const bool together = flash::rotates_queries(heads, angles);
  rotate(device, a, qkv, k_at, v_at, !together);
  flash::forward_bf16(device, heads, together ? angles : flash::query_angles{});
  add_product(device, mixed, a.o, a.x, a.y);

  norms::forward_bf16(device, a.feed_forward_norm, matrix_view<const T>(a.y), u);
  products<2>(device, u, {a.gate, a.up}, {0, up_at}, gates);
  const matrix_view<bf16> gate = gates.columns(0, inner), up = gates.columns(up_at, inner);
  gated_activation_forward(device, gated_activation_arguments<bf16>{activation::silu, gate, up}, gate);
  add_product(device, gate, a.down, a.y, a.y);
}

}  // namespace detail::decoder

/// Products in bfloat16, heads without a window, rotated and without norms, no bias of the output, and every matrix
/// at hand in bfloat16. Where there is a memory of keys and values, single tokens, as `is_step` says; else heads up
/// to 128 wide, and rows that the norm's registers hold.
template <Precision P, class T>
bool has_decoder_layer(const basic_cuda<P>&, const decoder_layer_arguments<T>& a) {
  if constexpr (multiplies_in_bf16<P, T>) {
    if (a.shape.window > 0 || a.x.rows == 0) return false;
    if (!a.rotates || a.q_norm.weight || a.k_norm.weight || a.o_bias) return false;
    for (const frozen_matrix& m : std::array{a.q, a.k, a.v, a.o, a.gate, a.up, a.down})
      if (!detail::decoder::in_bf16(m)) return false;
    if (a.position.data) return detail::decoder::is_step(a);
    return a.shape.width <= 128 && detail::norms::held(a.attention_norm, a.x.rows);
  } else {
    return false;
  }
}
/// The residual stream stays float; normed rows, queries, keys, values and the feed-forward's inner rows are
/// rounded to bfloat16 where they are written. Nine kernels, four of them products, where matrices that share
/// an input lie side by side; five of single tokens, whose queries, keys and values stay float.
template <Precision P, class T>
void decoder_layer_forward(basic_cuda<P>& device, const decoder_layer_arguments<T>& a) {
  if constexpr (multiplies_in_bf16<P, T>)
    a.position.data ? detail::decoder::step(device, a) : detail::decoder::layer(device, a);
  else
    fail("cuda: a decoder layer whose products are not in bfloat16 has no way of its own");
}

}  // namespace distil_xlstm::device
