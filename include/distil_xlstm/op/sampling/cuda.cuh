#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <distil_xlstm/device/cuda/cluster.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/sampling/op.hpp>

namespace distil_xlstm::device {

namespace detail {

using distil_xlstm::detail::drawn_tokens;
using distil_xlstm::detail::walk_sums;
using distil_xlstm::detail::walk_weights;

/// The larger of two numbers, of equal ones the first in its row.
struct number_at {
  float x;
  int column;
  __device__ void take_larger(number_at other) {
    if (other.x > x || (other.x == x && other.column < column)) *this = other;
  }
  /// The largest of a warp, in all its lanes.
  __device__ void reduce_warp() {
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      take_larger({__shfl_xor_sync(~0u, x, step), __shfl_xor_sync(~0u, column, step)});
  }
};

/// A cluster a row, of one block or `likeliest_parts`, whose threads ask for several packs of it at once.
constexpr int likeliest_parts = 8;
template <int Threads>
__global__ void __launch_bounds__(Threads)
    likeliest_kernel(earlier_kernels earlier, matrix_view<const float> logits, std::int32_t* ids,
                     float* highest) {
  constexpr int ahead = 6, warps = Threads / 32;
  static_assert(warps <= 32, "one for each lane of the first");
  __shared__ number_at found[warps], found_by[likeliest_parts];
  const int parts = cluster_size(), part = cluster_rank(), cols = static_cast<int>(logits.cols);
  const index r = static_cast<int>(blockIdx.x) / parts;
  const float* row = logits.row(r);
  const int share = (cols + 4 * parts - 1) / (4 * parts) * 4, begin = min(part * share, cols),
            end = min(begin + share, cols);
  const int packed = is_vectorised(logits) ? begin + (end - begin) / 4 * 4 : begin;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  number_at best{-INFINITY, cols};
  cluster_sync();  // all of it has begun, so that it can be written to
  earlier.wait();
  const auto visit = [&](float x, int c) {
    if (fabsf(x) <= std::numeric_limits<float>::max() && x > best.x) best = {x, c};
  };
  for (int first = begin + 4 * thread; first < packed; first += ahead * 4 * Threads) {
    float4 x[ahead];
#pragma unroll
    for (int u = 0; u < ahead; ++u)
      if (const int c = first + u * 4 * Threads; c < packed) x[u] = load4(row + c);
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int c = first + u * 4 * Threads;
      if (c >= packed) break;
      visit(x[u].x, c), visit(x[u].y, c + 1), visit(x[u].z, c + 2), visit(x[u].w, c + 3);
    }
  }
  for (int c = packed + thread; c < end; c += Threads) visit(row[c], c);
  best.reduce_warp();
  if (lane == 0) found[thread / 32] = best;
  __syncthreads();
  // The first warp reduces what `count` warps or blocks have found.
  const auto reduce = [&](const number_at* all, int count) {
    if (thread >= 32) return;
    best = lane < count ? all[lane] : number_at{-INFINITY, cols};
    best.reduce_warp();
  };
  reduce(found, warps);
  if (parts > 1) {
    if (thread == 0) {
      write_in(0, &found_by[part].x, best.x);
      write_in(0, reinterpret_cast<float*>(&found_by[part].column), __int_as_float(best.column));
    }
    cluster_sync();
    reduce(found_by, parts);
  }
  if (thread != 0 || part != 0) return;
  ids[r] = best.x == -INFINITY ? -1 : best.column;
  if (highest) highest[r] = best.x;
}

/// The weights of a span are a warp's, a number a lane; sums are taken in their order by one thread, which waits for no
/// memory. A block has a group of spans.
template <class T>
__global__ void __launch_bounds__(1024) weigh_kernel(earlier_kernels earlier, drawn_tokens<T> t) {
  using drawn = drawn_tokens<T>;
  static_assert(drawn::span == 32 && drawn::group == 32, "a number a lane, a span a warp");
  __shared__ double weights[32][32], spans[32];
  const index groups = t.group_count(), r = blockIdx.x / groups, g = blockIdx.x % groups;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const index s = g * drawn::group + warp, c = s * drawn::span + lane;
  earlier.wait();
  if (!t.draws(r)) return;  // the whole block
  const double w = c < t.logits.cols ? t.weight(r, c) : 0;
  weights[warp][lane] = w > 0 ? w : 0;
  __syncwarp();
  const auto sum_of = [](const double(&all)[32]) {
    double sum = 0;
#pragma unroll
    for (const double x : all) sum += x;
    return sum;
  };
  if (lane == 0) {
    spans[warp] = sum_of(weights[warp]);
    if (s < t.span_count()) t.spans[r * t.span_count() + s] = spans[warp];
  }
  __syncthreads();
  if (threadIdx.x == 0) t.groups[r * groups + g] = sum_of(spans);
}

/// `draw_token` by a warp a row: its lanes bring what one of them walks over, up to `drawn_groups` groups.
constexpr int drawn_groups = 512;
template <class T>
__global__ void __launch_bounds__(32) draw_kernel(earlier_kernels earlier, drawn_tokens<T> t) {
  using drawn = drawn_tokens<T>;
  __shared__ double group[drawn_groups], near[32];
  const index r = blockIdx.x, groups = t.group_count(), spans = t.span_count();
  const int lane = static_cast<int>(threadIdx.x);
  earlier.wait();
  if (!t.draws(r)) return;  // the whole warp
  for (index g = lane; g < groups; g += 32) group[g] = t.groups[r * groups + g];
  __syncwarp();
  // What follows is the first lane's; the others bring as much.
  double left = 0;
  for (index g = 0; g < groups; ++g) left += group[g];
  left *= t.uniform[r];
  const index first_span = walk_sums(group, 0, groups, left) * drawn::group;
  const index own_spans = drawn::least(drawn::group, spans - first_span);
  if (lane < own_spans) near[lane] = t.spans[r * spans + first_span + lane];
  __syncwarp();
  const index begin = (first_span + walk_sums(near, 0, own_spans, left)) * drawn::span;
  const index count = drawn::least(drawn::span, t.logits.cols - begin);
  __syncwarp();
  if (lane < count) near[lane] = t.weight(r, begin + lane);
  __syncwarp();
  const auto weight = [&](index c) { return near[c - begin]; };
  const index chosen = walk_weights(weight, begin, begin + count, left, t.ids[r]);
  if (lane == 0) t.ids[r] = static_cast<std::int32_t>(chosen);
}

}  // namespace detail

