#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/device/cuda/fast_scalar.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/math/rotary.hpp>
#include <distil_xlstm/op/attention/cuda/warp.cuh>
#include <distil_xlstm/op/feature_map/op.hpp>

// Softmax features on the tensor cores: a pass over x and phi, or over x, dphi and dx, no products in memory.
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
  /// Features of one of the two rows, of one sign.
  using features_of_row = float[size / 32][8];

  /// The input's column that lies in a tile's column `at`, and the feature. Both permute the bits of `at`.
  static __device__ int input_at(int at) { return at / 16 * 16 + at % 8 / 2 * 4 + at / 8 % 2 * 2 + at % 2; }
  static __device__ int feature_at(int at) { return at / 32 * 32 + at % 8 / 2 * 8 + at / 8 % 4 * 2 + at % 2; }
  /// The first of this thread's input columns in its pairs 2 i and 2 i + 1, and of its features in 4 i .. 4 i + 3.
  static __device__ int inputs(int i) { return 16 * i + lane() % 4 * 4; }
  static __device__ int features(int i) { return 32 * i + lane() % 4 * 8; }

  /// The head's weights [n, f]; a warp loads a row at a time.
  static __device__ void load_weight(std::uint16_t* tile, const float* weight, int n, int f) {
    constexpr int warps = threads / 32;
    const int c = 2 * lane(), feature = feature_at(c);
#pragma unroll
    for (int first = 0; first < size; first += warps) {
      const int r = base::warp() + first, input = input_at(base::warp()) + input_at(first);
      const float2 x = input < n && feature < f ? load2(weight + input * f + feature) : float2{0, 0};
      *reinterpret_cast<std::uint32_t*>(tile + r * pitch + c) = pack_bf16(x.x, x.y);
    }
  }
  /// One of the two rows of an input, n numbers from `row` on; zeros unless it is `there`.
  static __device__ void load(packed& x, int half, const float* row, bool there, int n) {
#pragma unroll
    for (int i = 0; i < size / 16; ++i) {
      const float4 four = there && inputs(i) < n ? load4(row + inputs(i)) : float4{0, 0, 0, 0};
      put_four(x, half, i, four);
    }
  }
  /// The row's numbers inputs(i) .. inputs(i) + 3.
  static __device__ void put_four(packed& x, int half, int i, float4 four) {
    x[2 * i][half] = pack_bf16(four.x, four.y), x[2 * i + 1][half] = pack_bf16(four.z, four.w);
  }
  /// Both rows.
  static __device__ void put(std::uint16_t* tile, const packed& x) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int c = 0; c < size / 8; ++c)
        *reinterpret_cast<std::uint32_t*>(tile + row_of(half) * pitch + column_of(c, 0)) = x[c][half];
  }
  /// z log2 e of z = x W, as `exponentials` takes it.
  static __device__ void exponents(numbers& z, const packed& x, const std::uint16_t* weight) {
    const std::uint16_t* at = weight + (lane() / 8 % 2 * 8 + lane() % 8) * pitch + lane() / 16 * 8;
#pragma unroll
    for (auto& four : z)
#pragma unroll
      for (float& e : four) e = 0;
#pragma unroll
    for (int i = 0; i < size / 16; ++i) {
      const piece left = {x[2 * i][0], x[2 * i][1], x[2 * i + 1][0], x[2 * i + 1][1]};
#pragma unroll
      for (int c = 0; c < size / 16; ++c) {
        piece right;
        load_matrices<true>(right, shared_address(at + 16 * i * pitch + 16 * c));
        multiply_add(z[2 * c], left, right[0], right[1]);
        multiply_add(z[2 * c + 1], left, right[2], right[3]);
      }
    }
#pragma unroll
    for (auto& four : z)
#pragma unroll
      for (float& e : four) e *= flash::log2_e;
  }
  /// exp(sign z) of one of the two rows, f numbers, over the largest of them; zeros beyond. Returns 1 / their sum; all
  /// lanes have to call.
  static __device__ float exponentials(features_of_row& p, const numbers& z, int half, float sign, int f) {
    const auto at = [&](int i, int e) { return sign * z[4 * i + e / 2][2 * half + e % 2]; };
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < size / 32; ++i) {
      float most = at(i, 0);
#pragma unroll
      for (int e = 1; e < 8; ++e) most = fmaxf(most, at(i, e));
      if (features(i) < f) top = fmaxf(top, most);
    }
    top = row_max(top);
