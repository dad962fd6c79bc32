#pragma once

#include <algorithm>

#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/op/mlstm/op.hpp>

// One token of mLSTM: the state is read and written once.
namespace distil_xlstm::device::detail {

/// What a step needs of each sequence and head, once n is there: how much is forgotten and written, and what h
/// is scaled by.
struct mlstm_step_factors {
  float forget, input, output;
};

/// The products i and f of x, or, without x, nothing: they are there.
struct mlstm_step_products {
  matrix_view<const float> x;          ///< [batch, k]
  matrix_view<const float> weight[2];  ///< of i, f: [heads, k], rows at 16 bytes
  const float* bias[2];                ///< [heads]
  matrix_view<float> y[2];             ///< i, f: [batch, heads]
  static constexpr int ahead = 4;      ///< times four numbers of x that a thread reads at once
};
/// Where a thread's first numbers of sequence b's x and of head e's weights lie, and the head's biases.
struct mlstm_step_rows {
  const float *x, *w[2], *bias[2];
  __device__ mlstm_step_rows(const mlstm_step_products& p, index b, index e) {
    const int first = 4 * static_cast<int>(threadIdx.x);
    x = p.x.row(b) + first, hold_global(x);
    for (int g = 0; g < 2; ++g) {
      w[g] = p.weight[g].row(e) + first, bias[g] = p.bias[g] + e;
      hold_global(w[g]), hold_global(bias[g]);
    }
  }
};
/// i and f of a sequence and head, for all threads of a block, which may be one that `keeps` them. `Once`: x has no more
/// numbers than are read at once, so that no loop lies between their loads and others.
template <int Threads, bool Once = false>
__device__ void mlstm_step_gates(const mlstm_step_products& p, const mlstm_step_rows& rows, index b, index e,
                                 bool keeps, float (&gate)[2]) {
  constexpr int ahead = mlstm_step_products::ahead;
  __shared__ float sums[2][Threads / 32];
  const int k = static_cast<int>(p.x.cols) - 4 * static_cast<int>(threadIdx.x);
  const float bias[2] = {*rows.bias[0], *rows.bias[1]};
  const float4 zero{0, 0, 0, 0};
  float sum[2] = {0, 0};
  for (int first = 0; Once ? first == 0 : first < p.x.cols; first += 4 * Threads * ahead) {
    float4 in[ahead], of[2][ahead];
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int at = first + 4 * Threads * u;
      in[u] = at < k ? load4(rows.x + at) : zero;
#pragma unroll
      for (int g = 0; g < 2; ++g) of[g][u] = at < k ? load4(rows.w[g] + at) : zero;
    }
#pragma unroll
    for (int u = 0; u < ahead; ++u)
#pragma unroll
      for (int g = 0; g < 2; ++g) sum[g] = add_dot(sum[g], in[u], of[g][u]);
  }
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    sum[g] = warp_sum(sum[g]);
    if (threadIdx.x % 32 == 0) sums[g][threadIdx.x / 32] = sum[g];
  }
  __syncthreads();
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    gate[g] = 0;
#pragma unroll
    for (const float part : sums[g]) gate[g] += part;
    gate[g] += bias[g];
    if (keeps && threadIdx.x == 0) p.y[g].row(b)[e] = gate[g];
  }
}

/// What i and f make of a memory whose stabiliser was m0.
struct mlstm_step_decay {
  float forget, input, m;
};
__device__ inline mlstm_step_decay mlstm_step_decay_of(const float (&gate)[2], bool begins, float m0) {
  const float i = gate[0], log_f = math::log_sigmoid(gate[1]) + m0, m = fmaxf(log_f, i);
  return {begins || m0 == -INFINITY ? 0.0f : expf(log_f - m), expf(i - m), m};
}
__device__ inline float mlstm_step_n(const mlstm_step_decay& by, float old, float key) {
  return (by.forget > 0 ? by.forget * old : 0.0f) + by.input * key;
}
/// r = q . n; `scale` is that of queries.
__device__ inline mlstm_step_factors mlstm_step_factors_of(const mlstm_shape& shape, float scale,
                                                           const mlstm_step_decay& by, float r) {
  const auto norm = distil_xlstm::detail::mlstm_norm_of(shape.normaliser, scale * r, expf(-by.m));
  return {by.forget, by.input, scale / (norm.value + static_cast<float>(shape.epsilon))};
}

