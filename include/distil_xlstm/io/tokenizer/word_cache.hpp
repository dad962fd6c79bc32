#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/io/tokenizer/encoded.hpp>
#include <distil_xlstm/io/tokenizer/text_map.hpp>

namespace distil_xlstm::io::detail {

/// The ids of the words that one tokenizer has seen; text repeats its words.
class word_cache {
 public:
  static constexpr std::size_t longest_word = 48, most_words = std::size_t{1} << 17;

  /// Forgets everything that another tokenizer has stored; `serial` tells tokenizers apart.
  void belong_to(std::uint64_t serial) {
    if (serial_ != serial) clear();
    serial_ = serial;
  }
  /// Appends the ids of a word that is known; false where it is not.
  bool find(std::string_view word, encoded& out) const {
    const auto at = words_.find(word);
    if (at == words_.end()) return false;
    const auto first = ids_.begin() + static_cast<std::ptrdiff_t>(at->second.first);
    out.ids.insert(out.ids.end(), first, first + static_cast<std::ptrdiff_t>(at->second.count));
    out.dropped_bytes += at->second.dropped;
    return true;
  }
  /// Takes what `out` has gained since it held `ids` ids and had dropped `dropped` bytes.
  void store(std::string_view word, const encoded& out, std::size_t ids, std::size_t dropped) {
    if (words_.size() >= most_words) clear();
    words_.emplace(std::string(word), entry{ids_.size(), out.ids.size() - ids, out.dropped_bytes - dropped});
    ids_.insert(ids_.end(), out.ids.begin() + static_cast<std::ptrdiff_t>(ids), out.ids.end());
  }

 private:
  struct entry {
    std::size_t first, count, dropped;
  };
  void clear() {
    words_.clear();
    ids_.clear();
  }
  std::uint64_t serial_ = 0;
  text_map<entry> words_;
  std::vector<std::int32_t> ids_;
};

}  // namespace distil_xlstm::io::detail
