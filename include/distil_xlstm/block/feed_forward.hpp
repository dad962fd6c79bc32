#pragma once

#include <cmath>

#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/math/activation.hpp>

namespace distil_xlstm {

namespace detail {
/// y = act(gate) value
template <class T>
struct gated_activation {
  using scalar = T;
  activation act;
  matrix_view<const T> gate, value;
  matrix_view<T> y;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    math::store<V>(y.row(r) + c,
                   math::activate(act, math::load<V>(gate.row(r) + c)).value * math::load<V>(value.row(r) + c));
  }
};
template <class T>
struct gated_activation_backward {
  using scalar = T;
  activation act;
  matrix_view<const T> gate, value, dy;
  matrix_view<T> dgate, dvalue;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const auto a = math::activate(act, math::load<V>(gate.row(r) + c));
    const V g = math::load<V>(dy.row(r) + c), v = math::load<V>(value.row(r) + c);
    math::store<V>(dgate.row(r) + c, g * v * a.slope);
    math::store<V>(dvalue.row(r) + c, g * a.value);
  }
};
}  // namespace detail

template <class Matrix, class Pointer>
struct feed_forward_params {
  linear_params<Matrix, Pointer> proj_up, proj_down;
};
template <class T>
struct feed_forward_tape {
  matrix_view<T> up, y;
};

/// Gated feed-forward of the sLSTM block: y = W_down (act(gate) value), [gate; value] = W_up x.
struct feed_forward {
  index width = 0, inner = 0;  ///< inner: reference round_up(proj_factor width, 64)
  activation act = activation::gelu;
  bool bias = false;
  index block_count = 1;

  constexpr index width_in() const { return width; }
  constexpr index width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
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
  template <class D, class P, class S, class K, class T>
  void forward(D& d, sequence_view, const P& p, const S&, const K& k, matrix_view<const T> x,
               matrix_view<T> y) const {
    up().forward(d, p.proj_up, x, k.up);
    map(d, x.rows, inner,
        detail::gated_activation<T>{act, k.up.columns(0, inner), k.up.columns(inner, inner), k.y});
    down().forward(d, p.proj_down, matrix_view<const T>(k.y), y);
  }
  template <class D, class P, class G, class K, class T>
  void backward(D& d, sequence_view, const P& p, const G& g, const K& k, matrix_view<const T> x,
                matrix_view<const T> dy, matrix_view<T> dx) const {
    auto memory = d.template scratch<T>(3 * x.rows * inner);
    const matrix_view<T> dup(memory.data(), x.rows, 2 * inner), dact(memory.data() + dup.size(), x.rows, inner);
    down().backward(d, p.proj_down, g.proj_down, matrix_view<const T>(k.y), dy, dact);
    map(d, x.rows, inner,
        detail::gated_activation_backward<T>{act, k.up.columns(0, inner), k.up.columns(inner, inner), dact,
                                             dup.columns(0, inner), dup.columns(inner, inner)});
    up().backward(d, p.proj_up, g.proj_up, x, matrix_view<const T>(dup), dx);
  }

 private:
  linear<> up() const { return {width, 2 * inner, bias, std::sqrt(2.0 / (5.0 * static_cast<double>(width)))}; }
  linear<> down() const {
    return {inner, width, bias,
            2.0 / (static_cast<double>(block_count) * std::sqrt(static_cast<double>(width)))};
  }
};

}  // namespace distil_xlstm
