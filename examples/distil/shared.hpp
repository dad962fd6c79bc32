#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/read_tokenizer.hpp>
#include <distil_xlstm/io/sha256.hpp>
#include <distil_xlstm/io/tokenizer.hpp>

#include "common.hpp"

namespace program {

/// The tokenizer that a model carries: a GGUF's keys, or the tokenizer.json of a folder; nothing where there is
/// none.
inline std::optional<dx::io::tokenizer_data> tokenizer_of(const std::filesystem::path& model) {
  if (std::filesystem::is_directory(model) && !std::filesystem::exists(model / "tokenizer.json")) return {};
  return dx::io::read_tokenizer(model);
}

/// What tells one model from another: the hash of its file or files, or of its folder's weights and configuration.
inline std::string hash_of(const std::filesystem::path& model) {
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(model)) {
    for (const auto& f : std::filesystem::directory_iterator(model))
      if (f.path().extension() == ".safetensors" || f.path().filename() == "config.json")
        files.push_back(f.path());
    std::sort(files.begin(), files.end());
  } else {
    files = dx::io::gguf_file(model).files();
  }
  dx::io::sha256 hash;
  for (const auto& f : files) hash.update(dx::io::mapped_file(f).bytes());
  return hash.hex();
}

/// The tokenizer of a model, or an error that names the model.
inline dx::io::tokenizer need_tokenizer(const fs::path& model) {
  dx::require(fs::exists(model), model.string(), ": no such file or folder");
  auto data = tokenizer_of(model);
  dx::require(data.has_value(), model.string(), ": there is no tokenizer.json");
  return dx::io::tokenizer(std::move(*data));
}

/// The content of a text file; "-" is stdin.
std::string read_text(const fs::path& path);

/// The ids of a text. Throws an error that begins with `name` where the text is empty or not UTF-8; bytes for
/// which the vocabulary has no token are dropped, with one warning on stderr that counts them.
std::vector<std::int32_t> encode_text(const dx::io::tokenizer& tokenizer, const std::string& text,
                                      const std::string& name, bool parse_special);

}  // namespace program
