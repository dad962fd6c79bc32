#pragma once

#include <algorithm>

#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/device/cuda/cluster.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/op/slstm/op.hpp>

// The sLSTM time loop in float, for heads of any size. A block, or a cluster of blocks, does all steps of
// `Sequences` sequences of a head; each block has a run of its channels, and reads its part of the recurrent
// matrix from shared memory where that holds it, from the L2 cache else.

namespace distil_xlstm::device::detail {

/// The recurrent matrix of every head, [4 head, head], so that a thread reads four numbers at once and
/// neighbours read side by side. Forward: [head / 4, 4 head][4 of k], zeros at the end; backward: [head,
/// head][4 gates], the second index is the product's row.
template <bool Backward>
__global__ void slstm_pack(const float* recurrent, float* packed, index heads, index head) {
  const index vectors = Backward ? head : (head + 3) / 4, rows = Backward ? head : 4 * head;
  const index all = heads * vectors * rows * 4;
  for (index i = static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x; i < all;
       i += static_cast<index>(gridDim.x) * blockDim.x) {
    const index part = i % 4, row = i / 4 % rows, vector = i / 4 / rows % vectors, e = i / 4 / rows / vectors;
    const float* of_head = recurrent + e * 4 * head * head;
    if constexpr (Backward)
      packed[i] = of_head[(part * head + vector) * head + row];
    else
      packed[i] = 4 * vector + part < head ? of_head[row * head + 4 * vector + part] : 0.0f;
  }
}

inline constexpr int slstm_threads = 512;

/// How the work is cut.
struct slstm_cut {
  int channels;   ///< of a block
  int parts;      ///< threads that share a sum
  bool resident;  ///< the recurrent matrix's part lies in shared memory
};

/// A thread's share of a table [columns][rows]: threads side by side along columns, then along rows.
struct slstm_share {
  int column, column_step, row, row_step;
  __device__ explicit slstm_share(int columns) {
    const int thread = static_cast<int>(threadIdx.x), wide = min(columns, slstm_threads);
    column = thread % wide, column_step = wide, row = thread / wide, row_step = slstm_threads / wide;
    if (row >= row_step) column = columns;  // too few are left for another row
  }
  template <class F>
  __device__ void each(int columns, int rows, const F& f) const {
    for (int c = column; c < columns; c += column_step)
      for (int r = row; r < rows; r += row_step) f(c, r);
  }
};

/// sums[s] += four weights by the numbers of `Sequences` sequences, x[4][Sequences].
template <int Sequences>
__device__ inline void add_vector(float (&sums)[Sequences], float4 w, const float* x) {
  const float each[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int s = 0; s < Sequences; s += 4) {
      const float4 v = *reinterpret_cast<const float4*>(x + i * Sequences + s);
      sums[s] += each[i] * v.x, sums[s + 1] += each[i] * v.y;
      sums[s + 2] += each[i] * v.z, sums[s + 3] += each[i] * v.w;
    }
}
/// The same for x's vectors begin .. end - 1; their weights lie `step` vectors apart.
template <int Sequences>
__device__ inline void add_vectors(float (&sums)[Sequences], const float4* w, index step, const float* x,
                                   int begin, int end) {
#pragma unroll 4
  for (int vector = begin; vector < end; ++vector)
    add_vector(sums, w[vector * step], x + vector * 4 * Sequences);
}
template <int Sequences>
__device__ inline void put(float* to, const float (&sums)[Sequences]) {
  for (int s = 0; s < Sequences; s += 4)
    *reinterpret_cast<float4*>(to + s) = make_float4(sums[s], sums[s + 1], sums[s + 2], sums[s + 3]);
}

/// Writes h, or zero, to shared memory, of all blocks of a cluster.
template <bool Cluster>
__device__ inline void slstm_put_hidden(float* to, float h, int blocks) {
  if constexpr (Cluster)
    for (int block = 0; block < blocks; ++block) write_in(block, to, h);
  else
    *to = h;
}

/// Adds to a cell's pre-activations what each part of the sums has of them.
template <int Sequences>
__device__ inline void slstm_add_parts(float (&pre)[4], const float* partial, const slstm_cut& cut, int channel,
                                       int s) {
  for (int part = 0; part < cut.parts; ++part)
    for (int g = 0; g < 4; ++g)
      pre[g] += partial[(part * 4 * cut.channels + g * cut.channels + channel) * Sequences + s];
}

/// Floats of shared memory, in order: h before the step [2][head, padded][Sequences]; partial sums [parts][4
/// channels] [Sequences]; input contributions [2][4][cells]; c, n, m [3][cells]; bias [4 channels]; weights.
inline index slstm_forward_floats(index head, const slstm_cut& cut, int sequences) {
  const index vectors = (head + 3) / 4, cells = cut.channels * sequences, rows = 4 * cut.channels;
  return 2 * 4 * vectors * sequences + cut.parts * rows * sequences + 11 * cells + rows +
         (cut.resident ? 4 * vectors * rows : 0);
}

template <int Sequences, bool Cluster>
__global__ void __launch_bounds__(slstm_threads, 1)
    slstm_forward_float(slstm_arguments<float> a, const float* packed, slstm_cut cut) {
  if constexpr (!Cluster || has_clusters) {
    extern __shared__ float4 slstm_memory[];
    const int head = static_cast<int>(a.head_dim), vectors = (head + 3) / 4,
              thread = static_cast<int>(threadIdx.x);
    const int rank = Cluster ? cluster_rank() : 0, blocks = Cluster ? cluster_size() : 1;
    const int own = rank * cut.channels, channels = min(cut.channels, head - own);
    const int rows = 4 * cut.channels, cells = cut.channels * Sequences, h_size = 4 * vectors * Sequences;
    const index width = a.width(), time = a.seq.time, first = blockIdx.y * a.head_dim + own;
    const index first_b = static_cast<index>(blockIdx.x) / blocks * Sequences;
    const int present = static_cast<int>(min(a.seq.batch - first_b, index{Sequences}));
    float* const hidden = reinterpret_cast<float*>(slstm_memory);
    float* const partial = hidden + 2 * h_size;
    float* const input = partial + cut.parts * rows * Sequences;
    float* const memory = input + 8 * cells;
    float* const bias = memory + 3 * cells;
    float4* const kept = reinterpret_cast<float4*>(bias + rows);
    const float4* weights =
        reinterpret_cast<const float4*>(packed) + static_cast<index>(blockIdx.y) * vectors * 4 * head + own;

    for (int i = thread; i < 2 * h_size; i += slstm_threads) hidden[i] = 0;
    for (int row = thread; row < rows; row += slstm_threads) {
      const int gate = row / cut.channels, channel = row % cut.channels;
      const bool there = channel < channels;
      bias[row] = there ? a.bias[gate * width + first + channel] : 0.0f;
      if (cut.resident)
        for (int vector = 0; vector < vectors; ++vector)
          kept[vector * rows + row] = there ? weights[(static_cast<index>(vector) * 4 + gate) * head + channel]
                                            : make_float4(0, 0, 0, 0);
    }
    if constexpr (Cluster) cluster_sync();
    __syncthreads();

    const slstm_share of_cells(cut.channels), of_rows(rows);
    // f(cell, channel, sequence here, sequence)
    const auto each_cell = [&](const auto& f) {
      of_cells.each(channels, present,
                    [&](int channel, int s) { f(s * cut.channels + channel, channel, s, first_b + s); });
    };
    // What a step starts from: c, n, m, and h for everybody, or zeros where a document begins.
    const auto pass_on = [&](index t, int i, int channel, int s, float h, float c, float n, float m) {
      const bool begins = a.seq.begins(first_b + s, t);
      memory[i] = begins ? 0 : c, memory[cells + i] = begins ? 0 : n, memory[2 * cells + i] = begins ? 0 : m;
      float* to = hidden + (t & 1) * h_size + (own + channel) * Sequences + s;
      slstm_put_hidden<Cluster>(to, begins ? 0 : h, blocks);
    };
    each_cell([&](int i, int channel, int s, index b) {
      const float* state = a.state.of(b) + first + channel;
      float* initial = a.initial + b * 4 * width + first + channel;
      for (int q = 0; q < 4; ++q) initial[q * width] = state[q * width];
      pass_on(0, i, channel, s, state[0], state[width], state[2 * width], state[3 * width]);
    });
    const auto fetch = [&](index t) {
      if (t < time)
        each_cell([&](int i, int channel, int, index b) {
          const float* raw = a.raw.row(b * time + t) + first + channel;
          for (int g = 0; g < 4; ++g) copy_async_4(input + ((t & 1) * 4 + g) * cells + i, raw + g * width, 4);
        });
      commit_copies();
    };
    fetch(0);

    const int span = (vectors + cut.parts - 1) / cut.parts;
    for (index t = 0; t < time; ++t) {
      if constexpr (Cluster)
        cluster_sync();
      else
        __syncthreads();
      fetch(t + 1);
      const float* h = hidden + (t & 1) * h_size;
      of_rows.each(rows, cut.parts, [&](int row, int part) {
        float sums[Sequences] = {};
        const int begin = part * span, end = min(vectors, begin + span);
        const int gate = cut.resident ? 0 : row / cut.channels, channel = row - gate * cut.channels;
        if (cut.resident)
          add_vectors(sums, kept + row, rows, h, begin, end);
        else if (channel < channels)
          add_vectors(sums, weights + gate * head + channel, 4 * head, h, begin, end);
        put(partial + (part * rows + row) * Sequences, sums);
      });
      wait_for_copies<1>();
      __syncthreads();
      each_cell([&](int i, int channel, int s, index b) {
        float pre[4];
        for (int g = 0; g < 4; ++g) pre[g] = bias[g * cut.channels + channel];
        slstm_add_parts<Sequences>(pre, partial, cut, channel, s);
        for (int g = 0; g < 4; ++g) {
          pre[g] += input[((t & 1) * 4 + g) * cells + i];
          a.raw.row(b * time + t)[g * width + first + channel] = pre[g];
        }
        const auto x = math::slstm_cell<float>(pre[0], pre[1], pre[2], pre[3], memory[i], memory[cells + i],
                                               memory[2 * cells + i]);
        float* out = a.states.row(b * time + t) + first + channel;
        out[0] = x.h, out[width] = x.c, out[2 * width] = x.n, out[3 * width] = x.m;
        if (t + 1 < time) return pass_on(t + 1, i, channel, s, x.h, x.c, x.n, x.m);
        float* state = a.state.of(b) + first + channel;
        state[0] = x.h, state[width] = x.c, state[2 * width] = x.n, state[3 * width] = x.m;
      });
    }
    if constexpr (Cluster) cluster_sync();
  }
}

/// In order: what came for dh [2][block][channels][Sequences]; partial sums [parts][head][Sequences]; gradients
/// of gates [channels][4][Sequences]; what a step reads [2][8][cells]; dc, dn [2][cells]; weights.
inline index slstm_backward_floats(index head, const slstm_cut& cut, int sequences) {
  const index cells = cut.channels * sequences, blocks = (head + cut.channels - 1) / cut.channels;
  return 2 * blocks * cells + cut.parts * head * sequences + 22 * cells +
         (cut.resident ? head * 4 * cut.channels : 0);
}

/// Sums the parts of each product, and sends them to the blocks whose channels they are of: to `received` there.
template <int Sequences, bool Cluster>
__device__ inline void slstm_send_sums(const float* partial, const slstm_cut& cut, int head, float* received) {
  const int cells = cut.channels * Sequences;
  for (int i = static_cast<int>(threadIdx.x); i < head * Sequences; i += slstm_threads) {
    float sum = 0;
    for (int part = 0; part < cut.parts; ++part) sum += partial[part * head * Sequences + i];
    float* to = received + i % cells;
    if constexpr (Cluster)
      write_in(i / cells, to, sum);
    else
      *to = sum;
  }
}

template <int Sequences, bool Cluster>
__global__ void __launch_bounds__(slstm_threads, 1)
    slstm_backward_float(slstm_backward_arguments<float> a, float* carry, const float* packed, slstm_cut cut) {
  if constexpr (!Cluster || has_clusters) {
    extern __shared__ float4 slstm_memory[];
    const int head = static_cast<int>(a.head_dim), thread = static_cast<int>(threadIdx.x);
    const int rank = Cluster ? cluster_rank() : 0, blocks = Cluster ? cluster_size() : 1;
    const int own = rank * cut.channels, channels = min(cut.channels, head - own);
    const int cells = cut.channels * Sequences;
    const index width = a.width(), time = a.seq.time, first = blockIdx.y * a.head_dim + own;
    const index first_b = static_cast<index>(blockIdx.x) / blocks * Sequences;
    const int present = static_cast<int>(min(a.seq.batch - first_b, index{Sequences}));
    float* const received = reinterpret_cast<float*>(slstm_memory);
    float* const partial = received + 2 * blocks * cells;
    float* const gates = partial + cut.parts * head * Sequences;
    float* const tape = gates + 4 * cells;
    float* const memory = tape + 16 * cells;
    float4* const kept = reinterpret_cast<float4*>(memory + 2 * cells);
    const float4* weights =
        reinterpret_cast<const float4*>(packed) + (static_cast<index>(blockIdx.y) * head + own) * head;

    for (int i = thread; i < 4 * cells; i += slstm_threads) gates[i] = 0;
    if (cut.resident)
      for (int i = thread; i < channels * head; i += slstm_threads) kept[i] = weights[i];

    const slstm_share of_cells(cut.channels), of_rows(head);
    const auto each_cell = [&](const auto& f) {
      of_cells.each(channels, present,
                    [&](int channel, int s) { f(s * cut.channels + channel, channel, s, first_b + s); });
    };
    const auto fetch = [&](index t) {
      if (t >= 0)
        each_cell([&](int i, int channel, int, index b) {
          const float* before = distil_xlstm::detail::slstm_before<float>(a, b, t);
          const float* raw = a.raw.row(b * time + t) + first + channel;
          float* to = tape + (t & 1) * 8 * cells + i;
          for (int g = 0; g < 4; ++g) copy_async_4(to + g * cells, raw + g * width, 4);
          for (int q = 0; q < 3; ++q)
            copy_async_4(to + (4 + q) * cells, before ? before + (q + 1) * width + first + channel : raw,
                         before ? 4 : 0);
          copy_async_4(to + 7 * cells, a.dh.row(b * time + t) + first + channel, 4);
        });
      commit_copies();
    };
    // The gradient of h that exchange e brought.
    const auto receive = [&](index e, int channel, int s) {
      float sum = 0;
      for (int block = 0; block < blocks; ++block)
        sum += received[((e & 1) * blocks + block) * cells + channel * Sequences + s];
      return sum;
    };
    each_cell([&](int i, int channel, int, index b) {
      for (int q = 0; q < 2; ++q) memory[q * cells + i] = carry[(b * 3 + 1 + q) * width + first + channel];
    });
    fetch(time - 1);
    if constexpr (Cluster) cluster_sync();
    __syncthreads();

    const int span = (channels + cut.parts - 1) / cut.parts;
    for (index t = time - 1; t >= 0; --t) {
      const index e = time - 1 - t;
      fetch(t - 1);
      wait_for_copies<1>();
      each_cell([&](int i, int channel, int s, index b) {
        const auto at = [&](int q) { return tape[((t & 1) * 8 + q) * cells + i]; };
        const auto x = math::slstm_cell<float>(at(0), at(1), at(2), at(3), at(4), at(5), at(6));
        const float dh = e == 0 ? carry[b * 3 * width + first + channel] : receive(e - 1, channel, s);
        const auto g =
            math::slstm_cell_backward<float>(x, at(4), at(5), dh + at(7), memory[i], memory[cells + i]);
        const float each[4] = {g.i, g.f, g.z, g.o};
        const bool begins = a.seq.begins(b, t);  // then nothing flows into the document before
        for (int q = 0; q < 4; ++q) {
          a.raw.row(b * time + t)[q * width + first + channel] = each[q];
          gates[(channel * 4 + q) * Sequences + s] = begins ? 0 : each[q];
        }
        memory[i] = begins ? 0 : g.c, memory[cells + i] = begins ? 0 : g.n;
      });
      __syncthreads();
      of_rows.each(head, cut.parts, [&](int row, int part) {
        float sums[Sequences] = {};
        const int begin = part * span, end = min(channels, begin + span);
        if (cut.resident)
          add_vectors(sums, kept + row, head, gates, begin, end);
        else
          add_vectors(sums, weights + row, head, gates, begin, end);
        put(partial + (part * head + row) * Sequences, sums);
      });
      __syncthreads();
      slstm_send_sums<Sequences, Cluster>(partial, cut, head, received + ((e & 1) * blocks + rank) * cells);
      if constexpr (Cluster)
        cluster_sync();
      else
        __syncthreads();
    }
    each_cell([&](int i, int channel, int s, index b) {
      float* to = carry + b * 3 * width + first + channel;
      to[0] = receive(time - 1, channel, s), to[width] = memory[i], to[2 * width] = memory[cells + i];
    });
    if constexpr (Cluster) cluster_sync();
  }
}

}  // namespace distil_xlstm::device::detail
