#pragma once

#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/device/cuda/cluster.cuh>
#include <distil_xlstm/device/cuda/fast_scalar.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/op/slstm/op.hpp>

// The sLSTM time loop with its products in bfloat16 on the tensor cores. A block, or a cluster of blocks, keeps
// the recurrent matrix of a head in its registers for all steps of 4 `Cells` sequences: those are the columns
// of the products m16n8k16 (the odd columns are zeros where there are four), gates, and on the way back
// channels, the rows. A warp has eight channels; its lane l the cells of channel l / 4 and of sequences l % 4,
// l % 4 + 4, on the way back 2 (l % 4) and one more.

namespace distil_xlstm::device::detail {

/// Steps of which a warp keeps the input.
inline constexpr int slstm_stages = 4;

/// Floats of a warp's shared memory: [stages + 1][4][4 Cells][8], the input and then the pre-activations; h, c,
/// n, m.
constexpr int slstm_forward_ring(int cells) { return (slstm_stages + 1) * 4 * 4 * cells * 8; }

/// The cell is computed with it, as its products are rounded.
using slstm_scalar = fast_scalar<float, approximate::all>;

/// Four elements of global memory on their way to shared memory, those beyond `count` as zeros.
__device__ inline void fetch4(std::uint32_t to, const float* from, int count, bool vectorised) {
  if (vectorised) {
    copy_async_16(to, from, count > 0 ? 16 : 0);
  } else {
    for (int i = 0; i < 4; ++i) copy_async_4(to + 4 * i, from + i, i < count ? 4 : 0);
  }
}
/// Waits for all but the last steps' fetches.
__device__ inline void wait_for_stage() {
  wait_for_copies<slstm_stages - 2>();
  __syncwarp();
}
/// Four elements back, but for those beyond `count`.
__device__ inline void write4(float* to, const float* from, int count, bool vectorised) {
  if (count <= 0) return;
  if (vectorised) {
    __stcg(reinterpret_cast<float4*>(to), load4(from));
  } else {
    for (int i = 0; i < 4; ++i)
      if (i < count) __stcg(to + i, from[i]);
  }
}

/// The rows of the recurrent matrix that a warp multiplies with h, in registers: `Tiles` k tiles of 16 channels hold a
/// head. One product's rows are the gates i and f of the warp's channels, the other's z and o, so that the four gates
/// of a cell meet in one thread. `TwoChains`: sums of every other tile, where few warps need more products in flight.
template <int Tiles, bool TwoChains>
struct slstm_recurrent_rows {
  std::uint32_t rows[Tiles][2][4];

  /// Of the head's matrix [4, head, head]; a thread's are those of `channel`.
  __device__ slstm_recurrent_rows(const float* of_head, int head, int channel, int column) {
    const auto pair = [&](int gate, int k) {
      const float* row = of_head + (static_cast<index>(gate) * head + channel) * head;
      return pack_bf16(channel < head && k < head ? row[k] : 0.0f,
                       channel < head && k + 1 < head ? row[k + 1] : 0.0f);
    };
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          rows[tile][half][i] = pair(2 * half + i % 2, 16 * tile + 8 * (i / 2) + 2 * column);
  }
  /// pre += R h of the thread's cells; `hidden` is this lane's row of h in shared memory.
  template <int Cells>
  __device__ void add_product(float (&pre)[Cells][4], std::uint32_t hidden) const {
    float x[2][2][4] = {};
#pragma unroll
    for (int tile = 0; tile < Tiles; tile += 2) {
      std::uint32_t k[4];
      load_matrices<true>(k, hidden + 256 * static_cast<std::uint32_t>(tile));
      for (int half = 0; half < 2; ++half) {
        multiply_add(x[0][half], rows[tile][half], k[0], k[1]);
        if (tile + 1 < Tiles) multiply_add(x[TwoChains][half], rows[tile + 1][half], k[2], k[3]);
      }
    }
    for (int q = 0; q < Cells; ++q)
      for (int g = 0; g < 4; ++g) {
        const int i = g % 2 * 2 + q;
        pre[q][g] += TwoChains ? x[0][g / 2][i] + x[1][g / 2][i] : x[0][g / 2][i];
      }
  }
};

/// What a warp reads and writes goes through its own shared memory, in rows of its eight channels: some steps ahead of
/// the loop, and behind it. Lane l moves half l % 2 of gate, or state, l / 8 of a sequence, so that a warp moves whole
/// sectors.
template <int Cells>
struct slstm_warp_rows {
  static constexpr int sequences = 4 * Cells, tile_size = 4 * sequences * 8;
  float *stages, *states;  ///< [slstm_stages][4][sequences][8], and [4][sequences][8]

