#pragma once

#include <cmath>
#include <type_traits>

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/op/conv/op.hpp>

namespace distil_xlstm {

/// Weights of `basic_causal_conv1d`.
template <class Pointer>
struct conv_params {
  /// [width, 1, window]
  Pointer weight, bias;  ///< [width]
};
/// State of `basic_causal_conv1d`.
template <class T>
struct conv_state {
  batched_state<T> past;  ///< [window - 1, width]: the last inputs, oldest first, zeros where there were none
};
/// Tape of `basic_causal_conv1d`.
template <class T>
struct conv_tape {
  T* before;  ///< [batch, window - 1, width]: the state before the call
};

/// Depthwise causal convolution, torch's cross-correlation with bias:
///
///     y[t, c] = b[c] + sum_j w[c, 0, j] x[t - (K - 1) + j, c]    j = 0 .. K - 1
///
/// The last tap meets the present input. Windows K of 2 and more; 0 (none) is the caller's, 1 is refused as
/// NX-AI/xlstm cannot run it.
///
/// A window that the compiler knows unrolls the CPU's loops; a GPU's kernels choose theirs by its value.
template <index Width = dynamic, index Window = dynamic>
struct basic_causal_conv1d {
  [[no_unique_address]] extent<Width> width{};     ///< channels
  [[no_unique_address]] extent<Window> window{4};  ///< taps, K; 2 and more

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  constexpr auto width_in() const { return width; }
  constexpr auto width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(width > 0, "causal_conv1d: a width of ", width, " is not possible");
    require(window >= 2, "causal_conv1d: a window of ", window, " is not supported (2 and more are)");
    const double bound = 1.0 / std::sqrt(static_cast<double>(window));
    return l.scope("conv", [&] {
      conv_params<typename L::pointer> p;
      p.weight = l.tensor("weight", {width, 1, window}, initial::uniform(bound), weight_decay::yes);
      p.bias = l.tensor("bias", {width}, initial::uniform(bound));
      return p;
    });
  }
  template <class L>
  auto state(L& l) const {
    return conv_state<typename L::scalar>{l.state("past", {window - 1, width})};
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    return conv_tape<typename L::scalar>{l.tensor("before", {seq.batch, window - 1, width})};
  }

  /// `activated`: where SiLU(y) goes, too; without data nowhere. One of both may be without.
  template <class T, class D>
  void forward(D& d, sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y, std::type_identity_t<matrix_view<T>> activated = {}) const {
    causal_conv_forward(d, arguments<D, T>(seq, p, s, k, x, y, activated));
  }
  /// dx = addend + its gradient, which may be stored as the device's `operand_t`; adds to g. `addend`: dx, or another
  /// matrix, or without data 0. `activated`: dy is the gradient of SiLU(y), which is made again.
  template <class T, class G, class D>
  void backward(D& d, sequence_view seq, const auto& p, const auto& g, const conv_tape<T>& k, const_view<T> x,
                const_view<T> dy, matrix_view<G> dx, const_view<T> addend = {}, bool activated = false) const {
    causal_conv_backward(
        d, causal_conv_backward_arguments<T, known<D>, G>{input<D>(seq, k, x), p.weight, dy, dx, addend,
                                                          g.weight, g.bias, activated ? p.bias : nullptr});
  }
  /// @}

  /// What `forward` does, for an operation that it is a part of.
  template <class D, class T>
  auto arguments(sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
                 matrix_view<T> y, matrix_view<T> activated) const {
    return causal_conv_arguments<T, known<D>>{input<D>(seq, k, x), p.weight, p.bias,  y,
                                              activated,           s.past,   k.before};
  }

 private:
  template <class D>
  static constexpr index known = D::host_memory ? Window : dynamic;
  template <class D, class T>
  detail::window_view<T, known<D>> input(sequence_view seq, const auto& k, matrix_view<const T> x) const {
    return {seq, extent<known<D>>(index(window)), width, x, k.before};
  }
};
/// `basic_causal_conv1d` of sizes chosen when the program runs.
using causal_conv1d = basic_causal_conv1d<>;

}  // namespace distil_xlstm
