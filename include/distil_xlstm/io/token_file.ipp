#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/token_file.hpp>

namespace distil_xlstm::io::detail {

DISTIL_XLSTM_INLINE void check_documents(std::span<const std::int64_t> documents, index n,
                                         std::string_view name) {
  require(n == 0 || !documents.empty(), name, ": ", n, " tokens, but no document starts");
  require(n > 0 || documents.size() <= 1, name, ": ", documents.size(), " documents, but no tokens");
  require(documents.empty() || documents[0] == 0, name, ": the first document starts at ",
          documents.empty() ? 0 : documents[0], ", not at 0");
  for (std::size_t i = 1; i < documents.size(); ++i) {
    require(documents[i] > documents[i - 1], name, ": document ", i, " starts at ", documents[i],
            ", the one before at ", documents[i - 1]);
    require(documents[i] < n, name, ": document ", i, " starts at ", documents[i], ", there are ", n,
            " tokens");
  }
}

}  // namespace distil_xlstm::io::detail

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE token_file::token_file(safetensors_file file) : file_(std::move(file)) {
  const std::string& name = file_.path();
  const tensor_info &ids = file_.at("ids"), &documents = file_.at("documents");
  require(ids.shape.size() == 1 && (ids.dtype == dtype::i32 || ids.dtype == dtype::u16), name,
          ": ids must be I32 or U16 [N], not ", ids.type, " ", detail::shape_text(ids.shape));
  require(documents.shape.size() == 1 && documents.dtype == dtype::i64, name,
          ": documents must be I64 [D], not ", documents.type, " ", detail::shape_text(documents.shape));
  ids_ = ids.data;
  size_ = ids.shape[0];
  narrow_ = ids.dtype == dtype::u16;
  documents_ = documents.values<std::int64_t>();
  detail::check_documents(documents_, size_, name);

  const auto& metadata = file_.metadata();
  const auto vocab = metadata.find("vocab_size");
  require(vocab != metadata.end(), name, ": the metadata vocab_size is missing");
  require(whole_number(vocab->second, vocab_size_) && vocab_size_ >= 1 &&
              vocab_size_ <= std::numeric_limits<std::int32_t>::max(),
          name, ": vocab_size \"", detail::printable(vocab->second, 40), "\" is not a size of a vocabulary");
  read_end(metadata);
  if (const auto hash = metadata.find("tokenizer_sha256"); hash != metadata.end())
    tokenizer_sha256_ = hash->second;
  if (narrow_)
    detail::check_ids<std::uint16_t>(ids_, size_, vocab_size_, name);
  else
    detail::check_ids<std::int32_t>(ids_, size_, vocab_size_, name);
}

DISTIL_XLSTM_INLINE void token_file::copy(index first, index n, std::int32_t* out) const {
  for (index i = 0; i < n; ++i) out[i] = (*this)[first + i];
}

DISTIL_XLSTM_INLINE index token_file::document_of(index i) const {
  return std::upper_bound(documents_.begin(), documents_.end(), i) - documents_.begin() - 1;
}

DISTIL_XLSTM_INLINE std::string token_file::data_sha256() const {
  sha256 hash;
  const auto number = [&](std::uint64_t n) { hash.update(&n, sizeof n); };
  number(static_cast<std::uint64_t>(size_));
  std::vector<std::int32_t> part(4096);
  for (index i = 0; i < size_; i += 4096) {
    const index n = std::min<index>(4096, size_ - i);
    copy(i, n, part.data());
    hash.update(part.data(), static_cast<std::size_t>(n) * sizeof(std::int32_t));
  }
  number(documents_.size());
  hash.update(documents_.data(), documents_.size() * sizeof(std::int64_t));
  return hash.hex();
}

DISTIL_XLSTM_INLINE bool token_file::whole_number(const std::string& text, std::int64_t& out) {
  const char *first = text.data(), *last = first + text.size();
  const auto [end, code] = std::from_chars(first, last, out);
  return code == std::errc() && end == last;
}

}  // namespace distil_xlstm::io