#pragma unroll
    for (int i = 0; i < size / 32; ++i) {
      const float shift = features(i) < f ? top : INFINITY;
#pragma unroll
      for (int e = 0; e < 8; ++e) sum += p[i][e] = exp2_approx(at(i, e) - shift);
    }
    return reciprocal_approx(row_sum(sum));  // of 1 at least
  }
  /// row = softmax(sign z) of one of the two rows, if it is `there`; all lanes have to call.
  template <class Operand>
  static __device__ void store_softmax(Operand* row, bool there, const numbers& z, int half, float sign,
                                       int f) {
    features_of_row p;
    const float inverse = exponentials(p, z, half, sign, f);
#pragma unroll
    for (int i = 0; i < size / 32; ++i) {
#pragma unroll
      for (float& x : p[i]) x *= inverse;
      if (there && features(i) < f) store_eight(row + features(i), p[i]);
    }
  }
  /// dz += sign p (dp - sum p dp) of one of the two rows, p = softmax(sign z); all lanes have to call.
  static __device__ void add_gradient(features_of_row& dz, const features_of_row& dp, const numbers& z,
                                      int half, float sign, int f) {
    features_of_row p;
    const float inverse = exponentials(p, z, half, sign, f);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < size / 32; ++i)
#pragma unroll
      for (int e = 0; e < 8; ++e) sum = fmaf(p[i][e], dp[i][e], sum);
    const float scale = sign * inverse, shift = row_sum(sum) * inverse * scale;
#pragma unroll
    for (int i = 0; i < size / 32; ++i)
#pragma unroll
      for (int e = 0; e < 8; ++e) dz[i][e] = fmaf(p[i][e], fmaf(dp[i][e], scale, -shift), dz[i][e]);
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

/// What a block reads of a tile's rows, in shared memory, which cp.async fills while the tile before is multiplied:
/// dphi, of both signs, stored as S, and x. A warp copies and reads its own rows alone. Of odd rows, the pieces of 16
/// bytes change places so that those that eight lanes read lie in different banks.
template <class Tile, class S>
struct feature_stage {
  /// @{ Numbers of a piece of dphi; pieces of a row.
  static constexpr int in_piece = 16 / static_cast<int>(sizeof(S));
  static constexpr int of_dphi = 2 * Tile::size / in_piece, of_x = Tile::size / 4;
  /// @}
  static constexpr int bytes = Tile::rows * (of_dphi + of_x) * 16;

  uint4* memory;  ///< dphi's rows, then x's

