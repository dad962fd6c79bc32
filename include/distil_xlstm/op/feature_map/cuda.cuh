#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/attention/cuda/warp.cuh>
#include <distil_xlstm/op/feature_map/op.hpp>

// Softmax features on the tensor cores: a pass over x and phi in each direction, no products in memory.
namespace distil_xlstm::device {

namespace detail {

/// `Rows` rows of one head, 16 a warp; width and features up to 64, padded with zeros. A thread's numbers are of two
/// rows, in pairs of columns, as those of a product are. A product's columns may lie in any order that its operands
/// agree on: here so that a thread's pairs are neighbours in memory, four numbers of an input, eight of a head's
/// features.
template <int Rows>
struct feature_tile : flash::warp_tile<64, 64, Rows> {
  using base = flash::warp_tile<64, 64, Rows>;
  using base::column_of, base::lane, base::pitch, base::row_of, base::rows, base::threads;
  using typename base::piece;
  static constexpr int size = 64, weight_numbers = size * pitch, row_numbers = rows * pitch;
  using numbers = float[size / 8][4];
  /// The same, rounded.
  using packed = std::uint32_t[size / 8][2];
  /// Features of one of the two rows, of both signs.
  using signs = float[2][size / 32][8];

  /// The input's column that lies in a tile's column `at`, and the feature.
  static __device__ int input_at(int at) { return at / 16 * 16 + at % 8 / 2 * 4 + at / 8 % 2 * 2 + at % 2; }
  static __device__ int feature_at(int at) { return at / 32 * 32 + at % 8 / 2 * 8 + at / 8 % 4 * 2 + at % 2; }
  /// The first of this thread's input columns in its pairs 2 i and 2 i + 1, and of its features in 4 i .. 4 i + 3.
  static __device__ int inputs(int i) { return 16 * i + lane() % 4 * 4; }
  static __device__ int features(int i) { return 32 * i + lane() % 4 * 8; }

  /// The head's weights [n, f].
  static __device__ void load_weight(std::uint16_t* tile, const float* weight, int n, int f) {
#pragma unroll
    for (int first = 0; first < size * size / 2; first += threads) {
      const int i = first + static_cast<int>(threadIdx.x);
      const int r = i / (size / 2), c = i % (size / 2) * 2, input = input_at(r), feature = feature_at(c);
      const float2 x = input < n && feature < f ? load2(weight + input * f + feature) : float2{0, 0};
      *reinterpret_cast<std::uint32_t*>(tile + r * pitch + c) = pack_bf16(x.x, x.y);
    }
  }
  /// One of the two rows of an input, n numbers from `row` on; zeros where there is none.
  static __device__ void load(numbers& x, int half, const float* row, int n) {
#pragma unroll
    for (int i = 0; i < size / 16; ++i) {
      const float4 four = row && inputs(i) < n ? load4(row + inputs(i)) : float4{0, 0, 0, 0};
      x[2 * i][2 * half] = four.x, x[2 * i][2 * half + 1] = four.y;
      x[2 * i + 1][2 * half] = four.z, x[2 * i + 1][2 * half + 1] = four.w;
    }
  }
  /// Both rows.
  static __device__ void put(std::uint16_t* tile, const packed& x) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int c = 0; c < size / 8; ++c)
        *reinterpret_cast<std::uint32_t*>(tile + row_of(half) * pitch + column_of(c, 0)) = x[c][half];
  }
  /// row = softmax(sign z) of one of the two rows, f numbers; all lanes have to call.
  template <class Operand>
  static __device__ void store_softmax(Operand* row, const numbers& z, int half, float sign, int f) {
    float top = -INFINITY, sum = 0, p[size / 32][8];
#pragma unroll
    for (int i = 0; i < size / 4; ++i) {
      float& x = p[i / 8][i % 8];
      x = sign * z[i / 2][2 * half + i % 2];
      if (features(i / 8) < f) top = fmaxf(top, x);
    }
    top = row_max(top);
#pragma unroll
    for (int i = 0; i < size / 4; ++i) {
      float& x = p[i / 8][i % 8];
      x = features(i / 8) < f ? exp2_approx((x - top) * flash::log2_e) : 0.f;
      sum += x;
    }
    const float inverse = 1 / row_sum(sum);
#pragma unroll
    for (int i = 0; i < size / 32; ++i) {
#pragma unroll
      for (float& x : p[i]) x *= inverse;
      if (row && features(i) < f) store_eight(row + features(i), p[i]);
    }
  }
  /// dz = sum over the signs of sign p (dp - sum p dp) of one of the two rows, p `weight` and dp `gradient`, which
  /// becomes p dp; all lanes have to call.
  static __device__ void gradient(packed& dz, int half, const signs& weight, signs& gradient) {
    float sum[2] = {};
#pragma unroll
    for (int i = 0; i < size / 32; ++i)
#pragma unroll
      for (int e = 0; e < 8; ++e)
#pragma unroll
        for (int sign = 0; sign < 2; ++sign) {
          const float product = weight[sign][i][e] * gradient[sign][i][e];
          sum[sign] += product;
          gradient[sign][i][e] = product;
        }
    sum[0] = row_sum(sum[0]), sum[1] = row_sum(sum[1]);
    const auto at = [&](int i) {
      const int k = i / 8, e = i % 8;
      return (gradient[0][k][e] - gradient[1][k][e]) - (weight[0][k][e] * sum[0] - weight[1][k][e] * sum[1]);
    };
#pragma unroll
    for (int c = 0; c < size / 8; ++c) dz[c][half] = pack_bf16(at(2 * c), at(2 * c + 1));
  }
  /// s = a bᵀ
  static __device__ void multiply_transposed(numbers& s, const packed& a, const std::uint16_t* b) {
    piece left;
    base::multiply_rows(
        s,
        [&](int i) -> const piece& {
          left[0] = a[2 * i][0], left[1] = a[2 * i][1];
          left[2] = a[2 * i + 1][0], left[3] = a[2 * i + 1][1];
          return left;
        },
        b);
  }
};

