#pragma once

#include <array>
#include <type_traits>

#include <distil_xlstm/block/causal_conv1d.hpp>
#include <distil_xlstm/block/headwise_linear.hpp>
#include <distil_xlstm/block/initial_deviation.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/op/mlstm/op.hpp>
#include <distil_xlstm/op/mlstm_inputs/op.hpp>
#include <distil_xlstm/op/mlstm_layer/op.hpp>
#include <distil_xlstm/op/mlstm_output/op.hpp>

namespace distil_xlstm {

/// Weights of `basic_mlstm`.
template <class Matrix, class Pointer>
struct mlstm_params {
  /// [2 inner, width], the rows of the cell's input first, then those of z.
  linear_params<Matrix, Pointer> proj_up, proj_down;  ///< [width, inner]

  /// @{

  /// Weights [inner / qkv_block, qkv_block, qkv_block].
  headwise_params<Pointer> q_proj, k_proj, v_proj;
  /// @}
  conv_params<Pointer> conv1d;  ///< of `inner` channels
  /// @{

  /// Weights [heads, 3 inner], over q, k and v side by side; biases [heads].
  linear_params<Matrix, Pointer> igate, fgate;
  /// @}
  norm_params<Pointer> outnorm;  ///< [inner]
  Pointer learnable_skip;        ///< [inner]
};
/// State of `basic_mlstm`.
template <class T>
struct mlstm_layer_state {
  conv_state<T> conv;   ///< [conv_window - 1, inner]
  mlstm_state<T> cell;  ///< C, n, m of each head; dq = dv = inner / heads
};
/// Tape of `basic_mlstm`.
template <class T>
struct mlstm_tape {
  matrix_view<T> up;  ///< [rows, 2 inner]: the cell's input, and z
  conv_tape<T> conv;  ///< its past
  matrix_view<T> a;   ///< [rows, inner]: SiLU of the convolution
  /// [rows, 3 inner]: q, k and v side by side; where a backward may follow, and they have no biases, stored as the
  /// device's `operand_t`.
  matrix_view<T> qkv;
  /// @{