  /// Begins to copy the rows of dphi, of f features a sign, and of x, of n numbers; zeros where there are none.
  __device__ void copy(matrix_view<const S> dphi, matrix_view<const float> x, bool both, int f, int n) const {
    static_assert((of_dphi == 32 || of_dphi == 16) && of_x == 16);
    const int lane = Tile::lane(), first = 16 * Tile::warp(), half = lane / 16, column = lane % 16 * 4;
    const int rows = static_cast<int>(dphi.rows) - first;
    {  // A row at a time, or a row half a warp.
      constexpr int at_once = 32 / of_dphi;
      const int piece = lane % of_dphi, row = lane / of_dphi;
      const int sign = piece / (of_dphi / 2), feature = piece % (of_dphi / 2) * in_piece;
      const bool wanted = feature < f && (sign == 0 || both);
      const S* from = dphi.row(first + row) + sign * f + feature;
      const std::uint64_t policy = read_once_policy();  // x and dx stay for the heads that share them
      const std::uint32_t to = shared_address(memory + first * of_dphi);
#pragma unroll
      for (int r = 0; r < 16; r += at_once, from += at_once * dphi.stride)
        copy_async_16(to + 16 * ((r + row) * of_dphi + (piece ^ moved * ((r + row) % 2))), from,
                      wanted && r + row < rows ? 16 : 0, policy);
    }
    {  // A row half a warp.
      const float* from = x.row(first + half) + column;
      const std::uint32_t to =
          shared_address(memory + Tile::rows * of_dphi + (first + half) * of_x + (lane % 16 ^ 4 * half));
#pragma unroll
      for (int r = 0; r < 16; r += 2, from += 2 * x.stride)
        copy_async_16(to + 16 * r * of_x, from, column < n && r + half < rows ? 16 : 0);
    }
  }
  /// What has come of x, rounded.
  __device__ void read(typename Tile::packed& x) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4* row = memory + Tile::rows * of_dphi + Tile::row_of(half) * of_x;
#pragma unroll
      for (int i = 0; i < of_x / 4; ++i)
        Tile::put_four(x, half, i, four(row + (4 * (i ^ odd()) + Tile::lane() % 4)));
    }
  }
  /// And of dphi, one of the thread's two rows and one sign.
  __device__ void read(typename Tile::features_of_row& dp, int half, int sign) const {
    const uint4* row = memory + Tile::row_of(half) * of_dphi;
#pragma unroll
    for (int i = 0; i < Tile::size / 32; ++i) {
      const int piece = (sign * Tile::size + Tile::features(i)) / in_piece;
#pragma unroll
      for (int first = 0; first < 8; first += in_piece) {
        const auto pack =
            read_pack<S>::first(reinterpret_cast<const S*>(row + ((piece + first / in_piece) ^ moved * odd())));
#pragma unroll
        for (int e = 0; e < in_piece; ++e) dp[i][first + e] = pack.template at<float>(e);
      }
    }
  }

 private:
  /// What of a piece's place in a row of dphi changes where the row is odd.
  static constexpr int moved = sizeof(S) == 4 ? 1 : 4;
  /// Of both of this thread's rows.
  static __device__ int odd() { return Tile::lane() / 4 % 2; }
  static __device__ float4 four(const uint4* piece) { return load4(reinterpret_cast<const float*>(piece)); }
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

/// Tiles of a head's rows a block; blockIdx.z says of which arguments.
template <class Operand, std::size_t N>
__global__ void __launch_bounds__(256, 3)
    feature_map_kernel(const __grid_constant__ std::array<feature_map_arguments<float, Operand>, N> several) {
  const feature_map_arguments<float, Operand>& a = several[blockIdx.z];
  using tile = feature_tile<128>;
  __shared__ __align__(16) std::uint16_t weight[tile::weight_numbers];
  const feature_map_shape& s = a.shape;
  const int n = static_cast<int>(s.width), f = static_cast<int>(s.features);
  const index head = blockIdx.y, input = head / s.group();
  tile::load_weight(weight, a.weight + head * n * f, n, f);
  __syncthreads();
  for (index r0 = static_cast<index>(blockIdx.x) * tile::rows; r0 < a.x.rows;
       r0 += static_cast<index>(gridDim.x) * tile::rows) {
    tile::packed x;
    tile::numbers z;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const index r = r0 + tile::row_of(half);
      tile::load(x, half, a.x.row(r) + input * n, r < a.x.rows, n);
    }
    tile::exponents(z, x, weight);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const index r = r0 + tile::row_of(half);
      const bool there = r < a.x.rows;
      Operand* phi = a.phi.row(r) + head * s.size();
      tile::store_softmax(phi, there, z, half, 1, f);
      if (s.both) tile::store_softmax(phi + f, there, z, half, -1, f);
    }
  }
}

/// Shared memory of a block of `feature_map_backward_kernel`: what comes, dphi as S, and operands of products.
template <class S>
struct feature_map_backward_tile : feature_tile<64> {
  using stage = feature_stage<feature_tile<64>, S>;
  static constexpr int bytes = stage::bytes + (weight_numbers + 2 * row_numbers) * 2;
};