/// What a block reads of a tile's rows, in shared memory: slots of 16 bytes of each thread, which cp.async fills while
/// the tile before is multiplied. A warp copies and reads its own rows alone; four lanes copy 64 bytes in a row.
template <class Tile, class Operand>
struct feature_stage {
  /// @{ Slots of eight features and of all of one of the two rows, as S; of its inputs; and of both kinds.
  template <class S>
  static constexpr int eight = 8 * sizeof(S) / 16;
  template <class S>
  static constexpr int of_features = 2 * Tile::size / 32 * eight<S>;
  static constexpr int of_input = Tile::size / 16;
  static constexpr int of_row = of_features<Operand> + of_features<float> + of_input;
  /// @}
  static constexpr int bytes = 2 * of_row * Tile::threads * 16;

  uint4* memory;

  /// Begins to copy one of the two rows, zeros unless it is `there`: phi and dphi of a head of f features a sign, and
  /// an input of n numbers.
  __device__ void copy(int half, const Operand* phi, const float* dphi, const float* x, bool there, bool both,
                       int f, int n) const {
    const std::uint32_t to = shared_address(memory + threadIdx.x);
    int at = half * of_row;
#pragma unroll
    for (int sign = 0; sign < 2; ++sign)
      at += copy_features(to + at * slot, phi + sign * f, there && (sign == 0 || both), f);
#pragma unroll
    for (int sign = 0; sign < 2; ++sign)
      at += copy_features(to + at * slot, dphi + sign * f, there && (sign == 0 || both), f);
    const float* from = x + Tile::inputs(0);
#pragma unroll
    for (int i = 0; i < of_input; ++i, ++at)
      copy_async_16(to + at * slot, from + 16 * i, there && Tile::inputs(i) < n ? 16 : 0);
  }
  /// What has come, x rounded.
  __device__ void read(int half, typename Tile::signs& p, typename Tile::signs& dp,
                       typename Tile::packed& x) const {
    const uint4* from = memory + threadIdx.x;
    int at = half * of_row;
#pragma unroll
    for (auto& sign : p) at += read_features<Operand>(sign, from + at * Tile::threads);
#pragma unroll
    for (auto& sign : dp) at += read_features<float>(sign, from + at * Tile::threads);
#pragma unroll
    for (int i = 0; i < of_input; ++i, ++at) {
      const float4 four = load4(reinterpret_cast<const float*>(from + at * Tile::threads));
      x[2 * i][half] = pack_bf16(four.x, four.y), x[2 * i + 1][half] = pack_bf16(four.z, four.w);
    }
  }

