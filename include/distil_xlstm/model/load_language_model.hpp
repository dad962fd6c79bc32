#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/language_model.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>
#include <distil_xlstm/model/load_xlstm_7b.hpp>

namespace distil_xlstm {

/// True for the folder of a student: its config.json holds `xlstm_cfg`.
inline bool is_student(const std::filesystem::path& path) {
  const auto config = path / "config.json";
  return std::filesystem::is_directory(path) && std::filesystem::exists(config) &&
         io::read_json_file(config).contains("xlstm_cfg");
}

/// True for a Hugging Face folder of model type xlstm.
inline bool is_xlstm_7b(const std::filesystem::path& path) {
  const auto config = path / "config.json";
  return std::filesystem::is_directory(path) && std::filesystem::exists(config) &&
         is_xlstm_7b_config(io::read_json_file(config));
}

/// A GGUF file, a Hugging Face folder or a student folder. Throws `error` as the families' loaders do.
template <class T, class D>
language_model<T, D> load_language_model(D& device, const std::filesystem::path& path) {
  require(std::filesystem::exists(path), path.string(), ": no such file or folder");
  if (is_xlstm_7b(path)) return load_xlstm_7b<T, any_config>(device, path);
  if (!is_student(path)) return load_llama<T, any_config>(device, path);
  const xlstm_config config = read_xlstm_config(path);
  const auto file = std::make_shared<detail::xlstm_file>(path / "model.safetensors", config);
  return {device, config, [&](const std::string& name) { return file->find(name); }, file};
}

}  // namespace distil_xlstm
