#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/schedule/any.hpp>

#include "common.hpp"

namespace program {

/// One term of --objective: `weight*name(...)`. What a term does not have stays at its default.
struct objective_term {
  std::string name;
  dx::schedule::any<double> weight = 1.0, temperature = 1.0;
  double share = 0.5;  ///< beta of jsd, a of the skewed divergences: the teacher's share of the mixture
  dx::index k = 0;     ///< of top_k_kl
  std::string tail = "one_class";  ///< of top_k_kl: one_class, ignored
  std::string layers = "average";  ///< of hidden states: average, ratio, block_wise; of frobenius: paper, too

  /// It compares hidden states, not logits.
  bool hidden() const { return name == "frobenius" || name == "cosine" || name == "mse"; }
};

/// Reads an objective such as `0.5*kl(T=2) + 0.4*ce + 0.1*frobenius(average)`.
///
///   objective  term { "+" term }
///   term       [ schedule "*" ] name [ "(" argument { "," argument } ")" ]
///   argument   [ key "=" ] value, in the order of keys below where the key is left out
///   schedule   number [ ":" number [ ":" shape ] ], from, to and a shape as of schedule::any::named (linear)
///
/// Terms and their keys: kl(T), reverse_kl(T), ce, jsd(beta, T), skew_kl(a, T), skew_reverse_kl(a, T), tvd(T),
/// top_k_kl(k, tail, T), frobenius(layers), cosine(layers), mse(layers). T is a schedule.
///
/// Throws `error` that says what is wrong and what there is. No term may appear twice: the log names each once.
std::vector<objective_term> parse_objective(std::string_view text);

/// The objective written with every key, so that equal objectives are equal texts.
std::string text_of(const std::vector<objective_term>& objective);

}  // namespace program
