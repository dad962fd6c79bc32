#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string_view>
#include <variant>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/distil/token_text.hpp>
#include <distil_xlstm/io/token_file.hpp>

namespace distil_xlstm {

/// A few windows of a text, row after row: what one forward reads.
struct token_batch {
  index batch = 0, time = 0;
  std::vector<std::int32_t> ids, targets, start;
  std::vector<std::uint8_t> scored;
  index scored_tokens = 0;

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
  sequence_view view() const { return sequence_; }
  const std::int32_t* ids() const { return ids_at_; }
  const std::int32_t* targets() const { return targets_at_; }
  const std::uint8_t* scored() const { return scored_at_; }
  index scored_tokens() const { return scored_tokens_; }

 private:
  device_copy<std::int32_t, D> ids_, targets_, start_;
  device_copy<std::uint8_t, D> scored_;
  sequence_view sequence_;
  const std::int32_t *ids_at_ = nullptr, *targets_at_ = nullptr;
  const std::uint8_t* scored_at_ = nullptr;
  index scored_tokens_ = 0;
};

/// A text, of a file or in memory, cut into training windows: window w holds inputs ids[w L .. w L + L - 1] and
/// targets one further on. Windows that would run past the end are dropped. A target in another document than
/// its input is not scored; where a document begins, recurrent state, convolution window and attention begin
/// anew.
class token_windows {
 public:
  /// Refers to `text`. Throws `error` when it has not one window.
  token_windows(const io::token_file& text, index length) : token_windows(&text, text, length) {}
  token_windows(const token_text& text, index length) : token_windows(&text, text, length) {}

  index count() const { return count_; }
  index length() const { return length_; }
  /// Of the text: every id is below it.
  index vocab_size() const { return vocab_size_; }

  /// Whether a target of the first `windows` is scored. It ends at the first that is.
  bool scores(index windows) const {
    return std::visit(
        [&](const auto* text) {
          for (index i = 1; i <= windows * length_; ++i)
            if (!text->starts_at(i)) return true;
          return false;
        },
        text_);
  }

  void read(const std::vector<index>& which, token_batch& out) const {
    std::visit([&](const auto* text) { read_from(*text, which, out); }, text_);
  }

 private:
  using any_text = std::variant<const io::token_file*, const token_text*>;

  template <class Text>
  token_windows(any_text any, const Text& text, index length)
      : text_(any), length_(length), vocab_size_(text.vocab_size()) {
    require(length > 0, "windows of ", length, " tokens are not possible");
    count_ = text.size() > length ? (text.size() - 1) / length : 0;
    require(count_ > 0, "the text has ", text.size(), " tokens, too few for one window of ", length);
  }

  template <class Text>
  void read_from(const Text& text, const std::vector<index>& which, token_batch& out) const {
    out.batch = static_cast<index>(which.size()), out.time = length_;
    const auto rows = static_cast<std::size_t>(out.batch * length_);
    out.ids.resize(rows), out.targets.resize(rows), out.start.resize(rows), out.scored.resize(rows);
    out.scored_tokens = 0;
    for (std::size_t b = 0; b < which.size(); ++b) {
      const index first = which[b] * length_;
      index document = text.document_start(first);
      bool begins = false;
      for (index t = 0; t < length_; ++t) {
        const std::size_t r = b * static_cast<std::size_t>(length_) + static_cast<std::size_t>(t);
        if (begins) document = first + t;
        begins = text.starts_at(first + t + 1);
        out.ids[r] = text[first + t];
        out.targets[r] = text[first + t + 1];
        out.start[r] = static_cast<std::int32_t>(document >= first ? document - first : -1);
        out.scored[r] = !begins;
        out.scored_tokens += out.scored[r];
      }
    }
  }

  any_text text_;
  index length_, count_ = 0, vocab_size_;
};

/// In which order windows are read. Both are functions of (seed, step) alone, so that a resumed run goes on as
/// if nothing had happened.
enum class window_order { shuffled, sequential };

inline window_order window_order_named(std::string_view name) {
  if (name == "shuffled") return window_order::shuffled;
  if (name == "sequential") return window_order::sequential;
  fail("order '", name, "' is not known (shuffled, sequential are)");
}

/// Which windows a step reads: row i of step s is the (s mod steps_per_epoch) * rows + i -th of its epoch's
/// order.
class window_sampler {
 public:
  /// `rows` windows a step (batch times accumulation). Throws `error` when the text has fewer.
  window_sampler(index windows, index rows, window_order order, std::uint64_t seed)
      : windows_(windows), rows_(rows), order_(order), seed_(seed) {
    require(rows > 0 && windows >= rows, "the text has ", windows, " windows, a step takes ", rows);
  }
  index steps_per_epoch() const { return windows_ / rows_; }

  /// Rows first .. first + count - 1 of a step, into `out`.
  void rows_of(index step, index first, index count, std::vector<index>& out) {
    const index epoch = step / steps_per_epoch(), at = step % steps_per_epoch() * rows_ + first;
    out.resize(static_cast<std::size_t>(count));
    for (index i = 0; i < count; ++i)
      out[static_cast<std::size_t>(i)] =
          order_ == window_order::sequential ? at + i : shuffled(epoch)[static_cast<std::size_t>(at + i)];
  }

 private:
  const std::vector<index>& shuffled(index epoch) {
    if (epoch == epoch_) return permutation_;
    epoch_ = epoch;
    permutation_.resize(static_cast<std::size_t>(windows_));
    std::iota(permutation_.begin(), permutation_.end(), index{0});
    rng random(seed_ ^ (static_cast<std::uint64_t>(epoch) + 1) * 0x9e3779b97f4a7c15u);
    for (index i = windows_ - 1; i > 0; --i)
      std::swap(permutation_[static_cast<std::size_t>(i)],
                permutation_[static_cast<std::size_t>(random.below(static_cast<std::uint64_t>(i) + 1))]);
    return permutation_;
  }
  index windows_, rows_;
  window_order order_;
  std::uint64_t seed_;
  index epoch_ = -1;
  std::vector<index> permutation_;
};

}  // namespace distil_xlstm
