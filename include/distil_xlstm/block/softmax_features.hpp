#pragma once

#include <type_traits>

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/op/feature_map/op.hpp>

namespace distil_xlstm {

/// Weights of `softmax_features`.
template <class Pointer>
struct softmax_features_params {
  Pointer weight;  ///< [heads, width, features]
};

/// A part of other blocks, with neither state nor tape: phi_h(x) = [softmax(x W_h), softmax(-x W_h)] of each head,
/// positive features of its query or key. Several heads may read one input, as those that share a key do. The weights
/// begin as the identity and a little noise, so that heads begin apart. (Zhang et al. 2024, Hedgehog, arXiv
/// 2402.04347.)
struct softmax_features {
  /// Number of heads.
  index heads = 1, inputs = 1;  ///< how many different ones they read; heads / inputs neighbours share one

  /// Numbers of one input.
  index width = 0, features = 0;  ///< numbers of one softmax
  bool both = true;               ///< false: softmax(x W_h) alone
  double noise = 0.02;            ///< of the initial weights, a standard deviation

  /// @{

  /// As the concept `Block` says.
  constexpr index width_in() const { return inputs * width; }
  constexpr index width_out() const { return heads * shape().size(); }
  /// The sizes as `feature_map_forward` takes them.
  constexpr feature_map_shape shape() const { return {heads, inputs, width, features, both}; }

  template <class L>
  auto params(L& l) const {
    require(heads > 0 && inputs > 0 && heads % inputs == 0 && width > 0 && features > 0,
            "softmax_features: ", heads, " heads of ", width, " numbers and ", features, " features over ",
            inputs, " inputs are not possible");
    const auto init = [rows = width, columns = features, deviation = noise](index i, rng& r) {
      const index e = i % (rows * columns);
      return (e / columns == e % columns ? 1.0 : 0.0) + deviation * r.normal();
    };
    return softmax_features_params<typename L::pointer>{l.tensor("weight", {heads, width, features}, init)};
  }
  /// @}

  /// phi [rows, heads * size] of x [rows, inputs * width].
  template <class X, class Operand>
  void forward(auto& d, const auto& p, matrix_view<X> x, matrix_view<Operand> phi) const {
    feature_map_forward(d, arguments(p, x, phi));
  }
  /// What `feature_map_forward` takes of the same.
  template <class X, class Operand>
  feature_map_arguments<std::remove_const_t<X>, Operand> arguments(const auto& p, matrix_view<X> x,
                                                                   matrix_view<Operand> phi) const {
    return {shape(), p.weight, x, phi};
  }
  /// dx = beta dx + what dphi, stored as phi is, gives; adds to g.
  template <class T, class Operand>
  void backward(auto& d, const auto& p, const auto& g, const_view<T> x, matrix_view<Operand> phi,
                const_view<Operand> dphi, matrix_view<T> dx, std::type_identity_t<T> beta = 0) const {
    feature_map_backward(d, gradients(p, g, x, phi, dphi, dx, beta));
  }
  /// What `feature_map_backward` takes of the same.
  template <class T, class Operand>
  feature_map_backward_arguments<T, Operand> gradients(const auto& p, const auto& g, const_view<T> x,
                                                       matrix_view<Operand> phi, const_view<Operand> dphi,
                                                       matrix_view<T> dx, std::type_identity_t<T> beta) const {
    return {{shape(), p.weight, x, phi}, dphi, dx, beta, g.weight};
  }
};

}  // namespace distil_xlstm