/// m and n of a sequence and head, a block each. (Two blocks a multiprocessor: with fewer registers, which the
/// compiler chooses otherwise, the loads would wait for one another.)
template <int Threads, class Operand>
__global__ void __launch_bounds__(Threads, 2)
    mlstm_step_gates_kernel(earlier_kernels earlier, mlstm_arguments<float, Operand> a,
                            const __grid_constant__ mlstm_step_products products, mlstm_step_factors* factors) {
  __shared__ float sums[Threads / 32];
  const index b = blockIdx.x / a.shape.heads, e = blockIdx.x % a.shape.heads, dq = a.shape.query;
  const Operand *q = a.q.row(b) + e * dq, *k = a.k.row(b) + e * dq;
  float *n = a.state.n.of(b) + e * dq, *m = a.state.m.of(b) + e;
  const bool multiplies = products.x.data != nullptr;
  const float scale = distil_xlstm::detail::mlstm_query_scale<float>(a.shape);
  earlier.wait([&] {
    for (index d = threadIdx.x; d < dq; d += Threads) prefetch_far(n + d);
    prefetch_far(m);
    if (const unsigned g = threadIdx.x; multiplies && b == 0 && g < 2)
      prefetch_far(products.weight[g].row(e), min(4 * static_cast<int>(products.x.cols), 1 << 16));
  });
  // What n is made of is on its way before the factors are there.
  constexpr int ahead = 2;
  float old[ahead], key[ahead], query[ahead];
  const auto load = [&](index first) {
#pragma unroll
    for (int j = 0; j < ahead; ++j) {
      const index d = first + j * Threads;
      if (d < dq) old[j] = n[d], key[j] = static_cast<float>(k[d]), query[j] = static_cast<float>(q[d]);
    }
  };
  load(threadIdx.x);
  const bool begins = a.seq.begins(b, 0);
  const float m0 = begins ? static_cast<float>(a.shape.empty_m) : *m;
  float gate[2];
  if (multiplies)
    mlstm_step_gates<Threads>(products, {products, b, e}, b, e, true, gate);
  else
    gate[0] = a.i.row(b)[e], gate[1] = a.f.row(b)[e];
  const mlstm_step_decay by = mlstm_step_decay_of(gate, begins, m0);
  float r = 0;
  for (index first = threadIdx.x; first < dq; first += ahead * Threads) {
    if (first >= ahead * Threads) load(first);
#pragma unroll
    for (int j = 0; j < ahead; ++j) {
      const index d = first + j * Threads;
      if (d >= dq) break;
      const float x = mlstm_step_n(by, old[j], key[j]);
      n[d] = x;
      r += query[j] * x;
    }
  }
  r = warp_sum(r);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = r;
  __syncthreads();  // m has been read, too
  if (threadIdx.x != 0) return;
  r = 0;
#pragma unroll
  for (const float part : sums) r += part;
  *m = by.m;
  factors[blockIdx.x] = mlstm_step_factors_of(a.shape, scale, by, r);
}

