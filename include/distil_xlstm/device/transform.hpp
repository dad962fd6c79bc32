#pragma once

#include <type_traits>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

/// Where an operand of an element-wise verb is read: an element of a matrix, and which group of columns it lies
/// in, counted over all rows (of one group a row: the row).
struct element {
  /// @{ Of the first number, where a pack of columns is read at once.
  index row, column, group;
  /// @}
};

/// An operand that is one row beside every row.
template <class T>
struct broadcast {
  const T* values;  ///< a number a column
  /// Refers to the row at p.
  explicit broadcast(const T* p) : values(p) {}
  /// The numbers of e's columns, a V of them.
  template <class V>
  DISTIL_XLSTM_HD V load(const element& e) const {
    return math::load<V>(values + e.column);
  }
};

/// An operand that is one number a group of columns (or a row), `step` apart.
template <class T>
struct per_group {
  const T* values;  ///< of group 0
  index step = 1;   ///< numbers from a group's to the next's
  /// The number of e's group, in every lane of V.
  template <class V>
  DISTIL_XLSTM_HD V load(const element& e) const {
    return V(values[e.group * step]);
  }
};
/// `per_group{p, step}` says T by itself.
template <class T>
per_group(const T*, index) -> per_group<T>;

/// Several results of one `transform`, N matrices of one shape: `outputs{y, z}`; up to three.
template <class T, index N>
struct outputs {
  matrix_view<T> first;    ///< of the first result
  outputs<T, N - 1> rest;  ///< of the others
  /// As many matrices as there are results.
  template <class... More>
  DISTIL_XLSTM_HD constexpr outputs(matrix_view<T> y, More... more) : first(y), rest(more...) {}
};
/// One result, or the last of several.
template <class T>
struct outputs<T, 1> {
  matrix_view<T> first;  ///< of the result
  /// Of one matrix.
  DISTIL_XLSTM_HD constexpr outputs(matrix_view<T> y) : first(y) {}
};
/// `outputs{y, z}` says T and N by itself.
template <class T, class... More>
outputs(matrix_view<T>, More...) -> outputs<T, 1 + static_cast<index>(sizeof...(More))>;

namespace detail {

template <class V, class X>
DISTIL_XLSTM_HD V read(const X& x, const element& e) {
  return x.template load<V>(e);
}
template <class V, class T>
DISTIL_XLSTM_HD V read(const matrix_view<T>& x, const element& e) {
  return math::load<V>(x.row(e.row) + e.column);
}

template <class V, class T>
DISTIL_XLSTM_HD void write(const matrix_view<T>& y, const element& e, const V& value) {
  math::store<V>(y.row(e.row) + e.column, value);
}

/// f of its operands' elements. (std::tuple is not for device code.)
template <class... Xs>
struct operands {
  template <class V, class F, class... Vs>
  DISTIL_XLSTM_HD auto apply(const F& f, const element&, const Vs&... values) const {
    return f(values...);
  }
};
template <class X, class... Rest>
struct operands<X, Rest...> {
  X first;
  operands<Rest...> rest;
  template <class V, class F, class... Vs>
  DISTIL_XLSTM_HD auto apply(const F& f, const element& e, const Vs&... values) const {
    return rest.template apply<V>(f, e, values..., read<V>(first, e));
  }
};
DISTIL_XLSTM_HD inline operands<> operands_of() { return {}; }
template <class X, class... Rest>
DISTIL_XLSTM_HD operands<X, Rest...> operands_of(const X& x, const Rest&... rest) {
  return {x, operands_of(rest...)};
}

/// How a map's rows and columns lie in the matrices: as they are, or each row as `groups` short ones.
struct whole_rows {
  DISTIL_XLSTM_HD element at(index r, index c) const { return {r, c, r}; }
};
struct short_rows {
  index groups, width;
  DISTIL_XLSTM_HD element at(index r, index c) const { return {r / groups, r % groups * width + c, r}; }
};

/// Tells `copies` where results are written.
template <class Copies, class T, index N>
void tell_written(Copies& copies, const outputs<T, N>& y) {
  copies.written(y.first.data, y.first.row(y.first.rows - 1) + y.first.cols);
  if constexpr (N > 1) tell_written(copies, y.rest);
}

template <class T, index N, class Rows, class F, class Xs>
struct transform_map {
  using scalar = math::computed_t<T>;
  F f;
  Rows rows;
  outputs<T, N> y;
  Xs x;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const element e = rows.at(r, c);
    if constexpr (N == 1) {
      write<V>(y.first, e, x.template apply<V>(f, e));
    } else if constexpr (N == 2) {
      const auto [first, second] = x.template apply<V>(f, e);
      write<V>(y.first, e, first), write<V>(y.rest.first, e, second);
    } else {
      static_assert(N == 3, "distil_xlstm::transform: at most three outputs");
      const auto [first, second, third] = x.template apply<V>(f, e);
      write<V>(y.first, e, first), write<V>(y.rest.first, e, second), write<V>(y.rest.rest.first, e, third);
    }
  }
  /// For a device with copies of operands: all else stays what it is.
  template <class Copies>
  void written(Copies& copies) const {
    tell_written(copies, y);
  }
};

