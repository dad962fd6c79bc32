#pragma once

#include <string_view>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

/// The activations of the reference's gated feed-forward, by their names in a config.json.
enum class activation { gelu, relu, relu_squared, sigmoid, silu, selu };

/// The activation of a name: gelu, relu, relu^2, sigmoid, swish or silu, selu. Throws `error` for any other.
inline activation activation_named(std::string_view name) {
  if (name == "gelu") return activation::gelu;
  if (name == "relu") return activation::relu;
  if (name == "relu^2") return activation::relu_squared;
  if (name == "sigmoid") return activation::sigmoid;
  if (name == "swish" || name == "silu") return activation::silu;
  if (name == "selu") return activation::selu;
  fail("activation '", name, "' is not supported (gelu, relu, relu^2, sigmoid, swish, selu are)");
}
/// Its name; that of silu is swish.
constexpr std::string_view name_of(activation a) {
  constexpr std::string_view names[] = {"gelu", "relu", "relu^2", "sigmoid", "swish", "selu"};
  return names[static_cast<int>(a)];
}

namespace math {

/// A function value and its derivative at the same point.
template <class V>
struct value_and_slope {
  /// @{ f(x) and f'(x).
  V value, slope;
  /// @}
};

/// SiLU(x) = x sigmoid(x); SiLU'(x) = s (1 + x (1 - s)), s = sigmoid(x).
template <class V>
DISTIL_XLSTM_HD value_and_slope<V> silu(V x) {
  const V s = sigmoid(x);
  return {x * s, s * (V(1) + x * (V(1) - s))};
}

/// For `transform`: SiLU(x).
struct silu_forward {
  /// SiLU(x), a scalar or a pack of them.
  template <class V>
  DISTIL_XLSTM_HD V operator()(V x) const {
    return x * sigmoid(x);
  }
};
/// For `transform`: the gradient by x of a y = SiLU(x).
struct silu_backward {
  /// dy SiLU'(x)
  template <class V>
  DISTIL_XLSTM_HD V operator()(V x, V dy) const {
    return dy * silu(x).slope;
  }
};

/// GELU(x) = x Phi(x), the exact erf form; GELU'(x) = Phi(x) + x phi(x).
template <class V>
DISTIL_XLSTM_HD value_and_slope<V> gelu(V x) {
  using std::erf;
  using std::exp;
  using S = scalar_of<V>;
  const V phi_c = V(S(0.5)) * (V(1) + erf(x * V(S(0.70710678118654752440))));
  const V density = V(S(0.39894228040143267794)) * exp(V(S(-0.5)) * x * x);
  return {x * phi_c, phi_c + x * density};
}

/// SELU(x) = scale (x > 0 ? x : alpha (exp(x) - 1)), Klambauer et al. 2017.
template <class V>
DISTIL_XLSTM_HD value_and_slope<V> selu(V x) {
  using std::exp;
  using S = scalar_of<V>;
  const V scale = V(S(1.0507009873554804934)), scale_alpha = V(S(1.7580993408473768599));
  const V e = exp(min(x, V(0)));
  return {select_positive(x, scale * x, scale_alpha * (e - V(1))), select_positive(x, scale, scale_alpha * e)};
}

/// Any of the above. The switch is outside the vector loop's cost: it is the same for all elements.
template <class V>
DISTIL_XLSTM_HD value_and_slope<V> activate(activation a, V x) {
  switch (a) {
    case activation::gelu: return gelu(x);
    case activation::relu: return {max(x, V(0)), select_positive(x, V(1), V(0))};
    case activation::relu_squared: {
      const V r = max(x, V(0));
      return {r * r, r + r};
    }
    case activation::sigmoid: {
      const V s = sigmoid(x);
      return {s, s * (V(1) - s)};
    }
    case activation::silu: return silu(x);
    case activation::selu: return selu(x);
  }
  return {x, V(1)};
}

}  // namespace math
}  // namespace distil_xlstm
