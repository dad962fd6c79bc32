#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/comm/single.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/require_ids.hpp>
#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/utf8.hpp>
#include <distil_xlstm/loss/head.hpp>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm {

/// Tokens of which those from `context` on are to be scored, given all before them; `0 < context < ids.size()`.
struct continuation {
  std::vector<std::int32_t> ids;  ///< the context's, then the continuation's
  index context = 0;              ///< how many are the context's
  index cut = 0;                  ///< tokens left out at the context's beginning, for want of room
  std::size_t dropped_bytes = 0;  ///< of the text: those for which the vocabulary has no token
};

/// A context and its continuation as tokens, as EleutherAI's lm-evaluation-harness makes them of (context,
/// continuation) (`_encode_pair`, `loglikelihood`):
/// - White space at the end of the context (Unicode's, as Python's str.rstrip knows it) goes to the continuation.
/// - The continuation's tokens are those of both texts together beyond as many as the context alone has, and the
///   context's are those of the context alone: a continuation that merges into the context's last token is scored
///   without its merged beginning, after the context as it stands.
/// - A tokenizer that begins texts with a token (`add_bos`) does so here, unless the text begins with it itself.
/// - An empty context, or one of white space alone, becomes the token that a text begins with: bos, or eos where
///   there is none.
/// - With `longest` > 0, a model's context, at most longest + 1 tokens are left, of which the model reads all but the
///   last; what is too many goes at the context's beginning.
/// Throws `error` where the continuation is empty, adds no token to its context or leaves no room for one of its
/// context, where a context is empty and no token begins a text, and where a text is not UTF-8.
inline continuation tokenize_continuation(const io::tokenizer& tokenizer, std::string_view context,
                                          std::string_view text, index longest = 0) {
  require(!text.empty(), "the continuation is empty");
  const auto shown = [&] { return io::detail::printable(text, 40); };
  const auto& facts = tokenizer.data();
  io::tokenizer_scratch scratch;
  const std::string both = std::string(context).append(text);
  context.remove_suffix(io::trailing_white_space(context));
  auto whole = tokenizer.encode(both, true, scratch);
  continuation x{tokenizer.encode(context, true, scratch).ids, 0, 0, whole.dropped_bytes};
  auto first = whole.ids.begin() + std::min(std::ssize(x.ids), std::ssize(whole.ids));
  const auto begins = [](const std::vector<std::int32_t>& ids, std::int32_t id) {
    return !ids.empty() && ids.front() == id;
  };
  if (context.empty()) {
    const std::int32_t prefix = facts.bos >= 0 ? facts.bos : facts.eos;
    require(prefix >= 0, "an empty context, and the tokenizer has no token that begins a text");
    x.ids.push_back(prefix);
    if (begins(whole.ids, prefix)) ++first;
  } else if (facts.add_bos && facts.bos >= 0 && !begins(x.ids, facts.bos)) {
    x.ids.insert(x.ids.begin(), facts.bos);
  }
  x.context = std::ssize(x.ids);
  x.ids.insert(x.ids.end(), first, whole.ids.end());
  const index added = std::ssize(x.ids) - x.context;
  require(x.context > 0, "the context '", io::detail::printable(context, 40), "' has no token");
  require(added > 0, "the continuation '", shown(), "' adds no token to its context");
  if (longest > 0) {
    require(added <= longest, "the continuation '", shown(), "' has ", added, " tokens, the model's context ",
            longest);
    x.cut = std::max<index>(0, std::ssize(x.ids) - (longest + 1));
    x.ids.erase(x.ids.begin(), x.ids.begin() + x.cut);
    x.context -= x.cut;
  }
  return x;
}

/// What a model makes of one `continuation`.
struct continuation_score {
  double sum_logprob = 0;  ///< sum over the continuation's tokens of log p, nats
  index scored = 0;        ///< the continuation's tokens
  index correct = 0;       ///< those of them that were the most likely ones
  /// Every token of it was the most likely one.
  bool all_argmax() const { return correct == scored; }
};

