#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/distil/token_text.hpp>
#include <distil_xlstm/io/token_file.hpp>

namespace distil_xlstm {

/// A few windows of a text, row after row: what one forward reads.
struct token_batch {
  /// @{
  /// Windows, and tokens of each; row b * time + t is token t of window b.
  index batch = 0, time = 0;
  /// @}
  /// @{
  /// [batch * time] each: what is read, what is to be predicted there, and `sequence_view::start`.
  std::vector<std::int32_t> ids, targets, start;
  /// @}
  /// [batch * time]; 0 where the target is another document's than its input.
  std::vector<std::uint8_t> scored;
  index scored_tokens = 0;  ///< ones among them

  /// Shape and `start`; valid while they stay.
  sequence_view view() const { return {batch, time, start.data()}; }
};

/// The same as a device reads it: all pointers are of its memory. Where that is the host's, they are those of
/// the token_batch.
template <class D>
class device_batch {
 public:
  /// What the last call gave is no longer valid.
  void put(D& device, const token_batch& tokens) {
    const index rows = tokens.batch * tokens.time;
    sequence_ = {tokens.batch, tokens.time, start_.put(device, tokens.start.data(), rows)};
    ids_at_ = ids_.put(device, tokens.ids.data(), rows);
    targets_at_ = targets_.put(device, tokens.targets.data(), rows);
    scored_at_ = scored_.put(device, tokens.scored.data(), rows);
    scored_tokens_ = tokens.scored_tokens;
  }
  /// @{
  /// As the `token_batch` has it.
  sequence_view view() const { return sequence_; }
  const std::int32_t* ids() const { return ids_at_; }
  const std::int32_t* targets() const { return targets_at_; }
  const std::uint8_t* scored() const { return scored_at_; }
  index scored_tokens() const { return scored_tokens_; }
  /// @}

