#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/op/linear/op.hpp>

namespace distil_xlstm {

/// Weights of `headwise_linear`.
template <class Pointer>
struct headwise_params {
  Pointer weight;          ///< [blocks, width, width]
  Pointer bias = nullptr;  ///< [blocks * width] or null
};

/// Block-diagonal linear map, NX-AI/xlstm's LinearHeadwiseExpand: y[a, o] = sum_k W[a][o][k] x[a, k] (+ b). A part of
/// other blocks, with neither state nor tape.
struct headwise_linear {
  /// Number of blocks on the diagonal.
  index blocks = 1, width = 1;    ///< rows = columns of each block
  bool bias = false;              ///< whether there is a b
  double standard_deviation = 0;  ///< of the initial weights

  /// @{

  /// As the concept `Block` says.
  constexpr index width_in() const { return blocks * width; }
  constexpr index width_out() const { return blocks * width; }

  template <class L>
  auto params(L& l) const {
    require(blocks > 0 && width > 0, "headwise_linear: ", blocks, " blocks of width ", width,
            " are not possible");
    headwise_params<typename L::pointer> p;
    p.weight =
        l.tensor("weight", {blocks, width, width}, initial::normal(standard_deviation), weight_decay::yes);
    if (bias) p.bias = l.tensor("bias", {blocks * width}, initial::zeros());
    return p;
  }
  /// @}

  /// y = HL(x)
  template <class T>
  void forward(auto& d, const auto& p, const_view<T> x, matrix_view<T> y) const {
    headwise_forward(d, headwise_arguments<T>{blocks, width, p.weight, x, y});
    if (p.bias) transform(d, y, math::plus{}, y, broadcast(p.bias));
  }
  /// y[i] = HL(x[i]) with p[i], for several such maps, none of which reads what another writes; without biases y may
  /// be stored as the device's `operand_t`.
  template <class T, class Y, std::size_t N>
  void forward(auto& d, const auto& p, const std::array<matrix_view<const T>, N>& x,
               const std::array<matrix_view<Y>, N>& y) const {
    require(std::is_same_v<T, Y> || !bias, "headwise_linear: a bias is added to numbers that are not rounded");
    headwise_forward(d, arguments(p, x, y));
    for (std::size_t i = 0; i < N; ++i)
      if (p[i].bias) transform(d, y[i], math::plus{}, y[i], broadcast(p[i].bias));
  }
  /// What the maps ask of a device, but for biases.
  template <class T, class Y, std::size_t N>
  std::array<headwise_arguments<T, Y>, N> arguments(const auto& p, const std::array<matrix_view<const T>, N>& x,
                                                    const std::array<matrix_view<Y>, N>& y) const {
    std::array<headwise_arguments<T, Y>, N> all;
    for (std::size_t i = 0; i < N; ++i) all[i] = {blocks, width, p[i].weight, x[i], y[i]};
    return all;
  }

  /// dx = beta dx + HLᵀ(dy); adds to g.
  template <class T>
  void backward(auto& d, const auto& p, const auto& g, const_view<T> x, const_view<T> dy, matrix_view<T> dx,
                std::type_identity_t<T> beta = 0) const {
    headwise_backward(d, headwise_backward_arguments<T>{blocks, width, p.weight, x, dy, dx, beta, g.weight});
    if (g.bias) add_column_sums(d, dy, g.bias);
  }
};

}  // namespace distil_xlstm
