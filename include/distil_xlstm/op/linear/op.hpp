#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

/// A product with a block-diagonal matrix: y[a, o] = sum over k of weight[a, o, k] x[a, k], for each of `blocks`
/// blocks of `width` columns. y may be stored as the device's `operand_t`.
template <class T, class Y = T>
struct headwise_arguments {
  /// @{ Sizes of the diagonal.
  index blocks, width;
  /// @}
  const T* weight;         ///< [blocks, width, width]
  matrix_view<const T> x;  ///< [rows, blocks * width]
  matrix_view<Y> y;        ///< [rows, blocks * width]
};
/// dx = beta dx + its gradient by x; dweight += that by the weight.
template <class T>
struct headwise_backward_arguments {
  /// @{ Sizes of the diagonal.
  index blocks, width;
  /// @}
  const T* weight;  ///< [blocks, width, width]
  /// @{ [rows, blocks * width]
  matrix_view<const T> x, dy;
  /// @}
  matrix_view<T> dx;  ///< [rows, blocks * width]
  T beta;             ///< 0: dx is overwritten
  T* dweight;         ///< [blocks, width, width], added to
};

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

/// Calls f(weights of dense squares, their width, their count).
template <class D, class T, class F>
void with_dense_squares(D& d, index blocks, index width, const T* weight, const F& f) {
  index group = 1;
  for (index g = 2; g * width <= 64; ++g)
    if (blocks % g == 0) group = g;
  if (group == 1) return f(weight, width, blocks);
  const index n = group * width, count = blocks / group;
  auto dense = d.template scratch<T>(count * n * n);
  map(d, blocks * width, n, spread_blocks<T>{{width, n}, weight, dense.data()});
  f(static_cast<const T*>(dense.data()), n, count);
}

/// Up to so many rows are multiplied by blocks as they are: dense squares would take longer to make than all else. What
/// a row gives depends on whether there are more, and on nothing else beside it.
inline constexpr index few_headwise_rows = 8;
/// Blocks up to so wide are then multiplied number by number.
inline constexpr index narrow_block = 8;

/// y of blocks `first` .. `end` - 1, number by number: much faster where the compiler knows `width`. One function for
/// all devices of the host: a compiler fuses products and sums in some copies of a loop alone.
template <class T, class Y, class Width>
[[gnu::noinline]] DISTIL_XLSTM_HD void multiply_narrow_blocks(const headwise_arguments<T, Y>& a, Width width,
                                                              index first, index end) {
  for (index r = 0; r < a.x.rows; ++r) {
    const T *x = a.x.row(r) + first * width, *w = a.weight + first * width * width;
    Y* y = a.y.row(r) + first * width;
    for (index block = first; block < end; ++block, x += width)
      for (index o = 0; o < width; ++o, w += width) {
        T sum = 0;
        for (index i = 0; i < width; ++i) sum += w[i] * x[i];
        math::store<T>(y++, sum);
      }
  }
}
template <class T, class Y>
DISTIL_XLSTM_HD void multiply_narrow_blocks(const headwise_arguments<T, Y>& a, index first, index end) {
  if (a.width == 4)
    multiply_narrow_blocks(a, std::integral_constant<index, 4>(), first, end);
  else if (a.width == 8)
    multiply_narrow_blocks(a, std::integral_constant<index, 8>(), first, end);
  else
    multiply_narrow_blocks(a, a.width, first, end);
}
/// A block of it.
template <class T, class Y>
struct narrow_block_product {
  headwise_arguments<T, Y> a;
  DISTIL_XLSTM_HD void operator()(index block) const { multiply_narrow_blocks(a, block, block + 1); }
};

}  // namespace detail

/// c = addend + a b, operands as `gemm` takes them; c overlaps nothing that is read. The default of any device.
template <class D, class A, class B, class T>
void gemm_plus(D& d, A a, B b, const_view<T> addend, matrix_view<T> c) {
  gemm(d, a, b, c);
  transform(d, c, math::plus{}, c, addend);
}
/// c = a b + bias in every row, likewise.
template <class D, class A, class B, class U, class T>
void gemm_plus(D& d, A a, B b, broadcast<U> bias, matrix_view<T> c) {
  gemm(d, a, b, c);
  transform(d, c, math::plus{}, c, bias);
}

/// c[i] = a b[i] + bias[i], none of which reads what another writes; a bias without values is none.
template <class D, class A, class B, class U, class T, std::size_t N>
void gemm_plus(D& d, A a, const std::array<B, N>& b, const std::array<broadcast<U>, N>& bias,
               const std::array<matrix_view<T>, N>& c) {
  for (std::size_t i = 0; i < N; ++i)
    if (bias[i].values)
      gemm_plus(d, a, b[i], bias[i], c[i]);
    else
      gemm(d, a, b[i], c[i]);
}

/// Writes y. The default of any device.
template <class D, class T, class Y>
void headwise_forward(D& d, const headwise_arguments<T, Y>& a) {
  const auto multiply = [&](const T* w, index n, index count) {
    gemm_batched(d, count, a.x.columns(0, n), n, transposed(matrix_view<const T>(w, n, n)), n * n,
                 a.y.columns(0, n), n);
  };
  if (a.x.rows > detail::few_headwise_rows)
    detail::with_dense_squares(d, a.blocks, a.width, a.weight, multiply);
  else if (a.width > detail::narrow_block)
    multiply(a.weight, a.width, a.blocks);
  else
    parallel_for(d, a.blocks, detail::narrow_block_product<T, Y>{a});
}
/// Several of one shape, none of which reads what another writes. The default of any device.
template <class D, class T, class Y, std::size_t N>
void headwise_forward(D& d, const std::array<headwise_arguments<T, Y>, N>& several) {
  for (const auto& a : several) headwise_forward(d, a);
}
/// The gradients. The default of any device.
template <class D, class T>
void headwise_backward(D& d, const headwise_backward_arguments<T>& a) {
  detail::with_dense_squares(d, a.blocks, a.width, a.weight, [&](const T* w, index n, index count) {
    gemm_batched(d, count, a.dy.columns(0, n), n, matrix_view<const T>(w, n, n), n * n, a.dx.columns(0, n), n,
                 a.beta);
    const auto dy = transposed(a.dy.columns(0, n));
    if (n == a.width)
      return gemm_batched(d, count, dy, n, a.x.columns(0, n), n, matrix_view<T>(a.dweight, n, n), n * n, T(1));
    auto dense = d.template scratch<T>(count * n * n);
    gemm_batched(d, count, dy, n, a.x.columns(0, n), n, matrix_view<T>(dense.data(), n, n), n * n);
    map(d, a.blocks * a.width, a.width, detail::add_blocks<T>{{a.width, n}, dense.data(), a.dweight});
  });
}

}  // namespace distil_xlstm
