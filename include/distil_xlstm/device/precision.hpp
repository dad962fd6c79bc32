#pragma once

#include <concepts>
#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>

namespace distil_xlstm {

/// What a model's numbers are while it runs. A device is a template over it:
///
///     P::scalar        what weights, activations, gradients and moments are stored as
///     P::product       what the operands of a matrix product are rounded to
///     P::accumulator   what products are summed in
template <class P>
concept Precision = requires {
  requires std::floating_point<typename P::scalar>;
  typename P::product;
  requires std::floating_point<typename P::accumulator>;
};

/// For proofs: double throughout.
struct fp64 {
  /// @name What every precision has
  /// @{

  /// As the concept `Precision` says.
  using scalar = double;
  using product = double;
  using accumulator = double;
  /// @}
};
/// The default: float throughout.
struct fp32 {
  /// @name What every precision has
  /// @{

  /// As the concept `Precision` says.
  using scalar = float;
  using product = float;
  using accumulator = float;
  /// @}
};
/// Tensor cores and AVX512-BF16: float but for the operands of products.
struct bf16_mixed {
  /// @name What every precision has
  /// @{

  /// As the concept `Precision` says.
  using scalar = float;
  using product = bf16;
  using accumulator = float;
  /// @}
};

/// What operands of type T are multiplied as: a precision rounds its own scalar; any other type stays what it is, so
/// that doubles are computed in double on every device.
template <Precision P, class T>
using product_t = std::conditional_t<std::is_same_v<T, typename P::scalar>, typename P::product, T>;

/// Whether a product of numbers of type T rounds them to bfloat16.
template <Precision P, class T>
inline constexpr bool multiplies_in_bf16 = std::is_same_v<product_t<P, T>, bf16>;

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
/// `macro`(keyword, P, T) for each precision P and its scalar T, with `keyword` extern template or template: what
/// distil_xlstm::compiled instantiates.
#define DISTIL_XLSTM_EACH_PRECISION(macro, keyword) \
  macro(keyword, fp64, double) macro(keyword, fp32, float) macro(keyword, bf16_mixed, float)
#endif
