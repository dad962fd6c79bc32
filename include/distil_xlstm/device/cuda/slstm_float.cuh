#pragma once

#include <algorithm>

#include <distil_xlstm/device/cuda/slstm_parts.cuh>

// The sLSTM time loop in float, for heads of any size. A block, or a cluster of blocks, does all steps of
// `Sequences` sequences of a head; each block has a run of its channels, and reads its part of the recurrent
// matrix from shared memory where that holds it, from the L2 cache else.

namespace distil_xlstm::device::detail {

/// The recurrent matrix of every head, [4 head, head], so that a thread reads four numbers at once and
/// neighbours read side by side. Forward: [head / 4, 4 head][4 of k], zeros at the end; backward: [head,
/// head][4 gates], the second index is the product's row.
template <bool Backward>
__global__ void slstm_pack(const float* recurrent, float* packed, index heads, index head) {
  const index quads = Backward ? head : (head + 3) / 4, rows = Backward ? head : 4 * head;
  const index all = heads * quads * rows * 4;
  for (index i = static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x; i < all;
       i += static_cast<index>(gridDim.x) * blockDim.x) {
    const index part = i % 4, row = i / 4 % rows, quad = i / 4 / rows % quads, e = i / 4 / rows / quads;
    const float* of_head = recurrent + e * 4 * head * head;
    if constexpr (Backward)
      packed[i] = of_head[(part * head + quad) * head + row];
    else
      packed[i] = 4 * quad + part < head ? of_head[row * head + 4 * quad + part] : 0.0f;
  }
}

/// How the work is cut, and where things lie in shared memory, counted in floats.
struct slstm_cut {
  int channels;   ///< of a block
  int parts;      ///< threads that share a sum
  bool resident;  ///< the recurrent matrix's part lies in shared memory
};

__device__ inline void fetch_to_shared(float* to, const float* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(there ? 4 : 0)
               : "memory");
}
__device__ inline void wait_for_fetches() { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ inline float read_in(int rank, const float* p) {
  float v;
  asm volatile("ld.shared::cluster.f32 %0, [%1];"
               : "=f"(v)
               : "r"(address_in(rank, shared_address(p)))
               : "memory");
  return v;
}
__device__ inline void write_in(int rank, float* p, float v) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address_in(rank, shared_address(p))), "f"(v)
               : "memory");
}