  /// Of the sequences from `first_b` and the channels from `first` of head `blockIdx.y`.
  __device__ slstm_warp_rows(const slstm_arguments<float>& a, float* memory, int lane, index first_b, int first)
      : stages(memory),
        states(memory + slstm_stages * tile_size),
        vectorised_(is_vectorised(a.raw, a.head_dim) && is_vectorised(a.states, a.head_dim)),
        place_((lane / 8 * sequences + lane / 2 % 4) * 8 + lane % 2 * 4),
        time_(a.seq.time),
        raw_stride_(a.raw.stride),
        states_stride_(a.states.stride) {
    const index row = (first_b + lane / 2 % 4) * time_,
                moved = lane / 8 * a.width() + blockIdx.y * a.head_dim + first + lane % 2 * 4;
    from_ = to_ = a.raw.row(row) + moved, states_to_ = a.states.row(row) + moved;
    for (int q = 0; q < Cells; ++q)
      count_[q] = first_b + lane / 2 % 4 + 4 * q < a.seq.batch
                      ? static_cast<int>(a.head_dim) - first - lane % 2 * 4
                      : 0;
  }
  __device__ float* stage(index t) const { return stages + t % slstm_stages * tile_size; }
  /// Begins to fetch step t, which is the one after that fetched last.
  __device__ void fetch(index t) {
    if (t < time_) {
      for (int q = 0; q < Cells; ++q)
        fetch4(shared_address(stage(t) + place_ + q * 32), from_ + 4 * q * time_ * raw_stride_, count_[q],
               vectorised_);
      from_ += raw_stride_;
    }
    commit_copies();
  }
  /// Writes the pre-activations of step t, and the states, each the step after that written last.
  __device__ void write(index t) {
    for (int q = 0; q < Cells; ++q) {
      write4(to_ + 4 * q * time_ * raw_stride_, stage(t) + place_ + q * 32, count_[q], vectorised_);
      write4(states_to_ + 4 * q * time_ * states_stride_, states + place_ + q * 32, count_[q], vectorised_);
    }
    to_ += raw_stride_, states_to_ += states_stride_;
  }

 private:
  bool vectorised_;
  int place_, count_[Cells];
  index time_, raw_stride_, states_stride_;
  const float* from_;
  float *to_, *states_to_;
};

/// What a thread's cells pass on from step to step.
template <int Cells>
struct slstm_forward_cells {
  float h[Cells] = {}, c[Cells] = {}, n[Cells] = {}, m[Cells] = {};

