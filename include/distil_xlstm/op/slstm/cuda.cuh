#pragma once

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include <distil_xlstm/op/slstm/cuda/bf16.cuh>
#include <distil_xlstm/op/slstm/cuda/float.cuh>
#include <distil_xlstm/op/slstm/cuda/step.cuh>

namespace distil_xlstm::device {

namespace detail {

/// Who does the time loop: blocks in a cluster, and sequences of a block, 4 or 8. No blocks: nobody can.
struct slstm_plan {
  int blocks = 0, sequences = 4;
};

/// As few sequences a block as the card has room for: a step takes the less time. Then the first of `blocks`
/// that has room; else the last.
inline slstm_plan slstm_plan_of(const cuda_base& device, index batch, index heads,
                                std::initializer_list<int> blocks) {
  for (const int sequences : {4, 8})
    for (const int n : blocks)
      if (blocks_for(batch, sequences) * heads * n <= device.multiprocessors()) return {n, sequences};
  return {*(blocks.end() - 1), 8};
}

/// Blocks enough to hold a head's matrix in their registers, and more, as measured on an H100, while the card
/// has room. Before sm_90 there are no clusters.
inline slstm_plan slstm_bf16_plan(const cuda_base& device, index batch, index heads, index head,
                                  bool backward) {
  const auto plan = [&](std::initializer_list<int> blocks) {
    return slstm_plan_of(device, batch, heads, blocks);
  };
  if (head <= 8) return plan({1});
  if (device.capability() < 90) return head <= 144 ? plan({1}) : slstm_plan{};
  if (head <= 64) return plan({backward && head > 16 ? 3 : 2, 1});
  if (head <= 96) return plan({3, 2});
  if (head <= 144) return plan({6, 3, 2});
  if (head <= 192) return backward ? plan({6, 4}) : plan({3});
  if (head <= 288) return plan({8, 6});
  return head <= 384 ? plan({8}) : slstm_plan{};
}

template <int Tiles, int Cells, int Warps, bool Cluster>
void launch_slstm_forward(cuda_base& device, const slstm_arguments<float>& a, int blocks) {
  const index groups = blocks_for(a.head_dim, 8), warps = blocks_for(groups, blocks);
  blocks = static_cast<int>(blocks_for(groups, warps));
  require(warps <= Warps && a.head_dim <= 16 * Tiles, "cuda: slstm_forward: a head of ", a.head_dim, " in ",
          blocks, " blocks");
  const dim3 grid(static_cast<unsigned>(blocks * blocks_for(a.seq.batch, 4 * Cells)),
                  static_cast<unsigned>(a.heads));
  launch(device, "slstm_forward",
         {grid, static_cast<unsigned>(32 * warps), 4 * warps * slstm_forward_ring(Cells), blocks},
         slstm_forward_bf16<Tiles, Cells, Warps, Cluster>, a);
}

template <int Cells>
void slstm_forward_in_bf16(cuda_base& device, const slstm_arguments<float>& a, int blocks) {
  const index head = a.head_dim;
  if (blocks == 1)
    return head <= 64 ? launch_slstm_forward<4, Cells, 8, false>(device, a, blocks)
                      : launch_slstm_forward<9, Cells, 18, false>(device, a, blocks);
  if (head <= 64) return launch_slstm_forward<4, Cells, 4, true>(device, a, blocks);
  if (head <= 96) return launch_slstm_forward<6, Cells, 6, true>(device, a, blocks);
  if (head <= 144) return launch_slstm_forward<9, Cells, 9, true>(device, a, blocks);
  if (head <= 192) return launch_slstm_forward<12, Cells, 12, true>(device, a, blocks);
  if (head <= 288) return launch_slstm_forward<18, Cells, 8, true>(device, a, blocks);
  launch_slstm_forward<24, Cells, 8, true>(device, a, blocks);
}

template <int Rows, int Tiles, int Cells, int Warps, bool Cluster>
void launch_slstm_backward(cuda_base& device, const slstm_backward_arguments<float>& a, float* carry,
                           int blocks) {
  const index groups = blocks_for(a.head_dim, 8), channels = 8 * blocks_for(groups, blocks);
  blocks = static_cast<int>(blocks_for(8 * groups, channels));
  const index parts = blocks_for(channels, 4 * Tiles), row_warps = blocks_for(blocks_for(a.head_dim, 16), Rows);
  const index warps = std::max(row_warps * parts, channels / 8);
  require(warps <= Warps, "cuda: slstm_backward: a head of ", a.head_dim, " in ", blocks, " blocks");
  const index bytes = 2 * 16 * Tiles * parts * 16 + 2 * blocks * parts * channels * 16 * Cells;
  const dim3 grid(static_cast<unsigned>(blocks * blocks_for(a.seq.batch, 4 * Cells)),
                  static_cast<unsigned>(a.heads));
  launch(device, "slstm_backward", {grid, static_cast<unsigned>(32 * warps), bytes, blocks},
         slstm_backward_bf16<Rows, Tiles, Cells, Warps, Cluster>, a, carry, static_cast<int>(channels),
         static_cast<int>(parts));
}

template <int Cells>
void slstm_backward_in_bf16(cuda_base& device, const slstm_backward_arguments<float>& a, float* carry,
                            int blocks) {
  const index head = a.head_dim;
  if (blocks == 1)
    return head <= 64 ? launch_slstm_backward<1, 8, Cells, 8, false>(device, a, carry, blocks)
                      : launch_slstm_backward<1, 18, Cells, 18, false>(device, a, carry, blocks);
  const index channels = 8 * blocks_for(blocks_for(head, 8), blocks);
  if (head <= 64 && channels <= 32)
    return launch_slstm_backward<1, 8, Cells, 4, true>(device, a, carry, blocks);
  if (head <= 144 && channels <= 48)
    return launch_slstm_backward<1, 12, Cells, 9, true>(device, a, carry, blocks);
  if (head <= 144) return launch_slstm_backward<1, 18, Cells, 9, true>(device, a, carry, blocks);
  launch_slstm_backward<2, 12, Cells, 12, true>(device, a, carry, blocks);
}

/// Bytes of shared memory that a block of the loop in float has.
template <bool Backward>
index slstm_float_bytes(index head, const slstm_cut& cut, int sequences) {
  return 4 *
         (Backward ? slstm_backward_floats(head, cut, sequences) : slstm_forward_floats(head, cut, sequences));
}
/// The loop in float: blocks, and what of the recurrent matrix they keep.
template <bool Backward>
slstm_cut slstm_float_cut(const cuda_base& device, index head, int& blocks, int sequences) {
  slstm_cut cut{};
  cut.channels = static_cast<int>(blocks_for(head, blocks));
  blocks = static_cast<int>(blocks_for(head, cut.channels));
  const index max_parts = Backward ? cut.channels : (head + 3) / 4;
  cut.parts =
      static_cast<int>(std::clamp<index>(slstm_threads / (Backward ? head : 4 * cut.channels), 1, max_parts));
  cut.resident = true;
  if (slstm_float_bytes<Backward>(head, cut, sequences) > device.shared_bytes() - 1024) cut.resident = false;
  return cut;
}
inline slstm_plan slstm_float_plan(const cuda_base& device, index batch, index heads, index head) {
  int blocks = 1;
  if (runs_code_of_90(device))
    while (blocks < 8 && head / blocks >= 32 &&
           blocks_for(batch, 4) * heads * blocks * 2 <= device.multiprocessors())
      blocks *= 2;
  return slstm_plan_of(device, batch, heads, {blocks});
}

/// Calls launch(sequences, clustered), both compile-time.
template <class F>
void with_slstm_plan(const slstm_plan& plan, const F& launch) {
  const auto clustered = [&](auto sequences) {
    if (plan.blocks > 1)
      launch(sequences, std::true_type{});
    else
      launch(sequences, std::false_type{});
  };
  if (plan.sequences == 4)
    clustered(std::integral_constant<int, 4>{});
  else
    clustered(std::integral_constant<int, 8>{});
}

/// The loop in float, forward or, with a `carry`, backward. False where not even h fits a block's shared memory.
template <bool Backward, class A>
bool slstm_in_float(cuda_base& device, const A& a, float* carry = nullptr) {
  const index head = a.head_dim;
  slstm_plan plan = slstm_float_plan(device, a.seq.batch, a.heads, head);
  const auto cut = slstm_float_cut<Backward>(device, head, plan.blocks, plan.sequences);
  const index bytes = slstm_float_bytes<Backward>(head, cut, plan.sequences);
  if (bytes > device.shared_bytes() - 1024) return false;
  const index size = a.heads * (Backward ? head * head * 4 : 4 * head * 4 * blocks_for(head, 4));
  auto packed = device.scratch<float>(size);
  launch(device, "packing a recurrent matrix", {grid_size(size, 256, 1024), 256}, slstm_pack<Backward>,
         a.recurrent, packed.data(), a.heads, head);
  const dim3 grid(static_cast<unsigned>(plan.blocks * blocks_for(a.seq.batch, plan.sequences)),
                  static_cast<unsigned>(a.heads));
  const launch_shape shape{grid, slstm_threads, bytes, plan.blocks};
  with_slstm_plan(plan, [&](auto sequences, auto clustered) {
    if constexpr (Backward)
      launch(device, "slstm_backward", shape, slstm_backward_float<sequences(), clustered()>, a, carry,
             packed.data(), cut);
    else
      launch(device, "slstm_forward", shape, slstm_forward_float<sequences(), clustered()>, a, packed.data(),
             cut);
  });
  return true;
}

}  // namespace detail

/// The time loop in one launch: with `bf16_mixed` and heads of up to 384 (144 before sm_90) on the tensor
/// cores, else in float. A single token of up to 64 sequences is a product and a map.
template <Precision P, class T>
void slstm_forward(basic_cuda<P>& device, const slstm_arguments<T>& a) {
  if (a.seq.rows() == 0 || a.width() == 0) return;
  if constexpr (std::is_same_v<T, float>) {
    if constexpr (multiplies_in_bf16<P, T>) {
      if (detail::slstm_step_in_bf16(device, a)) return;
      const auto plan = detail::slstm_bf16_plan(device, a.seq.batch, a.heads, a.head_dim, false);
      if (plan.blocks > 0)
        return plan.sequences == 4 ? detail::slstm_forward_in_bf16<1>(device, a, plan.blocks)
                                   : detail::slstm_forward_in_bf16<2>(device, a, plan.blocks);
    }
    if (detail::slstm_in_float<false>(device, a)) return;
  }
  distil_xlstm::slstm_forward<basic_cuda<P>, T>(device, a);
}

/// Its way back, likewise.
template <Precision P, class T>
void slstm_backward(basic_cuda<P>& device, const slstm_backward_arguments<T>& a, T* carry) {
  if (a.seq.rows() == 0 || a.width() == 0) return;
  if constexpr (std::is_same_v<T, float>) {
    if constexpr (multiplies_in_bf16<P, T>) {
      const auto plan = detail::slstm_bf16_plan(device, a.seq.batch, a.heads, a.head_dim, true);
      if (plan.blocks > 0)
        return plan.sequences == 4 ? detail::slstm_backward_in_bf16<1>(device, a, carry, plan.blocks)
                                   : detail::slstm_backward_in_bf16<2>(device, a, carry, plan.blocks);
    }
    if (detail::slstm_in_float<true>(device, a, carry)) return;
  }
  distil_xlstm::slstm_backward<basic_cuda<P>, T>(device, a, carry);
}

}  // namespace distil_xlstm::device
