#pragma once

#include <algorithm>
#include <string_view>

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm::testing {

/// What agrees with what, and how closely: max |difference| / max |reference| over a tensor.
template <class T>
struct tolerance;

/// Of the reference in float64, and of the library's forms among each other.
template <>
struct tolerance<double> {
  static constexpr double reference_forward = 1e-10;  ///< logits and hidden states, the reference in float64
  static constexpr double training_steps = 1e-10;     ///< AdamW steps of it: losses and gradient norms
  static constexpr double last_norms = 1e-10;         ///< gradient norms after more than six of the ten steps
  static constexpr double trained_weights = 1e-10;    ///< and the weights after them
  static constexpr double alignment_steps = 1e-10;    ///< of mixers: errors and gradient norms
  static constexpr double gradient_check = 1e-7;      ///< central differences
  static constexpr double forms = 1e-12;  ///< step = chunk = parallel, halves with carried state = whole
  /// A gradient of the reference, of this condition (below).
  static constexpr double reference_gradient(double) { return 1e-10; }
  /// Outputs, states and gradients of the golden cell of this name.
  static constexpr double reference_cell(std::string_view) { return 1e-10; }
};

/// The reference in float64 is what float is compared with.
template <>
struct tolerance<float> {
  static constexpr double reference_forward = 1e-5;  ///< logits and hidden states
  static constexpr double training_steps = 1e-4;     ///< of AdamW: losses and gradient norms
  static constexpr double last_norms = 1e-2;       ///< rounding the first weights to float moves them by 1.4e-3
  static constexpr double trained_weights = 5e-3;  ///< AdamW makes a whole step of a gradient without digits
  /// Where a window holds all of a text, student and teacher are equal but for rounding, and its direction counts.
  static constexpr double alignment_steps = 2e-2;
  static constexpr double a_million_steps = 1e-4;  ///< h from float64, of the largest |h|
  /// A sum of products of up to eight rows, rounded to 8 bits, with Q8_0, Q4_0 or Q4_1: of the sum of |products|.
  static constexpr double rows_of_8_bits = 1e-2;
  static constexpr double hidden_of_8_bits = 1e-1;  ///< hidden states of layers of random weights, of such sums

  /// A gradient of the reference; `condition` is how far it moves in double where all that lies in memory is
  /// off by up to the last digit of a float (tests/comparison/condition.hpp).
  static constexpr double reference_gradient(double condition) { return std::max(2e-5, 4 * condition); }
  /// To round gates of up to 64 moves what follows from them by as much.
  static constexpr double reference_cell(std::string_view name) {
    return name.find("extreme") == name.npos ? 2e-5 : 1e-4;
  }
};

/// The device `cuda` against the CPU in double: float arithmetic throughout, and products in bfloat16.
struct cuda_tolerance {
  /// Of the precisions `fp32` and `bf16_mixed`.
  struct limits {
    /// @{ max |difference| / max |reference|
    double fp32, bf16;
    /// @}
  };
  static constexpr limits product{1e-6, 1e-2};      ///< gemm, gemm_batched
  static constexpr limits slstm{2e-6, 1e-2};        ///< outputs, states and gradients
  static constexpr limits slstm_steps{0, 1e-4};     ///< against the whole; in bf16 they are another kernel's
  static constexpr limits mlstm{1e-5, 1e-2};        ///< or what rounding the inputs moves, where that is more
  static constexpr double mlstm_forget = 8e-2;      ///< bf16: rounded states do not cancel in d f
  static constexpr double narrow_mlstm = 5e-2;      ///< bf16, means by queries below 16 numbers
  static constexpr limits attention{3e-6, 1.5e-2};  ///< outputs and gradients
  static constexpr double narrow_attention = 5e-2;  ///< bf16, heads below 16 numbers: few average little out
  static constexpr limits features{5e-6, 2e-2};     ///< softmax features, and their gradients
  static constexpr double feed_forward = 2e-2;      ///< bf16: outputs and gradients
  static constexpr double norm = 2e-6;              ///< float: outputs and gradients
  /// @{ bf16: hidden states behind layers run whole (narrow: heads below 16), and how many times their blocks' error.
  static constexpr double teacher = 2e-2, narrow_teacher = 1e-1, teacher_by_blocks = 2;
  /// @}
  /// @{ What the pass over the logits (loss/head.hpp) gives: values of terms, and their gradients.
  static constexpr limits head_value{2e-6, 5e-3}, head_gradient{5e-6, 3e-2};
  /// @}
};

}  // namespace distil_xlstm::testing