/// Packs of columns that a block has side by side.
constexpr int mlstm_step_lanes = 8;
/// A warp adds what a block's threads have of its columns: halves, quarters, ... of the groups, until the first lanes
/// have the total.
template <int Groups, class Pack>
__device__ Pack mlstm_step_sum(const Pack* sums) {
  constexpr int width = sizeof(Pack) / sizeof(float), lanes = mlstm_step_lanes, parts = 32 / lanes;
  constexpr int each = Groups / parts;
  Pack x[each];
#pragma unroll
  for (int i = 0; i < each; ++i) x[i] = sums[threadIdx.x % 32 + 32 * i];
#pragma unroll
  for (int half = each / 2; half > 0; half /= 2)
#pragma unroll
    for (int i = 0; i < half; ++i)
#pragma unroll
      for (int j = 0; j < width; ++j)
        reinterpret_cast<float*>(&x[i])[j] += reinterpret_cast<const float*>(&x[i + half])[j];
#pragma unroll
  for (int half = parts / 2; half > 0; half /= 2)
#pragma unroll
    for (int j = 0; j < width; ++j) {
      float& y = reinterpret_cast<float*>(&x[0])[j];
      y += __shfl_down_sync(~0u, y, half * lanes);
    }
  return x[0];
}
/// C <- forget C + input k vᵀ and h += q C, of a row's pack of columns.
template <class Pack>
__device__ void mlstm_step_row(Pack& c, Pack& h, const mlstm_step_factors& f, float key, float query,
                               const Pack& value) {
  if (!(f.forget > 0)) c = Pack{};
  const float write = key * f.input;
#pragma unroll
  for (int j = 0; j < static_cast<int>(sizeof(Pack) / sizeof(float)); ++j) {
    float& y = reinterpret_cast<float*>(&c)[j];
    float& sum = reinterpret_cast<float*>(&h)[j];
    y = fmaf(f.forget, y, write * reinterpret_cast<const float*>(&value)[j]);
    sum = fmaf(query, y, sum);
  }
}
/// C and h. A tile is `mlstm_step_lanes` packs of columns of one sequence and head, whose rows the other threads of a
/// block share; the blocks take tiles in turn. What a thread reads next it asks for all at once, when it has written
/// what it has: uses between the loads would wait for those before them. `Streams`: C is more than the caches hold
/// until the next step.
constexpr int mlstm_step_blocks(bool streams) { return streams ? 3 : 2; }
template <class Pack, bool Streams, class Operand>
__global__ void __launch_bounds__(256, mlstm_step_blocks(Streams))
    mlstm_step_kernel(earlier_kernels earlier, mlstm_arguments<float, Operand> a,
                      const mlstm_step_factors* factors, unsigned strips, unsigned tiles) {
  constexpr int width = sizeof(Pack) / sizeof(float), lanes = mlstm_step_lanes, groups = 256 / lanes;
  constexpr int ahead = 9, rows = ahead * groups;
  __shared__ Pack sums[256];
  __shared__ alignas(16) float inputs[2][2][rows];  // k and q, of passes in turn
  const unsigned heads = static_cast<unsigned>(a.shape.heads);
  const int dq = static_cast<int>(a.shape.query), dv = static_cast<int>(a.shape.value);
  const int lane = static_cast<int>(threadIdx.x) % lanes, group = static_cast<int>(threadIdx.x) / lanes;
  // `rows` of a tile's, and of them the thread's: from c on, `groups` apart, while there are `left`.
  struct pass {
    float* c;
    int left;
  };
  const auto column_of = [&](unsigned tile) {
    return (static_cast<int>(tile % strips) * lanes + lane) * width;
  };
  const auto pass_of = [&](unsigned tile, int first) {
    const unsigned task = tile / strips;
    const int column = column_of(tile), d = first + group;
    float* c = a.state.c.of(task / heads) + (static_cast<index>(task % heads) * dq + d) * dv + column;
    return pass{c, tile < tiles && column < dv ? dq - d : 0};
  };
  const auto row_of = [&](const pass& p, int r) { return reinterpret_cast<Pack*>(p.c + r * groups * dv); };
  Pack x[ahead];
  const auto ask = [&](const pass& p) {
#pragma unroll
    for (int r = 0; r < ahead; ++r)
      if (r * groups < p.left) x[r] = Streams ? __ldcs(row_of(p, r)) : *row_of(p, r);
  };
  const auto put = [&](const pass& p) {
#pragma unroll
    for (int r = 0; r < ahead; ++r)
      if (r * groups < p.left) {
        if constexpr (Streams)
          __stcs(row_of(p, r), x[r]);
        else
          *row_of(p, r) = x[r];
      }
  };

  pass now = pass_of(blockIdx.x, 0);
  earlier.wait([&] {
    for (int r = 0; r < ahead && r * groups < now.left; ++r) prefetch_far(row_of(now, r));
  });
  ask(now);
  Pack sum{};
  float* elements = reinterpret_cast<float*>(&sum);
  unsigned tile = blockIdx.x;
  for (int first = 0, turn = 0; tile < tiles;) {
    const index b = tile / strips / heads, e = tile / strips % heads;
    const int column = column_of(tile);
    const bool last = first + rows >= dq;
    const pass next = last ? pass_of(tile + gridDim.x, 0) : pass_of(tile, first + rows);
    const mlstm_step_factors f = factors[tile / strips];
    const Operand *q = a.q.row(b) + e * dq, *k = a.k.row(b) + e * dq;
    const Operand* v = a.v.row(b) + static_cast<unsigned>(e) / static_cast<unsigned>(a.shape.value_group) * dv;
    Pack written{};
    if constexpr (width == 4) {
      if (column < dv) written = load4(v + column);
      // Four numbers a thread: of k, then of q.
      const int at = 4 * static_cast<int>(threadIdx.x), which = at < rows ? 0 : 1, d = at - which * rows;
      float4 four{};
      if (at < 2 * rows && first + d < dq) four = load4((which == 0 ? k : q) + first + d);
      if (at < 2 * rows) store4(&inputs[turn][which][d], four);
    } else {
      if (column < dv) written = v[column];
      for (int d = static_cast<int>(threadIdx.x); d < rows && first + d < dq; d += 256)
        inputs[turn][0][d] = k[first + d], inputs[turn][1][d] = q[first + d];
    }
    __syncthreads();  // the pass before is over, too
#pragma unroll
    for (int r = 0; r < ahead; ++r) {
      if (r * groups >= now.left) break;
      mlstm_step_row(x[r], sum, f, inputs[turn][0][group + r * groups], inputs[turn][1][group + r * groups],
                     written);
    }
    put(now);
    ask(next);
    now = next;
    first = last ? 0 : first + rows, turn ^= 1;
    if (!last) continue;
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
      sum = mlstm_step_sum<groups>(sums);
      if (group == 0 && column < dv) {
        float* h = a.h.row(b) + e * dv + column;
#pragma unroll
        for (int j = 0; j < width; ++j) h[j] = elements[j] * f.output;
      }
    }
    sum = Pack{};
    tile += gridDim.x;
  }
}

