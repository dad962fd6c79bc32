#pragma once

namespace distil_xlstm::testing {

/// What agrees with what, and how closely: max |difference| / max |reference| over a tensor.
template <class T>
struct tolerance;

template <>
struct tolerance<double> {
  static constexpr double reference_forward = 1e-10;   ///< logits and hidden states against the reference in float64
  static constexpr double reference_gradient = 1e-10;  ///< every parameter's gradient, likewise
  static constexpr double gradient_check = 1e-7;       ///< against central differences
  static constexpr double forms = 1e-12;               ///< step = chunk = parallel, halves with carried state = whole
  static constexpr double training_steps = 1e-7;       ///< eight AdamW steps of the reference
};

/// The reference in float64 is what float is compared with. Norms over heads of two to four numbers, as the small
/// reference models have them, multiply rounding in gradients: hence the wider bound there.
template <>
struct tolerance<float> {
  static constexpr double reference_forward = 1e-5;
  static constexpr double reference_gradient = 5e-4;
};

}  // namespace distil_xlstm::testing