/// sums[s] += four weights by the numbers of `Sequences` sequences, x[4][Sequences].
template <int Sequences>
__device__ inline void add_quad(float (&sums)[Sequences], float4 w, const float* x) {
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
template <int Sequences>
__device__ inline void put(float* to, const float (&sums)[Sequences]) {
  for (int s = 0; s < Sequences; s += 4)
    *reinterpret_cast<float4*>(to + s) = make_float4(sums[s], sums[s + 1], sums[s + 2], sums[s + 3]);
}

inline constexpr int slstm_threads = 512;

/// Floats of shared memory, in order: h before the step [2][head, padded][Sequences]; partial sums [parts][4
/// channels] [Sequences]; input contributions [4][cells]; c, n, m [3][cells]; weights.
inline index slstm_forward_floats(index head, const slstm_cut& cut, int sequences) {
  const index quads = (head + 3) / 4, cells = cut.channels * sequences;
  return 2 * 4 * quads * sequences + cut.parts * 4 * cells + 7 * cells +
         (cut.resident ? quads * 4 * cut.channels * 4 : 0);
}

template <int Sequences, bool Cluster>
__global__ void __launch_bounds__(slstm_threads, 1)
    slstm_forward_float(slstm_arguments<float> a, const float* packed, slstm_cut cut) {
  if constexpr (!Cluster || has_clusters) {
    extern __shared__ float4 slstm_memory[];
    const int head = static_cast<int>(a.head), quads = (head + 3) / 4, thread = static_cast<int>(threadIdx.x);
    const int rank = Cluster ? cluster_rank() : 0, blocks = Cluster ? cluster_size() : 1;
    const int own = rank * cut.channels, channels = min(cut.channels, head - own);
    const int rows = 4 * cut.channels, cells = cut.channels * Sequences, h_size = 4 * quads * Sequences;
    const index width = a.width(), time = a.seq.time, first = blockIdx.y * a.head + own;
    const index first_b = static_cast<index>(blockIdx.x) / blocks * Sequences;
    float* const hidden = reinterpret_cast<float*>(slstm_memory);
    float* const partial = hidden + 2 * h_size;
    float* const input = partial + cut.parts * rows * Sequences;
    float* const memory = input + 4 * cells;
    float* const kept = memory + 3 * cells;

    const auto* weights =
        reinterpret_cast<const float4*>(packed) + static_cast<index>(blockIdx.y) * quads * 4 * head;
    for (int i = thread; i < 2 * h_size; i += slstm_threads) hidden[i] = 0;
    if (cut.resident)
      for (int i = thread; i < quads * rows; i += slstm_threads) {
        const int quad = i / rows, gate = i % rows / cut.channels, channel = i % cut.channels;
        if (channel < channels)
          reinterpret_cast<float4*>(kept)[i] =
              weights[(static_cast<index>(quad) * 4 + gate) * head + own + channel];
      }
    if constexpr (Cluster) cluster_sync();
    __syncthreads();

    // Cell i: channel i % cut.channels of sequence i / cut.channels.
    const auto each_cell = [&](const auto& f) {
      for (int i = thread; i < cells; i += slstm_threads) {
        const int channel = i % cut.channels, s = i / cut.channels;
        if (channel < channels && first_b + s < a.seq.batch) f(i, channel, s, first_b + s);
      }
    };
    const auto publish = [&](index t, int channel, int s, float h) {
      float* to = hidden + (t & 1) * h_size + (own + channel) * Sequences + s;
      if constexpr (Cluster)
        for (int block = 0; block < blocks; ++block) write_in(block, to, h);
      else
        *to = h;
    };
    // What a step starts from: c, n, m, and h for everybody, or zeros where a document begins.
    const auto pass_on = [&](index t, int i, int channel, int s, float h, float c, float n, float m) {
      const bool begins = a.seq.begins(first_b + s, t);
      memory[i] = begins ? 0 : c, memory[cells + i] = begins ? 0 : n, memory[2 * cells + i] = begins ? 0 : m;
      publish(t, channel, s, begins ? 0 : h);
    };
    each_cell([&](int i, int channel, int s, index b) {
      const float* state = a.state.of(b) + first + channel;
      float* initial = a.initial + b * 4 * width + first + channel;
      for (int q = 0; q < 4; ++q) initial[q * width] = state[q * width];
      pass_on(0, i, channel, s, state[0], state[width], state[2 * width], state[3 * width]);
    });

    const int span = (quads + cut.parts - 1) / cut.parts;
    for (index t = 0; t < time; ++t) {
      if constexpr (Cluster)
        cluster_sync();
      else
        __syncthreads();
      each_cell([&](int i, int channel, int, index b) {
        for (int g = 0; g < 4; ++g)
          fetch_to_shared(input + g * cells + i, a.raw.row(b * time + t) + g * width + first + channel, true);
      });
      const float* h = hidden + (t & 1) * h_size;
      for (int item = thread; item < rows * cut.parts; item += slstm_threads) {
        const int row = item % rows, part = item / rows, gate = row / cut.channels,
                  channel = row % cut.channels;
        float sums[Sequences] = {};
        if (channel < channels) {
          const int end = min(quads, (part + 1) * span);
          const float4* w = cut.resident ? reinterpret_cast<const float4*>(kept) + row
                                         : weights + gate * head + own + channel;
          const int step = cut.resident ? rows : 4 * head;
#pragma unroll 4
          for (int quad = part * span; quad < end; ++quad)
            add_quad<Sequences>(sums, w[static_cast<index>(quad) * step], h + 4 * quad * Sequences);
        }
        put<Sequences>(partial + (part * rows + row) * Sequences, sums);
      }
      wait_for_fetches();
      __syncthreads();
      each_cell([&](int i, int channel, int s, index b) {
        float raw[4];
        for (int g = 0; g < 4; ++g) {
          raw[g] = a.bias[g * width + first + channel];
          for (int part = 0; part < cut.parts; ++part)
            raw[g] += partial[(part * rows + g * cut.channels + channel) * Sequences + s];
          raw[g] += input[g * cells + i];
          a.raw.row(b * time + t)[g * width + first + channel] = raw[g];
        }
        const auto x = math::slstm_cell<float>(raw[0], raw[1], raw[2], raw[3], memory[i], memory[cells + i],
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

/// In order: partial sums for dh [2][parts][head][Sequences]; gradients of gates [channels][4][Sequences]; what
/// a step reads [8][cells]; dc, dn [2][cells]; weights.
inline index slstm_backward_floats(index head, const slstm_cut& cut, int sequences) {
  const index cells = cut.channels * sequences;
  return 2 * cut.parts * head * sequences + 4 * cells + 8 * cells + 2 * cells +
         (cut.resident ? head * 4 * cut.channels : 0);
}

template <int Sequences, bool Cluster>
__global__ void __launch_bounds__(slstm_threads, 1)
    slstm_backward_float(slstm_backward_arguments<float> a, float* carry, const float* packed, slstm_cut cut) {
  if constexpr (!Cluster || has_clusters) {
    extern __shared__ float4 slstm_memory[];
    const int head = static_cast<int>(a.head), thread = static_cast<int>(threadIdx.x);
    const int rank = Cluster ? cluster_rank() : 0, blocks = Cluster ? cluster_size() : 1;
    const int own = rank * cut.channels, channels = min(cut.channels, head - own);
    const int cells = cut.channels * Sequences, sums_size = cut.parts * head * Sequences;
    const index width = a.width(), time = a.seq.time, first = blockIdx.y * a.head + own;
    const index first_b = static_cast<index>(blockIdx.x) / blocks * Sequences;
    float* const partial = reinterpret_cast<float*>(slstm_memory);
    float* const gates = partial + 2 * sums_size;
    float* const tape = gates + 4 * cells;
    float* const memory = tape + 8 * cells;
    float* const kept = memory + 2 * cells;

    const float4* weights =
        reinterpret_cast<const float4*>(packed) + (static_cast<index>(blockIdx.y) * head + own) * head;
    if (cut.resident) {
      for (int i = thread; i < channels * head; i += slstm_threads)
        reinterpret_cast<float4*>(kept)[i] = weights[i];
      weights = reinterpret_cast<const float4*>(kept);
    }
    for (int i = thread; i < 4 * cells; i += slstm_threads) gates[i] = 0;

    const auto each_cell = [&](const auto& f) {
      for (int i = thread; i < cells; i += slstm_threads) {
        const int channel = i % cut.channels, s = i / cut.channels;
        if (channel < channels && first_b + s < a.seq.batch) f(i, channel, s, first_b + s);
      }
    };
    const auto load = [&](index t) {
      each_cell([&](int i, int channel, int, index b) {
        const float* before = distil_xlstm::detail::slstm_before<float>(a, b, t);
        const float* raw = a.raw.row(b * time + t) + first + channel;
        for (int g = 0; g < 4; ++g) fetch_to_shared(tape + g * cells + i, raw + g * width, true);
        for (int q = 0; q < 3; ++q)
          fetch_to_shared(tape + (4 + q) * cells + i, before ? before + (q + 1) * width + first + channel : raw,
                          before != nullptr);
        fetch_to_shared(tape + 7 * cells + i, a.dh.row(b * time + t) + first + channel, true);
      });
    };
    const auto meet = [&] {
      wait_for_fetches();
      if constexpr (Cluster)
        cluster_sync();
      else
        __syncthreads();
    };
    // The gradient of h that exchange e brought.
    const auto receive = [&](index e, int channel, int s) {
      float sum = 0;
      for (int block = 0; block < blocks; ++block)
        for (int part = 0; part < cut.parts; ++part) {
          const float* p = partial + (e & 1) * sums_size + (part * head + own + channel) * Sequences + s;
          if constexpr (Cluster)
            sum += read_in(block, p);
          else
            sum += *p;
        }
      return sum;
    };
    each_cell([&](int i, int channel, int, index b) {
      for (int q = 0; q < 2; ++q) memory[q * cells + i] = carry[(b * 3 + 1 + q) * width + first + channel];
    });
    load(time - 1);
    meet();

    const int span = (channels + cut.parts - 1) / cut.parts;
    for (index t = time - 1; t >= 0; --t) {
      const index e = time - 1 - t;
      each_cell([&](int i, int channel, int s, index b) {
        const auto at = [&](int q) { return tape[q * cells + i]; };
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
      if (t > 0) load(t - 1);
      for (int item = thread; item < head * cut.parts; item += slstm_threads) {
        const int row = item % head, part = item / head;
        float sums[Sequences] = {};
        const int end = min(channels, (part + 1) * span);
#pragma unroll 4
        for (int channel = part * span; channel < end; ++channel)
          add_quad<Sequences>(sums, weights[static_cast<index>(channel) * head + row],
                              gates + channel * 4 * Sequences);
        put<Sequences>(partial + (e & 1) * sums_size + (part * head + row) * Sequences, sums);
      }
      meet();
    }
    each_cell([&](int i, int channel, int s, index b) {
      float* to = carry + b * 3 * width + first + channel;
      to[0] = receive(time - 1, channel, s), to[width] = memory[i], to[2 * width] = memory[cells + i];
    });
    if constexpr (Cluster) cluster_sync();
  }
}

}  // namespace distil_xlstm::device::detail