 private:
  static constexpr int slot = Tile::threads * 16;  ///< bytes

  /// A thread's eight floats lie in two slots, which other lanes of the four may have filled; in the second at the
  /// place two lanes off, so that what four lanes copy lies in different banks.
  template <class S>
  static __device__ int copy_features(std::uint32_t to, const S* row, bool there, int f) {
    const int quarter = Tile::lane() % 4, second = quarter % 2;
#pragma unroll
    for (int part = 0; part < eight<S>; ++part) {
      // Of the 16 bytes at a time of 32 features, these are number 4 part + quarter.
      const int column = 16 / static_cast<int>(sizeof(S)) * (4 * part + quarter);
      const S* from = row + column;
      const int place =
          eight<S> == 1 ? 0 : second * Tile::threads + 2 * (part ^ second) + quarter / 2 - quarter;
#pragma unroll
      for (int i = 0; i < Tile::size / 32; ++i)
        copy_async_16(to + 16 * place + i * eight<S> * slot, from + 32 * i,
                      there && column + 32 * i < f ? 16 : 0);
    }
    return of_features<S> / 2;
  }
  template <class S>
  static __device__ int read_features(float (&x)[Tile::size / 32][8], const uint4* from) {
    const int other = (Tile::lane() ^ 2) - Tile::lane();
#pragma unroll
    for (int i = 0; i < Tile::size / 32; ++i)
      if constexpr (eight<S> == 1) {
        load_eight(x[i], reinterpret_cast<const S*>(from + i * Tile::threads));
      } else {
        const float4 first = load4(reinterpret_cast<const float*>(from + 2 * i * Tile::threads)),
                     second = load4(reinterpret_cast<const float*>(from + (2 * i + 1) * Tile::threads + other));
        x[i][0] = first.x, x[i][1] = first.y, x[i][2] = first.z, x[i][3] = first.w;
        x[i][4] = second.x, x[i][5] = second.y, x[i][6] = second.z, x[i][7] = second.w;
      }
    return of_features<S> / 2;
  }
};

/// aᵀ b over the tile's rows: each of four warps has 16 of the result's rows.
template <class Tile>
struct feature_weight_gradient {
  static_assert(Tile::threads == 128);
  typename Tile::numbers sum = {};
  static __device__ int first_row() { return 16 * Tile::warp(); }

  __device__ void add(const std::uint16_t* a, const std::uint16_t* b) {
    const int lane = Tile::lane();
#pragma unroll
    for (int k = 0; k < Tile::rows; k += 16) {
      typename Tile::piece left;
      load_matrices<true>(left, shared_address(a + (k + lane % 8 + lane / 16 * 8) * Tile::pitch + first_row() +
                                               lane / 8 % 2 * 8));
#pragma unroll
      for (int c = 0; c < Tile::size / 16; ++c) {
        typename Tile::piece right;
        load_matrices<true>(right, shared_address(b + (k + lane % 16) * Tile::pitch + 16 * c + lane / 16 * 8));
        multiply_add(sum[2 * c], left, right[0], right[1]);
        multiply_add(sum[2 * c + 1], left, right[2], right[3]);
      }
    }
  }
  /// Its [n, f].
  __device__ void store(float* to, int n, int f) const {
    const int lane = Tile::lane();
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int c = 0; c < Tile::size / 8; ++c) {
        const int row = Tile::input_at(first_row() + lane / 4 + 8 * half),
                  column = Tile::feature_at(8 * c + lane % 4 * 2);
        if (row < n && column < f)
          *reinterpret_cast<float2*>(to + row * f + column) = {sum[c][2 * half], sum[c][2 * half + 1]};
      }
  }
};