  /// [rows, heads] of i~ and f~, the gates before their functions; [rows, inner] of the cell's result h.
  matrix_view<T> i, f, h;
  /// @}
  T* chunk_states;    ///< see `mlstm_arguments`; null of a transient tape
  norm_tape<T> norm;  ///< of the norm of h, a group a head
  /// [rows, inner]: what the down projection reads; where a backward may follow, stored as the device's `operand_t`.
  matrix_view<T> y;
};

/// The mLSTM layer of NX-AI/xlstm: up projection into cell input and output gate z, convolution and SiLU before q and
/// k, gates from [q k v], the matrix memory, a norm per head, a learnable skip, down projection.
///
///     [e, z] = Wup x    a = SiLU(conv(e))    q = Wq a    k = Wk a    v = Wv e
///     i~ = Wi [q k v] + bi    f~ = Wf [q k v] + bf              a number a head each
///     C <- sigmoid(f~) C + exp(i~) k vᵀ    n <- sigmoid(f~) n + exp(i~) k
///     h = Cᵀq / max(|n.q|, sqrt(dq))       of each head, dq = inner / heads
///     y = Wdown ((norm(h) + skip a) SiLU(z))
///
/// (Beck et al. 2024, arXiv 2405.04517). The memory is kept times exp(-m), m a running maximum of the exponents, so
/// that nothing overflows.
///
/// Width, heads and inner width may be known to the compiler, which then refuses those that do not fit; `mlstm`
/// takes all when the program runs.
template <index Width = dynamic, index Heads = dynamic, index Inner = dynamic, index Window = dynamic>
struct basic_mlstm {
  static_assert(
      Inner == dynamic || Heads == dynamic || (Heads > 0 && Inner % (Heads > 0 ? Heads : 1) == 0),
      "distil_xlstm::mlstm: the heads share the inner width equally; write an Inner that Heads divides");
  [[no_unique_address]] extent<Width> width{};   ///< of x and of y
  [[no_unique_address]] extent<Heads> heads{1};  ///< number of heads, which share `inner` equally
  [[no_unique_address]] extent<Inner> inner{};  ///< of the cell, in NX-AI/xlstm round_up(proj_factor width, 64)
  [[no_unique_address]] extent<Window> conv_window{4};  ///< taps of the convolution
  index qkv_block = 4;                                  ///< block size of the q, k, v maps
  bool bias = false;                                    ///< of up and down projection and the q, k, v maps
  index chunk = 64;                                     ///< tokens of a chunk of the memory's chunkwise form
  index block_count = 1;  ///< blocks of the model, for the initial down projection
  double empty_m = -std::numeric_limits<double>::infinity();  ///< m of an empty memory
  /// @{ As `Block` says.
  static constexpr bool adds_to_y = true, takes_operand = true;
  /// @}

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  constexpr auto width_in() const { return width; }
  constexpr auto width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(width > 0 && inner > 0, "mlstm: a width of ", width, " and an inner width of ", inner,
            " are not possible; set both, such as .inner = 2 * width");
    require(chunk > 0, "mlstm: a chunk of ", chunk, " tokens is not possible");
    require(heads > 0 && inner % heads == 0, "mlstm: ", heads, " heads do not divide the inner width ", inner);
    require(qkv_block > 0 && inner % qkv_block == 0, "mlstm: q, k, v blocks of ", qkv_block,
            " do not divide the inner width ", inner);
    mlstm_params<typename L::matrix_type, typename L::pointer> p;
    p.learnable_skip = l.tensor("learnable_skip", {inner}, initial::ones());
    p.proj_up = l.scope("proj_up", [&] { return up().params(l); });
    p.q_proj = l.scope("q_proj", [&] { return qkv().params(l); });
    p.k_proj = l.scope("k_proj", [&] { return qkv().params(l); });
    p.v_proj = l.scope("v_proj", [&] { return qkv().params(l); });
    p.conv1d = l.scope("conv1d", [&] { return conv().params(l); });
    l.scope("mlstm_cell", [&] {
      p.igate =
          l.scope("igate", [&] { return detail::gate_params(l, heads, 3 * inner, initial::normal(0.1)); });
      p.fgate = l.scope("fgate",
                        [&] { return detail::gate_params(l, heads, 3 * inner, initial::spaced(3, 6, heads)); });
      p.outnorm = l.scope("outnorm", [&] { return outnorm().params(l); });
      return no_state{};
    });
    p.proj_down = l.scope("proj_down", [&] { return down().params(l); });
    return p;
  }
  template <class L>
  auto state(L& l) const {
    mlstm_layer_state<typename L::scalar> s;
    s.conv = l.scope("conv1d", [&] { return conv().state(l); });
    s.cell = l.scope("mlstm_cell", [&] { return shape().state(l); });
    return s;
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    using T = typename L::scalar;
    const index rows = seq.rows();
    mlstm_tape<T> k{};
    k.up = l.matrix("up", rows, 2 * inner);
    k.conv = conv().tape(l, seq);
    k.a = l.matrix("a", rows, inner);
    k.qkv = bias ? l.matrix("qkv", rows, 3 * inner) : l.operand("qkv", rows, 3 * inner);
    k.i = l.matrix("i", rows, heads);
    k.f = l.matrix("f", rows, heads);
    k.h = l.matrix("h", rows, inner);
    if (!l.transient())
      k.chunk_states =
          l.tensor("chunk_states", {seq.batch, heads, shape().kept_size(seq.time, l.half_operands() && !bias)});
    k.norm = outnorm().tape(l, seq);
    k.y = l.operand("y", rows, inner);
    return k;
  }

