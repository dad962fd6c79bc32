#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include <distil_xlstm/device/cpu/machine.hpp>
#include <distil_xlstm/op/linear/op.hpp>

namespace distil_xlstm::device {

/// Few rows are made ready once, and all their products are one run of the threads, since each run has an end to wait
/// for.
template <Precision P, class A, class B, class U, class T, std::size_t N>
void gemm_plus(basic_cpu<P>& device, A a, const std::array<B, N>& b, const std::array<broadcast<U>, N>& bias,
               const std::array<matrix_view<T>, N>& c) {
  std::array<detail::product_of_few<T>, N> products;
  for (std::size_t i = 0; i < N; ++i) {
    detail::require_product("gemm_plus", a, b[i], c[i]);
    products[i] = {detail::operand(b[i]), c[i]};
  }
  detail::multiply_several<P, T>(device, detail::cols_of(a), detail::operand(a), products);
  for (std::size_t i = 0; i < N; ++i)
    if (bias[i].values) transform(device, c[i], math::plus{}, c[i], bias[i]);
}

/// Few rows as the default, bit for bit, but all blocks of all maps in one run of the threads.
template <Precision P, class T, std::size_t N>
void headwise_forward(basic_cpu<P>& device, const std::array<headwise_arguments<T>, N>& several) {
  constexpr index maps = N;
  static_assert(distil_xlstm::detail::few_headwise_rows ==
                cpu_base::few_rows);  // or rows would sum in three orders
  const auto& one = several.front();
  if (one.x.rows > cpu_base::few_rows) {
    for (const auto& a : several) distil_xlstm::headwise_forward(device, a);
    return;
  }
  const detail::even_split parts(one.blocks,
                                 std::max<index>(1, detail::task_elements / (one.width * one.width)));
  device.tasks(maps * parts.parts, [&](index task, cpu_base::worker& w) {
    const auto& a = several[static_cast<std::size_t>(task / parts.parts)];
    const index first = parts.begin(task % parts.parts), end = parts.begin(task % parts.parts + 1);
    if (a.width <= distil_xlstm::detail::narrow_block)
      return distil_xlstm::detail::multiply_narrow_blocks(a, first, end);
    for (index block = first; block < end; ++block) {
      const index c = block * a.width;
      detail::gemm_on<P, T>(
          w, a.x.rows, a.width, a.width, detail::operand(a.x.columns(c, a.width)),
          detail::operand(transposed(matrix_view<const T>(a.weight + c * a.width, a.width, a.width))), T(0),
          a.y.row(0) + c, a.y.stride);
    }
  });
}
/// One, as one of several, so that both round alike.
template <Precision P, class T>
void headwise_forward(basic_cpu<P>& device, const headwise_arguments<T>& a) {
  headwise_forward(device, std::array{a});
}

}  // namespace distil_xlstm::device
