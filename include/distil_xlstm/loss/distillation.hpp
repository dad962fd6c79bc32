#pragma once

#include <distil_xlstm/loss/expression.hpp>
#include <distil_xlstm/schedule/any.hpp>

namespace distil_xlstm::loss {

/// The objective of the program, its numbers chosen at run time:
///
///     alpha T² KL(teacher || student; T) + (1 - alpha - beta) CE + beta alignment
///
/// A weight of 0 leaves its term out: the teacher's states or the alignment's targets may then be absent.
struct distillation {
  using is_objective_expression = void;  ///< as the concept `ObjectiveExpression` says
  /// @{
  /// alpha, beta and T of the formula.
  schedule::any<double> alpha = 0.5, beta = 0.1, temperature = 1.0;
  /// @}
  alignment form = alignment::average;  ///< `none`: beta counts as 0

  /// The numbers of a step, as they are logged.
  struct numbers {
    /// @{
    /// alpha, beta and T.
    double alpha, beta, temperature;
    /// @}
  };
  /// Those at the clock's step.
  numbers at_step(const schedule::clock& c) const {
    return {alpha.at(c), form == alignment::none ? 0.0 : beta.at(c), temperature.at(c)};
  }

  /// As the concept `ObjectiveExpression` says. Logged terms: logits {kl, ce}, hidden {alignment}.
  template <class T = float>
  auto at(const schedule::clock& c) const {
    const auto n = at_step(c);
    return (n.alpha * kl(n.temperature) + (1 - n.alpha - n.beta) * cross_entropy() + n.beta * term(form))
        .template at<T>(c);
  }
};

}  // namespace distil_xlstm::loss
