#pragma once

#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/op/linear/op.hpp>

namespace distil_xlstm {

/// Weights of `linear`.
template <class Matrix, class Pointer>
struct linear_params {
  Matrix weight;           ///< [out, in]
  Pointer bias = nullptr;  ///< [out] or null
};

namespace detail {
/// @{ The weights of maps of one x as those of one map, where they lie one below another, as a layout without biases
/// places them; else, and of frozen ones, without data.
template <class T, class Pointer, class... Rest>
linear_params<matrix_view<T>, Pointer> joined(const linear_params<matrix_view<T>, Pointer>& first,
                                              const Rest&... rest) {
  matrix_view<T> all = first.weight;
  bool adjacent = true;
  const auto take = [&](const matrix_view<T>& next) {
    adjacent = adjacent && next.data == all.row(all.rows) && next.cols == all.cols && next.stride == all.stride;
    all.rows += next.rows;
  };
  (take(rest.weight), ...);
  if (!adjacent) return {};
  return {all};
}
template <class Pointer, class... Rest>
linear_params<frozen_matrix, Pointer> joined(const linear_params<frozen_matrix, Pointer>&, const Rest&...) {
  return {};
}
/// @}

/// Weights of gates, which begin as zeros, and their biases.
template <class L, class Init>
linear_params<typename L::matrix_type, typename L::pointer> gate_params(L& l, index gates, index width,
                                                                        const Init& bias) {
  return {l.matrix("weight", gates, width, initial::zeros()), l.tensor("bias", {gates}, bias)};
}
}  // namespace detail

/// y = x Wᵀ (+ b), torch.nn.Linear. Widths may be static or dynamic.
template <index In = dynamic, index Out = dynamic>
struct linear {
  [[no_unique_address]] extent<In> in{};    ///< width of x
  [[no_unique_address]] extent<Out> out{};  ///< width of y
  bool bias = false;                        ///< whether there is a b
  double standard_deviation = 0;            ///< of the initial W; b begins as 0

  /// @name What every block has
  /// @{

  /// As the concept `Block` says; there is neither state nor tape.
  constexpr auto width_in() const { return in; }
  constexpr auto width_out() const { return out; }

  template <class L>
  auto params(L& l) const {
    require(in > 0 && out > 0, "linear: a map of width ", in, " to ", out, " is not possible");
    linear_params<typename L::matrix_type, typename L::pointer> p;
    p.weight = l.matrix("weight", out, in, initial::normal(standard_deviation));
    if (bias) p.bias = l.tensor("bias", {out}, initial::zeros());
    return p;
  }
  template <class L>
  no_state state(L&) const {
    return {};
  }
  template <class L>
  no_state tape(L&, sequence_view) const {
    return {};
  }
  /// @}

  /// y = x Wᵀ (+ b) (+ skip), for a block that it is a part of. x and y may be stored as the device's `operand_t`.
  template <class T, class X = const T>
  void forward(auto& d, const auto& p, matrix_view<X> x, matrix_view<T> y, const_view<T> skip = {}) const {
    const matrix_view<const X> operand = x;
    if (p.bias)
      gemm_plus(d, operand, transposed(p.weight), broadcast(p.bias), y);
    else if (skip.data)
      gemm_plus(d, operand, transposed(p.weight), skip, y);
    else
      gemm(d, operand, transposed(p.weight), y);
    if (p.bias && skip.data) transform(d, y, math::plus{}, y, skip);
  }
  /// y[i] = x W[i]ᵀ (+ b[i]) with the weights p[i], several maps of one x.
  template <class P, class X, class T, std::size_t N>
  static void forward(auto& d, const std::array<P, N>& p, matrix_view<X> x,
                      const std::array<matrix_view<T>, N>& y) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      gemm_plus(d, matrix_view<const X>(x), std::array{transposed(p[I].weight)...},
                std::array{broadcast(p[I].bias)...}, y);
    }
    (std::make_index_sequence<N>());
  }
  /// dx = beta dx + dy W, unless dx has no data; adds to g. x and dy may be stored as the device's `operand_t`; throws
  /// `error` where a bias would sum a rounded dy. dx comes last: whoever reads it finds some of it in a cache.
  template <class T, class X = const T, class Dy = const T>
  void backward(auto& d, const auto& p, const auto& g, matrix_view<X> x, matrix_view<Dy> dy, matrix_view<T> dx,
                std::type_identity_t<T> beta = 0) const {
    add_weight_gradients(d, g, x, dy);
    if (dx.data) input_gradient(d, p, dy, dx, beta);
  }

  /// One half of `backward`: dx = beta dx + dy W. dx, too, may be stored as the device's `operand_t`.
  template <class T, class Dy = const T>
  void input_gradient(auto& d, const auto& p, matrix_view<Dy> dy, matrix_view<T> dx,
                      std::type_identity_t<T> beta = {}) const {
    static_assert(is_gradient<Dy, T> || std::is_same_v<T, bf16>,
                  "distil_xlstm::linear: dy and dx are of one type or bf16");
    gemm(d, matrix_view<const Dy>(dy), p.weight, dx, beta);
  }
  /// The other half, for a block that makes x again between the two: adds to g. Throws `error` where a bias would sum
  /// a rounded dy.
  template <class X, class Dy>
  void add_weight_gradients(auto& d, const auto& g, matrix_view<X> x, matrix_view<Dy> dy) const {
    using T = std::remove_pointer_t<decltype(g.weight.data)>;
    static_assert(is_gradient<Dy, T>, "distil_xlstm::linear: dy is of the weights' type or bf16");
    constexpr bool rounded = !std::is_same_v<std::remove_const_t<Dy>, T>;
    require(!rounded || !g.bias, "linear: the gradient of a bias sums numbers that are not rounded");
    const matrix_view<const Dy> above = dy;
    gemm(d, transposed(above), matrix_view<const X>(x), g.weight, T(1));
    if constexpr (!rounded)
      if (g.bias) add_column_sums(d, above, g.bias);
  }

  /// @{

  /// As the concept `Block` says.
  template <class T>
  void forward(auto& d, sequence_view, const auto& p, const auto&, const auto&, const_view<T> x,
               matrix_view<T> y) const {
    forward(d, p, x, y);
  }
  template <class T>
  void backward(auto& d, sequence_view, const auto& p, const auto& g, const auto&, const_view<T> x,
                const_view<T> dy, matrix_view<T> dx) const {
    backward(d, p, g, x, dy, dx);
  }
  /// @}

 private:
  /// Whether a dy of type Dy may meet numbers of type T.
  template <class Dy, class T>
  static constexpr bool is_gradient =
      std::is_same_v<std::remove_const_t<Dy>, T> || std::is_same_v<std::remove_const_t<Dy>, bf16>;
};

}  // namespace distil_xlstm