  /// Which operation does what, in the order of the forward; the backward goes the other way:
  ///
  ///     up and down projection   linear
  ///     convolution; q, k and v  mlstm_layer_forward, by mlstm_inputs_forward | mlstm_inputs_backward, conv()
  ///     gates                    mlstm_layer_forward                          | mlstm_inputs_backward
  ///     recurrent cell           mlstm_layer_forward, by mlstm_forward        | mlstm_backward
  ///     norm, skip, output gate  norm_transform of mlstm_output               | mlstm_output_backward
  template <class T, class X = const T>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, matrix_view<X> x,
               matrix_view<T> y, const_view<T> skip = {}) const {
    up().forward(d, p.proj_up, x, k.up);
    const matrix_view<const T> in = k.up.columns(0, inner), z = k.up.columns(inner, inner), h = k.h;
    const auto convolution = conv().template arguments<std::remove_cvref_t<decltype(d)>, T>(
        seq, p.conv1d, s.conv, k.conv, in, matrix_view<T>(), k.a);
    const auto remember = [&]<class S>(S) {
      using matrix = std::remove_cvref_t<decltype(p.igate.weight)>;
      mlstm_layer_forward(d, mlstm_layer_arguments<T, S, matrix, std::remove_cvref_t<decltype(convolution)>>{
                                 convolution,
                                 qkv_block,
                                 {p.q_proj.weight, p.k_proj.weight, p.v_proj.weight},
                                 {p.q_proj.bias, p.k_proj.bias, p.v_proj.bias},
                                 {p.igate.weight, p.fgate.weight},
                                 {p.igate.bias, p.fgate.bias},
                                 detail::stored_as<S>(k.qkv),
                                 {k.i, k.f},
                                 shape(),
                                 k.h,
                                 s.cell,
                                 k.chunk_states});
    };
    k.chunk_states && !bias ? remember(operand_t<decltype(d), T>()) : remember(T());
    const auto norm = outnorm().template view<T>(p.outnorm.weight);
    const auto through = [&]<class Y>(Y) {
      const auto read = detail::stored_as<Y>(k.y);
      norm_transform(d, norm, h, k.norm.statistics, read, detail::mlstm_output{}, broadcast(p.learnable_skip),
                     k.a, z);
      down().forward(d, p.proj_down, read, y, skip);
    };
    k.chunk_states ? through(operand_t<decltype(d), T>()) : through(T());
  }

  template <class T, class X = const T>
  void backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, matrix_view<X> x,
                const_view<T> dy, matrix_view<T> dx) const {
    using operand = operand_t<decltype(d), T>;
    const auto memory =
        scratch_matrices<T>(d, x.rows, index(inner), 3 * inner, index(inner), index(inner), 2 * heads);
    const auto [dnorm, dqkv, da, dh, dgates] = memory.views;
    const auto columns = [this](auto m, index i) { return m.columns(i * inner, inner); };
    const matrix_view<const T> in = columns(k.up, 0), z = columns(k.up, 1), h = k.h;
    const auto norm = outnorm().template view<T>(p.outnorm.weight);

    down().backward(d, p.proj_down, g.proj_down, detail::stored_as<operand>(k.y), dy, dnorm);
    // (Clang before 16 captures no parts of a structured binding by themselves.)
    const auto through = [&, dnorm = dnorm, da = da, dh = dh, dqkv = dqkv, dgates = dgates]<class S>(S) {
      const auto scratch = scratch_matrices<S>(d, x.rows, 2 * inner);
      const matrix_view<S> dup = scratch.views[0];
      mlstm_output_backward(d, mlstm_output_backward_arguments<T, S>{
                                   norm, p.learnable_skip, h, k.a, z, k.norm.statistics, dnorm, dh, da,
                                   columns(dup, 1), g.outnorm.weight, g.learnable_skip});
      const matrix_view<const S> of = detail::stored_as<S>(k.qkv);
      mlstm_backward(
          d, mlstm_backward_arguments<T, S, T>{seq, shape(), of.columns(0, inner), of.columns(inner, inner),
                                               of.columns(2 * inner, inner), k.i, k.f, h, dh, k.chunk_states,
                                               columns(dqkv, 0), columns(dqkv, 1), columns(dqkv, 2),
                                               dgates.columns(0, heads), dgates.columns(heads, heads)});
      const auto of_v = dnorm;  // what the memory's input gets through v, where dnorm is done with
      mlstm_inputs_backward(
          d, mlstm_inputs_backward_arguments<T, S>{heads,
                                                   inner / qkv_block,
                                                   qkv_block,
                                                   {p.q_proj.weight, p.k_proj.weight, p.v_proj.weight},
                                                   {g.q_proj.weight, g.k_proj.weight, g.v_proj.weight},
                                                   {g.q_proj.bias, g.k_proj.bias, g.v_proj.bias},
                                                   {p.igate.weight.data, p.fgate.weight.data},
                                                   {g.igate.weight.data, g.fgate.weight.data},
                                                   {g.igate.bias, g.fgate.bias},
                                                   k.a,
                                                   in,
                                                   of,
                                                   dgates,
                                                   dqkv,
                                                   da,
                                                   of_v});
      conv().backward(d, seq, p.conv1d, g.conv1d, k.conv, in, da, columns(dup, 0), of_v, true);
      up().backward(d, p.proj_up, g.proj_up, x, dup, dx);
    };
    // The gradient of a bias sums numbers that are not rounded.
    bias ? through(T()) : through(operand());
  }
  /// @}

  /// The memory's sizes as `mlstm_forward` takes them.
  mlstm_shape shape() const { return {heads, inner / heads, inner / heads, chunk, empty_m, 1e-6}; }

 private:
  double small() const { return detail::small_deviation(width); }
  linear<> up() const { return {width, 2 * inner, bias, small()}; }
  linear<> down() const { return {inner, width, bias, detail::last_deviation("mlstm", width, block_count)}; }
  headwise_linear qkv() const { return {inner / qkv_block, qkv_block, bias, small()}; }
  basic_causal_conv1d<Inner, Window> conv() const { return {inner, conv_window}; }
  layer_norm<> outnorm() const { return {inner, heads, 1e-5}; }
};
/// `basic_mlstm` of sizes chosen when the program runs.
using mlstm = basic_mlstm<>;

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
namespace distil_xlstm {
DISTIL_XLSTM_COMPILED_LAYOUTS(extern template, mlstm, double)
DISTIL_XLSTM_COMPILED_LAYOUTS(extern template, mlstm, float)
}  // namespace distil_xlstm
#endif
