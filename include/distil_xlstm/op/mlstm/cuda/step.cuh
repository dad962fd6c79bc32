#pragma once

#include <cstdint>

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

/// m and n of a sequence and head, a block each.
template <int Threads, class Operand>
__global__ void __launch_bounds__(Threads)
    mlstm_step_gates_kernel(mlstm_arguments<float, Operand> a, mlstm_step_factors* factors) {
  static_assert(Threads == 128);
  __shared__ float sums[4];
  const index b = blockIdx.x / a.shape.heads, e = blockIdx.x % a.shape.heads, dq = a.shape.query;
  const Operand *q = a.q.row(b) + e * dq, *k = a.k.row(b) + e * dq;
  float *n = a.state.n.of(b) + e * dq, *m = a.state.m.of(b) + e;
  // What n is made of is on its way before the factors are there.
  constexpr int ahead = 4;
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
  const float m0 = begins ? static_cast<float>(a.shape.empty_m) : *m, i = a.i.row(b)[e];
  const float log_f = math::log_sigmoid(a.f.row(b)[e]) + m0, m1 = fmaxf(log_f, i);
  const float forget = begins || m0 == -INFINITY ? 0.0f : expf(log_f - m1), input = expf(i - m1);
  float r = 0;
  for (index first = threadIdx.x; first < dq; first += ahead * Threads) {
    if (first >= ahead * Threads) load(first);
#pragma unroll
    for (int j = 0; j < ahead; ++j) {
      const index d = first + j * Threads;
      if (d >= dq) break;
      const float x = (forget > 0 ? forget * old[j] : 0.0f) + input * key[j];
      n[d] = x;
      r += query[j] * x;
    }
  }
  r = warp_sum(r);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = r;
  __syncthreads();  // m has been read, too
  if (threadIdx.x != 0) return;
  r = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  const float scale = distil_xlstm::detail::mlstm_query_scale<float>(a.shape);
  const auto norm = distil_xlstm::detail::mlstm_norm_of(a.shape.normaliser, scale * r, expf(-m1));
  *m = m1;
  factors[blockIdx.x] = {forget, input, scale / (norm.value + static_cast<float>(a.shape.epsilon))};
}

