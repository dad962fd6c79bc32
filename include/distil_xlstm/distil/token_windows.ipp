#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/distil/token_windows.hpp>

namespace distil_xlstm {

namespace detail {
inline void require_same_tokenizer(const io::token_file& a, const io::token_file& b) {
  require(a.vocab_size() == b.vocab_size(), b.path(), ": made with a vocabulary of ", b.vocab_size(), ", ",
          a.path(), " with one of ", a.vocab_size());
  const std::string &one = a.tokenizer_sha256(), &other = b.tokenizer_sha256();
  require(one.empty() || other.empty() || one == other, b.path(), ": made with another tokenizer than ",
          a.path());
}
}  // namespace detail

DISTIL_XLSTM_INLINE std::vector<double> shares_of(std::span<const weighted_text> texts) {
  double sum = 0;
  for (const weighted_text& t : texts) {
    require(t.weight > 0 && std::isfinite(t.weight), "a text of a mixture cannot have the weight ", t.weight,
            ": it must be above 0, and a number");
    sum += t.weight;
  }
  std::vector<double> out;
  for (const weighted_text& t : texts) out.push_back(t.weight / sum);
  for (const double share : out)
    require(share > 0 && std::isfinite(sum), "the weights of a mixture are too far apart, or too large");
  return out;
}

DISTIL_XLSTM_INLINE token_windows::token_windows(std::vector<weighted_text> texts, index length)
    : texts_(std::move(texts)), length_(length) {
  require(length > 0, "windows of ", length, " tokens are not possible");
  require(!texts_.empty(), "a mixture of no text has no windows");
  const std::vector<double> shares = shares_of(texts_);
  const io::token_file* before = nullptr;
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const index size = size_of(i);
    const index windows = size > length ? (size - 1) / length : 0;
    require(windows > 0, name_of(i), " has ", size, " tokens, too few for one window of ", length);
    vocab_size_ =
        std::max(vocab_size_, std::visit([](const auto* text) { return text->vocab_size(); }, texts_[i].text));
    if (const auto* file = std::get_if<const io::token_file*>(&texts_[i].text)) {
      if (before) detail::require_same_tokenizer(*before, **file);
      before = *file;
    }
    ranges_.push_back({count_, windows, shares[i]});
    sizes_.push_back(size);
    count_ += windows;
  }
}

DISTIL_XLSTM_INLINE bool token_windows::scores(index windows) const {
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const index here = std::min(windows - ranges_[i].first, ranges_[i].count);
    const auto any = [&](const auto* text) {
      for (index t = 1; t <= here * length_; ++t)
        if (!text->starts_at(t)) return true;
      return false;
    };
    if (std::visit(any, texts_[i].text)) return true;
  }
  return false;
}

template <class Text>
void token_windows::read_row(const Text& text, index window, index row, token_batch& out) const {
  const index first = window * length_;
  index document = text.document_start(first);
  bool begins = false;
  for (index t = 0; t < length_; ++t) {
    const auto r = static_cast<std::size_t>(row * length_ + t);
    if (begins) document = first + t;
    begins = text.starts_at(first + t + 1);
    out.ids[r] = text[first + t];
    out.targets[r] = text[first + t + 1];
    out.start[r] = static_cast<std::int32_t>(document >= first ? document - first : -1);
    out.scored[r] = !begins;
    out.scored_tokens += out.scored[r];
  }
}

DISTIL_XLSTM_INLINE void token_windows::read(const std::vector<index>& which, token_batch& out) const {
  out.batch = static_cast<index>(which.size()), out.time = length_;
  const auto rows = static_cast<std::size_t>(out.batch * length_);
  out.ids.resize(rows), out.targets.resize(rows), out.start.resize(rows), out.scored.resize(rows);
  out.scored_tokens = 0;
  for (std::size_t i = 0; i < texts_.size(); ++i)
    require(size_of(i) == sizes_[i], name_of(i), " had ", sizes_[i],
            " tokens when it was cut into windows, and has ", size_of(i), " now");
  for (std::size_t b = 0; b < which.size(); ++b) {
    std::size_t i = ranges_.size() - 1;
    while (which[b] < ranges_[i].first) --i;
    const index window = which[b] - ranges_[i].first, row = static_cast<index>(b);
    std::visit([&](const auto* text) { read_row(*text, window, row, out); }, texts_[i].text);
  }
}

