#pragma once

#include <algorithm>
#include <string>
#include <tuple>
#include <type_traits>

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>

namespace distil_xlstm {

/// A name as a template argument: `named<"xlstm_norm", layer_norm<>>`.
template <std::size_t N>
struct fixed_string {
  char text[N];  ///< with the zero at its end
  /// A string literal converts.
  constexpr fixed_string(const char (&s)[N]) { std::copy_n(s, N, text); }
  /// Without the zero.
  constexpr std::string_view view() const { return {text, N - 1}; }
};

/// The block Inner, whose tensors `sequential` calls Name.<...>, or <...> if Name is empty.
template <fixed_string Name, class Inner>
struct named : Inner {
  static_assert(
      Block<Inner>,
      "distil_xlstm::named<Name, Inner>: Inner is no block; give it params, state, tape, forward, backward, "
      "width_in and width_out, as block/block.hpp says");
  static constexpr std::string_view name = Name.view();  ///< what the tensors' names begin with
};

namespace detail {
template <class B>
std::string name_of_member(std::size_t position) {
  if constexpr (requires { B::name; })
    return std::string(B::name);
  else
    return std::to_string(position);
}
template <class B>
struct sequential_takes {
  static_assert(
      Block<B>,
      "distil_xlstm::sequential{a, b, ...}: one of them is no block; give it params, state, tape, forward, "
      "backward, width_in and width_out, as block/block.hpp says");
};
template <class A, class... Rest>
constexpr bool widths_fit() {
  if constexpr (sizeof...(Rest) == 0)
    return true;
  else
    return static_widths_fit<A, std::tuple_element_t<0, std::tuple<Rest...>>> && widths_fit<Rest...>();
}
}  // namespace detail

/// What a composition keeps of one member: its tape and its output.
template <class Tape, class T>
struct slot {
  Tape inner;  ///< the member's own
  /// [rows, width_out]; without data of the last member of a `sequential`, which writes its y.
  matrix_view<T> out;
  bool before_backward = false;  ///< a backward may follow
};

/// Blocks one after another, first to last. A member's tensors are called by its `named` name, or 0, 1, ... Weights,
/// state and tape are tuples of the members', in the tape as `slot`.
template <class... Bs>
struct sequential {
  static_assert(sizeof...(Bs) > 0, "distil_xlstm::sequential: at least one block");
  static_assert((sizeof(detail::sequential_takes<Bs>) && ...));
  static_assert(
      detail::widths_fit<Bs...>(),
      "distil_xlstm::sequential: a block's width_out must equal the next block's width_in; write the same "
      "number for both");
  /// Type of member I.
  template <std::size_t I>
  using member = std::tuple_element_t<I, std::tuple<Bs...>>;
  /// @{ Where the last member's forward does, or the first one's backward: see `Block`.
  static constexpr bool adds_to_y = detail::adds_to_y<member<sizeof...(Bs) - 1>>,
                        adds_to_dx = detail::adds_to_dx<member<0>>;
  /// @}
  std::tuple<Bs...> blocks{};  ///< first to last

  constexpr sequential() = default;
  /// `sequential{a, b, c}`
  constexpr explicit sequential(Bs... bs) : blocks(std::move(bs)...) {}

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  constexpr auto width_in() const { return std::get<0>(blocks).width_in(); }
  constexpr auto width_out() const { return std::get<sizeof...(Bs) - 1>(blocks).width_out(); }

