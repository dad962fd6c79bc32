#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/distil/evaluate.hpp>
#include <distil_xlstm/io/tokenizer.hpp>

namespace distil_xlstm {

/// What hides in the filler of a needle case, as tokens.
struct needle_text {
  std::vector<std::int32_t> phrase;                  ///< what announces the number
  std::array<std::vector<std::int32_t>, 10> digits;  ///< each digit: one token or several
  std::vector<std::int32_t> stop;                    ///< what ends the sentence

  /// @{
  /// The sentence, as text.
  static constexpr std::string_view phrase_text = "\nThe secret number of the castle is ", stop_text = ".\n";
  /// @}
  /// Digits of a number.
  static constexpr index number_digits = 7;
  /// @{
  /// Tokens of filler, at least: before the sentence, and between it and the question.
  static constexpr index least_before = 8, least_between = 100;
  /// @}

  /// Tokens that a case must have, whatever its number.
  index least_length() const;
};

/// The needle in a vocabulary; every digit is encoded alone. Throws `error` naming the tokenizer where a byte of it
/// has no token.
needle_text tokenize_needle(const io::tokenizer& tokenizer);

/// Recall from a long context: `cases` texts of `length` tokens each, for `score_continuations`. A case is filler; the
/// phrase, a random number of seven digits and the stop; more filler; the phrase again, and the number, whose tokens
/// are scored. All of them are the most likely ones exactly where greedy decoding writes the number. A case's filler is
/// one piece of `filler` from a random place, which the sentence cuts at a random place: `least_before` tokens
/// come before it, at least, and `least_between` after it. Case i depends on the seed, not on how many there are, and
/// its number not on the length.
///
/// Throws `error` where the length has no room, saying the least one; where `filler` is shorter than a case
/// needs, saying how much that is; and where a digit has no token, or those of another.
std::vector<continuation> needle_cases(const needle_text& text, std::span<const std::int32_t> filler,
                                       index length, index cases, std::uint64_t seed);

/// Shares between 0 and 1, and nats.
struct needle_score {
  double number = 0;  ///< share of the cases of which every digit is the arg max
  double digit = 0;   ///< share of the digits' tokens that are the arg max
  double nll = 0;     ///< negative log-likelihood of a digit's token, the mean
};

/// What the scores of needle cases come to. Throws `error` where there are none.
needle_score score_needle(std::span<const continuation_score> cases);

}  // namespace distil_xlstm

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/distil/needle.ipp>
#endif
