#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_language_model.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE bool is_student(const std::filesystem::path& path) {
  const auto config = path / "config.json";
  return std::filesystem::is_directory(path) && std::filesystem::exists(config) &&
         io::read_json_file(config).contains("xlstm_cfg");
}

DISTIL_XLSTM_INLINE bool is_xlstm_7b(const std::filesystem::path& path) {
  const auto config = path / "config.json";
  return std::filesystem::is_directory(path) && std::filesystem::exists(config) &&
         is_xlstm_7b_config(io::read_json_file(config));
}

}  // namespace distil_xlstm
