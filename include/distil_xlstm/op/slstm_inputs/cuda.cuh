#pragma once

#include <algorithm>

#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/device/cuda/columns.cuh>
#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/slstm_inputs/op.hpp>

namespace distil_xlstm::device {

namespace detail::slstm_inputs {

/// y = x, rounded, and the sums of x's columns: `partial` has a row a block row. `Ahead`: rows asked for at once.
template <int Ahead>
__global__ void __launch_bounds__(block_columns* block_lanes)
    round_and_sum_kernel(matrix_view<const float> x, matrix_view<bf16> y, int each, float* partial) {
  const int column = 4 * static_cast<int>(blockIdx.y * block_columns + threadIdx.x);
  const index begin = static_cast<index>(blockIdx.x) * block_lanes * each + threadIdx.y;
  float4 sum{0, 0, 0, 0};
  for (int i = 0; column < x.cols && i < each; i += Ahead) {
    float4 four[Ahead];
#pragma unroll
    for (int k = 0; k < Ahead; ++k) {
      const index r = begin + (i + k) * block_lanes;
      if (i + k < each && r < x.rows) four[k] = load4_readonly(x.row(r) + column);
    }
#pragma unroll
    for (int k = 0; k < Ahead; ++k) {
      const index r = begin + (i + k) * block_lanes;
      if (i + k >= each || r >= x.rows) continue;
      store4(y.row(r) + column, four[k]);
      sum = add(sum, four[k]);
    }
  }
  sum = sum_of_lanes(sum);
  if (threadIdx.y == 0 && column < x.cols) store4(partial + blockIdx.x * x.cols + column, sum);
}

/// The operands, rounded: [rows, 4 width] of the gates' gradients, and [rows, width].
struct operands {
  matrix_view<const bf16> draw, previous, a, x;
  int heads, head_dim;
};

/// The gradients by R and W of a head and a gate, drawᵀ previous and drawᵀ a (or x), over some rows, of heads of up
/// to 16 Tiles channels: nine warps, three by three, share each of the two.
template <int Tiles>
struct weights_tile {
  static constexpr int threads = 576, rows = 32, stride = 16 * Tiles + 8, matrix = rows * stride, stages = 4;
  static constexpr int bytes = stages * 3 * matrix * static_cast<int>(sizeof(bf16)), own = Tiles / 3;
  static_assert(Tiles % 3 == 0, "three warps share the rows, three the columns");

  const bf16* from[3];   ///< rows 4 width, width and width apart
  std::uint32_t memory;  ///< in shared memory
  int width, head_dim, begin, end;