/// All of a step of few sequences, whose blocks are a tile each, of all rows: every block of a head makes i, f, n and m
/// anew, as `mlstm_step_gates_kernel` does, and the last that has read n and m writes them. C is on its way to shared
/// memory meanwhile: loads into registers would move behind the first use of others. `counters`: one a sequence and
/// head, 0 before and behind.
constexpr int mlstm_step_most_rows = 288, mlstm_step_most_inputs = 256 * 4 * mlstm_step_products::ahead;
template <class Operand>
__global__ void __launch_bounds__(256, 1)
    mlstm_whole_step_kernel(earlier_kernels earlier, mlstm_arguments<float, Operand> a,
                            const __grid_constant__ mlstm_step_products products, unsigned strips,
                            unsigned* counters) {
  constexpr int lanes = mlstm_step_lanes, groups = 256 / lanes, ahead = mlstm_step_most_rows / groups, of_n = 2;
  __shared__ float4 rows[ahead][256];  // of C, a thread's own
  __shared__ float4 sums[256];
  __shared__ alignas(16) float inputs[2][mlstm_step_most_rows];  // k and q
  __shared__ float parts[256 / 32];
  __shared__ bool keeps;
  const unsigned task = blockIdx.x / strips, strip = blockIdx.x % strips;
  const index b = task / static_cast<unsigned>(a.shape.heads), e = task % static_cast<unsigned>(a.shape.heads);
  const int dq = static_cast<int>(a.shape.query), dv = static_cast<int>(a.shape.value);
  const int thread = static_cast<int>(threadIdx.x), group = thread / lanes;
  const int column = (static_cast<int>(strip) * lanes + thread % lanes) * 4,
            left = column < dv ? dq - group : 0;
  float* c = a.state.c.of(b) + (e * dq + group) * dv + column;
  float *n = a.state.n.of(b) + e * dq, *m = a.state.m.of(b) + e, *h = a.h.row(b) + e * dv + column;
  const Operand *q = a.q.row(b) + e * dq, *k = a.k.row(b) + e * dq;
  const Operand* v =
      a.v.row(b) + static_cast<unsigned>(e) / static_cast<unsigned>(a.shape.value_group) * dv + column;
  hold_global(c), hold_global(n), hold_global(m), hold_global(h), hold_global(q), hold_global(k),
      hold_global(v);
  const mlstm_step_rows of_gates(products, b, e);
  const float scale = distil_xlstm::detail::mlstm_query_scale<float>(a.shape);
  earlier.wait([&] {
    for (int r = 0; r * groups < left; ++r) prefetch_far(c + r * groups * dv);
    if (strip > 0) return;
    for (int d = thread; d < dq; d += 256) prefetch_far(n + d);
    prefetch_far(m);
    if (b == 0 && thread < 2)
      prefetch_far(products.weight[thread].row(e), min(4 * static_cast<int>(products.x.cols), 1 << 16));
  });
  // All of it is on its way before anything is made of it.
#pragma unroll
  for (int r = 0; r < ahead; ++r)
    if (r * groups < left) copy_async_16(shared_address(&rows[r][thread]), c + r * groups * dv);
  commit_copies();
  __syncwarp();  // the assembler moves no access over it: else some would wait for the use of others
  float4 value{};
  if (left > 0) value = load4(v);
  float old[of_n], key[of_n], query[of_n];
#pragma unroll
  for (int j = 0; j < of_n; ++j)
    if (const int d = thread + 256 * j; d < dq)
      old[j] = n[d], key[j] = static_cast<float>(k[d]), query[j] = static_cast<float>(q[d]);
  const bool begins = a.seq.begins(b, 0);
  const float m_before = *m;
  __syncwarp();
  float gate[2];
  mlstm_step_gates<256, true>(products, of_gates, b, e, strip == 0, gate);
  const float m0 = begins ? static_cast<float>(a.shape.empty_m) : m_before;
  const mlstm_step_decay by = mlstm_step_decay_of(gate, begins, m0);
  float r = 0;
#pragma unroll
  for (int j = 0; j < of_n; ++j) {
    const int d = thread + 256 * j;
    if (d >= dq) break;
    old[j] = mlstm_step_n(by, old[j], key[j]);
    r += query[j] * old[j];
    inputs[0][d] = key[j], inputs[1][d] = query[j];
  }
  r = warp_sum(r);
  if (thread % 32 == 0) parts[thread / 32] = r;
  __syncthreads();
  // The block has used n and m, so that no write can change what it read: the others are told, and the last of them
  // writes.
  bool last = false;
  if (thread == 0) last = counts_last(counters + task, static_cast<int>(strips));
  r = 0;
#pragma unroll
  for (const float part : parts) r += part;
  const mlstm_step_factors f = mlstm_step_factors_of(a.shape, scale, by, r);
  wait_for_copies<0>();
  float4 sum{};
#pragma unroll
  for (int i = 0; i < ahead; ++i) {
    if (i * groups >= left) break;
    float4 x = rows[i][thread];
    mlstm_step_row(x, sum, f, inputs[0][group + i * groups], inputs[1][group + i * groups], value);
    store4_global(c + i * groups * dv, x);
  }
  sums[thread] = sum;
  if (thread == 0) keeps = last;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < of_n; ++j)
    if (const int d = thread + 256 * j; keeps && d < dq) n[d] = old[j];
  if (keeps && thread == 0) *m = by.m;
  if (thread >= 32) return;
  sum = mlstm_step_sum<groups>(sums);
  if (group == 0 && column < dv)
    store4_global(h, {sum.x * f.output, sum.y * f.output, sum.z * f.output, sum.w * f.output});
}

