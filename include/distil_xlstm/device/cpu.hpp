#pragma once

// The CPU with every operation: who includes it has the fused form of each, so that no two translation units
// can differ.
#include <distil_xlstm/device/cpu/machine.hpp>
#include <distil_xlstm/op/attention/cpu.hpp>
#include <distil_xlstm/op/linear/cpu.hpp>
#include <distil_xlstm/op/mlstm/cpu.hpp>
#include <distil_xlstm/op/sampling/cpu.hpp>
#include <distil_xlstm/op/slstm/cpu.hpp>

#ifdef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/op/conv/op.hpp>
#include <distil_xlstm/op/feature_map/op.hpp>
#include <distil_xlstm/op/gated_activation/op.hpp>
#include <distil_xlstm/op/gated_mix/op.hpp>
#include <distil_xlstm/op/mlstm_inputs/op.hpp>
#include <distil_xlstm/op/mlstm_layer/op.hpp>
#include <distil_xlstm/op/mlstm_output/op.hpp>
#include <distil_xlstm/op/norm/op.hpp>
#include <distil_xlstm/op/rotary/op.hpp>
#include <distil_xlstm/op/slstm_inputs/op.hpp>
#include <distil_xlstm/op/slstm_layer/op.hpp>

/// Operations that distil_xlstm::compiled instantiates, with `keyword` extern template or template, of a precision P
/// and its scalar T.
#define DISTIL_XLSTM_COMPILED_OPERATIONS(keyword, P, T)                                                        \
  keyword void device::detail::multiply(device::basic_cpu<P>&, index, device::detail::gemm_operand,            \
                                        device::detail::gemm_operand, matrix_view<T>, T);                      \
  keyword void device::detail::multiply_several(device::basic_cpu<P>&, index, device::detail::gemm_operand,    \
                                                std::span<const device::detail::product_of_few<T>>);           \
  keyword void device::detail::multiply_batched(                                                               \
      device::basic_cpu<P>&, index, index, device::detail::gemm_operand, index, device::detail::gemm_operand,  \
      index, matrix_view<T>, index, T);                                                                        \
  keyword void device::attention_forward(device::basic_cpu<P>&, const attention_arguments<T>&);                \
  keyword void device::attention_backward(device::basic_cpu<P>&, const attention_backward_arguments<T>&);      \
  keyword void device::write_attention_reach(device::basic_cpu<P>&, const attention_reach_arguments<T>&);      \
  keyword void device::mlstm_forward(device::basic_cpu<P>&, const mlstm_arguments<T>&);                        \
  keyword void device::mlstm_backward(device::basic_cpu<P>&, const mlstm_backward_arguments<T>&);              \
  keyword void device::slstm_forward(device::basic_cpu<P>&, const slstm_arguments<T>&);                        \
  keyword void device::slstm_backward(device::basic_cpu<P>&, const slstm_backward_arguments<T>&, T*);          \
  keyword void norm_statistics(device::basic_cpu<P>&, const norm_view<T>&, matrix_view<const T>, T*);          \
  keyword void norm_forward(device::basic_cpu<P>&, const norm_view<T>&, matrix_view<const T>, T*,              \
                            matrix_view<T>, matrix_view<const T>);                                             \
  keyword void norm_backward(device::basic_cpu<P>&, const norm_view<T>&, matrix_view<const T>, const T*,       \
                             matrix_view<const T>, T*, matrix_view<T>, matrix_view<const T>);                  \
  keyword void causal_conv_forward(device::basic_cpu<P>&, const causal_conv_arguments<T, dynamic>&);           \
  keyword void causal_conv_backward(device::basic_cpu<P>&, const causal_conv_backward_arguments<T, dynamic>&); \
  keyword void headwise_forward(device::basic_cpu<P>&, const headwise_arguments<T>&);                          \
  keyword void device::headwise_forward(device::basic_cpu<P>&, const headwise_arguments<T>&);                  \
  keyword void headwise_backward(device::basic_cpu<P>&, const headwise_backward_arguments<T>&);                \
  keyword void feature_map_forward(device::basic_cpu<P>&, const feature_map_arguments<T>&);                    \
  keyword void feature_map_backward(device::basic_cpu<P>&, const feature_map_backward_arguments<T>&);          \
  keyword void gated_activation_forward(device::basic_cpu<P>&, const gated_activation_arguments<T>&,           \
                                        matrix_view<T>);                                                       \
  keyword void gated_activation_backward(device::basic_cpu<P>&,                                                \
                                         const gated_activation_backward_arguments<T>&);                       \
  keyword void gated_mix_backward(device::basic_cpu<P>&, const gated_mix_backward_arguments<T>&);              \
  keyword void rotate_heads(device::basic_cpu<P>&, const rotary_angles<T>&, const rotary_heads<T>&);           \
  keyword void rotate_heads(device::basic_cpu<P>&, const rotary_angles<T>&, const rotary_heads<T>&,            \
                            const rotary_heads<T>&);                                                           \
  keyword void mlstm_inputs_forward(device::basic_cpu<P>&, const mlstm_inputs_arguments<T, T, dynamic>&);      \
  keyword void mlstm_inputs_backward(device::basic_cpu<P>&, const mlstm_inputs_backward_arguments<T>&);        \
  keyword void mlstm_layer_forward(device::basic_cpu<P>&, const mlstm_layer_arguments<T>&);                    \
  keyword void mlstm_output_backward(device::basic_cpu<P>&, const mlstm_output_backward_arguments<T>&);        \
  keyword void slstm_inputs_backward(device::basic_cpu<P>&, const slstm_inputs_backward_arguments<T>&);        \
  keyword void slstm_layer_forward(device::basic_cpu<P>&, const slstm_layer_arguments<T>&);                    \
  keyword void choose_likeliest(device::basic_cpu<P>&, matrix_view<const T>, std::int32_t*, T*);               \
  keyword void choose_tokens(device::basic_cpu<P>&, matrix_view<const T>, const double*, const double*,        \
                             std::int32_t*);

namespace distil_xlstm {
DISTIL_XLSTM_EACH_PRECISION(DISTIL_XLSTM_COMPILED_OPERATIONS, extern template)
}  // namespace distil_xlstm
#endif