/// How blocks share a map: `each` rows of all heads of an input a block, whose share of dW goes to `partial`
/// [stretches, heads, width, features].
struct feature_shares {
  index each;
  unsigned stretches;
  float* partial;
};
/// x, four numbers of the first half of a head and four of the second, turned by the row's angles from `column` on.
__device__ inline void turn_fours(const rotary_angles<float>& angles, index row, int column, float4& low,
                                  float4& high) {
  const float4 cosine = load4(angles.cosines.row(row) + column), sine = load4(angles.sines.row(row) + column);
  const auto turn = [&](float& a, float& b, float cos, float sin) {
    const auto turned = math::rotate(a, b, cos, angles.direction * sin);
    a = turned.low, b = turned.high;
  };
  turn(low.x, high.x, cosine.x, sine.x), turn(low.y, high.y, cosine.y, sine.y);
  turn(low.z, high.z, cosine.z, sine.z), turn(low.w, high.w, cosine.w, sine.w);
}

/// A block's share of one of the maps, blockIdx.x: dx, or `turned`, and of dW. phi is made again: the card has time for
/// that, not for reading it. While a tile is multiplied, the next one comes, of the next head after a head's last.
template <class S, bool Turned, std::size_t N>
__global__ void __launch_bounds__(feature_map_backward_tile<S>::threads, 3) feature_map_backward_kernel(
    const __grid_constant__ std::array<feature_map_backward_arguments<float, S>, N> several,
    const __grid_constant__ std::array<feature_shares, N> shares) {
  using Tile = feature_map_backward_tile<S>;
  const feature_map_backward_arguments<float, S>& g = several[blockIdx.x];
  const unsigned stretches = shares[blockIdx.x].stretches, stretch = blockIdx.y % stretches;
  const index each = shares[blockIdx.x].each, input = blockIdx.y / stretches;
  if (input >= g.forward.shape.inputs) return;
  using stage_type = typename Tile::stage;
  extern __shared__ __align__(16) unsigned char memory[];
  const stage_type stage{reinterpret_cast<uint4*>(memory)};
  auto* weight = reinterpret_cast<std::uint16_t*>(memory + stage_type::bytes);
  std::uint16_t *xs = weight + Tile::weight_numbers, *dzs = xs + Tile::row_numbers;
  const auto& a = g.forward;
  const feature_map_shape& s = a.shape;
  const int n = static_cast<int>(s.width), f = static_cast<int>(s.features);
  const index first = stretch * each, end = first + each < a.x.rows ? first + each : a.x.rows,
              group = static_cast<unsigned>(s.heads) / static_cast<unsigned>(s.inputs),
              first_head = input * group, last_head = first_head + group - 1;
  const auto beta_of = [&](index head) { return head > first_head ? 1.f : g.beta; };
  const auto copy = [&](index head, index r0) {
    stage.copy(g.dphi.columns(head * s.size(), s.size()).slice(r0, end - r0),
               a.x.columns(input * n, n).slice(r0, end - r0), s.both, f, n);
    // dx, too, two lanes a row: it is read when the products begin.
    const index r = r0 + 16 * Tile::warp() + Tile::lane() / 2;
    const int column = Tile::lane() % 2 * (Tile::size / 2);
    if (beta_of(head) != 0 && r < end && column < n) prefetch_far(g.dx.row(r) + input * n + column);
  };
  copy(first_head, first);
  commit_copies();
  for (index head = first_head; head <= last_head; ++head) {
    const float beta = beta_of(head);
    __syncthreads();  // the head before has been multiplied
    Tile::load_weight(weight, a.weight + head * n * f, n, f);
    feature_weight_gradient<Tile> dw;
    for (index r0 = first; r0 < end; r0 += Tile::rows) {
      typename Tile::packed x, dz;
      typename Tile::numbers z;
      wait_for_copies<0>();
      __syncwarp();  // the copies of other lanes have come
      stage.read(x);
      __syncthreads();  // the tile before has been multiplied; the weights have come
      Tile::put(xs, x);
      Tile::exponents(z, x, weight);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        typename Tile::features_of_row dp, sum = {};
        stage.read(dp, half, 0);
        Tile::add_gradient(sum, dp, z, half, 1, f);
        if (s.both) {
          stage.read(dp, half, 1);
          Tile::add_gradient(sum, dp, z, half, -1, f);
        }
#pragma unroll
        for (int c = 0; c < Tile::size / 8; ++c)
          dz[c][half] = pack_bf16(sum[c / 4][c % 4 * 2], sum[c / 4][c % 4 * 2 + 1]);
      }
      Tile::put(dzs, dz);
      __syncwarp();  // other lanes have read, too
      const bool last = r0 + Tile::rows >= end;
      if (!last || head < last_head) copy(last ? head + 1 : head, last ? first : r0 + Tile::rows);
      commit_copies();
      float4 before[2][Tile::size / 16];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const index r = r0 + Tile::row_of(half);
#pragma unroll
        for (int i = 0; i < Tile::size / 16; ++i)
          before[half][i] = beta != 0 && r < end && Tile::inputs(i) < n
                                ? load4(g.dx.row(r) + input * n + Tile::inputs(i))
                                : float4{0, 0, 0, 0};
      }
      __syncthreads();
      dw.add(xs, dzs);
      typename Tile::numbers dx;
      Tile::multiply_transposed(dx, dz, weight);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const index r = r0 + Tile::row_of(half);
        float4(&sums)[Tile::size / 16] = before[half];
#pragma unroll
        for (int i = 0; i < Tile::size / 16; ++i)
          sums[i] = add_product({dx[2 * i][2 * half], dx[2 * i][2 * half + 1], dx[2 * i + 1][2 * half],
                                 dx[2 * i + 1][2 * half + 1]},
                                beta, sums[i]);
        if (r >= end) continue;
        if (Turned && head == last_head) {
#pragma unroll
          for (int i = 0; i < Tile::size / 32; ++i) {
            S* to = g.turned.row(r) + input * n + Tile::inputs(i);
            turn_fours(g.angles, r, Tile::inputs(i), sums[i], sums[i + Tile::size / 32]);
            store4(to, sums[i]), store4(to + Tile::size / 2, sums[i + Tile::size / 32]);
          }
        } else {
#pragma unroll
          for (int i = 0; i < Tile::size / 16; ++i)
            if (Tile::inputs(i) < n) store4(g.dx.row(r) + input * n + Tile::inputs(i), sums[i]);
        }
      }
    }
    dw.store(shares[blockIdx.x].partial + (stretch * s.heads + head) * n * f, n, f);
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
/// Blocks of the kernels that a large card runs at once: as many whatever card it is, since the order of sums shall
/// depend on the shape alone.
inline constexpr index feature_blocks = 396;

