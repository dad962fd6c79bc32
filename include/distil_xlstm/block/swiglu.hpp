#pragma once

#include <distil_xlstm/block/feed_forward.hpp>
#include <distil_xlstm/block/sequential.hpp>

namespace distil_xlstm {

template <class Matrix, class Pointer>
struct swiglu_params {
  linear_params<Matrix, Pointer> gate_proj, up_proj, down_proj;
};
template <class T>
struct swiglu_tape {
  matrix_view<T> gate, up, y;  ///< [rows, inner]
};

/// The feed-forward of Llama, Qwen2 and xLSTM-7B: y = (SiLU(x Wgᵀ) * (x Wuᵀ)) Wdᵀ (Shazeer 2020, arXiv
/// 2002.05202), under the names that a family of models gives its three matrices.
template <fixed_string Gate = "gate_proj", fixed_string Up = "up_proj", fixed_string Down = "down_proj">
struct basic_swiglu {
  index width = 0, inner = 0;
  double standard_deviation = 0.02;  ///< of the initial weights

  constexpr index width_in() const { return width; }
  constexpr index width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    swiglu_params<typename L::matrix_type, typename L::pointer> p;
    p.gate_proj = l.scope(Gate.view(), [&] { return up().params(l); });
    p.up_proj = l.scope(Up.view(), [&] { return up().params(l); });
    p.down_proj = l.scope(Down.view(), [&] { return down().params(l); });
    return p;
  }
  template <class L>
  no_state state(L&) const {
    return {};
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    swiglu_tape<typename L::scalar> k;
    k.gate = l.matrix("gate", seq.rows(), inner);
    k.up = l.matrix("up", seq.rows(), inner);
    // Where no backward will look, the product takes the gate's place.
    k.y = l.transient() ? k.gate : l.matrix("y", seq.rows(), inner);
    return k;
  }
  template <class D, class P, class S, class K, class T>
  void forward(D& d, sequence_view, const P& p, const S&, const K& k, matrix_view<const T> x,
               matrix_view<T> y) const {
    up().forward(d, p.gate_proj, x, k.gate);
    up().forward(d, p.up_proj, x, k.up);
    map(d, x.rows, inner, detail::gated_activation<T>{activation::silu, k.gate, k.up, k.y});
    down().forward(d, p.down_proj, matrix_view<const T>(k.y), y);
  }
  template <class D, class P, class G, class K, class T>
  void backward(D& d, sequence_view, const P& p, const G& g, const K& k, matrix_view<const T> x,
                matrix_view<const T> dy, matrix_view<T> dx) const {
    auto memory = d.template scratch<T>(3 * x.rows * inner);
    const matrix_view<T> dact(memory.data(), x.rows, inner), dgate(dact.data + dact.size(), x.rows, inner),
        dup(dgate.data + dgate.size(), x.rows, inner);
    down().backward(d, p.down_proj, g.down_proj, matrix_view<const T>(k.y), dy, dact);
    map(d, x.rows, inner,
        detail::gated_activation_backward<T>{activation::silu, k.gate, k.up, dact, dgate, dup});
    up().backward(d, p.gate_proj, g.gate_proj, x, matrix_view<const T>(dgate), dx);
    gemm(d, matrix_view<const T>(dup), p.up_proj.weight, dx, T(1));
    gemm(d, transposed(matrix_view<const T>(dup)), x, g.up_proj.weight, T(1));
  }

 private:
  linear<> up() const { return {width, inner, false, standard_deviation}; }
  linear<> down() const { return {inner, width, false, standard_deviation}; }
};
using swiglu = basic_swiglu<>;

}  // namespace distil_xlstm
