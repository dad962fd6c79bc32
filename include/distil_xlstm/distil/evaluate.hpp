#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/require_ids.hpp>
#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/loss/head.hpp>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm {

/// Tokens of which those from `context` on are to be scored, given all before them; 0 < context < ids.size().
struct continuation {
  std::vector<std::int32_t> ids;
  index context = 0;
};

/// Context and continuation tokenised together: the continuation is what lies beyond the number of tokens of the
/// context alone. An empty context becomes the token that begins a document. Throws where there is no such
/// token, or where the continuation adds none to its context.
inline continuation tokenize_continuation(const io::tokenizer& tokenizer, const std::string& context,
                                          const std::string& text) {
  io::tokenizer_scratch scratch;
  continuation x;
  x.ids = tokenizer.encode(context + text, true, scratch).ids;
  x.context = std::ssize(tokenizer.encode(context, true, scratch).ids);
  if (x.context == 0) {
    require(tokenizer.document_start() >= 0,
            "an empty context, and the tokenizer has no token that begins a document");
    x.ids.insert(x.ids.begin(), tokenizer.document_start());
    x.context = 1;
  }
  require(x.context < std::ssize(x.ids), "the continuation '", io::detail::printable(text, 40),
          "' adds no token to its context");
  return x;
}

struct continuation_score {
  double sum_logprob = 0;  ///< sum over the continuation's tokens of log p, nats
  bool all_argmax = true;  ///< every token of it was the most likely one
};

/// Scores continuations, in the order given. `read(sequence, ids, hidden)` writes the vectors that `head` reads,
/// from an empty state; up to `batch` continuations of similar length are given at a time, padded with tokens
/// that nothing looks at, all in the device's memory. Throws `error` naming an id that the head has no row for.
/// `on_progress(done, all)` is called after each batch.
template <class T, class D, class Read, class OnProgress>
std::vector<continuation_score> score_continuations(D& device, std::span<const continuation> items,
                                                    logit_head head, index batch, Read&& read,
                                                    OnProgress&& on_progress) {
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
  for (std::size_t first = 0; first < order.size(); first += static_cast<std::size_t>(batch)) {
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
    require_ids(ids, head.rows), require_ids(targets, head.rows);
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
      scores[owner[r]].sum_logprob -= static_cast<double>(nats[r]);
      scores[owner[r]].all_argmax &= likeliest[r] != 0;
    }
    on_progress(static_cast<index>(last), std::ssize(items));
  }
  return scores;
}

}  // namespace distil_xlstm