  /// A document's start finds zeros.
  __device__ void reset(int q, bool begins) {
    if (begins) h[q] = c[q] = n[q] = m[q] = 0;
  }
  /// `out`, which is what a step writes, gets its h, which others wait for.
  __device__ void step_h(float (&out)[Cells][4], const float (&pre)[Cells][4], const bool (&begins)[Cells]) {
    for (int q = 0; q < Cells; ++q) {
      out[q][0] =
          math::slstm_hidden<slstm_scalar>(pre[q][0], pre[q][1], pre[q][2], pre[q][3], c[q], n[q], m[q]).x;
      h[q] = begins[q] ? 0.0f : out[q][0];
    }
  }
  /// The rest of it; the next step begins a document where `begins`.
  __device__ void step(float (&out)[Cells][4], const float (&pre)[Cells][4], const bool (&begins)[Cells]) {
    for (int q = 0; q < Cells; ++q) {
      const auto s =
          math::slstm_cell<slstm_scalar>(pre[q][0], pre[q][1], pre[q][2], pre[q][3], c[q], n[q], m[q]);
      out[q][1] = c[q] = s.c.x, out[q][2] = n[q] = s.n.x, out[q][3] = m[q] = s.m.x;
      reset(q, begins[q]);
    }
  }
};

/// Writes h of a thread's cells, a pair, to shared memory, that of all blocks of a cluster.
template <bool Cluster>
__device__ void slstm_publish(std::uint32_t pair, std::uint32_t to, const arrival& come, int blocks) {
  if constexpr (Cluster) {
#pragma unroll 1
    for (int block = 0; block < blocks; ++block)
      send(address_in(block, to), address_in(block, come.address), pair);
  } else {
    store_shared(to, pair);
  }
}

/// A thread keeps c, n and m of its cells; h goes to all warps, of all blocks of the cluster, in bfloat16.
template <int Tiles, int Cells, int Warps, bool Cluster>
__global__ void __launch_bounds__(32 * Warps, 1) slstm_forward_bf16(slstm_arguments<float> a) {
  if constexpr (!Cluster || has_clusters) {
    constexpr int rows = 16 * (Tiles + Tiles % 2), sequences = 4 * Cells;
    extern __shared__ float4 slstm_memory[];
    __shared__ alignas(128) std::uint32_t hidden[2][rows][4];
    __shared__ alignas(8) std::uint64_t arrivals[2];
    const int lane = static_cast<int>(threadIdx.x) % 32, column = lane % 4, warp = warp_number();
    const int warps = static_cast<int>(blockDim.x) / 32;
    const int rank = Cluster ? cluster_rank() : 0, blocks = Cluster ? cluster_size() : 1;
    const int head = static_cast<int>(a.head_dim), first = 8 * (rank * warps + warp),
              channel = first + lane / 4;
    const index width = a.width(), time = a.seq.time, of_warp = blockIdx.y * a.head_dim + first;
    const index first_b = static_cast<index>(blockIdx.x) / blocks * sequences;
    const std::uint32_t arrivals_at = shared_address(arrivals);
    const auto come = [&](int t) { return arrival{arrivals_at + t % 2 * 8u}; };
    const int bytes = (head + 7) / 8 * 8 * 4 * static_cast<int>(sizeof(std::uint32_t));

    for (int i = static_cast<int>(threadIdx.x); i < 2 * rows * 4; i += static_cast<int>(blockDim.x))
      hidden[0][0][i] = 0;
    if (Cluster && threadIdx.x == 0)
      for (int turn = 0; turn < 2; ++turn) come(turn).begin(), come(turn).announce(bytes);

    const slstm_recurrent_rows<Tiles, Cluster> recurrent(
        a.recurrent + static_cast<index>(blockIdx.y) * 4 * head * head, head, channel, column);

    float bias[4];
    for (int g = 0; g < 4; ++g) bias[g] = channel < head ? a.bias[g * width + of_warp + lane / 4] : 0.0f;
    slstm_forward_cells<Cells> now;
    const auto each_cell = [&](const auto& f) {  // that is one
      for (int q = 0; q < Cells; ++q)
        if (channel < head && first_b + column + 4 * q < a.seq.batch) f(q, first_b + column + 4 * q);
    };
    each_cell([&](int q, index b) {
      const float* from = a.state.of(b) + of_warp + lane / 4;
      now.h[q] = from[0], now.c[q] = from[width], now.n[q] = from[2 * width], now.m[q] = from[3 * width];
      float* to = a.initial + b * 4 * width + of_warp + lane / 4;
      to[0] = now.h[q], to[width] = now.c[q], to[2 * width] = now.n[q], to[3 * width] = now.m[q];
      now.reset(q, a.seq.begins(b, 0));
    });
    // Addresses are at hand when h is there, for all blocks wait for it.
    std::uint32_t published = shared_address(&hidden[0][channel][column]);
    hold(published);
    const auto publish = [&](int t) {
      const std::uint32_t pair = pack_bf16(now.h[0], Cells > 1 ? now.h[Cells - 1] : 0.0f);
      const std::uint32_t to = published + t % 2 * static_cast<std::uint32_t>(sizeof hidden[0]);
      slstm_publish<Cluster>(pair, to, come(t), blocks);
    };

    slstm_warp_rows<Cells> moved(a, reinterpret_cast<float*>(slstm_memory) + warp * slstm_forward_ring(Cells),
                                 lane, first_b, first);
    const std::int32_t* start = a.seq.start ? a.seq.start + (first_b + column) * time : nullptr;

    if constexpr (Cluster)
      cluster_sync();
    else
      __syncthreads();
    if (first < head) {
      publish(0);
      for (int t = 0; t + 1 < slstm_stages; ++t) moved.fetch(t);
      for (int t = 0; t < time; ++t) {
        wait_for_stage();
        float* const cell = moved.stage(t) + column * 8 + lane / 4;
        float pre[Cells][4];
        for (int q = 0; q < Cells; ++q)
          for (int g = 0; g < 4; ++g) pre[q][g] = cell[(g * sequences + 4 * q) * 8] + bias[g];
        moved.fetch(t + slstm_stages - 1);
        bool begins[Cells] = {};
        if (start) {
          ++start;
          if (t + 1 < time) each_cell([&](int q, index) { begins[q] = start[4 * q * time] == t + 1; });
        }
        if constexpr (Cluster) {
          come(t).wait(t >> 1);
          if (threadIdx.x == 0) come(t).announce(bytes);
        } else {
          __syncthreads();
        }

        recurrent.add_product(pre, shared_address(hidden[t & 1][lane]));

        float out[Cells][4];
        now.step_h(out, pre, begins);
        if (t + 1 < time) publish(t + 1);
        now.step(out, pre, begins);
        for (int q = 0; q < Cells; ++q)
          for (int g = 0; g < 4; ++g) {
            cell[(g * sequences + 4 * q) * 8] = pre[q][g];
            moved.states[(g * sequences + column + 4 * q) * 8 + lane / 4] = out[q][g];
          }
        __syncwarp();
        moved.write(t);
      }
      each_cell([&](int q, index b) {
        float* last = a.state.of(b) + of_warp + lane / 4;
        last[0] = now.h[q], last[width] = now.c[q], last[2 * width] = now.n[q], last[3 * width] = now.m[q];
      });
    }
    if constexpr (Cluster) cluster_sync();
  }
}

/// Steps a pointer through the rows of a thread's first sequence; those of its next sequence lie `sequence`
/// further.
template <class P>
struct slstm_rows {
  P* at;
  index stride, sequence;
  template <class M>
  __device__ slstm_rows(const M& m, index time, index b, index t, index column)
      : at(m.row(b * time + t) + column), stride(m.stride), sequence(time * m.stride) {}
  __device__ P* of(int q) const { return at + q * sequence; }
  __device__ void advance(index steps) {
    at += steps * stride;
    hold(at);
  }
};

/// How the blocks of a cluster share a head on the way back: each has `channels` of its channels, and the products
/// with their gates' gradients are in `parts`.
struct slstm_backward_cut {
  int head, blocks, rank, channels, parts;
  __device__ int own() const { return rank * channels; }
  /// Floats that one part of one block sends for a block's channels of so many sequences.
  __device__ int slot(int sequences) const { return channels * sequences; }
};

/// What a warp multiplies with the gradients of its block's gates, in registers: `Rows` row tiles, which are channels
/// of the head, by the `Tiles` k tiles of one part, which are gates and channels of the block.
template <int Rows, int Tiles, int Cells, bool Cluster>
struct slstm_recurrent_columns {
  static constexpr int sequences = 4 * Cells;
  bool any;  ///< this warp has such rows
  int part;  ///< that it multiplies
  std::uint32_t rows[Rows][Tiles][4];
  int owner[Rows][2];             ///< the block that a group of eight channels goes to (-1: none)
  std::uint32_t target[Rows][2];  ///< where there, in bytes

