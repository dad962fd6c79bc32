#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/require_ids.hpp>
#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/io/requests.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/loss/head.hpp>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm {

/// Scores the requests of an evaluation set, document after document: context and continuation are tokenised
/// together, and the continuation is what lies beyond the number of tokens of the context alone. An empty
/// context is the token that begins a document. `read(sequence, ids, hidden)` writes the vectors that `head`
/// reads, from an empty state; up to `batch` requests of about one length are given at a time, filled up with
/// tokens that nothing looks at, all in the device's memory. Throws `error` naming an id that the head has no
/// row for. `on_progress(done, all)` is called after each batch.
template <class T, class D, class Read, class OnProgress>
std::vector<io::request_score> score_requests(D& device, const std::vector<io::document>& documents,
                                              const io::tokenizer& tokenizer, logit_head head, index batch,
                                              Read&& read, OnProgress&& on_progress) {
  struct item {
    std::vector<std::int32_t> ids;
    index context = 0;
  };
  std::vector<item> items;
  std::vector<io::request_score> scores;
  io::tokenizer_scratch scratch;
  for (const auto& d : documents)
    for (const auto& r : d.requests) {
      item x;
      x.ids = tokenizer.encode(r.context + r.continuation, true, scratch).ids;
      x.context = std::ssize(tokenizer.encode(r.context, true, scratch).ids);
      if (x.context == 0) {
        require(tokenizer.document_start() >= 0, "document ", d.doc_id,
                ": an empty context, and the tokenizer has no token that begins a document");
        x.ids.insert(x.ids.begin(), tokenizer.document_start());
        x.context = 1;
      }
      require(x.context < std::ssize(x.ids), "document ", d.doc_id, ": the continuation '",
              io::detail::printable(r.continuation, 40), "' adds no token to its context");
      items.push_back(std::move(x));
      scores.push_back({0, true, io::count_characters(r.continuation)});
    }

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
      const item& x = items[order[i]];
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