/// A tile of a head's rows a block.
template <class Operand>
__global__ void __launch_bounds__(256, 3) feature_map_kernel(feature_map_arguments<float, Operand> a) {
  using tile = feature_tile<128>;
  __shared__ __align__(16) std::uint16_t weight[tile::weight_numbers];
  const feature_map_shape& s = a.shape;
  const int n = static_cast<int>(s.width), f = static_cast<int>(s.features);
  const index r0 = static_cast<index>(blockIdx.x) * tile::rows, head = blockIdx.y, input = head / s.group();
  tile::numbers x, z = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const index r = r0 + tile::row_of(half);
    tile::load(x, half, r < a.x.rows ? a.x.row(r) + input * n : nullptr, n);
  }
  tile::load_weight(weight, a.weight + head * n * f, n, f);
  __syncthreads();
  tile::combine(z, x, weight);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const index r = r0 + tile::row_of(half);
    Operand* phi = r < a.x.rows ? a.phi.row(r) + head * s.size() : nullptr;
    tile::store_softmax(phi, z, half, 1, f);
    if (s.both) tile::store_softmax(phi ? phi + f : nullptr, z, half, -1, f);
  }
}

/// Shared memory of a block of `feature_map_backward_kernel`: what comes, and operands of products.
template <class Operand>
struct feature_map_backward_tile : feature_tile<64> {
  using stage = feature_stage<feature_tile<64>, Operand>;
  static constexpr int bytes = stage::bytes + (weight_numbers + 2 * row_numbers) * 2;
};

/// `each` rows of all heads of an input a block: dx, and the block's share of dW to `partial` [gridDim.x, heads,
/// width, features]. While a tile is multiplied, the next one comes, of the next head after a head's last.
template <class Operand>
__global__ void __launch_bounds__(128, 2)
    feature_map_backward_kernel(feature_map_backward_arguments<float, Operand> g, index each, float* partial) {
  using tile = feature_tile<64>;
  using stage_type = typename feature_map_backward_tile<Operand>::stage;
  extern __shared__ __align__(16) unsigned char memory[];
  const stage_type stage{reinterpret_cast<uint4*>(memory)};
  auto* weight = reinterpret_cast<std::uint16_t*>(memory + stage_type::bytes);
  std::uint16_t *xs = weight + tile::weight_numbers, *dzs = xs + tile::row_numbers;
  const auto& a = g.forward;
  const feature_map_shape& s = a.shape;
  const int n = static_cast<int>(s.width), f = static_cast<int>(s.features);
  const index input = blockIdx.y, first = static_cast<index>(blockIdx.x) * each,
              end = first + each < a.x.rows ? first + each : a.x.rows, last_head = (input + 1) * s.group() - 1;
  const auto copy = [&](int half, index head, index r0) {
    const index wanted = r0 + tile::row_of(half), r = wanted < end ? wanted : end - 1;
    stage.copy(half, a.phi.row(r) + head * s.size(), g.dphi.row(r) + head * s.size(), a.x.row(r) + input * n,
               wanted < end, s.both, f, n);
  };
#pragma unroll
  for (int half = 0; half < 2; ++half) copy(half, input * s.group(), first);
  commit_copies();
  for (index head = input * s.group(); head <= last_head; ++head) {
    const float beta = head > input * s.group() ? 1.f : g.beta;
    __syncthreads();  // the head before has been multiplied
    tile::load_weight(weight, a.weight + head * n * f, n, f);
    feature_weight_gradient<tile> dw;
    for (index r0 = first; r0 < end; r0 += tile::rows) {
      const bool last = r0 + tile::rows >= end;
      const index next_head = last ? head + 1 : head, next = last ? first : r0 + tile::rows;
      tile::numbers before, dx;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const index r = r0 + tile::row_of(half);
        tile::load(before, half, beta != 0 && r < end ? g.dx.row(r) + input * n : nullptr, n);
      }
      wait_for_copies<0>();
      __syncwarp();  // the copies of other lanes have come
      tile::packed dz, x;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        tile::signs p, dp;
        stage.read(half, p, dp, x);
        __syncwarp();  // other lanes have read, too
        if (next_head <= last_head) copy(half, next_head, next);
        tile::gradient(dz, half, p, dp);
      }
      commit_copies();
      __syncthreads();  // the tile before has been multiplied
      tile::put(xs, x), tile::put(dzs, dz);
      __syncthreads();
      tile::multiply_transposed(dx, dz, weight);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const index r = r0 + tile::row_of(half);
        if (r >= end) continue;
        float* to = g.dx.row(r) + input * n;
#pragma unroll
        for (int i = 0; i < tile::size / 16; ++i) {
          if (tile::inputs(i) >= n) continue;
          const auto four = [&](const tile::numbers& of) {
            return float4{of[2 * i][2 * half], of[2 * i][2 * half + 1], of[2 * i + 1][2 * half],
                          of[2 * i + 1][2 * half + 1]};
          };
          store4(to + tile::inputs(i), add_product(four(dx), beta, four(before)));
        }
      }
      dw.add(xs, dzs);
    }
    dw.store(partial + (static_cast<index>(blockIdx.x) * s.heads + head) * n * f, n, f);
  }
}

