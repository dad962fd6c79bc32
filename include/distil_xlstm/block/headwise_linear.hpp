#pragma once

#include <distil_xlstm/block/linear.hpp>

namespace distil_xlstm {

namespace detail {
/// Groups of small diagonal blocks as dense squares, so that a product of a few columns becomes one that is
/// worth it.
template <class T>
struct diagonal_groups {
  index block, group;  ///< width of a block, blocks in a square
  T* weight;           ///< [blocks, block, block]
  T* dense;            ///< [blocks / group, group * block, group * block]
  bool extract;        ///< false: dense = weight with zeros beside; true: weight += diagonal of dense
  DISTIL_XLSTM_HD void operator()(index square) const {
    const index width = group * block;
    for (index a = 0; a < group; ++a) {
      T* w = weight + (square * group + a) * block * block;
      for (index o = 0; o < block; ++o) {
        T* row = dense + (square * width + a * block + o) * width;
        if (!extract)
          for (index k = 0; k < width; ++k) row[k] = 0;
        for (index k = 0; k < block; ++k) {
          if (extract)
            w[o * block + k] += row[a * block + k];
          else
            row[a * block + k] = w[o * block + k];
        }
      }
    }
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
        scan(d, count, detail::diagonal_groups<T>{width, n / width, g.weight, dense.data(), true});
      }
    });
    if (g.bias) fold_columns(d, dy.rows, dy.cols, detail::add_column_sums<T>{dy, g.bias});
  }

 private:
  /// Calls f(weights of dense squares, their width, their count).
  template <class D, class T, class F>
  void with_dense(D& d, const T* weight, const F& f) const {
    index group = 1;
    for (index g = 2; g * width <= 64; ++g)
      if (blocks % g == 0) group = g;
    if (group == 1) return f(weight, width, blocks);
    const index n = group * width, count = blocks / group;
    auto dense = d.template scratch<std::remove_const_t<T>>(count * n * n);
    scan(d, count,
         detail::diagonal_groups<std::remove_const_t<T>>{
             width, group, const_cast<std::remove_const_t<T>*>(weight), dense.data(), false});
    f(static_cast<const T*>(dense.data()), n, count);
  }
};

}  // namespace distil_xlstm