/// Scores continuations, in the order given. `read(sequence, ids, hidden)` writes the vectors that `head` reads,
/// from an empty state; up to `batch` continuations of similar length are given at a time, padded with tokens
/// that nothing looks at, all in the device's memory. Throws `error` naming an id that the head has no row for.
/// `on_progress(done, all)` is called after each batch. Several ranks, which all have the same continuations, share
/// the batches: each is told of its own, and all have the scores, the same bits as one's. What one rank throws all
/// do.
template <class T, class D, class Read, class OnProgress, Communicator C = comm::single>
std::vector<continuation_score> score_continuations(D& device, std::span<const continuation> items,
                                                    logit_head head, index batch, Read&& read,
                                                    OnProgress&& on_progress, C& ranks = comm::alone) {
  require(batch > 0, "score_continuations: ", batch, " continuations at a time are not possible");
  std::vector<continuation_score> scores(items.size());

  // Those of one length together, the longest first: what does not fit fails at once.
  std::vector<std::size_t> order(items.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return items[a].ids.size() > items[b].ids.size(); });
  std::vector<std::int32_t> ids, targets;
  std::vector<std::size_t> owner;
  device_copy<std::int32_t, D> placed_ids, placed_targets;
  host_copy<std::uint8_t, D> fetched_argmax;
  host_copy<T, D> fetched_nll;
  buffer<T, D> hidden, gathered, nll;
  buffer<std::uint8_t, D> is_argmax;
  const auto score_from = [&](std::size_t first) {
    const auto last = std::min(order.size(), first + static_cast<std::size_t>(batch));
    const sequence_view seq{static_cast<index>(last - first), std::ssize(items[order[first]].ids) - 1};
    ids.assign(static_cast<std::size_t>(seq.rows()), 0);
    targets.clear(), owner.clear();
    std::vector<index> rows;
    for (std::size_t i = first; i < last; ++i) {
      const continuation& x = items[order[i]];
      const index row = static_cast<index>(i - first) * seq.time;
      std::copy(x.ids.begin(), x.ids.end() - 1, ids.begin() + row);
      for (index t = x.context; t < std::ssize(x.ids); ++t) {
        rows.push_back(row + t - 1);
        targets.push_back(x.ids[static_cast<std::size_t>(t)]);
        owner.push_back(order[i]);
      }
    }
    const auto n = std::ssize(rows);
    if (hidden.size() < seq.rows() * head.cols) hidden = buffer<T, D>(device, seq.rows() * head.cols);
    if (gathered.size() < n * head.cols) gathered = buffer<T, D>(device, n * head.cols);
    const matrix_view<T> h(hidden.data(), seq.rows(), head.cols), wanted(gathered.data(), n, head.cols);
    read(seq, placed_ids.put(device, ids.data(), seq.rows()), h);
    for (index r = 0; r < n; ++r)
      device.copy(wanted.row(r), h.row(rows[static_cast<std::size_t>(r)]),
                  head.cols * static_cast<index>(sizeof(T)));
    if (nll.size() < n) nll = buffer<T, D>(device, n), is_argmax = buffer<std::uint8_t, D>(device, n);
    loss::score_tokens(device, matrix_view<const T>(wanted), head,
                       placed_targets.put(device, targets.data(), n), nullptr, nll.data(), is_argmax.data());
    const T* nats = fetched_nll.get(device, nll.data(), n);
    const std::uint8_t* likeliest = fetched_argmax.get(device, is_argmax.data(), n);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      continuation_score& s = scores[owner[r]];
      s.sum_logprob -= static_cast<double>(nats[r]);
      ++s.scored, s.correct += likeliest[r] != 0;
    }
    on_progress(static_cast<index>(last), std::ssize(items));
  };
  comm::on_every_rank(ranks, [&] {
    for (const continuation& x : items) require_ids(x.ids, head.rows);
    const auto step = static_cast<std::size_t>(batch);
    for (std::size_t first = static_cast<std::size_t>(ranks.rank()) * step; first < order.size();
         first += static_cast<std::size_t>(ranks.size()) * step)
      score_from(first);
  });
  if (ranks.size() == 1) return scores;

  // What is another rank's is 0 here.
  std::vector<double> sums(3 * scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const continuation_score& s = scores[i];
    sums[3 * i] = s.sum_logprob, sums[3 * i + 1] = static_cast<double>(s.scored);
    sums[3 * i + 2] = static_cast<double>(s.correct);
  }
  ranks.sum({}, sums.data(), std::ssize(sums));
  for (std::size_t i = 0; i < scores.size(); ++i)
    scores[i] = {sums[3 * i], static_cast<index>(sums[3 * i + 1]), static_cast<index>(sums[3 * i + 2])};
  return scores;
}

}  // namespace distil_xlstm
