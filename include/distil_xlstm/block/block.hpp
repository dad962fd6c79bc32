#pragma once

#include <concepts>
#include <utility>

#include <distil_xlstm/core/layout.hpp>
#include <distil_xlstm/core/sequence.hpp>

namespace distil_xlstm {

/// A block's weights over the layout L, a `layout<T>` (trainable) or a `frozen_layout<T>`: what `params` returns.
template <class B, class L>
using params_t = decltype(std::declval<const B&>().params(std::declval<L&>()));
/// A block's trainable weights in numbers of T; gradients are of the same type.
template <class B, class T>
using weights_t = params_t<B, layout<T>>;
/// A block's recurrent state in numbers of T: what `state` returns.
template <class B, class T>
using state_t = decltype(std::declval<const B&>().state(std::declval<layout<T>&>()));
/// What a block's forward leaves for backward, in numbers of T: what `tape` returns.
template <class B, class T>
using tape_t = decltype(std::declval<const B&>().tape(std::declval<layout<T>&>(), sequence_view{}));

namespace detail {
/// Stands for every device where only the presence of a block's functions is asked.
struct some_device;
}  // namespace detail

/// A block is a small value that describes memory and maps a sequence of vectors to another of the same rows. It
/// owns no memory: `params`, `state` and `tape` take tensors from a layout and return structs of views into it, or
/// `no_state`. Each is called several times, to measure, to name and to bind, and must take the same tensors in the
/// same order each time.
///
/// Minimal definition, for a `Device`, T float or double, rows = seq.batch * seq.time:
///
/// - `params(l)`: the weights, with their names in a checkpoint and initial values. `l` is a `layout<T>` (trainable)
///   or a `frozen_layout<T>`. Throws `error` where the block's sizes are not possible.
/// - `state(l)`: the recurrent state of one sequence, by `l.state` of a `layout<T>`, with initial values that mean an
///   empty past; each part is a `batched_state`, whose `of(b)` is that of sequence b.
/// - `tape(l, seq)`: from a `layout<T>`, what forward leaves for backward, by the sizes of `seq` alone. If
///   `l.transient()`, no backward follows: what only backward reads may be left out, and memory reused.
/// - `forward(device, seq, params, state, tape, x, y)`: reads x [rows, width_in], writes y [rows, width_out] and the
///   tape, and advances the state by the tokens of `seq`. A token whose document begins in this call (`seq.start`)
///   sees no earlier document and nothing of the state.
/// - `backward(device, seq, params, gradients, tape, x, dy, dx)`: after a forward of the same x, with the gradient
///   dy [rows, width_out] of y, adds to `gradients`, views of the type of the weights, and overwrites
///   dx [rows, width_in] with the gradient of x. The state before the call is a constant. The tape may be used as
///   scratch: one backward a forward.
/// - `width_in()`, `width_out()`: an `index`, or an `extent`, so that widths known to the compiler are checked by it.
///
/// All views point to memory of the device; x and y do not overlap, nor do dy and dx. Of a block with a static
/// member `adds_to_y` that is true, forward takes one more view, `skip` [rows, width_out], which may be left out, and
/// writes y = skip + what the block gives; with `adds_to_dx`, backward writes dx = skip + the gradient, and
/// `residual` has no sum of its own to make. `skip` overlaps what is written no more than x does. Where one with
/// `gives_operand` is followed by one with `takes_operand`, whose products alone read x, `sequential` may store what
/// lies between as the device's `operand_t`, which both then take.
///
/// Laws (testing/check_block.hpp): the gradient is the finite difference; two halves with carried state are one
/// whole; steps of one token are one forward; a copied state goes on as the state does; backward adds to gradients
/// and overwrites dx; sequences of a batch do not touch; nothing crosses a document boundary.
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

/// @{ By names of their own: nvcc has no mangled ones for `requires` expressions.
template <class B>
inline constexpr bool adds_to_y = requires {
  requires B::adds_to_y;
};
template <class B>
inline constexpr bool adds_to_dx = requires {
  requires B::adds_to_dx;
};
template <class B>
inline constexpr bool gives_operand = requires {
  requires B::gives_operand;
};
template <class B>
inline constexpr bool takes_operand = requires {
  requires B::takes_operand;
};
template <class B>
inline constexpr bool has_angles = requires(const B& b, tape_t<B, float>& k) {
  b.angles_for(b, k);
};
/// @}
}  // namespace detail

/// What a stateless or tapeless block returns.
struct no_state {};

}  // namespace distil_xlstm