  __device__ slstm_recurrent_columns(const float* of_head, const slstm_backward_cut& cut, int warp, int lane) {
    const int head = cut.head, channels = cut.channels, column = lane % 4;
    const int warps = ((head + 15) / 16 + Rows - 1) / Rows;  // of a part
    part = warp / warps, any = part < cut.parts;
    const int first = warp % warps * Rows * 16;
    const auto weight = [&](int row, int k) {
      const int gate = k / channels, from = cut.own() + k % channels;
      return any && gate < 4 && from < head && row < head
                 ? of_head[(static_cast<index>(gate) * head + from) * head + row]
                 : 0.0f;
    };
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile)
#pragma unroll
      for (int row = 0; row < Rows; ++row)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int to = first + 16 * row + 8 * (i % 2) + lane / 4;
          const int k = 16 * (part * Tiles + tile) + 8 * (i / 2) + 2 * column;
          rows[row][tile][i] = pack_bf16(weight(to, k), weight(to, k + 1));
        }
    for (int row = 0; row < Rows; ++row)
      for (int half = 0; half < 2; ++half) {
        const int to = first + 16 * row + 8 * half;
        owner[row][half] = any && to < head ? to / channels : -1;
        target[row][half] = 4u * ((cut.rank * cut.parts + part) * cut.slot(sequences) +
                                  (to % channels + lane / 4) * sequences + column * Cells);
      }
  }
  /// What the gates' gradients, of this lane's row in shared memory, add to dh goes to the blocks that have the
  /// channels, from `received` on.
  __device__ void send_products(std::uint32_t gates, std::uint32_t received, const arrival& come) const {
    float sums[2][Rows][4] = {};
#pragma unroll
    for (int tile = 0; tile < Tiles; tile += 2) {
      std::uint32_t k[4];
      load_matrices<true>(k, gates + 256 * static_cast<std::uint32_t>(tile));
      for (int row = 0; row < Rows; ++row) {
        multiply_add(sums[0][row], rows[row][tile], k[0], k[1]);
        multiply_add(sums[1][row], rows[row][tile + 1], k[2], k[3]);
      }
    }
    for (int row = 0; row < Rows; ++row)
      for (int half = 0; half < 2; ++half) {
        if (owner[row][half] < 0) continue;
        const float x = sums[0][row][2 * half] + sums[1][row][2 * half];
        const float y = sums[0][row][2 * half + 1] + sums[1][row][2 * half + 1];
        const std::uint32_t to = received + target[row][half];
        if constexpr (Cluster) {
          const std::uint32_t there = address_in(owner[row][half], to);
          const std::uint32_t arrival = address_in(owner[row][half], come.address);
          if constexpr (Cells > 1)
            send(there, arrival, x, y);
          else
            send(there, arrival, __float_as_uint(x));
        } else {
          store_shared(to, __float_as_uint(x));
          if constexpr (Cells > 1) store_shared(to + 4, __float_as_uint(y));
        }
      }
  }
};

