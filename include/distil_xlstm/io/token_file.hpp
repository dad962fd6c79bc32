#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/sha256.hpp>

namespace distil_xlstm::io {

namespace detail {

/// Document starts of a text of n tokens: the first 0, strictly increasing, all below n (none or [0] when n =
/// 0).
void check_documents(std::span<const std::int64_t> documents, index n, std::string_view name);

/// Every id in 0 .. vocab_size - 1, or an error naming the first that is not.
template <class Stored>
void check_ids(const std::byte* ids, index n, std::int64_t vocab_size, std::string_view name) {
  const auto* p = reinterpret_cast<const std::uint8_t*>(ids);
  constexpr index width = sizeof(Stored);
  bool good = true;  // no early way out, so that the loop vectorises
  for (index i = 0; i < n; ++i) {
    // a negative id, seen as unsigned, is above every vocabulary
    good &= static_cast<std::uint32_t>(distil_xlstm::detail::load_bytes<Stored>(p + i * width)) <
            static_cast<std::uint32_t>(vocab_size);
  }
  if (good) return;
  for (index i = 0; i < n; ++i) {
    const std::int64_t id = distil_xlstm::detail::load_bytes<Stored>(p + i * width);
    require(id >= 0 && id < vocab_size, name, ": the id at position ", i, " is ", id, ", the vocabulary has ",
            vocab_size);
  }
}

}  // namespace detail

/// A tokenised corpus: safetensors with `ids` (I32 or U16, [N]), `documents` (I64, [D]: where each document
/// starts, the first at 0) and the metadata `vocab_size` and, where known, `tokenizer_sha256` and `end_token`: the id
/// that every document ends with, or `none`. Memory-mapped.
class token_file {
 public:
  /// Throws `error` naming the file when it cannot be read or is malformed; every id is checked (one linear
  /// pass).
  explicit token_file(const std::filesystem::path& path) : token_file(safetensors_file(path)) {}
  /// Over memory that the caller keeps; `name` is what errors call it.
  token_file(std::span<const std::byte> bytes, std::string name)
      : token_file(safetensors_file(bytes, std::move(name))) {}
  /// One that has been opened.
  explicit token_file(safetensors_file file);

  /// What errors call the file.
  const std::string& path() const { return file_.path(); }
  /// Tokens in all.
  index size() const { return size_; }
  /// The id at position i, 0 .. size() - 1; not checked.
  std::int32_t operator[](index i) const {
    const auto* p = reinterpret_cast<const std::uint8_t*>(ids_);
    return narrow_ ? distil_xlstm::detail::load_bytes<std::uint16_t>(p + 2 * i)
                   : distil_xlstm::detail::load_bytes<std::int32_t>(p + 4 * i);
  }
  /// ids[first .. first + n - 1] into `out`.
  void copy(index first, index n, std::int32_t* out) const;
  /// Where each document starts.
  std::span<const std::int64_t> documents() const { return documents_; }
  /// The number of the document that position i (0 .. size() - 1) lies in. O(log D).
  index document_of(index i) const;
  /// The position at which the document of position i starts.
  index document_start(index i) const { return documents_[static_cast<std::size_t>(document_of(i))]; }
  /// True where position i is the first of a document.
  bool starts_at(index i) const { return std::binary_search(documents_.begin(), documents_.end(), i); }

  /// Every id is below it.
  index vocab_size() const { return vocab_size_; }
  /// Empty where the file does not say.
  const std::string& tokenizer_sha256() const { return tokenizer_sha256_; }
  /// The end-of-text token that each document ends with; -1 where they have none; nothing where the file does not say.
  std::optional<std::int32_t> end_token() const { return end_token_; }
  /// SHA-256 of the content whatever the width of the stored ids: N (u64), the ids (i32), D (u64), the document
  /// starts (i64), all little endian. Computed at each call, in time linear in the file.
  std::string data_sha256() const;

 private:
  static bool whole_number(const std::string& text, std::int64_t& out);
  /// What the file says of its documents' ends must be so.
  template <class Metadata>
  void read_end(const Metadata& metadata) {
    const auto at = metadata.find("end_token");
    if (at == metadata.end()) return;
    std::int64_t id = -1;
    require(at->second == "none" || (whole_number(at->second, id) && id >= 0 && id < vocab_size_), path(),
            ": end_token \"", detail::printable(at->second, 40), "\" is neither an id nor none");
    end_token_ = static_cast<std::int32_t>(id);
    for (std::size_t d = 0; id >= 0 && d < documents_.size() && size_ > 0; ++d) {
      const index last = (d + 1 < documents_.size() ? documents_[d + 1] : size_) - 1;
      require((*this)[last] == id, path(), ": document ", d, " ends with the id ", (*this)[last],
              ", not with end_token ", id);
    }
  }

  safetensors_file file_;
  const std::byte* ids_ = nullptr;
  index size_ = 0;
  bool narrow_ = false;
  std::vector<std::int64_t> documents_;
  std::int64_t vocab_size_ = 0;
  std::string tokenizer_sha256_;
  std::optional<std::int32_t> end_token_;
};

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/token_file.ipp>
#endif
