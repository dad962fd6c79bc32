#pragma once

#include <type_traits>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/math/numeric.hpp>
#include <distil_xlstm/math/rotary.hpp>

namespace distil_xlstm {

/// The angles of each row, that a head's pairs rotate by.
template <class T>
struct rotary_angles {
  /// @{ [rows, half a head].
  matrix_view<const T> cosines, sines;
  /// @}
  T direction;  ///< 1, or -1: back, which is the gradient
};
/// Heads side by side, and where they go: y = x rotated, or as it is. y may be x, or stored as the device's
/// `operand_t`.
template <class T, class Y = T>
struct rotary_heads {
  matrix_view<const T> x;  ///< [rows, a number of heads]
  matrix_view<Y> y;        ///< shaped as x
  bool rotates = true;     ///< false: as it is
};

namespace detail {

/// (y_i, y_{i+half}) = (x_i c - x_{i+half} s, x_{i+half} c + x_i s), each head of each row.
template <class T, class Y>
struct rotary_pairs {
  index heads;
  rotary_angles<T> angles;
  rotary_heads<T, Y> of;
  template <class V>
  DISTIL_XLSTM_HD void at(index row, index head, index c) const {
    const index half = angles.cosines.cols, column = head * 2 * half + c;
    const V low = math::load<V>(of.x.row(row) + column), high = math::load<V>(of.x.row(row) + column + half);
    const auto store = [&](V first, V second) {
      math::store<V>(of.y.row(row) + column, first);
      math::store<V>(of.y.row(row) + column + half, second);
    };
    if (!of.rotates) return store(low, high);
    const V cosine = math::load<V>(angles.cosines.row(row) + c);
    const V sine = V(angles.direction) * math::load<V>(angles.sines.row(row) + c);
    const auto rotated = math::rotate(low, high, cosine, sine);
    store(rotated.low, rotated.high);
  }
};

/// Of each row the heads of the first, then those of the second, and so on.
template <class... Parts>
struct heads_of {
  index heads = 0;
  template <class V>
  DISTIL_XLSTM_HD void at(index, index, index) const {}
};
template <class First, class... Rest>
struct heads_of<First, Rest...> {
  First first;
  heads_of<Rest...> rest;
  index heads = first.heads + rest.heads;
  template <class V>
  DISTIL_XLSTM_HD void at(index row, index head, index c) const {
    if (head < first.heads)
      first.template at<V>(row, head, c);
    else
      rest.template at<V>(row, head - first.heads, c);
  }
};
inline heads_of<> all_heads() { return {}; }
template <class First, class... Rest>
heads_of<First, Rest...> all_heads(const First& first, const Rest&... rest) {
  return {first, all_heads(rest...)};
}

/// All of them, a head a row of `map`, half as wide.
template <class T, class... Parts>
struct rotary_map {
  using scalar = T;
  heads_of<Parts...> all;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    all.template at<V>(r / all.heads, r % all.heads, c);
  }
};

}  // namespace detail

/// All heads of the parts, which have one shape of head and as many rows, in one pass: the pair (i, i + half) of each
/// by the row's angle i. The default of any device.
template <class D, class T, class... Y>
void rotate_heads(D& d, const rotary_angles<T>& angles, const rotary_heads<T, Y>&... parts) {
  const index half = angles.cosines.cols;
  const detail::rotary_map<T, detail::rotary_pairs<T, Y>...> f{
      detail::all_heads(detail::rotary_pairs<T, Y>{parts.x.cols / (2 * half), angles, parts}...)};
  map(d, angles.cosines.rows * f.all.heads, half, f);
}

}  // namespace distil_xlstm