/// Which cells a thread has on the way back: those of channel `at` of the width, of the sequences from b.
struct slstm_backward_place {
  index b, at, width, time;
};

/// Where those are read and written, from the last step on. What lies far away is fetched some steps ahead: lane l
/// fetches array l / 4 of a sequence.
struct slstm_backward_rows {
  static constexpr int ahead = 4;
  slstm_rows<float> raw;
  slstm_rows<const float> states, above, fetched;
  const std::int32_t* starts;

  /// `first`: of its warp's channels.
  __device__ slstm_backward_rows(const slstm_backward_arguments<float>& a, const slstm_backward_place& cells,
                                 index first, int array)
      : raw(a.raw, a.seq.time, cells.b, a.seq.time - 1, cells.at),
        states(a.states, a.seq.time, cells.b, a.seq.time - 2, cells.at),
        above(a.dh, a.seq.time, cells.b, a.seq.time - 1, cells.at),
        fetched(array < 4 ? slstm_rows<const float>(a.raw, a.seq.time, cells.b, a.seq.time - 1 - ahead,
                                                    array * a.width() + first)
                : array < 7
                    ? slstm_rows<const float>(a.states, a.seq.time, cells.b, a.seq.time - 1 - ahead,
                                              (array - 3) * a.width() + first)
                    : slstm_rows<const float>(a.dh, a.seq.time, cells.b, a.seq.time - 1 - ahead, first)),
        starts(a.seq.start ? a.seq.start + cells.b * a.seq.time + a.seq.time - 1 : nullptr) {}
  /// Begins to fetch what step t - `ahead` reads.
  template <int Cells>
  __device__ void prefetch(const slstm_backward_place& cells, int t, index batch) {
    for (int q = 0; q < Cells; ++q)
      if (t >= ahead && cells.b + q < batch) prefetch_far(fetched.of(q));
    fetched.advance(-1);
  }
  /// Writes the gradients of a step's pre-activations in their place, and steps back.
  template <int Cells>
  __device__ void write(const slstm_backward_place& cells, const bool (&valid)[Cells],
                        const float (&gradient)[Cells][4]) {
    for (int q = 0; q < Cells; ++q)
      if (valid[q])
        for (int g = 0; g < 4; ++g) __stcg(raw.of(q) + g * cells.width, gradient[q][g]);
    raw.advance(-1), states.advance(-1), above.advance(-1);
    if (starts) --starts, hold(starts);
  }
};

