#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include <distil_xlstm/model/language_model.hpp>
#include <distil_xlstm/model/load_linearised.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>
#include <distil_xlstm/model/load_xlstm_7b.hpp>

namespace distil_xlstm {

/// True for the folder of a student: its config.json holds `xlstm_cfg`.
bool is_student(const std::filesystem::path& path);

/// True for a Hugging Face folder of model type xlstm.
bool is_xlstm_7b(const std::filesystem::path& path);

/// True for the folder of a linearised student.
bool is_linearised(const std::filesystem::path& path);

/// A GGUF file, a Hugging Face folder or the folder of a student of either method. Throws `error` as the families' loaders do.
template <class T, class D>
language_model<T, D> load_language_model(D& device, const std::filesystem::path& path) {
  require(std::filesystem::exists(path), path.string(), ": no such file or folder");
  if (is_linearised(path)) {
    const auto files = std::make_shared<detail::linearised_files>(path);
    return {device, files->config, [&](const std::string& name) { return files->find(name); }, files};
  }
  if (is_xlstm_7b(path)) return load_xlstm_7b<T, any_config>(device, path);
  if (!is_student(path)) return load_llama<T, any_config>(device, path);
  const xlstm_config config = read_xlstm_config(path);
  const auto file = std::make_shared<detail::xlstm_file>(path / "model.safetensors", config);
  return {device, config, [&](const std::string& name) { return file->find(name); }, file};
}

}  // namespace distil_xlstm

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/load_language_model.ipp>
#endif