/// C and h. A block has `mlstm_step_lanes` packs of columns of one sequence and head; its other threads share the rows.
/// A thread asks for several rows before it needs anything else, and before it writes the first: for all that the
/// compiler knows, one might be another. `Streams`: C is more than the caches hold until the next step.
constexpr int mlstm_step_lanes = 8;
template <class Pack, bool Streams, class Operand>
__global__ void __launch_bounds__(256, 3)
    mlstm_step_kernel(mlstm_arguments<float, Operand> a, const mlstm_step_factors* factors) {
  constexpr int width = sizeof(Pack) / sizeof(float), lanes = mlstm_step_lanes, groups = 256 / lanes;
  constexpr int ahead = 9, rows = ahead * groups, each = (rows + 255) / 256;
  __shared__ Pack sums[256];
  __shared__ float keys[rows], queries[rows];
  const unsigned heads = static_cast<unsigned>(a.shape.heads);
  const index b = blockIdx.y / heads, e = blockIdx.y % heads;
  const int dq = static_cast<int>(a.shape.query), dv = static_cast<int>(a.shape.value);
  const int lane = static_cast<int>(threadIdx.x) % lanes, group = static_cast<int>(threadIdx.x) / lanes;
  const int column = (static_cast<int>(blockIdx.x) * lanes + lane) * width;
  const int end = column < dv ? dq : 0;  // of the thread's rows
  const Operand *q = a.q.row(b) + e * dq, *k = a.k.row(b) + e * dq;
  const Operand* v = a.v.row(b) + static_cast<unsigned>(e) / static_cast<unsigned>(a.shape.value_group) * dv;
  float* c = a.state.c.of(b) + e * dq * dv + column;
  Pack sum{};
  float* elements = reinterpret_cast<float*>(&sum);
  mlstm_step_factors f{};
  for (int first = 0; first < dq; first += rows) {
    Pack x[ahead], written{};
#pragma unroll
    for (int r = 0; r < ahead; ++r) {
      const int d = first + group + r * groups;
      if (d >= end) break;
      const Pack* from = reinterpret_cast<const Pack*>(c + static_cast<index>(d) * dv);
      x[r] = Streams ? __ldcs(from) : *from;
    }
    f = factors[blockIdx.y];
    if (column < dv) {
      if constexpr (width == 4)
        written = load4(v + column);
      else
        written = v[column];
    }
    float key[each], query[each];
    const auto share = [&](const auto& move) {
#pragma unroll
      for (int j = 0; j < each; ++j) {
        const int at = static_cast<int>(threadIdx.x) + 256 * j;
        if (at < rows && first + at < dq) move(j, at);
      }
    };
    share([&](int j, int at) {
      key[j] = static_cast<float>(k[first + at]), query[j] = static_cast<float>(q[first + at]);
    });
    if (first > 0) __syncthreads();
    share([&](int j, int at) { keys[at] = key[j], queries[at] = query[j]; });
    __syncthreads();
    const float* value = reinterpret_cast<const float*>(&written);
#pragma unroll
    for (int r = 0; r < ahead; ++r) {
      const int at = group + r * groups, d = first + at;
      if (d >= end) break;
      if (!(f.forget > 0)) x[r] = Pack{};
      float* y = reinterpret_cast<float*>(&x[r]);
      const float write = keys[at] * f.input, read = queries[at];
#pragma unroll
      for (int j = 0; j < width; ++j) {
        y[j] = fmaf(f.forget, y[j], write * value[j]);
        elements[j] = fmaf(read, y[j], elements[j]);
      }
      Pack* to = reinterpret_cast<Pack*>(c + static_cast<index>(d) * dv);
      if constexpr (Streams)
        __stcs(to, x[r]);
      else
        *to = x[r];
    }
  }
  sums[threadIdx.x] = sum;
  for (int half = groups / 2; half > 0; half /= 2) {
    __syncthreads();
    if (group < half) {
      const Pack other = sums[threadIdx.x + half * lanes];
#pragma unroll
      for (int j = 0; j < width; ++j) elements[j] += reinterpret_cast<const float*>(&other)[j];
      sums[threadIdx.x] = sum;
    }
  }
  if (group != 0 || column >= dv) return;
  float* h = a.h.row(b) + e * dv + column;
#pragma unroll
  for (int j = 0; j < width; ++j) h[j] = elements[j] * f.output;
}

template <class Operand>
void mlstm_step(cuda_base& device, const mlstm_arguments<float, Operand>& a) {
  const index tasks = a.seq.batch * a.shape.heads;
  auto factors = device.template scratch<mlstm_step_factors>(tasks);
  launch(device, "mlstm: a step", {static_cast<unsigned>(tasks), 128}, mlstm_step_gates_kernel<128, Operand>, a,
         factors.data());
  const bool packs = a.shape.value % 4 == 0 && is_vectorised(a.v) &&
                     is_vectorised(a.state.c.data, a.state.c.stride) &&
                     (a.shape.query * a.shape.value) % 4 == 0;
  const auto run = [&]<class Pack, bool Streams>() {
    const index columns = mlstm_step_lanes * static_cast<index>(sizeof(Pack) / sizeof(float));
    const dim3 grid(static_cast<unsigned>(blocks_for(a.shape.value, columns)), static_cast<unsigned>(tasks));
    launch(device, "mlstm: a step", {grid, 256}, mlstm_step_kernel<Pack, Streams, Operand>, a, factors.data());
  };
  if (!packs)
    run.template operator()<float, false>();
  else if (tasks * a.shape.query * a.shape.value > index{1} << 22)
    run.template operator()<float4, true>();
  else
    run.template operator()<float4, false>();
}

}  // namespace distil_xlstm::device::detail
