#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/write_token_file.hpp>

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE void write_token_file(const std::filesystem::path& path, std::span<const std::int32_t> ids,
                                          std::span<const std::int64_t> documents, index vocab_size,
                                          std::string_view tokenizer_sha256,
                                          std::optional<std::int32_t> end_token) {
  const std::string name = path.string();
  const auto n = static_cast<index>(ids.size());
  require(vocab_size >= 1 && vocab_size <= std::numeric_limits<std::int32_t>::max(), name, ": vocab_size ",
          vocab_size, " is not a size of a vocabulary");
  detail::check_documents(documents, n, name);
  detail::check_ids<std::int32_t>(std::as_bytes(ids).data(), n, vocab_size, name);
  if (end_token)
    for (std::size_t d = 0; *end_token >= 0 && d < documents.size() && n > 0; ++d) {
      const auto next = d + 1 < documents.size() ? static_cast<std::size_t>(documents[d + 1]) : ids.size();
      require(ids[next - 1] == *end_token, name, ": document ", d, " ends with the id ", ids[next - 1],
              ", not with end_token ", *end_token);
    }
  const bool narrow = vocab_size <= 65536;
  safetensors_writer writer;
  writer.metadata("vocab_size", std::to_string(vocab_size));
  if (!tokenizer_sha256.empty()) writer.metadata("tokenizer_sha256", std::string(tokenizer_sha256));
  if (end_token) writer.metadata("end_token", *end_token < 0 ? "none" : std::to_string(*end_token));
  writer.declare("ids", narrow ? dtype::u16 : dtype::i32, {n});
  writer.declare("documents", dtype::i64, {static_cast<index>(documents.size())});
  writer.open(path);
  if (narrow) {
    std::vector<std::uint16_t> part(4096);
    for (index i = 0; i < n; i += 4096) {
      const index m = std::min<index>(4096, n - i);
      std::transform(ids.begin() + i, ids.begin() + i + m, part.begin(),
                     [](std::int32_t id) { return static_cast<std::uint16_t>(id); });
      writer.append(part.data(), m);
    }
  } else {
    writer.append(ids.data(), n);
  }
  writer.append(documents.data(), static_cast<index>(documents.size()));
  writer.commit();
}

}  // namespace distil_xlstm::io