DISTIL_XLSTM_INLINE index token_windows::size_of(std::size_t i) const {
  return std::visit([](const auto* text) { return text->size(); }, texts_[i].text);
}

DISTIL_XLSTM_INLINE std::string token_windows::name_of(std::size_t i) const {
  if (texts_.size() == 1) return "the text";
  const auto* file = std::get_if<const io::token_file*>(&texts_[i].text);
  return file ? (*file)->path() : "text " + std::to_string(i + 1) + " of the mixture";
}

DISTIL_XLSTM_INLINE window_order window_order_named(std::string_view name) {
  if (name == "shuffled") return window_order::shuffled;
  if (name == "sequential") return window_order::sequential;
  fail("order '", name, "' is not known (shuffled, sequential are)");
}

DISTIL_XLSTM_INLINE window_sampler::window_sampler(std::vector<window_range> ranges, index rows,
                                                   window_order order, std::uint64_t seed,
                                                   std::function<index(index)> own)
    : rows_(rows), order_(order), seed_(seed), own_(std::move(own)) {
  for (const window_range& range : ranges) {
    windows_ += range.count;
    texts_.push_back({range});
  }
  require(rows > 0 && windows_ >= rows, "the text has ", windows_, " windows, a step takes ", rows);
}

DISTIL_XLSTM_INLINE void window_sampler::rows_of(index step, index first, index count,
                                                 std::vector<index>& out) {
  out.resize(static_cast<std::size_t>(count));
  if (own_) {
    index row = step * rows_ + first;
    for (index& w : out) {
      w = own_(row);
      require(w >= 0 && w < windows_, "window_of: row ", row, " is to read window ", w, ", there are ",
              windows_);
      ++row;
    }
    return;
  }
  if (texts_.size() == 1) {
    const index epoch = step / steps_per_epoch(), at = step % steps_per_epoch() * rows_ + first;
    for (index i = 0; i < count; ++i) out[static_cast<std::size_t>(i)] = window(0, epoch, at + i);
    return;
  }
  seek(step * rows_ + first);
  for (index& w : out) {
    const std::size_t k = next_text();
    const index n = texts_[k].read++;
    w = window(k, n / texts_[k].range.count, n % texts_[k].range.count);
  }
}

DISTIL_XLSTM_INLINE index window_sampler::window(std::size_t k, index epoch, index at) {
  const index first = texts_[k].range.first;
  return first + (order_ == window_order::sequential ? at : shuffled(k, epoch)[static_cast<std::size_t>(at)]);
}

DISTIL_XLSTM_INLINE std::size_t window_sampler::next_text() const {
  std::size_t best = 0;
  for (std::size_t k = 1; k < texts_.size(); ++k)
    if (texts_[k].place(texts_[k].read) < texts_[best].place(texts_[best].read)) best = k;
  return best;
}

DISTIL_XLSTM_INLINE void window_sampler::seek(index rows) {
  const double below = std::max(0.0, static_cast<double>(rows - std::ssize(texts_)));
  index counted = 0;
  for (one_text& t : texts_) {
    t.read = static_cast<index>(below * t.range.share);
    while (t.read > 0 && t.place(t.read - 1) >= below) --t.read;
    while (t.place(t.read) < below) ++t.read;
    counted += t.read;
  }
  for (; counted < rows; ++counted) ++texts_[next_text()].read;
}

DISTIL_XLSTM_INLINE const std::vector<index>& window_sampler::shuffled(std::size_t k, index epoch) {
  one_text& text = texts_[k];
  if (epoch == text.epoch) return text.permutation;
  text.epoch = epoch;
  auto& order = text.permutation;
  order.resize(static_cast<std::size_t>(text.range.count));
  std::iota(order.begin(), order.end(), index{0});
  rng random(seed_ ^ (static_cast<std::uint64_t>(epoch) + 1) * 0x9e3779b97f4a7c15u ^ k * 0xbf58476d1ce4e5b9u);
  for (index i = text.range.count - 1; i > 0; --i)
    std::swap(order[static_cast<std::size_t>(i)],
              order[static_cast<std::size_t>(random.below(static_cast<std::uint64_t>(i) + 1))]);
  return order;
}

}  // namespace distil_xlstm