/// What a thread's cells read of a step, loaded a step ahead.
template <int Cells>
struct slstm_backward_inputs {
  float pre[Cells][4] = {}, before[Cells][3] = {};  ///< pre-activations; c, n and m of the step before
  float above[Cells] = {};                          ///< dh
  std::int32_t start[Cells] = {};                   ///< of the document, where there are several

  /// Of step t, which is `steps` before that where the rows are.
  __device__ void load(const slstm_backward_arguments<float>& a, const slstm_backward_rows& rows,
                       const slstm_backward_place& cells, const bool (&valid)[Cells], int t, int steps) {
    for (int q = 0; q < Cells; ++q) {
      if (!valid[q] || t < 0) continue;
      const float* p = rows.raw.of(q) - steps * rows.raw.stride;
      for (int g = 0; g < 4; ++g) pre[q][g] = __ldcg(p + g * cells.width);
      p = t > 0 ? rows.states.of(q) - steps * rows.states.stride
                : a.initial + (cells.b + q) * 4 * cells.width + cells.at;
      for (int s = 0; s < 3; ++s) before[q][s] = __ldcg(p + (s + 1) * cells.width);
      above[q] = __ldcg(rows.above.of(q) - steps * rows.above.stride);
      if (rows.starts) start[q] = __ldcg(rows.starts + q * cells.time - steps);
    }
  }
};

/// What a thread's cells pass on from step to step, and from call to call, on the way back.
template <int Cells>
struct slstm_backward_carry {
  float dh[Cells], dc[Cells], dn[Cells];

  __device__ slstm_backward_carry(const float* carry, const slstm_backward_place& cells,
                                  const bool (&valid)[Cells]) {
    for (int q = 0; q < Cells; ++q) {
      const float* from = carry + (cells.b + q) * 3 * cells.width + cells.at;
      dh[q] = valid[q] ? from[0] : 0.0f, dc[q] = valid[q] ? from[cells.width] : 0.0f;
      dn[q] = valid[q] ? from[2 * cells.width] : 0.0f;
    }
  }
  __device__ void write(float* carry, const slstm_backward_place& cells, const bool (&valid)[Cells]) const {
    for (int q = 0; q < Cells; ++q)
      if (valid[q]) {
        float* to = carry + (cells.b + q) * 3 * cells.width + cells.at;
        to[0] = dh[q], to[cells.width] = dc[q], to[2 * cells.width] = dn[q];
      }
  }
};

/// A step of a thread's cells on the way back.
template <int Cells>
class slstm_backward_step {
  bool keep_[Cells];  ///< else nothing flows into the document before
  float c0_[Cells], n0_[Cells], above_[Cells];
  math::slstm_step<slstm_scalar> step_[Cells];

