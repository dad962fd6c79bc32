#pragma once

#include <variant>

#include <distil_xlstm/block/block.hpp>

namespace distil_xlstm {

namespace detail {
template <class B>
concept counts_layers = requires(const B& b) {
  b.count();
};
template <class B>
struct mixed_takes {
  static_assert(
      Block<B>,
      "distil_xlstm::mixed<A, B, ...>: one of them is no block; give it params, state, tape, forward, "
      "backward, width_in and width_out, as block/block.hpp says");
};
}  // namespace detail

/// One of several kinds of block, chosen when the program runs: a layer of a stack whose kinds a file lists. Weights,
/// state and tape are variants, of the kind that the block has. The first kind by default.
template <class... Bs>
struct mixed {
  static_assert(sizeof...(Bs) > 0, "distil_xlstm::mixed: at least one kind of block");
  static_assert((sizeof(detail::mixed_takes<Bs>) && ...));
  std::variant<Bs...> block{};  ///< of the kind chosen

  mixed() = default;
  /// Any of the kinds converts.
  template <class B>
  requires(std::same_as<std::remove_cvref_t<B>, Bs> || ...) mixed(B&& b) : block(std::forward<B>(b)) {}

  /// Which of the kinds it is, by position in the list.
  index kind() const { return static_cast<index>(block.index()); }

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  index width_in() const {
    return visit([](const auto& b) -> index { return b.width_in(); });
  }
  index width_out() const {
    return visit([](const auto& b) -> index { return b.width_out(); });
  }
  template <class L>
  auto params(L& l) const {
    return visit([&](const auto& b) {
      return std::variant<params_t<Bs, L>...>(in_place<B_of<decltype(b)>>(), b.params(l));
    });
  }
  template <class L>
  auto state(L& l) const {
    using T = typename L::scalar;
    return visit([&](const auto& b) {
      return std::variant<state_t<Bs, T>...>(in_place<B_of<decltype(b)>>(), b.state(l));
    });
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    using T = typename L::scalar;
    return visit([&](const auto& b) {
      return std::variant<tape_t<Bs, T>...>(in_place<B_of<decltype(b)>>(), b.tape(l, seq));
    });
  }
  /// The same where all kinds are layers of a decoder, with their `angles_for` below.
  template <class L, class Angles>
  auto tape(L& l, sequence_view seq, const Angles* angles) const {
    using T = typename L::scalar;
    return visit([&](const auto& b) {
      return std::variant<tape_t<Bs, T>...>(in_place<B_of<decltype(b)>>(), b.tape(l, seq, angles));
    });
  }
  template <class K>
  auto angles_for(const mixed& next, K& k) const requires(detail::has_angles<Bs>&&...) {
    return visit([&](const auto& b) {
      return next.visit([&](const auto& other) {
        return b.angles_for(other, *std::get_if<position<B_of<decltype(b)>>>(&k));
      });
    });
  }
  template <class T>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y) const {
    visit([&](const auto& b) {
      constexpr std::size_t I = position<B_of<decltype(b)>>;
      b.forward(d, seq, *std::get_if<I>(&p), *std::get_if<I>(&s), *std::get_if<I>(&k), x, y);
    });
  }
  /// The same with taps, where all kinds have them, as `stack` and `repeat` do.
  template <class T>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y, auto&& on_output) const {
    visit([&](const auto& b) {
      constexpr std::size_t I = position<B_of<decltype(b)>>;
      b.forward(d, seq, *std::get_if<I>(&p), *std::get_if<I>(&s), *std::get_if<I>(&k), x, y, on_output);
    });
  }
  /// @}

  /// Layers of the stack, where all kinds are stacks.
  index count() const requires(detail::counts_layers<Bs>&&...) {
    return visit([](const auto& b) { return b.count(); });
  }
  /// `stack::input`, where all kinds are stacks.
  template <class K>
  auto input(const K& k) const requires(detail::counts_layers<Bs>&&...) {
    return visit([&](const auto& b) { return b.input(*std::get_if<position<B_of<decltype(b)>>>(&k)); });
  }
  /// As the concept `Block` says.
  template <class T>
  void backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, const_view<T> x,
                const_view<T> dy, matrix_view<T> dx) const {
    visit([&](const auto& b) {
      constexpr std::size_t I = position<B_of<decltype(b)>>;
      b.backward(d, seq, *std::get_if<I>(&p), *std::get_if<I>(&g), *std::get_if<I>(&k), x, dy, dx);
    });
  }

 private:
  template <class R>
  using B_of = std::remove_cvref_t<R>;
  template <class B>
  static constexpr std::size_t position = [] {
    std::size_t i = 0;
    for (bool same : {std::same_as<B, Bs>...}) {
      if (same) break;
      ++i;
    }
    return i;
  }();
  template <class B>
  static constexpr auto in_place() {
    return std::in_place_index<position<B>>;
  }
  template <class F>
  auto visit(F&& f) const {
    return std::visit(f, block);
  }
};

}  // namespace distil_xlstm
