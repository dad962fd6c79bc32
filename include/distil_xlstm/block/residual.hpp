#pragma once

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/device/transform.hpp>

namespace distil_xlstm {

/// y = x + inner(x). Owns its own skip: no tags, no numbers. Weights, state and tape are those of `inner`.
template <class Inner>
struct residual {
  static_assert(
      Block<Inner>,
      "distil_xlstm::residual<Inner>: Inner is no block; give it params, state, tape, forward, backward, "
      "width_in and width_out, as block/block.hpp says");
  static_assert(detail::static_widths_fit<Inner, Inner>,
                "distil_xlstm::residual: x + inner(x) needs an inner block whose width_out is its width_in");
  [[no_unique_address]] Inner inner{};  ///< a block whose width_out is its width_in

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  constexpr auto width_in() const { return inner.width_in(); }
  constexpr auto width_out() const { return inner.width_out(); }

  template <class L>
  auto params(L& l) const {
    require(index(width_in()) == index(width_out()), "residual: the inner block maps width ", index(width_in()),
            " to ", index(width_out()));
    return inner.params(l);
  }
  template <class L>
  auto state(L& l) const {
    return inner.state(l);
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    return inner.tape(l, seq);
  }
  template <class T>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y) const {
    if constexpr (detail::adds_to_y<Inner>) {
      inner.forward(d, seq, p, s, k, x, y, x);
    } else {
      inner.forward(d, seq, p, s, k, x, y);
      transform(d, y, math::plus{}, y, x);
    }
  }
  template <class T>
  void backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, const_view<T> x,
                const_view<T> dy, matrix_view<T> dx) const {
    if constexpr (detail::adds_to_dx<Inner>) {
      inner.backward(d, seq, p, g, k, x, dy, dx, dy);
    } else {
      inner.backward(d, seq, p, g, k, x, dy, dx);
      transform(d, dx, math::plus{}, dx, dy);
    }
  }
  /// @}
};
/// `residual{block}`.
template <class Inner>
residual(Inner) -> residual<Inner>;

}  // namespace distil_xlstm