 public:
  float gradient[Cells][4];  ///< of the pre-activations

  /// The cell again.
  __device__ void forward(const slstm_backward_inputs<Cells>& in, const slstm_backward_rows& rows, int t) {
    for (int q = 0; q < Cells; ++q) {
      keep_[q] = !rows.starts || in.start[q] != t;
      c0_[q] = keep_[q] ? in.before[q][0] : 0.0f, n0_[q] = keep_[q] ? in.before[q][1] : 0.0f;
      above_[q] = in.above[q];
      step_[q] = math::slstm_cell<slstm_scalar>(in.pre[q][0], in.pre[q][1], in.pre[q][2], in.pre[q][3], c0_[q],
                                                n0_[q], keep_[q] ? in.before[q][2] : 0.0f);
    }
  }
  __device__ void backward(slstm_backward_carry<Cells>& carry) {
    for (int q = 0; q < Cells; ++q) {
      const auto g = math::slstm_cell_backward<slstm_scalar>(step_[q], c0_[q], n0_[q], carry.dh[q] + above_[q],
                                                             carry.dc[q], carry.dn[q]);
      gradient[q][0] = g.i.x, gradient[q][1] = g.f.x, gradient[q][2] = g.z.x, gradient[q][3] = g.o.x;
      carry.dc[q] = keep_[q] ? g.c.x : 0.0f, carry.dn[q] = keep_[q] ? g.n.x : 0.0f;
    }
  }
  /// What flows of gate g into the step before.
  __device__ std::uint32_t passed_on(int g) const {
    return pack_bf16(keep_[0] ? gradient[0][g] : 0.0f,
                     Cells > 1 && keep_[Cells - 1] ? gradient[Cells - 1][g] : 0.0f);
  }
};

