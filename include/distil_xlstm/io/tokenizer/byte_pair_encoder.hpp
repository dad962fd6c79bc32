#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/tokenizer/byte_alphabet.hpp>
#include <distil_xlstm/io/tokenizer/encoded.hpp>
#include <distil_xlstm/io/tokenizer/merge_table.hpp>
#include <distil_xlstm/io/tokenizer/text_map.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>

namespace distil_xlstm::io::detail {

/// Byte-level byte-pair encoding of single words: a word's bytes are merged, lowest rank first, the leftmost of
/// equals (Sennrich et al. 2016; Radford et al. 2019). Const use from many threads is safe.
class byte_pair_encoder {
 public:
  /// Working memory, one a thread.
  class scratch {
    friend class byte_pair_encoder;
    struct symbol {
      std::int32_t id, previous, next;
    };
    std::vector<symbol> symbols_;
    std::vector<merge_table::merge> pairs_;
  };

  /// Throws `error` naming `d.name` and the token that is there twice, or the merge that needs one there is not.
  explicit byte_pair_encoder(const tokenizer_data& d);

  /// Appends the ids of a word. Bytes without a token are dropped and counted.
  void encode(std::string_view word, scratch& s, encoded& out) const;

  /// The token of each byte, or -1.
  const std::array<std::int32_t, 256>& byte_ids() const { return byte_ids_; }

 private:
  static constexpr std::size_t short_word = 48;

  static std::unordered_map<std::string_view, std::int32_t> ids_by_text(const tokenizer_data& d);

  void collect_whole_words(const tokenizer_data& d);

  /// Lowest rank first, the leftmost of equals, looking at all neighbours each time: O(n^2), no allocation.
  void merge_short(scratch& s, encoded& out) const;

  /// The same with a linked list and a priority queue: O(n log n).
  void merge_long(scratch& s, encoded& out) const;

  std::array<std::int32_t, 256> byte_ids_{};
  merge_table merges_;
  text_map<std::int32_t> whole_words_;  // those that need no merges
};

}  // namespace distil_xlstm::io::detail

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/tokenizer/byte_pair_encoder.ipp>
#endif
