#pragma once

#include <cmath>

#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/math/activation.hpp>

namespace distil_xlstm {

namespace detail {
/// y = act(gate) value
struct gated_activation {
  activation act;
  template <class V>
  DISTIL_XLSTM_HD V operator()(V gate, V value) const {
    return math::activate(act, gate).value * value;
  }
};
/// Its gradients, and y again.
struct gated_activation_again {
  activation act;
  template <class V>
  struct gradients {
    V gate, value, y;
  };
  template <class V>
  DISTIL_XLSTM_HD gradients<V> operator()(V gate, V value, V dy) const {
    const auto a = math::activate(act, gate);
    return {dy * value * a.slope, dy * a.value, a.value * value};
  }
};
/// Its gradients alone.
struct gated_activation_backward {
  activation act;
  template <class V>
  struct gradients {
    V gate, value;
  };
  template <class V>
  DISTIL_XLSTM_HD gradients<V> operator()(V gate, V value, V dy) const {
    const auto all = gated_activation_again{act}(gate, value, dy);
    return {all.gate, all.value};
  }
};
}  // namespace detail

/// Weights of `feed_forward`.
template <class Matrix, class Pointer>
struct feed_forward_params {
  /// [2 inner, width], the gate's rows first.
  linear_params<Matrix, Pointer> proj_up, proj_down;  ///< [width, inner]
};
/// Tape of `feed_forward`.
template <class T>
struct feed_forward_tape {
  /// [rows, 2 inner]: gate and value.
  matrix_view<T> up, y;  ///< [rows, inner]: act(gate) value
};

/// Gated feed-forward of the sLSTM block: y = W_down (act(gate) value), [gate; value] = W_up x.
struct feed_forward {
  /// Width of x and of y.
  index width = 0, inner = 0;  ///< width of gate and value, in NX-AI/xlstm round_up(proj_factor width, 64)
  activation act = activation::gelu;  ///< of the gate
  bool bias = false;                  ///< of both projections
  /// Blocks of the model: W_down begins with a standard deviation of 2 / (block_count sqrt(width)).
  index block_count = 1;
  static constexpr bool adds_to_y = true;  ///< y = skip + the feed-forward, in the last product

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  constexpr index width_in() const { return width; }
  constexpr index width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(width > 0 && inner > 0, "feed_forward: a width of ", width, " and an inner width of ", inner,
            " are not possible");
    require(block_count > 0, "feed_forward: block_count is ", block_count, ", it must be 1 or more");
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
    k.y = l.matrix("y", seq.rows(), inner);
    return k;
  }
  template <class T>
  void forward(auto& d, sequence_view, const auto& p, const auto&, const auto& k, const_view<T> x,
               matrix_view<T> y, const_view<T> skip = {}) const {
    up().forward(d, p.proj_up, x, k.up);
    transform(d, k.y, detail::gated_activation{act}, k.up.columns(0, inner), k.up.columns(inner, inner));
    down().forward(d, p.proj_down, k.y, y, skip);
  }
  template <class T>
  void backward(auto& d, sequence_view, const auto& p, const auto& g, const auto& k, const_view<T> x,
                const_view<T> dy, matrix_view<T> dx) const {
    const auto memory = scratch_matrices<T>(d, x.rows, inner);
    const matrix_view<T> dact = memory.views[0];
    down().backward(d, p.proj_down, g.proj_down, k.y, dy, dact);
    const auto through = [&]<class U>(U) {
      const auto room = scratch_matrices<U>(d, x.rows, 2 * inner);
      const matrix_view<U> dup = room.views[0];
      transform(d, outputs{dup.columns(0, inner), dup.columns(inner, inner)},
                detail::gated_activation_backward{act}, k.up.columns(0, inner), k.up.columns(inner, inner),
                dact);
      up().backward(d, p.proj_up, g.proj_up, x, dup, dx);
    };
    // The gradient of a bias sums numbers that are not rounded.
    bias ? through(T()) : through(operand_t<decltype(d), T>());
  }
  /// @}

 private:
  linear<> up() const { return {width, 2 * inner, bias, std::sqrt(2.0 / (5.0 * static_cast<double>(width)))}; }
  linear<> down() const {
    return {inner, width, bias,
            2.0 / (static_cast<double>(block_count) * std::sqrt(static_cast<double>(width)))};
  }
};

}  // namespace distil_xlstm