 private:
  device_copy<std::int32_t, D> ids_, targets_, start_;
  device_copy<std::uint8_t, D> scored_;
  sequence_view sequence_;
  const std::int32_t *ids_at_ = nullptr, *targets_at_ = nullptr;
  const std::uint8_t* scored_at_ = nullptr;
  index scored_tokens_ = 0;
};

/// A text of a mixture, of a file or in memory, and what it weighs there: of all windows that are read, weight / (sum
/// of the weights) are its.
struct weighted_text {
  std::variant<const io::token_file*, const token_text*> text;  ///< not null; it must live as long
  double weight = 1;                                            ///< above 0, and finite
};

/// The windows of one text among those of a mixture: `count` numbers from `first` on, which have `share` of all
/// that are read; the shares are above 0 and their sum is 1.
struct window_range {
  /// @{
  /// The first one's number, and how many there are.
  index first = 0, count = 0;
  /// @}
  double share = 1;  ///< above 0
};

/// The weights over their sum. Throws `error` naming one that is not above 0 and finite.
inline std::vector<double> shares_of(std::span<const weighted_text> texts) {
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

/// A text, of a file or in memory, cut into training windows: window w holds inputs ids[w L] to ids[w L + L - 1]
/// and targets one further on. Windows that would run past the end are dropped. A target in another document than
/// its input is not scored; where a document begins, recurrent state, convolution window and attention begin anew.
/// Or several texts, mixed by weight: each is cut on its own, their windows are numbered one text after another,
/// and how often each is read is `window_sampler`'s.
class token_windows {
 public:
  /// @{
  /// Refers to `text`. Throws `error` when it has not one window.
  token_windows(const io::token_file& text, index length)
      : token_windows(std::vector{weighted_text{&text}}, length) {}
  token_windows(const token_text& text, index length)
      : token_windows(std::vector{weighted_text{&text}}, length) {}
  /// @}
  /// An error of the compiler: a temporary text would not live as long.
  template <class Text>
  requires(std::same_as<Text, token_text> || std::same_as<Text, io::token_file>)
      token_windows(const Text&&, index) {
    static_assert(
        sizeof(Text) == 0,
        "distil_xlstm::token_windows(text, length) refers to the text, which must live as long: give it a "
        "name first");
  }
  /// Refers to each of `texts`. Throws `error` when one has not one window or a weight that is not above 0 and
  /// finite, and when two files were made with different vocabularies or, where both say it, tokenizers.
  token_windows(std::vector<weighted_text> texts, index length) : texts_(std::move(texts)), length_(length) {
    require(length > 0, "windows of ", length, " tokens are not possible");
    require(!texts_.empty(), "a mixture of no text has no windows");
    const std::vector<double> shares = shares_of(texts_);
    const io::token_file* before = nullptr;
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      const index size = size_of(i);
      const index windows = size > length ? (size - 1) / length : 0;
      require(windows > 0, name_of(i), " has ", size, " tokens, too few for one window of ", length);
      vocab_size_ = std::max(vocab_size_,
                             std::visit([](const auto* text) { return text->vocab_size(); }, texts_[i].text));
      if (const auto* file = std::get_if<const io::token_file*>(&texts_[i].text)) {
        if (before) require_agreement(*before, **file);
        before = *file;
      }
      ranges_.push_back({count_, windows, shares[i]});
      sizes_.push_back(size);
      count_ += windows;
    }
  }

  /// Windows of all texts.
  index count() const { return count_; }
  /// Tokens of a window.
  index length() const { return length_; }
  /// Of the texts: every id is below it.
  index vocab_size() const { return vocab_size_; }
  /// The windows of each text.
  const std::vector<window_range>& ranges() const { return ranges_; }
  /// As they were given.
  const std::vector<weighted_text>& texts() const { return texts_; }

  /// Whether a target of the first `windows` is scored. It ends at the first that is.
  bool scores(index windows) const {
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

  /// Windows `which`, row after row, in `out`, whose memory is used again. That each is below `count()` is not checked.
  /// Throws `error` where a text has another number of tokens than when it was cut.
  void read(const std::vector<index>& which, token_batch& out) const {
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

 private:
  index size_of(std::size_t i) const {
    return std::visit([](const auto* text) { return text->size(); }, texts_[i].text);
  }
  /// "the text" where there is one, else what tells it from the others.
  std::string name_of(std::size_t i) const {
    if (texts_.size() == 1) return "the text";
    const auto* file = std::get_if<const io::token_file*>(&texts_[i].text);
    return file ? (*file)->path() : "text " + std::to_string(i + 1) + " of the mixture";
  }
  static void require_agreement(const io::token_file& a, const io::token_file& b) {
    require(a.vocab_size() == b.vocab_size(), b.path(), ": made with a vocabulary of ", b.vocab_size(), ", ",
            a.path(), " with one of ", a.vocab_size());
    const std::string &one = a.tokenizer_sha256(), &other = b.tokenizer_sha256();
    require(one.empty() || other.empty() || one == other, b.path(), ": made with another tokenizer than ",
            a.path());
  }

  template <class Text>
  void read_row(const Text& text, index window, index row, token_batch& out) const {
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

  std::vector<weighted_text> texts_;
  std::vector<window_range> ranges_;
  std::vector<index> sizes_;  ///< tokens of each text
  index length_, count_ = 0, vocab_size_ = 0;
};

/// In which order windows are read. Both are functions of (seed, step) alone, so that a resumed run goes on as
/// if nothing had happened.
enum class window_order { shuffled, sequential };

/// Throws `error` naming what it does not know.
inline window_order window_order_named(std::string_view name) {
  if (name == "shuffled") return window_order::shuffled;
  if (name == "sequential") return window_order::sequential;
  fail("order '", name, "' is not known (shuffled, sequential are)");
}

/// Which windows a step reads, a function of (seed, step) alone.
///
/// Of one text: row i of step s is the (s mod steps_per_epoch) * rows + i -th of its epoch's order; the windows that an
/// epoch has beyond its last whole step are not read in it.
///
/// Of texts k = 0, 1, ... with shares p_k: row g = s * rows + i of the run is the g-th of all numbers (n + 1/2) / p_k,
/// n = 0, 1, ..., sorted (the earlier text's first where two are equal), and reads window n of text k: the apportionment
/// by Webster's method. The first g rows have g p_k of text k, to within 1/2 + p_k K / 2 where there are K texts. The
/// windows of text k have an order, and epochs, of their own: its n-th is the (n mod count_k)-th of the order of its
/// epoch floor(n / count_k), whatever the other texts are. An epoch of the mixture is as many steps as read as many
/// windows as all texts have, some texts more than once and others in part.
class window_sampler {
 public:
  /// `rows` windows a step (batch times accumulation), of the texts' `ranges`. Throws `error` when they have fewer.
  /// `own`, where there is one, says it in their place: row g of the run reads window own(g).
  window_sampler(std::vector<window_range> ranges, index rows, window_order order, std::uint64_t seed,
                 std::function<index(index)> own = {})
      : rows_(rows), order_(order), seed_(seed), own_(std::move(own)) {
    for (const window_range& range : ranges) {
      windows_ += range.count;
      texts_.push_back({range});
    }
    require(rows > 0 && windows_ >= rows, "the text has ", windows_, " windows, a step takes ", rows);
  }
  /// The same of one text of so many windows.
  window_sampler(index windows, index rows, window_order order, std::uint64_t seed)
      : window_sampler({{0, windows, 1}}, rows, order, seed) {}

  /// Whole steps among the windows of all texts; one or more.
  index steps_per_epoch() const { return windows_ / rows_; }
  /// Windows 0 .. reaches() - 1 are those that a run comes to, however long it is.
  index reaches() const {
    return order_ == window_order::sequential && texts_.size() == 1 && !own_ ? steps_per_epoch() * rows_
                                                                             : windows_;
  }

  /// The `count` rows of a step from `first` on, into `out`. Throws `error` where an order of one's own names a
  /// window that the text does not have.
  void rows_of(index step, index first, index count, std::vector<index>& out) {
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

 private:
  struct one_text {
    window_range range;
    index read = 0;  ///< rows of the mixture before the one that is looked for
    index epoch = -1;
    std::vector<index> permutation = {};
    /// Where row n of this text has its place among those of all.
    double place(index n) const { return (static_cast<double>(n) + 0.5) / range.share; }
  };

  /// The window that stands `at` a place of a text's order.
  index window(std::size_t k, index epoch, index at) {
    const index first = texts_[k].range.first;
    return first + (order_ == window_order::sequential ? at : shuffled(k, epoch)[static_cast<std::size_t>(at)]);
  }

  /// The text of the next row.
  std::size_t next_text() const {
    std::size_t best = 0;
    for (std::size_t k = 1; k < texts_.size(); ++k)
      if (texts_[k].place(texts_[k].read) < texts_[best].place(texts_[best].read)) best = k;
    return best;
  }
  /// How many rows each text has among the first `rows`. Those placed below x are x, to within half a row a text: so
  /// few are left to be counted one by one.
  void seek(index rows) {
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

  const std::vector<index>& shuffled(std::size_t k, index epoch) {
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

  index windows_ = 0, rows_;
  window_order order_;
  std::uint64_t seed_;
  std::function<index(index)> own_;
  std::vector<one_text> texts_;
};

}  // namespace distil_xlstm