template <class T, class X>
void require_fit(const matrix_view<T>&, const X&) {}
template <class T, class U>
void require_fit(const matrix_view<T>& y, const matrix_view<U>& x) {
  require(x.rows == y.rows && x.cols == y.cols, "transform: an operand is [", x.rows, ", ", x.cols,
          "], the result [", y.rows, ", ", y.cols, "]");
}

template <class D, class Rows, class T, index N, class F, class... Xs>
void transform(D& d, index rows, index cols, Rows place, const outputs<T, N>& y, const F& f, const Xs&... x) {
  if constexpr (N > 1) require_fit(y.first, y.rest.first);
  if constexpr (N > 2) require_fit(y.first, y.rest.rest.first);
  (require_fit(y.first, x), ...);
  const auto all = operands_of(x...);
  map(d, rows, cols, transform_map<T, N, Rows, F, std::remove_const_t<decltype(all)>>{f, place, y, all});
}

template <class T>
struct fill_map {
  using scalar = T;
  matrix_view<T> y;
  T value;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    math::store<V>(y.row(r) + c, V(value));
  }
};

}  // namespace detail

/// y[r, c] = f(x[r, c]...), a scalar or a pack of columns at a time. Operands are matrices of y's shape,
/// `broadcast` rows, `per_group` numbers, or a type of one's own with `load<V>(element)`. y may be among them:
///
///     transform(d, y, math::plus{}, y, broadcast(bias));        // y += bias
///     transform(d, outputs{dgate, dvalue}, f, gate, value, dy)  // f returns a struct of two V's, in that order
///
/// y may be bf16: what f gives of floats is rounded.
///
/// f is a struct with `template <class V> DISTIL_XLSTM_HD V operator()(V...) const`; where only a CPU runs it, a
/// generic lambda does. Throws `error` where a matrix has another shape.
template <class D, class T, index N, class F, class... Xs>
void transform(D& d, const outputs<T, N>& y, const F& f, const Xs&... x) {
  detail::transform(d, y.first.rows, y.first.cols, detail::whole_rows{}, y, f, x...);
}
/// Of one result.
template <class D, class T, class F, class... Xs>
void transform(D& d, matrix_view<T> y, const F& f, const Xs&... x) {
  transform(d, outputs<T, 1>{y}, f, x...);
}

/// A `transform` with each row seen as `groups` equal parts: a `per_group` operand has a number for each of them.
template <class D, class T, index N, class F, class... Xs>
void transform_groups(D& d, index groups, const outputs<T, N>& y, const F& f, const Xs&... x) {
  const index width = y.first.cols / groups;
  detail::transform(d, y.first.rows * groups, width, detail::short_rows{groups, width}, y, f, x...);
}
/// Of one result.
template <class D, class T, class F, class... Xs>
void transform_groups(D& d, index groups, matrix_view<T> y, const F& f, const Xs&... x) {
  transform_groups(d, groups, outputs<T, 1>{y}, f, x...);
}

/// y[r, c] = value
template <class D, class T>
void fill(D& d, matrix_view<T> y, std::type_identity_t<T> value = 0) {
  map(d, y.rows, y.cols, detail::fill_map<T>{y, value});
}

}  // namespace distil_xlstm
