#pragma once

#include <distil_xlstm/block/linear.hpp>

namespace distil_xlstm {

namespace detail {
/// Small diagonal blocks as dense squares of several, so that a product of a few columns becomes one that is
/// worth it. Row r of the weights [blocks * width, width] lies in row r of the squares [blocks * width,
/// square], from column first(r) on.
template <class T>
struct diagonal_squares {
  index width, square;
  DISTIL_XLSTM_HD index first(index r) const { return r % square / width * width; }
};
/// dense = weight, with zeros beside.
template <class T>
struct spread_blocks : diagonal_squares<T> {
  using scalar = T;
  const T* weight;
  T* dense;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    T* p = dense + r * this->square + c;
    math::store<V>(p, V(0));
    const T* w = weight + r * this->width;
    for (index i = 0, k = c - this->first(r); i < math::width_of<V>; ++i, ++k)
      if (k >= 0 && k < this->width) p[i] = w[k];
  }
};
/// weight += the blocks of dense.
template <class T>
struct add_blocks : diagonal_squares<T> {
  using scalar = T;
  const T* dense;
  T* weight;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    T* w = weight + r * this->width + c;
    math::store<V>(w, math::load<V>(w) + math::load<V>(dense + r * this->square + this->first(r) + c));
  }
};
}  // namespace detail

template <class Pointer>
struct headwise_params {
  Pointer weight;          ///< [blocks, width, width]
  Pointer bias = nullptr;  ///< [blocks * width] or null
};

/// Block-diagonal linear map, the reference's LinearHeadwiseExpand: y[a, o] = sum_k W[a][o][k] x[a, k] (+ b).
struct headwise_linear {
  index blocks = 1, width = 1;  ///< number of blocks, and rows = columns of each
  bool bias = false;
  double standard_deviation = 0;

  constexpr index width_in() const { return blocks * width; }
  constexpr index width_out() const { return blocks * width; }

  template <class L>
  auto params(L& l) const {
    headwise_params<typename L::pointer> p;
    p.weight = l.tensor("weight", {blocks, width, width}, initial::normal(standard_deviation));
    if (bias) p.bias = l.tensor("bias", {blocks * width}, initial::zeros());
    return p;
  }

  /// y = beta y + HL(x)
  template <class D, class P, class T>
  void forward(D& d, const P& p, matrix_view<const T> x, matrix_view<T> y) const {
    with_dense(d, p.weight, [&](const T* w, index n, index count) {
      gemm_batched(d, count, x.columns(0, n), n, transposed(matrix_view<const T>(w, n, n)), n * n,
                   y.columns(0, n), n);
    });
    if (p.bias) map(d, y.rows, y.cols, detail::add_bias<T>{y, p.bias});
  }

  /// dx = beta dx + HLᵀ(dy); adds to g.
  template <class D, class P, class G, class T>
  void backward(D& d, const P& p, const G& g, matrix_view<const T> x, matrix_view<const T> dy,
                matrix_view<T> dx, T beta = 0) const {
    with_dense(d, p.weight, [&](const T* w, index n, index count) {
      gemm_batched(d, count, dy.columns(0, n), n, matrix_view<const T>(w, n, n), n * n, dx.columns(0, n), n,
                   beta);
      if (n == width) {
        gemm_batched(d, count, transposed(dy.columns(0, n)), n, x.columns(0, n), n,
                     matrix_view<T>(g.weight, n, n), n * n, T(1));
      } else {
        auto dense = d.template scratch<T>(count * n * n);
        gemm_batched(d, count, transposed(dy.columns(0, n)), n, x.columns(0, n), n,
                     matrix_view<T>(dense.data(), n, n), n * n);
        map(d, blocks * width, width, detail::add_blocks<T>{{width, n}, dense.data(), g.weight});
      }
    });
    if (g.bias) add_column_sums(d, dy, g.bias);
  }

 private:
  /// Calls f(weights of dense squares, their width, their count).
  template <class D, class P, class F>
  void with_dense(D& d, const P* weight, const F& f) const {
    using T = std::remove_const_t<P>;
    index group = 1;
    for (index g = 2; g * width <= 64; ++g)
      if (blocks % g == 0) group = g;
    if (group == 1) return f(weight, width, blocks);
    const index n = group * width, count = blocks / group;
    auto dense = d.template scratch<T>(count * n * n);
    map(d, blocks * width, n, detail::spread_blocks<T>{{width, n}, weight, dense.data()});
    f(static_cast<const T*>(dense.data()), n, count);
  }
};

}  // namespace distil_xlstm
