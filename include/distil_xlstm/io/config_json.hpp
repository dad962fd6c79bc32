#pragma once

#include <filesystem>
#include <string>

#include <distil_xlstm/io/json.hpp>

namespace distil_xlstm::io {

/// A model's config.json, wherever it is.
struct config_json {
  /// The key of a GGUF file that holds one, of a family that GGUF has no keys for.
  static constexpr const char* key = "distil_xlstm.config";

  json root;         ///< null: there is none
  std::string name;  ///< what errors call it

  /// That of a folder, or of a GGUF file. Throws `error` where it is no JSON, or the file no GGUF.
  explicit config_json(const std::filesystem::path& model);
  /// `root`; throws `error` where there is none.
  const json& required() const;
};

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/config_json.ipp>
#endif
