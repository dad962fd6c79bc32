#pragma once

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

namespace detail {
/// y += bias, row by row.
template <class T>
struct add_bias {
  using scalar = T;
  matrix_view<T> y;
  const T* bias;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    T* p = y.row(r) + c;
    math::store<V>(p, math::load<V>(p) + math::load<V>(bias + c));
  }
};
/// p[c] = value
template <class T>
struct fill {
  using scalar = T;
  T* p;
  T value;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index, index c) const {
    math::store<V>(p + c, V(value));
  }
};
/// y += x
template <class T>
struct add_to {
  using scalar = T;
  matrix_view<const T> x;
  matrix_view<T> y;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    T* p = y.row(r) + c;
    math::store<V>(p, math::load<V>(p) + math::load<V>(x.row(r) + c));
  }
};
}  // namespace detail

template <class Matrix, class Pointer>
struct linear_params {
  Matrix weight;           ///< [out, in]
  Pointer bias = nullptr;  ///< [out] or null
};

/// y = x Wᵀ (+ b), torch.nn.Linear. Widths may be static or dynamic.
template <index In = dynamic, index Out = dynamic>
struct linear {
  [[no_unique_address]] extent<In> in{};
  [[no_unique_address]] extent<Out> out{};
  bool bias = false;
  double standard_deviation = 0;  ///< of the initial weights

  constexpr auto width_in() const { return in; }
  constexpr auto width_out() const { return out; }

  template <class L>
  auto params(L& l) const {
    linear_params<typename L::matrix_type, typename L::pointer> p;
    p.weight = l.matrix("weight", out, in, initial::normal(standard_deviation));
    if (bias) p.bias = l.tensor("bias", {out}, initial::zeros());
    return p;
  }
  template <class L>
  no_state state(L&) const {
    return {};
  }
  template <class L>
  no_state tape(L&, sequence_view) const {
    return {};
  }

  template <class D, class P, class T>
  void forward(D& d, const P& p, matrix_view<const T> x, matrix_view<T> y) const {
    gemm(d, x, transposed(p.weight), y);
    if (p.bias) map(d, y.rows, y.cols, detail::add_bias<T>{y, p.bias});
  }
  template <class D, class P, class G, class T>
  void backward(D& d, const P& p, const G& g, matrix_view<const T> x, matrix_view<const T> dy,
                matrix_view<T> dx) const {
    gemm(d, dy, p.weight, dx);
    gemm(d, transposed(dy), x, g.weight, T(1));
    if (g.bias) add_column_sums(d, dy, g.bias);
  }

  template <class D, class P, class S, class K, class T>
  void forward(D& d, sequence_view, const P& p, const S&, const K&, matrix_view<const T> x,
               matrix_view<T> y) const {
    forward(d, p, x, y);
  }
  template <class D, class P, class G, class K, class T>
  void backward(D& d, sequence_view, const P& p, const G& g, const K&, matrix_view<const T> x,
                matrix_view<const T> dy, matrix_view<T> dx) const {
    backward(d, p, g, x, dy, dx);
  }
};

}  // namespace distil_xlstm
