#pragma once

#include <array>

#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/slstm/op.hpp>

// One token of sLSTM: nothing is kept from a token to the next, so that the recurrent matrix is read by all blocks.
namespace distil_xlstm::device::detail {

/// The cell, once `recurrent` [rows, 4 width] has R h of the state.
template <class T>
struct slstm_step_map {
  using scalar = T;
  static constexpr bool single_columns = true;
  slstm_arguments<T> a;
  matrix_view<const T> recurrent;
  __device__ void prefetch(index b, index c) const {
    for (index i = 0; i < 4; ++i)
      prefetch_far(a.state.of(b) + c + i * a.width()), prefetch_far(a.bias + c + i * a.width());
  }
  /// Gives h.
  template <class V>
  DISTIL_XLSTM_HD V advance(index b, index c) const {
    const index width = a.width();
    T *state = a.state.of(b) + c, *initial = a.initial + 4 * b * width + c;
    T *raw = a.raw.row(b) + c, *out = a.states.row(b) + c;
    // All of it is on its way before anything is written.
    V gates[4], before[4], sums[4], bias[4];
    for (index i = 0; i < 4; ++i) {
      const index at = i * width;
      before[i] = math::load<V>(state + at), sums[i] = math::load<V>(recurrent.row(b) + c + at);
      gates[i] = math::load<V>(raw + at), bias[i] = math::load<V>(a.bias + c + at);
    }
    const bool goes_on = !a.seq.begins(b, 0);
    for (index i = 0; i < 4; ++i) {
      const index at = i * width;
      math::store<V>(initial + at, before[i]);
      if (!goes_on) before[i] = V(0);
      gates[i] = gates[i] + (bias[i] + (goes_on ? sums[i] : V(0)));
      math::store<V>(raw + at, gates[i]);
    }
    const auto s = math::slstm_cell<V>(gates[0], gates[1], gates[2], gates[3], before[1], before[2], before[3]);
    const V after[4] = {s.h, s.c, s.n, s.m};
    for (index i = 0; i < 4; ++i)
      math::store<V>(out + i * width, after[i]), math::store<V>(state + i * width, after[i]);
    return s.h;
  }
  template <class V>
  DISTIL_XLSTM_HD void operator()(index b, index c) const {
    advance<V>(b, c);
  }
};

/// False for more tokens than one, and where the product is none of few rows.
inline bool slstm_step_in_bf16(cuda_base& device, const slstm_arguments<float>& a) {
  if (a.seq.time != 1) return false;
  const index head = a.head_dim, width = a.width(), rows = a.seq.batch;
  auto memory = device.scratch<float>(rows * 4 * width);
  const matrix_view<float> sums(memory.data(), rows, 4 * width);
  const matrix_view<const float> h(a.state.data, rows, head, a.state.stride);
  std::array<few_rows_set, 4> gates;
  for (index g = 0; g < 4; ++g) {
    const matrix_view<const float> r(a.recurrent + g * head * head, head, head);
    gates[static_cast<std::size_t>(g)] = {
        product_operand(h), product_operand(transposed(r)), sums.columns(g * width, head), {}, 4 * head * head};
  }
  if (!few_rows_product(device, a.heads, head, head, 0, gates)) return false;
  map(device, rows, width, slstm_step_map<float>{a, sums});
  return true;
}

}  // namespace distil_xlstm::device::detail