  template <class L>
  auto params(L& l) const {
    check_widths<1>();
    return each(l, [&](const auto& b, auto) { return b.params(l); });
  }
  template <class L>
  auto state(L& l) const {
    return each(l, [&](const auto& b, auto) { return b.state(l); });
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    using T = typename L::scalar;
    return each(l, [&](const auto& b, auto position) {
      constexpr std::size_t I = decltype(position)::value;
      slot<decltype(b.tape(l, seq)), T> s{b.tape(l, seq), {}, !l.transient()};
      if constexpr (I + 1 < sizeof...(Bs))
        s.out = stores_operand<I> ? l.operand("out", seq.rows(), b.width_out())
                                  : l.matrix("out", seq.rows(), b.width_out());
      return s;
    });
  }
  template <class T>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y, const_view<T> skip = {}) const {
    run_forward<0>(d, seq, p, s, k, x, y, skip);
  }
  template <class T>
  void backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, const_view<T> x,
                const_view<T> dy, matrix_view<T> dx, const_view<T> skip = {}) const {
    run_backward<sizeof...(Bs) - 1>(d, seq, p, g, k, x, dy, dx, skip);
  }
  /// @}

 private:
  template <std::size_t I>
  void check_widths() const {
    if constexpr (I < sizeof...(Bs)) {
      const index out = std::get<I - 1>(blocks).width_out(), in = std::get<I>(blocks).width_in();
      require(out == in, "sequential: block ", I - 1, " gives width ", out, ", block ", I, " takes ", in);
      check_widths<I + 1>();
    }
  }
  template <class L, class F>
  auto each(L& l, F f) const {
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      // The tuple's type is spelled: deduction would unwrap a tuple of one tuple.
      using result = std::tuple<decltype(f(std::get<I>(blocks), std::integral_constant<std::size_t, I>{}))...>;
      return result{l.scope(detail::name_of_member<std::tuple_element_t<I, std::tuple<Bs...>>>(I), [&] {
        return f(std::get<I>(blocks), std::integral_constant<std::size_t, I>{});
      })...};
    }
    (std::index_sequence_for<Bs...>{});
  }
  /// Where a backward may follow, products' operands that lie between two members are stored as such.
  template <std::size_t I>
  static constexpr bool stores_operand =
      (detail::gives_operand<member<I>>)&&detail::takes_operand<member<I + 1>>;
  template <std::size_t I, class D, class T>
  static auto operand(D&, matrix_view<T> out) {
    using stored = operand_t<D, T>;
    if constexpr (stores_operand<I> && !std::is_same_v<stored, T>)
      return detail::stored_as<stored>(out);
    else
      return out;
  }
  template <std::size_t I, class T, class X>
  void run_forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, matrix_view<X> x,
                   matrix_view<T> y, const_view<T> skip) const {
    const auto& kept = std::get<I>(k);
    const auto run = [&](auto... out) {
      std::get<I>(blocks).forward(d, seq, std::get<I>(p), std::get<I>(s), kept.inner, x, out...);
    };
    if constexpr (I + 1 < sizeof...(Bs)) {
      const auto through = [&]<class Out>(matrix_view<Out> out) {
        run(out);
        run_forward<I + 1>(d, seq, p, s, k, matrix_view<const Out>(out), y, skip);
      };
      kept.before_backward ? through(operand<I>(d, kept.out)) : through(kept.out);
    } else if constexpr (adds_to_y) {
      run(y, skip);
    } else {
      run(y);
    }
  }
  template <std::size_t I, class T>
  void run_backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, const_view<T> x,
                    const_view<T> dy, matrix_view<T> dx, const_view<T> skip) const {
    const auto run = [&]<class X>(matrix_view<X> in, auto... out) {
      std::get<I>(blocks).backward(d, seq, std::get<I>(p), std::get<I>(g), std::get<I>(k).inner,
                                   matrix_view<const X>(in), dy, out...);
    };
    if constexpr (I > 0) {
      const matrix_view<T> in = std::get<I - 1>(k).out;
      const auto memory = scratch_matrices<T>(d, in.rows, in.cols);
      const matrix_view<T> din = memory.views[0];
      run(operand<I - 1>(d, in), din);
      run_backward<I - 1>(d, seq, p, g, k, x, din, dx, skip);
    } else if constexpr (adds_to_dx) {
      run(x, dx, skip);
    } else {
      run(x, dx);
    }
  }
};

}  // namespace distil_xlstm
