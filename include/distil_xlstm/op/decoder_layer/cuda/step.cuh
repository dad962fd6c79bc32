#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <initializer_list>

#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/op/attention/cuda/step.cuh>
#include <distil_xlstm/op/decoder_layer/op.hpp>

// A layer of a frozen decoder for single tokens, as a decoder's step has them: few kernels, each of which has its
// weights fetched while the one before runs.
namespace distil_xlstm::device::detail::decoder {

inline const bf16* in_bf16(const frozen_matrix& m) {
  return static_cast<const bf16*>(m.dtype == dtype::bf16 ? m.data : m.bf16_copy);
}

/// Whether `step` knows how: single tokens, few enough for products of few rows, heads up to 256 wide, and all that
/// is read 16 bytes at a time lies so that it can be.
template <class T>
bool is_step(const decoder_layer_arguments<T>& a) {
  const index rows = a.x.rows, d = a.x.cols, inner = a.gate.rows, width = a.shape.width;
  const index queries = a.shape.heads * width;
  if (a.seq.time != 1 || width > 256 || width % 8 != 0 || d % 8 != 0 || inner % 8 != 0) return false;
  for (const frozen_matrix& m : std::array{a.q, a.k, a.v, a.o, a.gate, a.up, a.down})
    if (!is_aligned(in_bf16(m))) return false;
  for (const T* p : std::initializer_list<const T*>{a.attention_norm.weight, a.feed_forward_norm.weight,
                                                    a.keys.data, a.values.data})
    if (!is_aligned(p)) return false;
  return is_vectorised(a.x) && is_vectorised(a.y) && is_vectorised(a.cosines) && is_vectorised(a.sines) &&
         a.keys.stride % 4 == 0 && a.values.stride % 4 == 0 && few_rows::pays(rows, queries, d) &&
         few_rows::pays(rows, inner, d);
}

/// A product of x, normed, with several matrices.
template <class T>
auto of_normed(const norm_view<T>& n, matrix_view<const T> x) {
  few_rows::products<T, bf16> p{};
  p.stride_w = x.cols;
  p.rows = static_cast<int>(x.rows), p.k = static_cast<int>(x.cols), p.count = 1;
  p.norm = {n.weight, n.residual_weight ? T(1) : T(0), n.epsilon};
  return p;
}
/// q, k and v of the tokens, one beside another, with their biases.
template <class T>
void project(cuda_base& device, const decoder_layer_arguments<T>& a, const std::array<matrix_view<T>, 3>& to) {
  auto p = of_normed<T>(a.attention_norm, a.x);
  const std::array w{a.q, a.k, a.v};
  const std::array bias{a.q_bias, a.k_bias, a.v_bias};
  for (std::size_t i = 0; i < to.size(); ++i) {
    const int n = static_cast<int>(to[i].cols);
    p.sets[i] = {a.x.data, in_bf16(w[i]), to[i].data, bias[i], to[i].stride, 0, a.x.stride, 0, n};
    p.n = std::max(p.n, n);
  }
  few_rows::run<few_rows::handling::normed>(device, p, static_cast<int>(to.size()));
}
/// SiLU(Wgate u) * (Wup u) of the feed-forward.
template <class T>
void feed(cuda_base& device, const decoder_layer_arguments<T>& a, matrix_view<bf16> to) {
  auto p = of_normed<T>(a.feed_forward_norm, a.y);
  p.n = static_cast<int>(to.cols);
  for (int i = 0; i < 2; ++i)
    p.sets[i] = {a.y.data, in_bf16(i == 0 ? a.gate : a.up), nullptr, nullptr, 0, 0, a.y.stride, 0, p.n};
  p.gated = to.data, p.stride_gated = to.stride;
  few_rows::run<few_rows::handling::normed_and_gated>(device, p, 1);
}

/// Norms are a part of the products that follow, rotation and the memory a part of attention, and sums a part of the
/// products before.
template <Precision P, class T>
void step(basic_cuda<P>& device, const decoder_layer_arguments<T>& a) {
  const index rows = a.x.rows, queries = a.shape.heads * a.shape.width, keys = a.shape.kv_heads * a.shape.width;
  auto memory = device.template scratch<T>(rows * 2 * (queries + keys));
  auto inner = device.template scratch<bf16>(rows * a.gate.rows);
  const matrix_view<T> q(memory.data(), rows, queries), k(q.row(rows), rows, keys), v(k.row(rows), rows, keys),
      mixed(v.row(rows), rows, queries);
  const matrix_view<bf16> fed(inner.data(), rows, a.gate.rows);
  device.operand_copies().invalidate();  // that of any of these

  project<T>(device, a, std::array{q, k, v});
  const attention_arguments<T> heads{
      a.seq,
      a.shape,
      q,
      k,
      v,
      {{a.keys.data, a.keys.stride}, {a.values.data, a.values.stride}, {a.position.data, a.position.stride}},
      mixed};
  flash::decode(device, heads,
                flash::rotating_step{a.cosines, a.sines, a.keys, a.values, a.position, a.capacity});
  if (a.y.data == a.x.data)
    gemm(device, matrix_view<const T>(mixed), transposed(a.o), a.y, T(1));
  else
    gemm_plus(device, matrix_view<const T>(mixed), transposed(a.o), a.x, a.y);
  feed(device, a, fed);
  gemm(device, matrix_view<const bf16>(fed), transposed(a.down), a.y, T(1));
}

}  // namespace distil_xlstm::device::detail::decoder
