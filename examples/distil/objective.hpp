#pragma once

#include <string>
#include <string_view>

#include <distil_xlstm/loss/any_objective.hpp>

#include "common.hpp"

namespace program {

/// Reads an objective such as `0.5*kl(T=2) + 0.4*ce + 0.1*frobenius(average)`.
///
///   objective  term { "+" term }
///   term       [ schedule "*" ] name [ "(" argument { "," argument } ")" ]
///   argument   [ key "=" ] value, in the order of keys below where the key is left out
///   schedule   number [ ":" number [ ":" shape ] ], from, to and a shape as of schedule::any::named (linear)
///
/// Terms and their keys: kl(T), reverse_kl(T), ce, jsd(beta, T), skew_kl(a, T), skew_reverse_kl(a, T), tvd(T),
/// top_k_kl(k, tail, T), frobenius(layers), cosine(layers), mse(layers). T is a schedule; layers are average, ratio,
/// block_wise or paper for frobenius, ratio for cosine, average for mse.
///
/// Throws `error` that says what is wrong and what there is: also where there are more terms than any_objective
/// takes, and where a term's weight is 0 from beginning to end and nothing else makes it be computed.
dx::loss::any_objective parse_objective(std::string_view text);

/// The objective written with every key, so that equal objectives are equal texts.
std::string text_of(const dx::loss::any_objective& objective);

}  // namespace program
