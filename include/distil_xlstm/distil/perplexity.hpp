#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/comm/single.hpp>
#include <distil_xlstm/core/require_ids.hpp>
#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/distil/token_text.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/loss/head.hpp>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm {

/// What reading a text gives: nats over the tokens scored.
struct text_score {
  /// @{
  /// How many there are, and of how many the prediction was scored.
  index tokens = 0, scored = 0;
  /// @}
  double nll = 0;  ///< negative log-likelihood of those, their sum
  /// exp(nll / scored). Throws `error` where nothing was scored: that is no perplexity.
  double perplexity() const {
    require(scored > 0, "perplexity: of ", tokens, " tokens none is scored");
    return std::exp(nll / static_cast<double>(scored));
  }
};

/// Calls use(first, n) for the consecutive windows of `window` tokens that a text is cut into, the last as long
/// as it is.
template <class F>
void for_each_window(index tokens, index window, const F& use) {
  require(window >= 2, "perplexity: windows of ", window, " tokens score nothing");
  for (index first = 0; first < tokens; first += window) use(first, std::min(window, tokens - first));
}

/// What is known at a window's start.
enum class window_state {
  empty,   ///< nothing: windows are independent, and read several at a time
  carried  ///< the text so far: windows are read one by one, whole, by a `forward` that goes on from its state
};

/// Windows of one length side by side, in the device's memory.
struct window_batch {
  sequence_view seq;            ///< [windows, tokens of each]
  const std::int32_t* ids;      ///< [rows]
  const std::int32_t* targets;  ///< [rows] the id after each; 0 after a window's last
  const std::uint8_t* scored;   ///< [rows] 0 where the target is another window's or begins a document
  index number;                 ///< which batch of the text it is, from 0
};

/// Calls use(window_batch) for a text in consecutive windows, in order; up to `batch` of one length are given at a
/// time, each without its last token, which predicts nothing here; carried ones whole, one by one, since their last
/// token is remembered. Of several ranks, which all have the text, each is given its share: batch i is rank i mod
/// size()'s. What it returns is how many batches there are. Throws `error` naming an id that is not below
/// `vocabulary`, on every rank, and where several ranks were to carry one state.
template <class D, class Text, class Use, Communicator C = comm::single>
index for_each_window_batch(D& device, const Text& text, index window, index batch, index vocabulary,
                            window_state state, const Use& use, C& ranks = comm::alone) {
  require(batch > 0, "perplexity: ", batch, " windows at a time are not possible");
  const bool carried = state == window_state::carried;
  require(!carried || ranks.size() == 1,
          "perplexity: windows that carry a state are read one after another, not by ", ranks.size(), " ranks");
  if (carried) batch = 1;
  std::vector<std::int32_t> ids, targets, start;
  std::vector<std::uint8_t> scored;
  device_copy<std::int32_t, D> placed_ids, placed_targets, placed_start;
  device_copy<std::uint8_t, D> placed_scored;
  index rows_a_window = 0, count = 0, number = 0;
  auto flush = [&] {
    if (count == 0) return;
    require_ids(ids, vocabulary), require_ids(targets, vocabulary);
    const index rows = count * rows_a_window;
    if (number % ranks.size() == ranks.rank())
      use(window_batch{{count, rows_a_window, placed_start.put(device, start.data(), rows)},
                       placed_ids.put(device, ids.data(), rows),
                       placed_targets.put(device, targets.data(), rows),
                       placed_scored.put(device, scored.data(), rows),
                       number});
    ++number;
    ids.clear(), targets.clear(), start.clear(), scored.clear(), count = 0;
  };
  for_each_window(text.size(), window, [&](index first, index n) {
    const index rows = carried ? n : n - 1;
    if (rows == 0) return;
    if (count > 0 && rows != rows_a_window) flush();
    rows_a_window = rows;
    for (index t = 0; t < rows; ++t) {
      const index document = text.document_start(first + t);
      const bool inside = t + 1 < n;
      ids.push_back(text[first + t]);
      targets.push_back(inside ? text[first + t + 1] : 0);
      start.push_back(static_cast<std::int32_t>(document >= first ? document - first : -1));
      scored.push_back(inside && !text.starts_at(first + t + 1));
    }
    if (++count == batch) flush();
  });
  flush();
  return number;
}

