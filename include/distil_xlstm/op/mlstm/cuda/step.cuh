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
/// A thread asks for several rows before it writes the first: for all that the compiler knows, one might be another.
constexpr int mlstm_step_lanes = 8;
template <class Pack, class Operand>
__global__ void __launch_bounds__(256, 4)
    mlstm_step_kernel(mlstm_arguments<float, Operand> a, const mlstm_step_factors* factors) {
  constexpr int width = sizeof(Pack) / sizeof(float), ahead = 5, lanes = mlstm_step_lanes, groups = 256 / lanes;
  __shared__ Pack sums[256];
  const index b = blockIdx.y / a.shape.heads, e = blockIdx.y % a.shape.heads;
  const int dq = static_cast<int>(a.shape.query), dv = static_cast<int>(a.shape.value);
  const int lane = static_cast<int>(threadIdx.x) % lanes, group = static_cast<int>(threadIdx.x) / lanes;
  const int column = (static_cast<int>(blockIdx.x) * lanes + lane) * width;
  const mlstm_step_factors f = factors[blockIdx.y];
  const Operand *q = a.q.row(b) + e * dq, *k = a.k.row(b) + e * dq;
  Pack sum{};
  float* elements = reinterpret_cast<float*>(&sum);
  if (column < dv) {
    const Operand* from = a.v.row(b) + e / a.shape.value_group * dv + column;
    Pack v;
    if constexpr (width == 4)
      v = load4(from);
    else
      v = *from;
    const float* value = reinterpret_cast<const float*>(&v);
    float* c = a.state.c.of(b) + e * dq * dv + column;
    for (int first = group; first < dq; first += ahead * groups) {
      Pack x[ahead];
      float write[ahead], read[ahead];
#pragma unroll
      for (int r = 0; r < ahead; ++r) {
        const int d = first + r * groups;
        if (d >= dq) break;
        x[r] = *reinterpret_cast<const Pack*>(c + static_cast<index>(d) * dv);
        write[r] = static_cast<float>(k[d]), read[r] = static_cast<float>(q[d]);
      }
#pragma unroll
      for (int r = 0; r < ahead; ++r) {
        const int d = first + r * groups;
        if (d >= dq) break;
        if (!(f.forget > 0)) x[r] = Pack{};  // not before: the factors may still be on their way
        float* y = reinterpret_cast<float*>(&x[r]);
        write[r] *= f.input;
#pragma unroll
        for (int j = 0; j < width; ++j) {
          y[j] = f.forget * y[j] + write[r] * value[j];
          elements[j] += read[r] * y[j];
        }
        *reinterpret_cast<Pack*>(c + static_cast<index>(d) * dv) = x[r];
      }
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
  const auto run = [&]<class Pack>(Pack) {
    const index columns = mlstm_step_lanes * static_cast<index>(sizeof(Pack) / sizeof(float));
    const dim3 grid(static_cast<unsigned>(blocks_for(a.shape.value, columns)), static_cast<unsigned>(tasks));
    launch(device, "mlstm: a step", {grid, 256}, mlstm_step_kernel<Pack, Operand>, a, factors.data());
  };
  packs ? run(float4()) : run(float());
}

}  // namespace distil_xlstm::device::detail
