#pragma once

#include <concepts>
#include <utility>

#include <distil_xlstm/core/layout.hpp>
#include <distil_xlstm/core/sequence.hpp>

namespace distil_xlstm {

/// What a block's description binds to: weights over a layout (trainable) or a frozen layout, state, tape.
template <class B, class L>
using params_t = decltype(std::declval<const B&>().params(std::declval<L&>()));
template <class B, class T>
using weights_t = params_t<B, layout<T>>;
template <class B, class T>
using state_t = decltype(std::declval<const B&>().state(std::declval<layout<T>&>()));
template <class B, class T>
using tape_t = decltype(std::declval<const B&>().tape(std::declval<layout<T>&>(), sequence_view{}));

namespace detail {
/// Stands for every device where only the presence of a block's functions is asked.
struct some_device;
}  // namespace detail

/// A block is a small value that describes memory and maps a sequence of vectors to another of the same rows.
///
/// Minimal definition:
///   params(l)     takes its weights from a layout (trainable) or a frozen_layout; returns views
///   state(l)      takes the recurrent state of one sequence; returns batched_state views
///   tape(l, seq)  takes what forward leaves for backward
///   forward(device, seq, params, state, tape, x, y)
///                 reads x [rows, in], writes y [rows, out], advances the state
///   backward(device, seq, params, gradients, tape, x, dy, dx)
///                 adds to the gradients, overwrites dx [rows, in]
///   width_in(), width_out()
/// Laws (testing/laws.hpp): the gradient is the finite difference; two halves with carried state are one whole;
/// steps of one token are one forward; backward adds to gradients; nothing crosses a document boundary.
template <class B>
concept Block = std::semiregular<B> && requires(const B b, layout<float>& l, sequence_view seq) {
  b.params(l);
  b.state(l);
  b.tape(l, seq);
  { b.width_in() } -> std::convertible_to<index>;
  { b.width_out() } -> std::convertible_to<index>;
} && requires(const B b, detail::some_device& device, sequence_view seq, const weights_t<B, float>& params,
              const state_t<B, float>& state, const tape_t<B, float>& tape, matrix_view<const float> x,
              matrix_view<float> y) {
  b.forward(device, seq, params, state, tape, x, y);
  b.backward(device, seq, params, params, tape, x, x, y);
};

namespace detail {
/// Widths that the compiler knows must fit, those of A's output and B's input; the rest is checked when a block
/// is bound.
template <class A, class B>
inline constexpr bool static_widths_fit = [] {
  if constexpr (Block<A> && Block<B>) {
    using out = decltype(std::declval<const A&>().width_out());
    using in = decltype(std::declval<const B&>().width_in());
    if constexpr (requires {
                    out::is_static;
                    in::is_static;
                  }) {
      if constexpr (out::is_static && in::is_static) return index(out{}) == index(in{});
    }
  }
  return true;
}();
}  // namespace detail

/// What a stateless or tapeless block returns.
struct no_state {};

}  // namespace distil_xlstm