/// Whether dx is to be turned, and a thread has both numbers of a pair and reads its angles 16 bytes at a time.
template <class Operand>
bool turns_feature_tile(const feature_map_backward_arguments<float, Operand>& g) {
  constexpr int size = feature_tile<64>::size;
  const rotary_angles<float>& by = g.angles;
  return g.turned.data && g.forward.shape.width == size && by.cosines.cols == size / 2 &&
         is_vectorised(by.cosines) && is_vectorised(by.sines) && is_vectorised(g.turned);
}
/// The gradients of maps of as many rows that the tiles hold, which all are turned or none.
template <class Operand, std::size_t N>
void run_feature_map_backward(cuda_base& device,
                              const std::array<feature_map_backward_arguments<float, Operand>, N>& several,
                              bool turned) {
  using tile = feature_map_backward_tile<Operand>;
  const index rows = several[0].forward.x.rows;
  if (rows == 0) return;
  const auto size = [&](std::size_t i) {
    const feature_map_shape& s = several[i].forward.shape;
    return s.heads * s.width * s.features;
  };
  std::array<feature_shares, N> shares;
  index blocks = 0, numbers = 0;
  for (std::size_t i = 0; i < N; ++i) {
    // Equal shares, of whole warps' rows.
    const index inputs = std::max<index>(several[i].forward.shape.inputs, 1),
                most = std::min(blocks_for(rows, tile::rows),
                                std::max<index>(feature_blocks / (static_cast<index>(N) * inputs), 1)),
                each = blocks_for(blocks_for(rows, most), 16) * 16, stretches = blocks_for(rows, each);
    shares[i] = {each, static_cast<unsigned>(stretches), nullptr};
    blocks = std::max(blocks, stretches * inputs), numbers += stretches * size(i);
  }
  if (numbers == 0) return;
  auto partial = device.template scratch<float>(numbers);
  float* next = partial.data();
  for (std::size_t i = 0; i < N; ++i) shares[i].partial = next, next += shares[i].stretches * size(i);
  const dim3 grid(static_cast<unsigned>(N), static_cast<unsigned>(blocks));
  const launch_shape shape{grid, tile::threads, tile::bytes};
  if (turned)
    launch(device, "feature map's gradient", shape, feature_map_backward_kernel<Operand, true, N>, several,
           shares);
  else
    launch(device, "feature map's gradient", shape, feature_map_backward_kernel<Operand, false, N>, several,
           shares);
  for (std::size_t i = 0; i < N; ++i)
    add_column_sums(device, matrix_view<const float>(shares[i].partial, shares[i].stretches, size(i)),
                    several[i].dweight);
}
}  // namespace detail

