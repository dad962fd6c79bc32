#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <distil_xlstm/core/error.hpp>
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
std::vector<double> shares_of(std::span<const weighted_text> texts);

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
  token_windows(std::vector<weighted_text> texts, index length);

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
  bool scores(index windows) const;

  /// Windows `which`, row after row, in `out`, whose memory is used again. That each is below `count()` is not checked.
  /// Throws `error` where a text has another number of tokens than when it was cut.
  void read(const std::vector<index>& which, token_batch& out) const;

 private:
  index size_of(std::size_t i) const;
  /// "the text" where there is one, else what tells it from the others.
  std::string name_of(std::size_t i) const;
  template <class Text>
  void read_row(const Text& text, index window, index row, token_batch& out) const;

  std::vector<weighted_text> texts_;
  std::vector<window_range> ranges_;
  std::vector<index> sizes_;  ///< tokens of each text
  index length_, count_ = 0, vocab_size_ = 0;
};

/// In which order windows are read. Both are functions of (seed, step) alone, so that a resumed run goes on as
/// if nothing had happened.
enum class window_order { shuffled, sequential };

/// Throws `error` naming what it does not know.
window_order window_order_named(std::string_view name);

/// Which windows a step reads, a function of (seed, step) alone.
///
/// Of one text: row i of step s is the (s mod steps_per_epoch) * rows + i -th of its epoch's order; the windows that an
/// epoch has beyond its last whole step are not read in it.
///
/// Of texts k = 0, 1, ... with shares p_k: row g = s * rows + i of the run is the g-th of all numbers (n + 1/2) / p_k,
/// n = 0, 1, ..., sorted (the earlier text's first where two are equal), and reads window n of text k: the
/// apportionment by Webster's method. The first g rows have g p_k of text k, to within 1/2 + p_k K / 2 where there are
/// K texts. The windows of text k have an order, and epochs, of their own: its n-th is the (n mod count_k)-th of the
/// order of its epoch floor(n / count_k), whatever the other texts are. An epoch of the mixture is as many steps as
/// read as many windows as all texts have, some texts more than once and others in part.
class window_sampler {
 public:
  /// `rows` windows a step (batch times accumulation), of the texts' `ranges`. Throws `error` when they have fewer.
  /// `own`, where there is one, says it in their place: row g of the run reads window own(g).
  window_sampler(std::vector<window_range> ranges, index rows, window_order order, std::uint64_t seed,
                 std::function<index(index)> own = {});
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
  void rows_of(index step, index first, index count, std::vector<index>& out);

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
  index window(std::size_t k, index epoch, index at);

  /// The text of the next row.
  std::size_t next_text() const;
  /// How many rows each text has among the first `rows`. Those placed below x are x, to within half a row a text: so
  /// few are left to be counted one by one.
  void seek(index rows);

  const std::vector<index>& shuffled(std::size_t k, index epoch);

  index windows_ = 0, rows_;
  window_order order_;
  std::uint64_t seed_;
  std::function<index(index)> own_;
  std::vector<one_text> texts_;
};

}  // namespace distil_xlstm

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/distil/token_windows.ipp>
#endif
