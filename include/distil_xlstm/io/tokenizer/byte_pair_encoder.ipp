#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/tokenizer/byte_pair_encoder.hpp>

namespace distil_xlstm::io::detail {

DISTIL_XLSTM_INLINE byte_pair_encoder::byte_pair_encoder(const tokenizer_data& d) : merges_(d.merges.size()) {
  const auto ids = ids_by_text(d);
  for (unsigned b = 0; b < 256; ++b) {
    const auto at = ids.find(alphabet_character(static_cast<unsigned char>(b)));
    byte_ids_[b] = at != ids.end() ? at->second : d.unknown;
  }
  std::string whole;
  for (std::size_t i = 0; i < d.merges.size(); ++i) {
    const std::string &left = d.merges[i].first, &right = d.merges[i].second;
    const auto id = [&](std::string_view text) {
      const auto at = ids.find(text);
      if (at == ids.end())
        fail(d.name, ": merge ", i, " (", printable(left, 40), " ", printable(right, 40), ") needs the token ",
             printable(text, 80), ", which the vocabulary lacks");
      return at->second;
    };
    whole.assign(left).append(right);
    merges_.insert(id(left), id(right), {static_cast<std::uint32_t>(i), id(whole)});
  }
  if (d.ignore_merges) collect_whole_words(d);
}

DISTIL_XLSTM_INLINE void byte_pair_encoder::encode(std::string_view word, scratch& s, encoded& out) const {
  if (const auto at = whole_words_.find(word); at != whole_words_.end()) {
    out.ids.push_back(at->second);
    return;
  }
  require(word.size() < std::size_t{1} << 30, "a word of ", word.size(), " bytes is too long");
  auto& symbols = s.symbols_;
  symbols.clear();
  for (const char c : word) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id < 0) {
      ++out.dropped_bytes;
      continue;
    }
    const auto i = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({id, i - 1, i + 1});
  }
  if (symbols.size() <= short_word) {
    merge_short(s, out);
  } else {
    merge_long(s, out);
  }
}

DISTIL_XLSTM_INLINE std::unordered_map<std::string_view, std::int32_t> byte_pair_encoder::ids_by_text(
    const tokenizer_data& d) {
  std::unordered_map<std::string_view, std::int32_t> ids;
  ids.reserve(d.tokens.size());
  for (std::size_t i = 0; i < d.tokens.size(); ++i) {
    if (d.tokens[i].empty()) continue;
    const auto [at, fresh] = ids.emplace(d.tokens[i], static_cast<std::int32_t>(i));
    require(fresh, d.name, ": the ids ", at->second, " and ", i, " have the same token ",
            printable(d.tokens[i], 80));
  }
  return ids;
}

DISTIL_XLSTM_INLINE void byte_pair_encoder::collect_whole_words(const tokenizer_data& d) {
  std::vector<bool> special(d.tokens.size());
  for (const auto& s : d.specials) special[static_cast<std::size_t>(s.id)] = true;
  for (std::size_t i = 0; i < d.tokens.size(); ++i)
    if (!special[i] && !d.tokens[i].empty())
      whole_words_.emplace(token_bytes(d.tokens[i]), static_cast<std::int32_t>(i));
}

DISTIL_XLSTM_INLINE void byte_pair_encoder::merge_short(scratch& s, encoded& out) const {
  auto& symbols = s.symbols_;
  auto& pairs = s.pairs_;
  std::size_t n = symbols.size();
  pairs.assign(n + 1, {});
  for (std::size_t i = 0; i + 1 < n; ++i) pairs[i] = merges_.find(symbols[i].id, symbols[i + 1].id);
  while (n > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n; ++i)
      if (pairs[i].rank < pairs[best].rank) best = i;
    if (pairs[best].rank == merge_table::none) break;
    symbols[best].id = pairs[best].id;
    for (std::size_t i = best + 1; i + 1 < n; ++i) symbols[i].id = symbols[i + 1].id, pairs[i] = pairs[i + 1];
    --n;
    if (best > 0) pairs[best - 1] = merges_.find(symbols[best - 1].id, symbols[best].id);
    pairs[best] = best + 1 < n ? merges_.find(symbols[best].id, symbols[best + 1].id) : merge_table::merge{};
  }
  for (std::size_t i = 0; i < n; ++i) out.ids.push_back(symbols[i].id);
}

DISTIL_XLSTM_INLINE void byte_pair_encoder::merge_long(scratch& s, encoded& out) const {
  auto& symbols = s.symbols_;
  const auto n = static_cast<std::int32_t>(symbols.size());
  const auto at = [&](std::int32_t i) -> scratch::symbol& { return symbols[static_cast<std::size_t>(i)]; };
  struct candidate {
    std::uint32_t rank;
    std::int32_t left, left_id, right_id, id;
    bool operator>(const candidate& o) const { return std::tie(rank, left) > std::tie(o.rank, o.left); }
  };
  const auto candidate_at = [&](std::int32_t left) -> candidate {
    const std::int32_t a = at(left).id, b = at(at(left).next).id;
    const auto m = merges_.find(a, b);
    return {m.rank, left, a, b, m.id};
  };
  std::vector<candidate> first;
  for (std::int32_t i = 0; i + 1 < n; ++i)
    if (const auto c = candidate_at(i); c.rank != merge_table::none) first.push_back(c);
  std::priority_queue queue(std::greater<candidate>(), std::move(first));
  const auto offer = [&](std::int32_t left) {
    if (left < 0 || at(left).next >= n) return;
    if (const auto c = candidate_at(left); c.rank != merge_table::none) queue.push(c);
  };
  while (!queue.empty()) {
    const candidate c = queue.top();
    queue.pop();
    auto& left = at(c.left);
    if (left.id != c.left_id || left.next >= n || at(left.next).id != c.right_id) continue;  // one has merged
    auto& right = at(left.next);
    left.id = c.id;
    right.id = -1;
    left.next = right.next;
    if (left.next < n) at(left.next).previous = c.left;
    offer(left.previous);
    offer(c.left);
  }
  for (std::int32_t i = 0; i < n; i = at(i).next) out.ids.push_back(at(i).id);
}

}  // namespace distil_xlstm::io::detail