/// A block has some channels of the head, eight a warp: it makes their gates' gradients, then from these what they add
/// to dh of every channel of the head.
template <int Rows, int Tiles, int Cells, int Warps, bool Cluster>
__global__ void __launch_bounds__(32 * Warps, 1)
    slstm_backward_bf16(slstm_backward_arguments<float> a, float* carry, int channels, int parts) {
  if constexpr (!Cluster || has_clusters) {
    static_assert(Tiles % 2 == 0);
    extern __shared__ float4 slstm_memory[];
    __shared__ alignas(8) std::uint64_t arrivals[2];
    const int lane = static_cast<int>(threadIdx.x) % 32, column = lane % 4, warp = warp_number();
    const int rank = Cluster ? cluster_rank() : 0, blocks = Cluster ? cluster_size() : 1;
    const int head = static_cast<int>(a.head_dim), groups = (head + 7) / 8;
    const slstm_backward_cut cut{head, blocks, rank, channels, parts};
    const int own = cut.own(), local = 8 * warp + lane / 4, channel = own + local;
    const index width = a.width(), time = a.seq.time, at = blockIdx.y * a.head_dim + channel;
    const index b = (blockIdx.x / blocks * 4 + column) * Cells;
    // Gradients of gates in bfloat16, [2][gate, channel][4 pairs of sequences], and what came for dh,
    // [2][block, part][channel][4 Cells].
    const int k_rows = 16 * Tiles * parts;
    std::uint32_t* const gates = reinterpret_cast<std::uint32_t*>(slstm_memory);
    // All wait for the slowest: what a step needs of addresses is in registers before what it waits for comes. The
    // result of a shuffle the compiler does not find anew.
    const auto kept = [&](std::uint32_t x) { return __shfl_sync(~0u, x, lane); };
    const std::uint32_t slot = kept(4 * cut.slot(4 * Cells)), gate_size = kept(16 * channels);  // bytes
    const std::uint32_t gates_half = 16 * k_rows, received_half = blocks * parts * slot;
    const std::uint32_t gates_at = shared_address(gates), received = kept(gates_at + 2 * gates_half);
    const std::uint32_t own_gates = kept(gates_at + 4 * (local * 4 + column));
    const std::uint32_t own_sums = kept(received + 4 * Cells * (local * 4 + column));
    const std::uint32_t arrivals_at = shared_address(arrivals);
    // Of a step's halves, and of those before.
    std::uint32_t gates_now = 0, gates_before = gates_half, received_now = 0, received_before = received_half;
    arrival come{arrivals_at}, come_before{arrivals_at + 8};
    const int bytes = blocks * parts * (min(groups - own / 8, channels / 8) * 8) * 4 * Cells * 4;
    const bool cells = local < channels && own + 8 * warp < head;
    const slstm_backward_place mine{b, at, width, time};
    bool valid[Cells];
    for (int q = 0; q < Cells; ++q) valid[q] = cells && channel < head && b + q < a.seq.batch;

    for (int i = static_cast<int>(threadIdx.x); i < 2 * k_rows * 4; i += static_cast<int>(blockDim.x))
      gates[i] = 0;
    if (Cluster && threadIdx.x == 0)
      come.begin(), come.announce(bytes), come_before.begin(), come_before.announce(bytes);

    const slstm_recurrent_columns<Rows, Tiles, Cells, Cluster> recurrent(
        a.recurrent + static_cast<index>(blockIdx.y) * 4 * head * head, cut, warp, lane);
    const std::uint32_t read_gates = kept(gates_at + 16 * (recurrent.part * Tiles * 16 + lane));

    slstm_backward_rows rows(a, mine, blockIdx.y * a.head_dim + own + 8 * warp, lane / 4);
    slstm_backward_inputs<Cells> inputs;
    slstm_backward_carry<Cells> flow(carry, mine, valid);
    inputs.load(a, rows, mine, valid, static_cast<int>(time) - 1, 0);

    if constexpr (Cluster)
      cluster_sync();
    else
      __syncthreads();
    const auto swap = [](auto& a, auto& b) {
      const auto was = a;
      a = b, b = was;
    };
    // dh of this thread's cells, once the partial sums of exchange e have come.
    const auto receive = [&](int e) {
      if constexpr (Cluster) {
        come_before.wait(e >> 1);
        if (threadIdx.x == 0) come_before.announce(bytes);
      }
      std::uint32_t sums = own_sums + received_before;
      for (int q = 0; q < Cells; ++q) flow.dh[q] = 0;
#pragma unroll 1
      for (int i = 0; i < blocks * parts; i += 2, sums += 2 * slot)  // two at once
        for (int q = 0; q < Cells; ++q) {
          const float first = load_shared(sums + 4 * q);
          const float second = i + 1 < blocks * parts ? load_shared(sums + slot + 4 * q) : 0.0f;
          flow.dh[q] = flow.dh[q] + first + second;
        }
    };

    for (int t = static_cast<int>(time) - 1; t >= 0; --t) {
      const int e = static_cast<int>(time) - 1 - t;  // the exchange that follows this step
      slstm_backward_step<Cells> step;
      if (cells) {
        step.forward(inputs, rows, t);  // while the sums are on their way
        inputs.load(a, rows, mine, valid, t - 1, 1);
        rows.prefetch<Cells>(mine, t, a.seq.batch);
      }
      if constexpr (!Cluster) __syncthreads();
      if (cells) {
        if (e > 0) receive(e - 1);
        step.backward(flow);
        for (int g = 0; g < 4; ++g) store_shared(own_gates + gates_now + g * gate_size, step.passed_on(g));
      }
      __syncthreads();
      if (recurrent.any) recurrent.send_products(read_gates + gates_now, received + received_now, come);
      if (cells) rows.write(mine, valid, step.gradient);
      swap(gates_now, gates_before), swap(received_now, received_before), swap(come, come_before);
    }
    if constexpr (!Cluster) __syncthreads();
    if (cells) {
      receive(static_cast<int>(time) - 1);
      flow.write(carry, mine, valid);
    }
    if constexpr (Cluster) cluster_sync();
  }
}

}  // namespace distil_xlstm::device::detail