  /// Where in shared memory, in bytes, row r of the step's operand m begins.
  __device__ std::uint32_t at(int step, int m, int r) const {
    return memory + 2 * static_cast<std::uint32_t>((step % stages * 3 + m) * matrix + r * stride);
  }
  /// Sends for 32 rows of the three operands, zeros where they end: 16 bytes of each a thread.
  __device__ void fetch(int step) const {
    constexpr int along = 2 * Tiles;
    static_assert(rows * along <= threads);
    const int r = static_cast<int>(threadIdx.x) / along, c = static_cast<int>(threadIdx.x) % along * 8;
    if (r >= rows) return;
    const int row = begin + step * rows + r;
    const bool there = row < end && c < head_dim;
#pragma unroll
    for (int m = 0; m < 3; ++m) {
      const index apart = m == 0 ? 4 * width : width;
      copy_async_16(at(step, m, r) + 2 * c, there ? from[m] + row * apart + c : from[m], there ? 16 : 0);
    }
  }
  /// sum += the step's part of the first (half = 0) or the second product, 16 own rows and columns from these on.
  __device__ void multiply(float (&sum)[own][2 * own][4], int step, int half, int row, int column) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int k = 0; k < rows; k += 16) {
      const std::uint32_t a = at(step, 0, k + lane % 8 + lane / 16 * 8) + 2 * (row + lane / 8 % 2 * 8),
                          b = at(step, 1 + half, k + lane % 16) + 2 * (column + lane / 16 * 8);
      std::uint32_t fa[own][4];
#pragma unroll
      for (int m = 0; m < own; ++m) load_matrices<true>(fa[m], a + 32 * m);
#pragma unroll
      for (int n = 0; n < own; ++n) {
        std::uint32_t fb[4];
        load_matrices<true>(fb, b + 32 * n);
#pragma unroll
        for (int m = 0; m < own; ++m) {
          multiply_add(sum[m][2 * n], fa[m], fb[0], fb[1]);
          multiply_add(sum[m][2 * n + 1], fa[m], fb[2], fb[3]);
        }
      }
    }
  }
};
/// A block takes `each` rows, a multiple of 32, of a head and a gate. `partial`, a row a block row:
/// [heads, 4, head_dim, head_dim] of R, then [4, heads, head_dim, head_dim] of W.
template <int Tiles>
__global__ void __launch_bounds__(weights_tile<Tiles>::threads, 1)
    weights_kernel(const __grid_constant__ operands o, int each, float* partial) {
  extern __shared__ __align__(16) unsigned char memory[];
  using tile = weights_tile<Tiles>;
  const int head = static_cast<int>(blockIdx.x) / 4, gate = static_cast<int>(blockIdx.x) % 4, n = o.head_dim;
  const matrix_view<const bf16>& in = gate < 2 ? o.a : o.x;
  const int begin = static_cast<int>(blockIdx.y) * each, rows = static_cast<int>(in.rows);
  const tile t{{o.draw.data + (gate * o.heads + head) * n, o.previous.data + head * n, in.data + head * n},
               shared_address(memory),
               o.heads * n,
               n,
               begin,
               begin + each < rows ? begin + each : rows};
  const int steps = t.end > begin ? (t.end - begin + tile::rows - 1) / tile::rows : 0;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int half = warp / 9, row = warp % 9 / 3 * 16 * tile::own, column = warp % 3 * 16 * tile::own;
  float sum[tile::own][2 * tile::own][4] = {};
#pragma unroll
  for (int s = 0; s + 1 < tile::stages; ++s) {
    if (s < steps) t.fetch(s);
    commit_copies();
  }
  for (int s = 0; s < steps; ++s) {
    wait_for_copies<tile::stages - 2>();
    __syncthreads();
    if (s + tile::stages - 1 < steps) t.fetch(s + tile::stages - 1);
    commit_copies();
    t.multiply(sum, s, half, row, column);
  }
  const index square = n * n, all = 4 * o.heads * square;
  float* to = partial + 2 * blockIdx.y * all +
              (half == 0 ? (4 * head + gate) * square : all + (gate * o.heads + head) * square);
#pragma unroll
  for (int m = 0; m < tile::own; ++m)
#pragma unroll
    for (int c = 0; c < 2 * tile::own; ++c)
#pragma unroll
      for (int below = 0; below < 2; ++below) {
        const int j = row + 16 * m + lane / 4 + 8 * below, k = column + 8 * c + 2 * (lane % 4);
        if (j < n && k < n)
          *reinterpret_cast<float2*>(to + j * n + k) = {sum[m][c][2 * below], sum[m][c][2 * below + 1]};
      }
}

