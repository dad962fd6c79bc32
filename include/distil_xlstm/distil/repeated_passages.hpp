#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/distil/token_text.hpp>

namespace distil_xlstm {

namespace detail {

/// Positions of a text: from the first to before the second.
using passage = std::pair<index, index>;

/// Up to `length` tokens of the text from `first` on, within one document and without the document's last token,
/// which may be its end-of-text token, but where it has no other; one token at least.
template <class Text>
passage passage_from(const Text& text, index first, index length) {
  index end = std::min(first + length, text.size());
  while (text.document_start(end - 1) > first) end = text.document_start(end - 1);
  if (end == text.size() || text.starts_at(end)) --end;
  if (end == first && !text.starts_at(first)) --first;
  return {first, std::max(end, first + 1)};
}

}  // namespace detail

/// A text in which passages of `text` come back, to learn recall from: a student that is to repeat a passage as its
/// teacher does must have kept it. `documents` documents of `length` tokens each: the first passage of one is the
/// beginning of a document of `text`; each that follows is, with a chance of one half, one of those before it, else a
/// new one, from anywhere. Passages have 8 to 256 tokens, log-uniform, and a quarter of `length` at most; less where
/// a document of `text` ends before. The last one is cut. Repeated random tokens are what induction heads
/// are found by (Olsson et al. 2022). A function of its arguments alone. `text` is a `token_text` or an
/// `io::token_file`. Throws `error` where it is empty, or where there is not one document of one token at least.
template <class Text>
token_text repeated_passages(const Text& text, index documents, index length, std::uint64_t seed) {
  require(text.size() > 0, "repeated_passages: the text is empty");
  require(documents > 0 && length > 0, "repeated_passages: ", documents, " documents of ", length,
          " tokens are not possible");
  rng random(seed);
  const auto anywhere = [&] {
    return static_cast<index>(random.below(static_cast<std::uint64_t>(text.size())));
  };
  const double longest = std::max(1.0, std::min(256.0, static_cast<double>(length) / 4)),
               shortest = std::min(8.0, longest);
  const auto some_length = [&] {
    return static_cast<index>(shortest * std::pow(longest / shortest, random.uniform()));
  };

  token_text out;
  out.ids.reserve(static_cast<std::size_t>(documents * length) + 1);
  std::vector<detail::passage> seen;
  for (index d = 1; d <= documents; ++d) {
    out.documents.push_back(out.size());
    seen.clear();
    while (out.size() < d * length) {
      std::size_t which = seen.size();
      if (seen.size() < 2 || random.uniform() < 0.5) {
        const index at = seen.empty() ? text.document_start(anywhere()) : anywhere();
        seen.push_back(detail::passage_from(text, at, some_length()));
      } else {
        which = random.below(seen.size());
      }
      for (auto [i, end] = seen[which]; i < end && out.size() < d * length; ++i) out.ids.push_back(text[i]);
    }
  }
  return out;
}

}  // namespace distil_xlstm