/// Whether the kernels' tiles hold it, and all of its rows can be read 16 bytes at a time.
template <class Operand>
bool fits_feature_tile(const feature_map_arguments<float, Operand>& a) {
  constexpr int size = feature_tile<128>::size;
  return a.shape.width <= size && a.shape.features <= size && a.shape.width % 8 == 0 &&
         a.shape.features % 8 == 0 && is_aligned(a.weight) && is_vectorised(a.x) && is_vectorised(a.phi);
}
template <class Operand>
bool fits_feature_tile(const feature_map_backward_arguments<float, Operand>& g) {
  return fits_feature_tile(g.forward) && is_vectorised(g.dphi) && is_vectorised(g.dx);
}
}  // namespace detail

/// With `bf16_mixed` one kernel on the tensor cores, where width and features are multiples of 8 up to 64, and rows
/// begin at 16 bytes. Else the default.
template <Precision P, class T, class Operand>
void feature_map_forward(basic_cuda<P>& device, const feature_map_arguments<T, Operand>& a) {
  if constexpr (multiplies_in_bf16<P, T>)
    if (detail::fits_feature_tile(a)) {
      using tile = detail::feature_tile<128>;
      if (a.x.rows == 0 || a.shape.heads == 0) return;
      const dim3 grid(static_cast<unsigned>(detail::blocks_for(a.x.rows, tile::rows)),
                      static_cast<unsigned>(a.shape.heads));
      return detail::launch(device, "feature map", {grid, tile::threads}, detail::feature_map_kernel<Operand>,
                            a);
    }
  distil_xlstm::feature_map_forward<basic_cuda<P>, T>(device, a);
}
/// Its gradient: the kernel also asks for 91 KiB of shared memory where phi is bfloat16, for 107 where it is float
/// (compute capabilities 8.6 and 8.9 have 99). It sums the weights' in an order that depends on the shape alone.
template <Precision P, class T, class Operand>
void feature_map_backward(basic_cuda<P>& device, const feature_map_backward_arguments<T, Operand>& g) {
  if constexpr (multiplies_in_bf16<P, T>) {
    using tile = detail::feature_map_backward_tile<Operand>;
    if (detail::fits_feature_tile(g) && tile::bytes <= device.shared_bytes()) {
      const auto& a = g.forward;
      const feature_map_shape& s = a.shape;
      if (a.x.rows == 0 || s.heads == 0) return;
      // As many as a large card runs at once, whatever card it is: the order of the sums is of the shape alone. Equal
      // shares, of whole warps' rows.
      const index most = std::min(detail::blocks_for(a.x.rows, tile::rows), std::max<index>(264 / s.inputs, 1)),
                  each = detail::blocks_for(detail::blocks_for(a.x.rows, most), 16) * 16,
                  stretches = detail::blocks_for(a.x.rows, each), size = s.heads * s.width * s.features;
      auto partial = device.template scratch<float>(stretches * size);
      detail::launch(
          device, "feature map's gradient",
          {dim3(static_cast<unsigned>(stretches), static_cast<unsigned>(s.inputs)), tile::threads, tile::bytes},
          detail::feature_map_backward_kernel<Operand>, g, each, partial.data());
      return add_column_sums(device, matrix_view<const float>(partial.data(), stretches, size), g.dweight);
    }
  }
  distil_xlstm::feature_map_backward<basic_cuda<P>, T>(device, g);
}

}  // namespace distil_xlstm::device