/// The gradients by R and the four W.
inline void add_weight_gradients(cuda_base& device, const slstm_inputs_backward_arguments<float>& a,
                                 const operands& o) {
  const index pairs = 4 * a.cell.heads, all = pairs * a.cell.head_dim * a.cell.head_dim, rows = a.x.rows;
  const index chunks = std::clamp<index>(device.multiprocessors() / pairs, 1, blocks_for(rows, 256));
  const int each = static_cast<int>(32 * blocks_for(rows, 32 * chunks));
  auto partial = device.scratch<float>(chunks * 2 * all);
  const auto run = [&]<int Tiles>() {
    launch(device, "slstm_inputs_backward",
           {dim3(static_cast<unsigned>(pairs), static_cast<unsigned>(chunks)), weights_tile<Tiles>::threads,
            weights_tile<Tiles>::bytes},
           weights_kernel<Tiles>, o, each, partial.data());
  };
  if (a.cell.head_dim <= 96)
    run.template operator()<6>();
  else
    run.template operator()<9>();
  const matrix_view<const float> sums(partial.data(), chunks, 2 * all);
  add_column_sums(device, sums.columns(0, all), a.drecurrent);
  for (int gate = 0; gate < 4; ++gate)
    add_column_sums(device, sums.columns(all + gate * all / 4, all / 4),
                    a.dweight[static_cast<std::size_t>(gate)]);
}

template <Precision P>
void backward(basic_cuda<P>& device, const slstm_inputs_backward_arguments<float>& a) {
  const index rows = a.x.rows, width = a.cell.width(), head = a.cell.head_dim;
  auto memory = device.template scratch<bf16>(rows * 7 * width);
  const matrix_view<bf16> draw(memory.data(), rows, 4 * width);
  const auto more = [&](index i) { return matrix_view<bf16>(memory.data() + i * rows * width, rows, width); };
  {
    const stretches s(rows);
    auto partial = device.template scratch<float>(s.tiles * 4 * width);
    launch(device, "slstm_inputs_backward", {column_grid(s.tiles, 4 * width), dim3(block_columns, block_lanes)},
           round_and_sum_kernel<4>, matrix_view<const float>(a.cell.raw), draw, s.each, partial.data());
    add_column_sums(device, matrix_view<const float>(partial.data(), s.tiles, 4 * width), a.dbias);
  }
  map(device, rows, width, distil_xlstm::detail::slstm_previous_h<float, bf16>{a.cell, more(4)});
  transform(device, more(5), math::identity{}, a.a);
  const bool one = a.a.data == a.x.data;
  if (!one) transform(device, more(6), math::identity{}, a.x);
  add_weight_gradients(
      device, a,
      {draw, more(4), more(5), more(one ? 5 : 6), static_cast<int>(a.cell.heads), static_cast<int>(head)});
  for (std::size_t gate = 0; gate < 4; ++gate)
    gemm_batched(
        device, a.cell.heads, matrix_view<const bf16>(draw.columns(static_cast<index>(gate) * width, head)),
        head, matrix_view<const float>(a.weight[gate], head, head), head * head,
        (gate < 2 ? a.da : a.dx).columns(0, head), head, distil_xlstm::detail::slstm_adds(a, gate) ? 1.f : 0.f);
}

inline bool fits(const cuda_base& device, const slstm_inputs_backward_arguments<float>& a) {
  const int bytes = a.cell.head_dim <= 96 ? weights_tile<6>::bytes : weights_tile<9>::bytes;
  return bytes <= device.shared_bytes() - 1024 && a.x.rows > 64 && a.x.rows < (1 << 30) &&
         a.cell.head_dim > 32 && a.cell.head_dim <= 144 && a.cell.head_dim % 8 == 0 &&
         is_vectorised(a.cell.raw);
}

}  // namespace detail::slstm_inputs

/// Where products round: of heads of 40 to 144 channels, a multiple of eight, all weights' gradients in one kernel,
/// of operands that are rounded once.
template <Precision P, class T>
void slstm_inputs_backward(basic_cuda<P>& device, const slstm_inputs_backward_arguments<T>& a) {
  if constexpr (std::is_same_v<T, float> && multiplies_in_bf16<P, T>)
    if (detail::slstm_inputs::fits(device, a)) return detail::slstm_inputs::backward(device, a);
  distil_xlstm::slstm_inputs_backward<basic_cuda<P>, T>(device, a);
}

}  // namespace distil_xlstm::device