/// i and f are those of the arguments, or made on the way.
template <class Operand>
void mlstm_step(cuda_base& device, const mlstm_arguments<float, Operand>& a,
                const mlstm_step_products& products = {}) {
  const index tasks = a.seq.batch * a.shape.heads;
  const bool packs = a.shape.value % 4 == 0 && a.shape.query % 4 == 0 && is_vectorised(a.q) &&
                     is_vectorised(a.k) && is_vectorised(a.v) &&
                     is_vectorised(a.state.c.data, a.state.c.stride);
  // Where the blocks are few, what they all read again is near.
  const index strips_of_four = blocks_for(a.shape.value, 4 * mlstm_step_lanes);
  if (packs && products.x.data && is_vectorised(a.h) && a.shape.query <= mlstm_step_most_rows &&
      products.x.cols <= mlstm_step_most_inputs && tasks * strips_of_four <= device.multiprocessors() / 2)
    return launch(device, "mlstm: a step", {static_cast<unsigned>(tasks * strips_of_four), 256},
                  mlstm_whole_step_kernel<Operand>, a, products, static_cast<unsigned>(strips_of_four),
                  device.counters());
  auto factors = device.template scratch<mlstm_step_factors>(tasks);
  launch(device, "mlstm: a step", {static_cast<unsigned>(tasks), 256}, mlstm_step_gates_kernel<256, Operand>, a,
         products, factors.data());
  const auto run = [&]<class Pack, bool Streams>() {
    const index columns = mlstm_step_lanes * static_cast<index>(sizeof(Pack) / sizeof(float));
    const index strips = blocks_for(a.shape.value, columns), tiles = strips * tasks;
    const auto blocks = std::min(tiles, index{mlstm_step_blocks(Streams)} * device.multiprocessors());
    launch(device, "mlstm: a step", {static_cast<unsigned>(blocks), 256},
           mlstm_step_kernel<Pack, Streams, Operand>, a, factors.data(), static_cast<unsigned>(strips),
           static_cast<unsigned>(tiles));
  };
  if (!packs)
    run.template operator()<float, false>();
  else if (tasks * a.shape.query * a.shape.value > index{1} << 22)
    run.template operator()<float4, true>();
  else
    run.template operator()<float4, false>();
}

}  // namespace distil_xlstm::device::detail