namespace detail {
/// The sums of what `score(window_batch)` gives, N numbers, over the batches of `for_each_window_batch`: added up in
/// the text's order, so that they are the same bits whatever the number of ranks.
template <std::size_t N, class D, class Text, class Score, Communicator C>
std::array<double, N> sum_over_batches(D& device, const Text& text, index window, index batch, index vocabulary,
                                       window_state state, const Score& score, C& ranks) {
  std::vector<double> parts;  // N numbers a batch, 0 where it is another rank's
  comm::on_every_rank(ranks, [&] {
    const auto keep = [&](const window_batch& w) {
      const std::array<double, N> one = score(w);
      parts.resize(static_cast<std::size_t>(w.number) * N);
      parts.insert(parts.end(), one.begin(), one.end());
    };
    const index batches = for_each_window_batch(device, text, window, batch, vocabulary, state, keep, ranks);
    parts.resize(static_cast<std::size_t>(batches) * N);
  });
  ranks.sum({}, parts.data(), std::ssize(parts));
  std::array<double, N> total{};
  for (std::size_t i = 0; i < parts.size(); ++i) total[i % N] += parts[i];
  return total;
}

/// A file in which nothing is scored is a mistake; a text in memory says so in its score.
template <class Text>
void require_scored(const Text& text, const text_score& s) {
  if constexpr (requires { text.path(); })
    require(s.scored > 0, text.path(), ": no token to score, of ", s.tokens);
}
}  // namespace detail

/// Scores a text in consecutive windows; a window's first token is context only, and so is a document's.
/// `forward(sequence, ids, hidden)` writes the vectors that `head` reads; up to `batch` windows of one length
/// are given at a time, all in the device's memory. `text` is a token file or a `token_text`. Several ranks, each
/// with its own model and the same text, share the batches, and all have the score, the same bits as one's. Throws
/// `error` naming an id that the head has no row for, or the file in which there is nothing to score; what one rank
/// throws all do.
template <class T, class D, class Text, class Forward, Communicator C = comm::single>
text_score score_text(D& device, const Text& text, index window, index batch, logit_head head,
                      Forward&& forward, window_state state = window_state::empty, C& ranks = comm::alone) {
  buffer<T, D> hidden(device, std::max<index>(1, batch * std::min(window, text.size())) * head.cols);
  const auto read = [&](const window_batch& w) {
    const matrix_view<T> h(hidden.data(), w.seq.rows(), head.cols);
    forward(w.seq, w.ids, h);
    const auto s = loss::score_tokens(device, matrix_view<const T>(h), head, w.targets, w.scored);
    return std::array{s.nll, static_cast<double>(s.scored)};
  };
  const auto [nll, scored] =
      detail::sum_over_batches<2>(device, text, window, batch, head.rows, state, read, ranks);
  const text_score total{text.size(), static_cast<index>(scored), nll};
  detail::require_scored(text, total);
  return total;
}

/// The same positions under the add-one unigram counts of other texts, each by its share: what a model must beat.
inline text_score score_unigram(std::span<const weighted_text> counted, const io::token_file& text,
                                index window) {
  const auto vocabulary = [](const weighted_text& t) {
    return std::visit([](const auto* counts) { return counts->vocab_size(); }, t.text);
  };
  index most = text.vocab_size();
  for (const weighted_text& t : counted) most = std::max(most, vocabulary(t));
  const std::vector<double> shares = shares_of(counted);
  std::vector<double> probability(static_cast<std::size_t>(most), 0.0), counts;
  for (std::size_t k = 0; k < counted.size(); ++k) {
    counts.assign(probability.size(), 1.0);
    const auto count = [&](const auto* of) {
      for (index i = 0; i < of->size(); ++i) counts[static_cast<std::size_t>((*of)[i])] += 1.0;
      return static_cast<double>(of->size()) + static_cast<double>(counts.size());
    };
    const double total = std::visit(count, counted[k].text);
    for (std::size_t i = 0; i < counts.size(); ++i) probability[i] += shares[k] * (counts[i] / total);
  }
  text_score out;
  out.tokens = text.size();
  for_each_window(text.size(), window, [&](index first, index n) {
    for (index t = 1; t < n; ++t)
      if (!text.starts_at(first + t)) {
        out.nll -= std::log(probability[static_cast<std::size_t>(text[first + t])]);
        ++out.scored;
      }
  });
  return out;
}
/// Under the counts of one text.
inline text_score score_unigram(const io::token_file& counted, const io::token_file& text, index window) {
  const weighted_text one{&counted};
  return score_unigram(std::span(&one, 1), text, window);
}

}  // namespace distil_xlstm
