#pragma once

#include <array>
#include <cmath>

#include <distil_xlstm/block/causal_conv1d.hpp>
#include <distil_xlstm/block/headwise_linear.hpp>
#include <distil_xlstm/block/initial_deviation.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/op/slstm/op.hpp>
#include <distil_xlstm/op/slstm_inputs/op.hpp>
#include <distil_xlstm/op/slstm_layer/op.hpp>

namespace distil_xlstm {

/// Weights of `basic_slstm`.
template <class Pointer>
struct slstm_params {
  conv_params<Pointer> conv1d;  ///< of `width` channels; null without a convolution
  /// @{

  /// Weights [heads, head, head], head = width / heads, without biases; fgate and igate swapped, as the block says.
  headwise_params<Pointer> fgate, igate, zgate, ogate;
  /// @}

  /// R, [heads, 4 head, head]: a head's rows are those of i, f, z, o.
  Pointer recurrent, bias;          ///< b, [4 width]: those of i, f, z, o
  norm_params<Pointer> group_norm;  ///< [width]
};
/// State of `basic_slstm`.
template <class T>
struct slstm_layer_state {
  conv_state<T> conv;   ///< [conv_window - 1, width]; null without a convolution
  slstm_state<T> cell;  ///< [4, width]: h, c, n, m
};
/// Tape of `basic_slstm`.
template <class T>
struct slstm_tape {
  conv_tape<T> conv;  ///< its past, if there is a convolution
  matrix_view<T> a;   ///< [rows, width]: SiLU of the convolution, if there is one

  /// [rows, 4 width]: i~, f~, z~, o~; after backward their gradients.
  matrix_view<T> raw, states;  ///< [rows, 4 width]: h, c, n, m after each token
  T* initial;                  ///< [batch, 4, width]: the state before the call
  norm_tape<T> norm;           ///< of the norm of h, a group a head
};

/// The sLSTM layer of NX-AI/xlstm: convolution and SiLU feed the input and forget gates, the bare input feeds z and
/// o; block-diagonal maps per head; the recurrent cell; a norm per head.
///
///     a = SiLU(conv(x))    of each head, with h' of the token before:
///     i~ = Wi a + Ri h' + bi    f~ = Wf a + Rf h' + bf    z~ = Wz x + Rz h' + bz    o~ = Wo x + Ro h' + bo
///     c <- sigmoid(f~) c + exp(i~) tanh(z~)    n <- sigmoid(f~) n + exp(i~)    h = sigmoid(o~) c / n
///     y = norm(h)
///
/// (Beck et al. 2024, arXiv 2405.04517), kept with a stabiliser m, as `math::slstm_step` says.
///
/// As in NX-AI/xlstm, the weight named `fgate` feeds the input gate (Wi above) and `igate` the forget gate; the
/// cell's bias is not swapped.
///
/// Width and heads may be known to the compiler, which then refuses those that do not fit; `slstm` takes both
/// when the program runs.
template <index Width = dynamic, index Heads = dynamic, index Window = dynamic>
struct basic_slstm {
  static_assert(Width == dynamic || Heads == dynamic || (Heads > 0 && Width % (Heads > 0 ? Heads : 1) == 0),
                "distil_xlstm::slstm: the heads share the width equally; write a width that Heads divides");
  [[no_unique_address]] extent<Width> width{};          ///< of x and of y
  [[no_unique_address]] extent<Heads> heads{1};         ///< number of heads, which share `width` equally
  [[no_unique_address]] extent<Window> conv_window{4};  ///< 0: no convolution, the gates read the bare input
  /// Which block of the model it is, from 0, for the initial values of the forget bias.
  index block_index = 0, block_count = 1;  ///< blocks of the model
  static constexpr bool adds_to_y = true;  ///< y = skip + the layer, in its norm

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  constexpr auto width_in() const { return width; }
  constexpr auto width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(width > 0 && heads > 0 && width % heads == 0, "slstm: ", heads, " heads do not divide the width ",
            width);
    require(block_index >= 0 && block_index < block_count, "slstm: block ", block_index, " of ", block_count,
            " blocks is not possible");
    const index head = width / heads;
    slstm_params<typename L::pointer> p{};
    if (conv_window) p.conv1d = l.scope("conv1d", [&] { return conv().params(l); });
    p.fgate = l.scope("fgate", [&] { return gate().params(l); });
    p.igate = l.scope("igate", [&] { return gate().params(l); });
    p.zgate = l.scope("zgate", [&] { return gate().params(l); });
    p.ogate = l.scope("ogate", [&] { return gate().params(l); });
    l.scope("slstm_cell", [&] {
      p.recurrent = l.tensor("_recurrent_kernel_", {heads, 4 * head, head});
      p.bias = l.tensor("_bias_", {4 * width}, forget_bias());
      return no_state{};
    });
    p.group_norm = l.scope("group_norm", [&] { return group_norm().params(l); });
    return p;
  }
  template <class L>
  auto state(L& l) const {
    slstm_layer_state<typename L::scalar> s;
    if (conv_window) s.conv = l.scope("conv1d", [&] { return conv().state(l); });
    s.cell.hcnm = l.state("slstm_cell", {4, width});
    return s;
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    slstm_tape<typename L::scalar> k{};
    const index rows = seq.rows();
    if (conv_window) {
      k.conv = conv().tape(l, seq);
      k.a = l.matrix("a", rows, width);
    }
    k.raw = l.matrix("raw", rows, 4 * width);
    k.states = l.matrix("states", rows, 4 * width);
    k.initial = l.tensor("initial", {seq.batch, 4, width});
    k.norm = group_norm().tape(l, seq);
    return k;
  }

