#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <distil_xlstm/device/cuda/machine.hpp>
#include <distil_xlstm/op/attention/op.hpp>
#include <distil_xlstm/op/conv/op.hpp>
#include <distil_xlstm/op/decoder_layer/op.hpp>
#include <distil_xlstm/op/feature_map/op.hpp>
#include <distil_xlstm/op/gated_activation/op.hpp>
#include <distil_xlstm/op/gated_mix/op.hpp>
#include <distil_xlstm/op/linear/op.hpp>
#include <distil_xlstm/op/mlstm/op.hpp>
#include <distil_xlstm/op/mlstm_inputs/op.hpp>
#include <distil_xlstm/op/mlstm_layer/op.hpp>
#include <distil_xlstm/op/mlstm_output/op.hpp>
#include <distil_xlstm/op/norm/op.hpp>
#include <distil_xlstm/op/rotary/op.hpp>
#include <distil_xlstm/op/sampling/op.hpp>
#include <distil_xlstm/op/slstm/op.hpp>
#include <distil_xlstm/op/slstm_inputs/op.hpp>
#include <distil_xlstm/op/slstm_layer/op.hpp>

// The GPU for compilers that are not nvcc: the device, and its verbs and operations as device/cuda.cuh defines them.
// A program's own source may use a model on a GPU when a source that nvcc compiles instantiates that model
// (cmake: distil_xlstm_instantiate); what is missing there, the linker names.
//
// An `extern template` of the model would not do: what a class defines within itself is inline, and compilers
// instantiate that all the same, so that the verbs are needed here and must not be inlined there.
#if defined(__clang__)
#define DISTIL_XLSTM_LINKED [[gnu::noinline]]
#else
#define DISTIL_XLSTM_LINKED [[gnu::noinline, gnu::noclone]]  // or g++ keeps its own versions alone
#endif
namespace distil_xlstm::device {

template <Precision P, class A, class B, class T>
DISTIL_XLSTM_LINKED void gemm(basic_cuda<P>& device, A a, B b, matrix_view<T> c,
                              std::type_identity_t<T> beta = {});
template <Precision P, class A, class B, class T>
DISTIL_XLSTM_LINKED void gemm_batched(basic_cuda<P>& device, index count, A a, index step_a, B b, index step_b,
                                      matrix_view<T> c, index step_c, std::type_identity_t<T> beta = {});
/// @{ As op/linear/op.hpp says.
template <Precision P, class A, class B, class T>
DISTIL_XLSTM_LINKED void gemm_plus(basic_cuda<P>& device, A a, B b, const_view<T> addend, matrix_view<T> c);
template <Precision P, class A, class B, class U, class T>
DISTIL_XLSTM_LINKED void gemm_plus(basic_cuda<P>& device, A a, B b, broadcast<U> bias, matrix_view<T> c);
template <Precision P, class A, class B, class U, class T, std::size_t N>
DISTIL_XLSTM_LINKED void gemm_plus(basic_cuda<P>& device, A a, const std::array<B, N>& b,
                                   const std::array<broadcast<U>, N>& bias,
                                   const std::array<matrix_view<T>, N>& c);
/// @}

template <class F>
DISTIL_XLSTM_LINKED void map(cuda_base& device, index rows, index cols, const F& f);
template <class F>
DISTIL_XLSTM_LINKED void fold_rows(cuda_base& device, index rows, index cols, const F& f);
template <class F>
DISTIL_XLSTM_LINKED void fold_columns(cuda_base& device, index rows, index cols, const F& f);
template <class F>
DISTIL_XLSTM_LINKED void parallel_for(cuda_base& device, index n, const F& f);
template <Precision P, class T>
DISTIL_XLSTM_LINKED void embed(basic_cuda<P>& device, frozen_matrix table, const std::int32_t* ids,
                               matrix_view<T> x);
template <Precision P, class T>
DISTIL_XLSTM_LINKED void embed_backward(basic_cuda<P>& device, const std::int32_t* ids, const_view<T> dx,
                                        matrix_view<T> dtable);

/// @name The GPU's operations
/// @{

/// The function of this name in op/, as a GPU has it.
template <Precision P, class T>
DISTIL_XLSTM_LINKED void norm_statistics(basic_cuda<P>& device, const norm_view<T>& n, matrix_view<const T> x,
                                         T* statistics);
template <Precision P, class T, class Y>
DISTIL_XLSTM_LINKED void norm_forward(basic_cuda<P>& device, const norm_view<T>& n, matrix_view<const T> x,
                                      T* statistics, matrix_view<Y> y, const_view<T> skip = {});
template <Precision P, class T, class Y, class F, class... Xs>
DISTIL_XLSTM_LINKED void norm_transform(basic_cuda<P>& device, const norm_view<T>& n, matrix_view<const T> x,
                                        T* statistics, matrix_view<Y> y, const F& f, const Xs&... operands);
template <Precision P, class T>
DISTIL_XLSTM_LINKED void norm_backward(basic_cuda<P>& device, const norm_view<T>& n, matrix_view<const T> x,
                                       const T* statistics, matrix_view<const T> dy, T* dw, matrix_view<T> dx,
                                       const_view<T> skip = {});

template <Precision P, class T>
DISTIL_XLSTM_LINKED void choose_likeliest(basic_cuda<P>& device, matrix_view<const T> logits, std::int32_t* ids,
                                          T* highest);
template <Precision P, class T>
DISTIL_XLSTM_LINKED void draw_tokens(basic_cuda<P>& device, const distil_xlstm::detail::drawn_tokens<T>& t);

template <Precision P, class T>
DISTIL_XLSTM_LINKED void causal_conv_forward(basic_cuda<P>& device, const causal_conv_arguments<T>& a);
template <Precision P, class T, class G>
DISTIL_XLSTM_LINKED void causal_conv_backward(basic_cuda<P>& device,
                                              const causal_conv_backward_arguments<T, dynamic, G>& a);
template <Precision P, class T, class Y>
DISTIL_XLSTM_LINKED void headwise_forward(basic_cuda<P>& device, const headwise_arguments<T, Y>& a);
template <Precision P, class T, class Y, std::size_t N>
DISTIL_XLSTM_LINKED void headwise_forward(basic_cuda<P>& device,
                                          const std::array<headwise_arguments<T, Y>, N>& several);
template <Precision P, class T>
DISTIL_XLSTM_LINKED void headwise_backward(basic_cuda<P>& device, const headwise_backward_arguments<T>& a);

template <Precision P, class T>
DISTIL_XLSTM_LINKED void slstm_forward(basic_cuda<P>& device, const slstm_arguments<T>& a);
template <Precision P, class T>
DISTIL_XLSTM_LINKED void slstm_backward(basic_cuda<P>& device, const slstm_backward_arguments<T>& a, T* carry);
template <Precision P, class T>
DISTIL_XLSTM_LINKED void slstm_inputs_backward(basic_cuda<P>& device,
                                               const slstm_inputs_backward_arguments<T>& a);
template <Precision P, class T>
DISTIL_XLSTM_LINKED void slstm_layer_forward(basic_cuda<P>& device, const slstm_layer_arguments<T>& a);
template <Precision P, class T, class Operand, class H>
DISTIL_XLSTM_LINKED void mlstm_forward(basic_cuda<P>& device, const mlstm_arguments<T, Operand, H>& a);
template <Precision P, class T, class Operand, class Gradient, class H>
DISTIL_XLSTM_LINKED void mlstm_backward(basic_cuda<P>& device,
                                        const mlstm_backward_arguments<T, Operand, Gradient, H>& a);
template <Precision P, class T, class S>
DISTIL_XLSTM_LINKED void mlstm_inputs_forward(basic_cuda<P>& device, const mlstm_inputs_arguments<T, S>& a);
template <Precision P, class T, class S>
DISTIL_XLSTM_LINKED void mlstm_inputs_backward(basic_cuda<P>& device,
                                               const mlstm_inputs_backward_arguments<T, S>& a);
template <Precision P, class T, class S, class Matrix>
DISTIL_XLSTM_LINKED void mlstm_layer_forward(basic_cuda<P>& device,
                                             const mlstm_layer_arguments<T, S, Matrix>& a);
template <Precision P, class T, class Z>
DISTIL_XLSTM_LINKED void mlstm_output_backward(basic_cuda<P>& device,
                                               const mlstm_output_backward_arguments<T, Z>& a);
template <Precision P, class T>
DISTIL_XLSTM_LINKED void attention_forward(basic_cuda<P>& device, const attention_arguments<T>& a);
template <Precision P, class T>
DISTIL_XLSTM_LINKED void attention_backward(basic_cuda<P>& device, const attention_backward_arguments<T>& g);
template <Precision P, class T, class Operand>
DISTIL_XLSTM_LINKED void feature_map_forward(basic_cuda<P>& device, const feature_map_arguments<T, Operand>& a);
template <Precision P, class T, class Operand, std::size_t N>
DISTIL_XLSTM_LINKED void feature_map_forward(basic_cuda<P>& device,
                                             const std::array<feature_map_arguments<T, Operand>, N>& several);
template <Precision P, class T, class Operand>
DISTIL_XLSTM_LINKED void feature_map_backward(basic_cuda<P>& device,
                                              const feature_map_backward_arguments<T, Operand>& g);
template <Precision P, class T, class Operand, std::size_t N>
DISTIL_XLSTM_LINKED void feature_map_backward(
    basic_cuda<P>& device, const std::array<feature_map_backward_arguments<T, Operand>, N>& several);
template <Precision P, class S, class Y>
DISTIL_XLSTM_LINKED void gated_activation_forward(basic_cuda<P>& device, const gated_activation_arguments<S>& a,
                                                  matrix_view<Y> y);
template <Precision P, class T, class X, class Matrix>
DISTIL_XLSTM_LINKED void gated_product_forward(basic_cuda<P>& device,
                                               const gated_product_arguments<T, X, Matrix>& a,
                                               matrix_view<T> y);
template <Precision P, class S, class G>
DISTIL_XLSTM_LINKED void gated_activation_backward(basic_cuda<P>& device,
                                                   const gated_activation_backward_arguments<S, G>& g);
template <Precision P, class T, class R, class H>
DISTIL_XLSTM_LINKED void gated_mix_forward(basic_cuda<P>& device, const gated_mix_arguments<T, R>& a,
                                           matrix_view<H> h);
template <Precision P, class T, class H, class R>
DISTIL_XLSTM_LINKED void gated_mix_backward(basic_cuda<P>& device,
                                            const gated_mix_backward_arguments<T, H, R>& g);
template <Precision P, class T, class... Y>
DISTIL_XLSTM_LINKED void rotate_heads(basic_cuda<P>& device, const rotary_angles<T>& angles,
                                      const rotary_heads<T, Y>&... parts);

template <Precision P, class T>
DISTIL_XLSTM_LINKED bool has_decoder_layer(const basic_cuda<P>& device, const decoder_layer_arguments<T>& a);
template <Precision P, class T>
DISTIL_XLSTM_LINKED void decoder_layer_forward(basic_cuda<P>& device, const decoder_layer_arguments<T>& a);
/// @}

/// The pass over the logits: see loss/head.hpp.
template <Precision P, class Rows, class T, class Head>
requires(!Head::capped) DISTIL_XLSTM_LINKED
    void head_pass(basic_cuda<P>& device, const Rows& rows, matrix_view<const T> hs, matrix_view<const T> ht,
                   const Head& head, matrix_view<T> dhs, index bytes);

}  // namespace distil_xlstm::device

#undef DISTIL_XLSTM_LINKED
