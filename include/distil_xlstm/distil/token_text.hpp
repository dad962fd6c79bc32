#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// A text in memory, one document: what is trained on, or scored, without a token file.
struct token_text {
  std::vector<std::int32_t> ids;

  index size() const { return std::ssize(ids); }
  std::int32_t operator[](index i) const { return ids[static_cast<std::size_t>(i)]; }
  index document_start(index) const { return 0; }
  bool starts_at(index i) const { return i == 0; }
  /// The smallest that has every id. Throws `error` where an id is negative.
  index vocab_size() const {
    if (ids.empty()) return 0;
    const auto [least, greatest] = std::minmax_element(ids.begin(), ids.end());
    require(*least >= 0, "the text has the id ", *least);
    return index{*greatest} + 1;
  }
};

}  // namespace distil_xlstm