  template <class T>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y, const_view<T> skip = {}) const {
    if (conv_window) conv().forward(d, seq, p.conv1d, s.conv, k.conv, x, matrix_view<T>(), k.a);
    slstm_layer_forward(
        d, slstm_layer_arguments<T>{slstm_arguments<T>{seq, heads, width / heads, p.recurrent, p.bias, k.raw,
                                                       k.states, k.initial, s.cell.hcnm},
                                    {p.fgate.weight, p.igate.weight, p.zgate.weight, p.ogate.weight},
                                    conv_window ? matrix_view<const T>(k.a) : x,
                                    x,
                                    group_norm().template view<T>(p.group_norm.weight),
                                    k.norm.statistics,
                                    y,
                                    skip});
  }

  /// As the concept `Block` says. Destroys the tape's pre-activations.
  template <class T>
  void backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, const_view<T> x,
                const_view<T> dy, matrix_view<T> dx) const {
    const index head = width / heads;
    const auto memory = make_scratch<T>(d, [&](auto& l) {
      return std::array{l.matrix("dh", x.rows, width), l.matrix("carry", seq.batch, 3 * width)};
    });
    const auto [dh, carry] = memory.views;
    fill(d, carry);
    group_norm().backward(d, p.group_norm, g.group_norm, k.norm, k.states.columns(0, width), dy, dh);
    const slstm_backward_arguments<T> arguments{seq, heads, head, p.recurrent, k.raw, k.states, k.initial, dh};
    slstm_backward(d, arguments, carry.data);

    // Products and sums over all tokens, after the loop; dh is free by now.
    const matrix_view<T> da = conv_window ? dh : dx;
    slstm_inputs_backward(
        d, slstm_inputs_backward_arguments<T>{arguments,
                                              {p.fgate.weight, p.igate.weight, p.zgate.weight, p.ogate.weight},
                                              {g.fgate.weight, g.igate.weight, g.zgate.weight, g.ogate.weight},
                                              g.recurrent,
                                              g.bias,
                                              conv_window ? matrix_view<const T>(k.a) : x,
                                              x,
                                              da,
                                              dx,
                                              dh});
    if (conv_window) conv().backward(d, seq, p.conv1d, g.conv1d, k.conv, x, da, dx, dx, true);
  }
  /// @}

 private:
  basic_causal_conv1d<Width, Window> conv() const { return {width, conv_window}; }
  headwise_linear gate() const { return {heads, width / heads, false, detail::small_deviation(width)}; }
  layer_norm<> group_norm() const { return {width, heads, 1e-5}; }

  /// `powerlaw_blockdependent`: b_f[j] = 5 - 12 (j / (DH - 1))^(0.3 + 1.3 r), r from 0 (first block) to 1
  /// (last).
  initializer forget_bias() const {
    const index head = width / heads, w = width;
    const double r =
        block_count > 1 ? static_cast<double>(block_index) / static_cast<double>(block_count - 1) : 0.0;
    return [=](index e, rng&) -> double {
      if (e / w != 1) return 0.0;
      if (head == 1) return 5.0;
      return 5.0 -
             12.0 * std::pow(static_cast<double>(e % head) / static_cast<double>(head - 1), 0.3 + 1.3 * r);
    };
  }
};
/// `basic_slstm` of sizes chosen when the program runs.
using slstm = basic_slstm<>;

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
namespace distil_xlstm {
DISTIL_XLSTM_COMPILED_LAYOUTS(extern template, slstm, double)
DISTIL_XLSTM_COMPILED_LAYOUTS(extern template, slstm, float)
}  // namespace distil_xlstm
#endif