/// Of floats one pass that waits for memory once or twice.
template <Precision P, class T>
void choose_likeliest(basic_cuda<P>& device, matrix_view<const T> logits, std::int32_t* ids, T* highest) {
  if constexpr (std::is_same_v<T, float>) {
    const auto rows = static_cast<unsigned>(logits.rows);
    if (rows == 0) return;
    if (detail::runs_code_of_90(device))
      detail::launch(device, "choosing tokens",
                     {detail::likeliest_parts * rows, 256, 0, detail::likeliest_parts},
                     detail::likeliest_kernel<256>, logits, ids, highest);
    else
      detail::launch(device, "choosing tokens", {rows, 1024}, detail::likeliest_kernel<1024>, logits, ids,
                     highest);
  } else {
    distil_xlstm::choose_likeliest<basic_cuda<P>, T>(device, logits, ids, highest);
  }
}
/// In two kernels; in three where the rows are many, whose weights keep the card busy a thread a span.
template <Precision P, class T>
void draw_tokens(basic_cuda<P>& device, const distil_xlstm::detail::drawn_tokens<T>& t) {
  const index rows = t.logits.rows, groups = t.group_count();
  if (rows == 0) return;
  if (groups > detail::drawn_groups) return distil_xlstm::draw_tokens<basic_cuda<P>, T>(device, t);
  if (rows * groups <= index{4} * device.multiprocessors()) {
    detail::launch(device, "choosing tokens", {static_cast<unsigned>(rows * groups), 1024},
                   detail::weigh_kernel<T>, t);
  } else {
    parallel_for(device, rows * t.span_count(), distil_xlstm::detail::weigh_spans<T>{t});
    parallel_for(device, rows * groups, distil_xlstm::detail::weigh_groups<T>{t});
  }
  detail::launch(device, "choosing tokens", {static_cast<unsigned>(rows), 32}, detail::draw_kernel<T>, t);
}

}  // namespace distil_xlstm::device
