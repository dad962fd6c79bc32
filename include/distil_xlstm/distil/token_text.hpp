#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// A text in memory, one document or many: what is trained on, or scored, without a token file.
struct token_text {
  std::vector<std::int32_t> ids;  ///< all documents, end to end
  std::vector<index> documents =
      {};  ///< where each starts, ascending, the first at 0; none: all is one document

  /// One more document, with its end-of-text token where the model has one. Throws `error` where it is empty.
  void append(std::span<const std::int32_t> document) {
    require(!document.empty(), "token_text: a document has a token or more");
    if (documents.empty() && !ids.empty()) documents.push_back(0);
    documents.push_back(size());
    ids.insert(ids.end(), document.begin(), document.end());
  }

  /// Tokens in all.
  index size() const { return std::ssize(ids); }
  /// The id at position i; not checked.
  std::int32_t operator[](index i) const { return ids[static_cast<std::size_t>(i)]; }
  /// The position at which the document of position i starts. O(log D), D documents.
  index document_start(index i) const {
    const auto after = std::upper_bound(documents.begin(), documents.end(), i);
    return after == documents.begin() ? 0 : *(after - 1);
  }
  /// True where position i is the first of a document.
  bool starts_at(index i) const { return i == 0 || std::binary_search(documents.begin(), documents.end(), i); }
  /// The smallest that has every id. Throws `error` where an id is negative, or `documents` is not as it should be.
  index vocab_size() const {
    require(documents.empty() || (documents.front() == 0 && documents.back() < size()), "the text's ",
            documents.size(), " documents do not start at 0, or not within its ", size(), " tokens");
    const auto wrong = std::adjacent_find(documents.begin(), documents.end(), std::greater_equal<>{});
    require(wrong == documents.end(), "the text's document ", wrong - documents.begin() + 1,
            " does not start after the one before");
    if (ids.empty()) return 0;
    const auto [least, greatest] = std::minmax_element(ids.begin(), ids.end());
    require(*least >= 0, "the text has the id ", *least);
    return index{*greatest} + 1;
  }
};

}  // namespace distil_xlstm
