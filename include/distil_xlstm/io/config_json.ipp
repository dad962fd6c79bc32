#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/config_json.hpp>
#include <distil_xlstm/io/gguf.hpp>

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE config_json::config_json(const std::filesystem::path& model) {
  if (std::filesystem::is_directory(model)) {
    const auto file = model / "config.json";
    name = file.string();
    if (std::filesystem::exists(file)) root = read_json_file(file);
  } else {
    const gguf_file file(model);
    name = file.path() + ": key " + key;
    if (file.find_key(key)) root = parse_json(file.get_string(key), name);
  }
}

DISTIL_XLSTM_INLINE const json& config_json::required() const {
  require(!root.is_null(), name, ": there is none");
  return root;
}

}  // namespace distil_xlstm::io
