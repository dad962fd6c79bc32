#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/io/token_file.hpp>

namespace distil_xlstm::io {

/// Writes a token file (U16 ids when the vocabulary has at most 65536 entries, else I32), atomically. The
/// content is checked as the reader checks it, before anything is written. `tokenizer_sha256` is left out when
/// empty. `end_token` is the id that every document ends with, -1 where they have none; left out where it is nothing.
void write_token_file(const std::filesystem::path& path, std::span<const std::int32_t> ids,
                      std::span<const std::int64_t> documents, index vocab_size,
                      std::string_view tokenizer_sha256 = {}, std::optional<std::int32_t> end_token = {});

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/write_token_file.ipp>
#endif
