#pragma once

#include <cmath>

#include <distil_xlstm/block/causal_conv1d.hpp>
#include <distil_xlstm/block/headwise_linear.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/silu.hpp>
#include <distil_xlstm/op/slstm/op.hpp>

namespace distil_xlstm {

template <class Pointer>
struct slstm_params {
  conv_params<Pointer> conv1d;
  headwise_params<Pointer> fgate, igate, zgate, ogate;
  Pointer recurrent, bias;
  norm_params<Pointer> group_norm;
};
template <class T>
struct slstm_layer_state {
  conv_state<T> conv;
  slstm_state<T> cell;
};
template <class T>
struct slstm_tape {
  conv_tape<T> conv;
  matrix_view<T> u, a;  ///< convolution, and SiLU of it
  matrix_view<T> raw, states;
  T* initial;
  norm_tape<T> norm;
};

/// The sLSTM layer of NX-AI/xlstm (Family A): convolution and SiLU feed the input and forget gates, the bare
/// input feeds z and o; block-diagonal maps per head; the recurrent cell; a norm per head.
///
/// As there, the weight named `fgate` feeds the input gate and `igate` the forget gate; the cell's bias is not
/// swapped.
///
/// Width and heads may be known to the compiler, which then refuses those that do not fit; `slstm` takes both
/// when the program runs.
template <index Width = dynamic, index Heads = dynamic>
struct basic_slstm {
  static_assert(Width == dynamic || Heads == dynamic || (Heads > 0 && Width % (Heads > 0 ? Heads : 1) == 0),
                "distil_xlstm::slstm: the heads share the width equally; write a width that Heads divides");
  [[no_unique_address]] extent<Width> width{};
  [[no_unique_address]] extent<Heads> heads{1};
  index conv_window = 4;                   ///< 0: no convolution, the gates read the bare input
  index block_index = 0, block_count = 1;  ///< for the forget bias' initial values

  constexpr auto width_in() const { return width; }
  constexpr auto width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(heads > 0 && width % heads == 0, "slstm: ", heads, " heads do not divide the width ", width);
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
      k.u = l.matrix("u", rows, width);
      k.a = l.matrix("a", rows, width);
    }
    k.raw = l.matrix("raw", rows, 4 * width);
    k.states = l.matrix("states", rows, 4 * width);
    k.initial = l.tensor("initial", {seq.batch, 4, width});
    k.norm = group_norm().tape(l, seq);
    return k;
  }

  template <class D, class P, class S, class K, class T>
  void forward(D& d, sequence_view seq, const P& p, const S& s, const K& k, matrix_view<const T> x,
               matrix_view<T> y) const {
    matrix_view<const T> a = x;
    if (conv_window) {
      conv().forward(d, seq, p.conv1d, s.conv, k.conv, x, k.u);
      map(d, x.rows, width, detail::silu_map<T>{k.u, k.a});
      a = k.a;
    }
    gate().forward(d, p.fgate, a, k.raw.columns(0, width));
    gate().forward(d, p.igate, a, k.raw.columns(width, width));
    gate().forward(d, p.zgate, x, k.raw.columns(2 * width, width));
    gate().forward(d, p.ogate, x, k.raw.columns(3 * width, width));
    slstm_forward(d, slstm_arguments<T>{seq, heads, width / heads, p.recurrent, p.bias, k.raw, k.states,
                                        k.initial, s.cell.hcnm});
    group_norm().forward(d, p.group_norm, k.norm, matrix_view<const T>(k.states.columns(0, width)), y);
  }

  /// Destroys the tape's pre-activations: one backward a forward.
  template <class D, class P, class G, class K, class T>
  void backward(D& d, sequence_view seq, const P& p, const G& g, const K& k, matrix_view<const T> x,
                matrix_view<const T> dy, matrix_view<T> dx) const {
    const index rows = x.rows, head = width / heads;
    auto memory = d.template scratch<T>(rows * width + 3 * seq.batch * width);
    matrix_view<T> dh(memory.data(), rows, width);
    T* carry = memory.data() + rows * width;
    map(d, 1, 3 * seq.batch * width, detail::fill<T>{carry, 0});
    group_norm().backward(d, p.group_norm, g.group_norm, k.norm,
                          matrix_view<const T>(k.states.columns(0, width)), dy, dh);
    const slstm_backward_arguments<T> arguments{seq, heads, head, p.recurrent, k.raw, k.states, k.initial, dh};
    slstm_backward(d, arguments, carry);

    // dR and db are one product and one sum after the loop; dh is free by now.
    map(d, rows, width, detail::slstm_previous_h<T>{arguments, dh});
    const matrix_view<const T> draw = k.raw, previous = dh;
    for (index gate_index = 0; gate_index < 4; ++gate_index)
      gemm_batched(d, heads, transposed(draw.columns(gate_index * width, head)), head,
                   previous.columns(0, head), head,
                   matrix_view<T>(g.recurrent + gate_index * head * head, head, head), 4 * head * head, T(1));
    add_column_sums(d, draw, g.bias);

    matrix_view<const T> a = x;
    matrix_view<T> da = dx;
    if (conv_window) a = k.a, da = dh;
    gate().backward(d, p.fgate, g.fgate, a, draw.columns(0, width), da);
    gate().backward(d, p.igate, g.igate, a, draw.columns(width, width), da, T(1));
    gate().backward(d, p.zgate, g.zgate, x, draw.columns(2 * width, width), dx, T(conv_window ? 0 : 1));
    gate().backward(d, p.ogate, g.ogate, x, draw.columns(3 * width, width), dx, T(1));
    if (conv_window) {
      map(d, rows, width, detail::silu_backward_map<T>{k.u, da});
      conv().backward(d, seq, p.conv1d, g.conv1d, k.conv, x, matrix_view<const T>(da), dx, true);
    }
  }

 private:
  causal_conv1d conv() const { return {width, conv_window}; }
  headwise_linear gate() const {
    return {heads, width / heads, false, std::sqrt(2.0 / (5.0 * static_cast<double>(width)))};
  }
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
using slstm = basic_slstm<>;

}  // namespace distil_xlstm
