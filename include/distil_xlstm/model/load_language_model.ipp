#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_language_model.hpp>

namespace distil_xlstm {

namespace detail {
/// config.json of a folder that has one; else null.
inline io::json config_of(const std::filesystem::path& path) {
  const auto config = path / "config.json";
  if (!std::filesystem::is_directory(path) || !std::filesystem::exists(config)) return {};
  return io::read_json_file(config);
}
}  // namespace detail

DISTIL_XLSTM_INLINE bool is_student(const std::filesystem::path& path) {
  return detail::config_of(path).contains("xlstm_cfg");
}

DISTIL_XLSTM_INLINE bool is_xlstm_7b(const std::filesystem::path& path) {
  return is_xlstm_7b_config(detail::config_of(path));
}

DISTIL_XLSTM_INLINE bool is_linearised(const std::filesystem::path& path) {
  return is_linearised_config(detail::config_of(path));
}

}  // namespace distil_xlstm
