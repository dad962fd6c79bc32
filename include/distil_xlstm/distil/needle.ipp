#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/distil/needle.hpp>
#include <distil_xlstm/io/printable.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE index needle_text::least_length() const {
  const auto longest = std::max_element(digits.begin(), digits.end(),
                                        [](const auto& a, const auto& b) { return a.size() < b.size(); });
  return 2 * (std::ssize(phrase) + number_digits * std::ssize(*longest)) + std::ssize(stop) + least_before +
         least_between;
}

DISTIL_XLSTM_INLINE needle_text tokenize_needle(const io::tokenizer& tokenizer) {
  io::tokenizer_scratch scratch;
  const auto tokens = [&](std::string_view text) {
    auto e = tokenizer.encode(text, false, scratch);
    require(e.dropped_bytes == 0 && !e.ids.empty(), tokenizer.data().name, ": '",
            io::detail::printable(text, 40), "', which a needle case has, has bytes without a token");
    return std::move(e.ids);
  };
  needle_text out;
  out.phrase = tokens(needle_text::phrase_text);
  for (std::size_t d = 0; d < out.digits.size(); ++d)
    out.digits[d] = tokens(std::string_view("0123456789").substr(d, 1));
  out.stop = tokens(needle_text::stop_text);
  return out;
}

DISTIL_XLSTM_INLINE std::vector<continuation> needle_cases(const needle_text& text,
                                                           std::span<const std::int32_t> filler, index length,
                                                           index cases, std::uint64_t seed) {
  const auto& digits = text.digits;
  for (std::size_t d = 0; d < digits.size(); ++d) {
    require(!digits[d].empty(), "needle cases: the digit ", d, " has no token");
    for (std::size_t other = 0; other < d; ++other)
      require(digits[d] != digits[other], "needle cases: the digits ", other, " and ", d,
              " are the same tokens");
  }
  require(cases > 0, "needle cases: ", cases, " are none");
  require(length >= text.least_length(), "a needle case of ", length,
          " tokens has no room for the number, the question and their distance; ", text.least_length(),
          " is the least");
  // The number with the fewest tokens leaves the most room, so that what fits does not hang on the numbers drawn.
  const auto shortest = std::min_element(digits.begin(), digits.end(),
                                         [](const auto& a, const auto& b) { return a.size() < b.size(); });
  const index most = length -
                     2 * (std::ssize(text.phrase) + needle_text::number_digits * std::ssize(*shortest)) -
                     std::ssize(text.stop);
  require(std::ssize(filler) >= most, "needle cases of ", length, " tokens need ", most,
          " tokens of filler, there are ", filler.size());

  rng seeds(seed);
  std::vector<continuation> out(static_cast<std::size_t>(cases));
  for (continuation& x : out) {
    rng random(seeds());
    const auto below = [&](index n) { return static_cast<index>(random.below(static_cast<std::uint64_t>(n))); };
    std::vector<std::int32_t> number;
    for (index i = 0; i < needle_text::number_digits; ++i) {
      const auto& digit = digits[static_cast<std::size_t>(below(std::ssize(digits)))];
      number.insert(number.end(), digit.begin(), digit.end());
    }
    const index room = length - 2 * (std::ssize(text.phrase) + std::ssize(number)) - std::ssize(text.stop);
    const auto piece = filler.subspan(static_cast<std::size_t>(below(std::ssize(filler) - room + 1)),
                                      static_cast<std::size_t>(room));
    const index before =
        needle_text::least_before + below(room - needle_text::least_before - needle_text::least_between + 1);
    const auto add = [&x](std::span<const std::int32_t> part) {
      x.ids.insert(x.ids.end(), part.begin(), part.end());
    };
    x.ids.reserve(static_cast<std::size_t>(length));
    add(piece.first(static_cast<std::size_t>(before)));
    add(text.phrase), add(number), add(text.stop);
    add(piece.subspan(static_cast<std::size_t>(before)));
    add(text.phrase), add(number);
    x.context = length - std::ssize(number);
  }
  return out;
}

DISTIL_XLSTM_INLINE needle_score score_needle(std::span<const continuation_score> cases) {
  needle_score out;
  double tokens = 0;
  for (const continuation_score& c : cases) {
    out.number += c.all_argmax();
    out.digit += static_cast<double>(c.correct);
    out.nll -= c.sum_logprob;
    tokens += static_cast<double>(c.scored);
  }
  require(tokens > 0, "of ", cases.size(), " needle cases no token is scored");
  return {out.number / static_cast<double>(cases.size()), out.digit / tokens, out.nll / tokens};
}

}  // namespace distil_xlstm
