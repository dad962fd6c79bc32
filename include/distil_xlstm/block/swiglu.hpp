#pragma once

#include <array>
#include <type_traits>

#include <distil_xlstm/block/feed_forward.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/op/gated_activation/op.hpp>

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
  matrix_view<T> y;         ///< [rows, inner]: SiLU(gate) up; without data it is made again for a backward

  /// The same three in this memory, as a device that rounds operands leaves them for a backward: gate and up side by
  /// side in gate's, y in up's.
  template <class Operand>
  swiglu_tape<Operand> rounded() const {
    static_assert(2 * sizeof(Operand) == sizeof(T));
    const index cols = gate.cols;
    const matrix_view<Operand> both(reinterpret_cast<Operand*>(gate.data), gate.rows, 2 * cols);
    return {
        both.columns(0, cols), both.columns(cols, cols), {reinterpret_cast<Operand*>(up.data), up.rows, cols}};
  }
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
    // What `rounded` leaves of it is y.
    k.up = l.operand("up", seq.rows(), inner);
    // Where no backward will look, the product takes the gate's place.
    if (l.transient()) k.y = k.gate;
    return k;
  }
  template <class T, class X = const T>
  void forward(auto& d, sequence_view, const auto& p, const auto&, const auto& k, matrix_view<X> x,
               matrix_view<T> y, const_view<T> skip = {}) const {
    using operand = operand_t<decltype(d), T>;
    constexpr bool rounds = !std::is_same_v<operand, T>,
                   frozen = std::is_same_v<decltype(p.down_proj.weight), frozen_matrix>;
    const auto through = [&](const auto& z, auto act) {
      const auto results = side_by_side(z.gate, z.up);
      if (const auto weights = detail::joined(p.gate_proj, p.up_proj); results.data && weights.weight.data) {
        gate_and_up().forward(d, weights, x, results);
      } else {
        linear<>::forward(d, std::array{p.gate_proj, p.up_proj}, x, std::array{z.gate, z.up});
      }
      gated_activation_forward(d, gated(z), act);
      down().forward(d, p.down_proj, act, y, skip);
    };
    if constexpr (rounds)
      if (!k.y.data) {
        const auto z = k.template rounded<operand>();
        return through(z, z.y);
      }
    // Over a transient tape: products with frozen weights round any number of rows, others may not where rows are few.
    if (k.y.data && !(rounds && frozen)) return through(k, k.y);
    const auto memory = scratch_matrices<operand>(d, x.rows, inner);
    through(k, memory.views[0]);
  }
  template <class T, class X = const T>
  void backward(auto& d, sequence_view, const auto& p, const auto& g, const auto& k, matrix_view<X> x,
                const_view<T> dy, matrix_view<T> dx) const {
    using operand = operand_t<decltype(d), T>;
    using view = matrix_view<operand>;
    const auto through = [&](const swiglu_tape<operand>& z, view dact, view dgate, view dup, view again) {
      down().input_gradient(d, p.down_proj, dy, dact);
      gated_activation_backward(
          d, gated_activation_backward_arguments<operand>{gated(z), dact, dgate, dup, again});
      down().add_weight_gradients(d, g.down_proj, again.data ? again : z.y, dy);
      const auto above = side_by_side(dgate, dup);
      const auto weights = detail::joined(p.gate_proj, p.up_proj),
                 gradients = detail::joined(g.gate_proj, g.up_proj);
      if (above.data && weights.weight.data && gradients.weight.data)
        return gate_and_up().backward(d, weights, gradients, x, above, dx);
      up().backward(d, p.gate_proj, g.gate_proj, x, dgate, dx);
      up().backward(d, p.up_proj, g.up_proj, x, dup, dx, T(1));
    };
    if constexpr (std::is_same_v<operand, T>) {
      const auto memory = scratch_matrices<T>(d, x.rows, inner, inner, inner, inner);
      const auto [dact, dgate, dup, act] = memory.views;
      through(k, dact, dgate, dup, act);
    } else {
      const auto memory = scratch_matrices<operand>(d, x.rows, inner, 2 * inner);
      const auto [dact, both] = memory.views;
      through(k.template rounded<operand>(), dact, both.columns(0, inner), both.columns(inner, inner), {});
    }
  }
  /// @}

 private:
  linear<> up() const { return {width, inner, false, standard_deviation}; }
  linear<> gate_and_up() const { return {width, 2 * inner, false, standard_deviation}; }
  linear<> down() const { return {inner, width, false, standard_deviation}; }

  template <class T>
  static gated_activation_arguments<T> gated(const swiglu_tape<T>& k) {
    return {activation::silu, k.gate, k.up};
  }
  /// Gate's and up's as one matrix, where they lie side by side; else without data.
  template <class T>
  static matrix_view<T> side_by_side(matrix_view<T> gate, matrix_view<T> up) {
    const bool so = gate.stride == 2 * gate.cols && up.data == gate.data + gate.cols;
    return {so ? gate.data : nullptr, gate.rows, 2 * gate.cols, gate.stride};
  }
};
/// `basic_swiglu` under the names of Llama and Qwen2.
using swiglu = basic_swiglu<>;

}  // namespace distil_xlstm
