#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/core/view.hpp>

namespace distil_xlstm {

/// The vectors that a model's head reads of one text, kept on the host, so that the model reads the text once in
/// windows of each length, however many others are compared with it there. They are `width` numbers a token and a
/// length of windows; at most `bytes` are kept, and what comes after the first batch that does not fit is read anew in
/// every pass.
template <class T>
class kept_states {
 public:
  /// Keeps at most so many, of all lengths of windows together.
  explicit kept_states(index bytes) : left_(bytes) {}

  /// A `forward` for one pass of `score_text` or `score_divergence` over the text, in windows of `window` tokens, each
  /// from an empty state: what `read` gives, or gave before. Text, model, batch and ranks are the same in every pass.
  /// Refers to this, `device` and `read`.
  template <class D, class Read>
  auto pass(D& device, index window, Read& read) {
    return [this, &device, &read, &parts = parts_[window], next = std::size_t{0}](
               sequence_view seq, const std::int32_t* ids, matrix_view<T> hidden) mutable {
      const std::size_t part = next++;
      const index bytes = hidden.size() * static_cast<index>(sizeof(T));
      if (part < parts.size()) return device.upload(hidden.data, parts[part].data(), bytes);
      read(seq, ids, hidden);
      if (part > parts.size() || bytes > left_) return;
      left_ -= bytes;
      device.download(parts.emplace_back(static_cast<std::size_t>(hidden.size())).data(), hidden.data, bytes);
    };
  }

 private:
  index left_;
  std::map<index, std::vector<std::vector<T>>> parts_;  ///< by length of windows, a batch each
};

}  // namespace distil_xlstm