/// With `bf16_mixed` one kernel on the tensor cores for maps of as many heads and rows, where widths and features are
/// multiples of 8 up to 64, and rows begin at 16 bytes. Else the default.
template <Precision P, class T, class Operand, std::size_t N>
void feature_map_forward(basic_cuda<P>& device,
                         const std::array<feature_map_arguments<T, Operand>, N>& several) {
  const index rows = several[0].x.rows, heads = several[0].shape.heads;
  if constexpr (multiplies_in_bf16<P, T>)
    if (std::all_of(several.begin(), several.end(), [&](const auto& a) {
          return a.x.rows == rows && a.shape.heads == heads && detail::fits_feature_tile(a);
        })) {
      using tile = detail::feature_tile<128>;
      if (rows == 0 || heads == 0) return;
      const index most = std::max<index>(detail::feature_blocks / (heads * static_cast<index>(N)), 1);
      const dim3 grid(detail::grid_size(rows, tile::rows, most), static_cast<unsigned>(heads),
                      static_cast<unsigned>(N));
      return detail::launch(device, "feature map", {grid, tile::threads},
                            detail::feature_map_kernel<Operand, N>, several);
    }
  for (const auto& a : several) {
    if constexpr (N > 1)
      feature_map_forward(device, std::array{a});
    else
      distil_xlstm::feature_map_forward<basic_cuda<P>, T>(device, a);
  }
}
template <Precision P, class T, class Operand>
void feature_map_forward(basic_cuda<P>& device, const feature_map_arguments<T, Operand>& a) {
  feature_map_forward(device, std::array{a});
}
/// Its gradient: one kernel for maps of as many rows, which also asks for up to 75 KiB of shared memory, and makes phi
/// again. It sums the weights' in an order that depends on the shapes and on how many maps there are.
template <Precision P, class T, class Operand, std::size_t N>
void feature_map_backward(basic_cuda<P>& device,
                          const std::array<feature_map_backward_arguments<T, Operand>, N>& several) {
  if constexpr (multiplies_in_bf16<P, T>) {
    using tile = detail::feature_map_backward_tile<Operand>;
    std::array<feature_map_backward_arguments<float, Operand>, N> without_phi = several;
    for (auto& g : without_phi) g.forward.phi = {};
    const index rows = several[0].forward.x.rows;
    const auto all = [&](const auto& f) { return std::all_of(without_phi.begin(), without_phi.end(), f); };
    if (tile::bytes <= device.shared_bytes() &&
        all([&](const auto& g) { return g.forward.x.rows == rows && detail::fits_feature_tile(g); })) {
      const bool turned = all([](const auto& g) { return detail::turns_feature_tile(g); });
      detail::run_feature_map_backward(device, without_phi, turned);
      for (const auto& g : several)
        if (g.turned.data && !turned) rotate_heads(device, g.angles, rotary_heads<T, Operand>{g.dx, g.turned});
      return;
    }
  }
  for (const auto& g : several) {
    if constexpr (N > 1)
      feature_map_backward(device, std::array{g});
    else
      distil_xlstm::feature_map_backward<basic_cuda<P>, T>(device, g);
  }
}
template <Precision P, class T, class Operand>
void feature_map_backward(basic_cuda<P>& device, const feature_map_backward_arguments<T, Operand>& g) {
  feature_map_backward(device, std::array{g});
}

}  // namespace distil_xlstm::device
