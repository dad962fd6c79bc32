#pragma once

#include <array>
#include <type_traits>

#include <distil_xlstm/block/feed_forward.hpp>
#include <distil_xlstm/block/sequential.hpp>

namespace distil_xlstm {

/// Weights of `basic_swiglu`.
template <class Matrix, class Pointer>
struct swiglu_params {
  /// @{

  /// Wg and Wu [inner, width], Wd [width, inner], without biases.
  linear_params<Matrix, Pointer> gate_proj, up_proj, down_proj;
  /// @}
};
/// Tape of `basic_swiglu`.
template <class T>
struct swiglu_tape {
  /// [rows, inner]: x Wgᵀ.
  matrix_view<T> gate, up;  ///< [rows, inner]: x Wuᵀ
  matrix_view<T> y;         ///< [rows, inner]: SiLU(gate) up; without data it is made again where it is needed
};

/// The feed-forward of Llama, Qwen2 and xLSTM-7B: y = (SiLU(x Wgᵀ) * (x Wuᵀ)) Wdᵀ (Shazeer 2020, arXiv
/// 2002.05202), under the names that a family of models gives its three matrices.
template <fixed_string Gate = "gate_proj", fixed_string Up = "up_proj", fixed_string Down = "down_proj">
struct basic_swiglu {
  /// Width of x and of y.
  index width = 0, inner = 0;        ///< width of gate and up projection
  double standard_deviation = 0.02;  ///< of the initial weights
  /// @{ As `Block` says.
  static constexpr bool adds_to_y = true, takes_operand = true;
  /// @}

  /// @name What every block has
  /// @{

  /// As the concept `Block` says; there is no state.
  constexpr index width_in() const { return width; }
  constexpr index width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(width > 0 && inner > 0, "swiglu: a width of ", width, " and an inner width of ", inner,
            " are not possible");
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
    swiglu_tape<typename L::scalar> k{};
    k.gate = l.matrix("gate", seq.rows(), inner);
    k.up = l.matrix("up", seq.rows(), inner);
    // Where no backward will look, the product takes the gate's place.
    if (l.transient()) k.y = k.gate;
    return k;
  }
  template <class T, class X = const T>
  void forward(auto& d, sequence_view, const auto& p, const auto&, const auto& k, matrix_view<X> x,
               matrix_view<T> y, const_view<T> skip = {}) const {
    linear<>::forward(d, std::array{p.gate_proj, p.up_proj}, x, std::array{k.gate, k.up});
    const auto through = [&](auto act) {
      transform(d, act, detail::gated_activation{activation::silu}, k.gate, k.up);
      down().forward(d, p.down_proj, act, y, skip);
    };
    using operand = operand_t<decltype(d), T>;
    // Over a transient tape: products with frozen weights round any number of rows, others may not where rows are few.
    constexpr bool rounds =
        !std::is_same_v<operand, T> && std::is_same_v<decltype(p.down_proj.weight), frozen_matrix>;
    if (k.y.data && !rounds) return through(k.y);
    const auto memory = scratch_matrices<operand>(d, x.rows, inner);
    through(memory.views[0]);
  }
  template <class T, class X = const T>
  void backward(auto& d, sequence_view, const auto& p, const auto& g, const auto& k, matrix_view<X> x,
                const_view<T> dy, matrix_view<T> dx) const {
    const auto memory = scratch_matrices<T>(d, x.rows, inner);
    const matrix_view<T> dact = memory.views[0];
    const auto operands = scratch_matrices<operand_t<decltype(d), T>>(d, x.rows, inner, inner, inner);
    const auto [dgate, dup, act] = operands.views;
    down().input_gradient(d, p.down_proj, dy, dact);
    transform(d, outputs{dgate, dup, act}, detail::gated_activation_again{activation::silu}, k.gate, k.up,
              dact);
    down().add_weight_gradients(d, g.down_proj, act, dy);
    up().backward(d, p.gate_proj, g.gate_proj, x, dgate, dx);
    up().backward(d, p.up_proj, g.up_proj, x, dup, dx, T(1));
  }
  /// @}

 private:
  linear<> up() const { return {width, inner, false, standard_deviation}; }
  linear<> down() const { return {inner, width, false, standard_deviation}; }
};
/// `basic_swiglu` under the names of Llama and Qwen2.
using swiglu = basic_swiglu<>;

}  // namespace distil_xlstm
