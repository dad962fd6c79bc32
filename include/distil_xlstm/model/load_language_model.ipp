#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/config_json.hpp>
#include <distil_xlstm/model/load_language_model.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE model_kind kind_of_model(const std::filesystem::path& path) {
  require(std::filesystem::exists(path), path.string(), ": no such file or folder");
  const io::config_json config(path);
  if (is_linearised_config(config.root)) return model_kind::linearised;
  if (is_xlstm_7b_config(config.root)) return model_kind::xlstm_7b;
  if (config.root.contains("xlstm_cfg")) return model_kind::xlstm;
  require(std::filesystem::is_directory(path) || config.root.is_null(), config.name,
          ": is the configuration of no family that is known");
  return model_kind::transformer;
}

}  // namespace distil_xlstm
