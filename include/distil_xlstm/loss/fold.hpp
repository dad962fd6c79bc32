#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/math/log_sum_exp.hpp>
#include <distil_xlstm/math/sum.hpp>

namespace distil_xlstm::loss {

namespace detail {

/// A tuple that kernels take: an aggregate, trivially copyable where its members are, with nothing between
/// members of one type.
template <class... A>
struct tuple {};
template <class A>
struct tuple<A> {
  A head;
};
template <class A, class B, class... R>
struct tuple<A, B, R...> {
  A head;
  tuple<B, R...> tail;
};

template <std::size_t I, class Tuple>
constexpr DISTIL_XLSTM_HD auto& get(Tuple& t) {
  if constexpr (I == 0)
    return t.head;
  else
    return get<I - 1>(t.tail);
}

constexpr DISTIL_XLSTM_HD inline tuple<> make_tuple() { return {}; }
template <class A, class... R>
constexpr DISTIL_XLSTM_HD tuple<A, R...> make_tuple(A a, R... rest) {
  if constexpr (sizeof...(R) == 0)
    return {a};
  else
    return {a, make_tuple(rest...)};
}

template <class... Tuples>
struct concatenated_type {
  using type = tuple<>;
};
template <class... A>
struct concatenated_type<tuple<A...>> {
  using type = tuple<A...>;
};
template <class... A, class... B, class... R>
struct concatenated_type<tuple<A...>, tuple<B...>, R...> : concatenated_type<tuple<A..., B...>, R...> {};
template <class... Tuples>
using concatenated = typename concatenated_type<Tuples...>::type;

inline tuple<> concatenate() { return {}; }
template <class... A>
tuple<A...> concatenate(const tuple<A...>& a) {
  return a;
}
template <class... A, class... B, class... R>
auto concatenate(const tuple<A...>& a, const tuple<B...>& b, const R&... rest) {
  return concatenate(
      [&]<std::size_t... I, std::size_t... J>(std::index_sequence<I...>, std::index_sequence<J...>) {
        return make_tuple(get<I>(a)..., get<J>(b)...);
      }(std::index_sequence_for<A...>{}, std::index_sequence_for<B...>{}),
      rest...);
}

template <class T>
inline constexpr std::size_t size_of = 0;
template <class... A>
inline constexpr std::size_t size_of<tuple<A...>> = sizeof...(A);

}  // namespace detail

/// A number at each column that goes by a name, a type, and a parameter: two of one name and an equal parameter
/// are equal everywhere. A parameter of NaN equals none.
template <class Name, class V>
struct named_input {
  V value;                       ///< at a column, or at each lane's
  math::scalar_of<V> parameter;  ///< for instance 1 / temperature

  /// The number without its name.
  DISTIL_XLSTM_HD operator V() const { return value; }
};

namespace detail {

template <class V>
DISTIL_XLSTM_HD V value_of(V x) {
  return x;
}
template <class Name, class V>
DISTIL_XLSTM_HD V value_of(named_input<Name, V> x) {
  return x.value;
}
template <class In>
inline constexpr bool is_named = false;
template <class Name, class V>
inline constexpr bool is_named<named_input<Name, V>> = true;

template <class Acc, class... Arrays>
concept pushes_arrays = requires(Acc& a, Arrays... x) {
  push(a, x...);
};

/// What a column brings to a fold.
template <template <class> class Fold, class First, class... More>
struct contribution {
  using numeric = decltype(value_of(std::declval<First>()));
  using acc = Fold<numeric>;
  tuple<First, More...> inputs;

  DISTIL_XLSTM_HD void add_to(acc& a) const {
    [&]<std::size_t... I>(std::index_sequence<I...>) { push(a, value_of(get<I>(inputs))...); }
    (std::index_sequence_for<First, More...>{});
  }
  /// The same of N columns, `at(n)` each: at once, where the fold has a push of arrays.
  template <int N, class At>
  static DISTIL_XLSTM_HD void add_all(acc& a, const At& at) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      if constexpr (N > 1 &&
                    pushes_arrays<acc, decltype((static_cast<void>(I), std::declval<numeric(&)[N]>()))...>) {
        numeric x[sizeof...(I)][N];
        for (int n = 0; n < N; ++n) ((x[I][n] = value_of(get<I>(at(n).inputs))), ...);
        push(a, x[I]...);
      } else {
        for (int n = 0; n < N; ++n) at(n).add_to(a);
      }
    }
    (std::index_sequence_for<First, More...>{});
  }
  /// Whether both folds have one result, whatever the row.
  constexpr bool equals(const contribution& other) const {
    if constexpr (is_named<First> && (is_named<More> && ...))
      return [&]<std::size_t... I>(std::index_sequence<I...>) {
        return ((get<I>(inputs).parameter == get<I>(other.inputs).parameter) && ...);
      }
    (std::index_sequence_for<First, More...>{});
    else return false;
  }
};

/// What a pass over V's accumulates.
template <class V, class Contributions>
struct accumulators;
template <class V, class... C>
struct accumulators<V, tuple<C...>> {
  static_assert((std::is_same_v<typename C::numeric, V> && ...),
                "distil_xlstm::loss::term(t): t's folds must hold V's only; write V instead of double or int");
  using type = tuple<typename C::acc...>;
};

}  // namespace detail

/// A column's part in one of a term's folds: `fold<math::log_sum_exp>(x)`, `fold<math::softmax_mean>(x, y)`,
/// `fold<math::sum>(x)`. Folds of one kind over equal named inputs are one, whatever terms they stand in.
///
/// A fold of one's own is a struct Fold<V> of V's with `static Fold empty()`, `push(Fold<V>&, V...)` and
/// `join(Fold<T>&, const Fold<T>&)` beside it; join is associative, empty() its identity, and pushing the
/// columns of two parts of a row, one part after the other, is joining the parts. It may have a
/// `push(Fold<V>&, V (&)[N]...)`, too: N columns at once.
template <template <class> class Fold, class... In>
DISTIL_XLSTM_HD auto fold(In... in) {
  return detail::contribution<Fold, In...>{detail::make_tuple(in...)};
}

/// All folds that a term has in a pass.
template <class... C>
DISTIL_XLSTM_HD auto fold_list(C... contributions) {
  return detail::make_tuple(contributions...);
}

}  // namespace distil_xlstm::loss
