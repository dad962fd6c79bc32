#pragma once

#include <type_traits>

#include <distil_xlstm/block/initial_deviation.hpp>
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/op/gated_activation/op.hpp>

namespace distil_xlstm {

/// Weights of `feed_forward`.
template <class Matrix, class Pointer>
struct feed_forward_params {
  /// [2 inner, width], the gate's rows first.
  linear_params<Matrix, Pointer> proj_up, proj_down;  ///< [width, inner]
};
/// Tape of `feed_forward`.
template <class T>
struct feed_forward_tape {
  matrix_view<T> up;  ///< [rows, 2 inner]: gate and value
  /// [rows, inner]: act(gate) value; where a backward may follow, stored as the device's `operand_t`.
  matrix_view<T> y;
  bool before_backward = false;  ///< a backward may follow
};

/// Gated feed-forward of the sLSTM block: y = W_down (act(gate) value), [gate; value] = W_up x.
struct feed_forward {
  /// Width of x and of y.
  index width = 0, inner = 0;  ///< width of gate and value, in NX-AI/xlstm round_up(proj_factor width, 64)
  activation act = activation::gelu;  ///< of the gate
  bool bias = false;                  ///< of both projections
  index block_count = 1;              ///< blocks of the model, for the initial down projection
  /// @{ As `Block` says.
  static constexpr bool adds_to_y = true, takes_operand = true;
  /// @}

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  constexpr index width_in() const { return width; }
  constexpr index width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(width > 0 && inner > 0, "feed_forward: a width of ", width, " and an inner width of ", inner,
            " are not possible");
    feed_forward_params<typename L::matrix_type, typename L::pointer> p;
    p.proj_up = l.scope("proj_up", [&] { return up().params(l); });
    p.proj_down = l.scope("proj_down", [&] { return down().params(l); });
    return p;
  }
  template <class L>
  no_state state(L&) const {
    return {};
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    feed_forward_tape<typename L::scalar> k;
    k.up = l.matrix("up", seq.rows(), 2 * inner);
    k.y = l.operand("y", seq.rows(), inner);
    k.before_backward = !l.transient();
    return k;
  }
  template <class T, class X = const T>
  void forward(auto& d, sequence_view, const auto& p, const auto&, const auto& k, matrix_view<X> x,
               matrix_view<T> y, const_view<T> skip = {}) const {
    if (!bias && !k.before_backward) {
      using matrix = std::remove_cvref_t<decltype(p.proj_up.weight)>;
      const auto inner_y = detail::stored_as<T>(k.y);
      gated_product_forward(
          d, gated_product_arguments<T, std::remove_const_t<X>, matrix>{act, x, p.proj_up.weight, k.up},
          inner_y);
      return down().forward(d, p.proj_down, inner_y, y, skip);
    }
    up().forward(d, p.proj_up, x, k.up);
    const auto through = [&]<class Y>(Y) {
      const auto inner_y = detail::stored_as<Y>(k.y);
      gated_activation_forward(d, gated(k), inner_y);
      down().forward(d, p.proj_down, inner_y, y, skip);
    };
    k.before_backward ? through(operand_t<decltype(d), T>()) : through(T());
  }
  template <class T, class X = const T>
  void backward(auto& d, sequence_view, const auto& p, const auto& g, const auto& k, matrix_view<X> x,
                const_view<T> dy, matrix_view<T> dx) const {
    const auto memory = scratch_matrices<T>(d, x.rows, inner);
    const matrix_view<T> dact = memory.views[0];
    down().backward(d, p.proj_down, g.proj_down, detail::stored_as<operand_t<decltype(d), T>>(k.y), dy, dact);
    const auto through = [&]<class U>(U) {
      const auto scratch = scratch_matrices<U>(d, x.rows, 2 * inner);
      const matrix_view<U> dup = scratch.views[0];
      gated_activation_backward(d, gated_activation_backward_arguments<T, U>{
                                       gated(k), dact, dup.columns(0, inner), dup.columns(inner, inner)});
      up().backward(d, p.proj_up, g.proj_up, x, dup, dx);
    };
    // The gradient of a bias sums numbers that are not rounded.
    bias ? through(T()) : through(operand_t<decltype(d), T>());
  }
  /// @}

 private:
  template <class T>
  gated_activation_arguments<T> gated(const feed_forward_tape<T>& k) const {
    return {act, k.up.columns(0, inner), k.up.columns(inner, inner)};
  }
  linear<> up() const { return {width, 2 * inner, bias, detail::small_deviation(width)}; }
  linear<> down() const {
    return {inner, width, bias, detail::last_deviation("feed_forward", width, block_count)};
  }
};

}  // namespace distil_xlstm
