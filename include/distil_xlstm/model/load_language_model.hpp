#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <type_traits>

#include <distil_xlstm/model/language_model.hpp>
#include <distil_xlstm/model/load_linearised.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>
#include <distil_xlstm/model/load_xlstm_7b.hpp>

namespace distil_xlstm {

/// What a model's files hold.
enum class model_kind {
  transformer,  ///< of the `llama_families`
  xlstm,        ///< a student of the first method
  linearised,   ///< one of the second
  xlstm_7b      ///< Hugging Face's model type xlstm
};

/// By the config.json of a folder or of a GGUF file; without one it is a transformer's. Throws `error` where there is
/// no such file or folder, or it is none of these.
model_kind kind_of_model(const std::filesystem::path& path);

/// A GGUF file, a Hugging Face folder or the folder of a student of either method. Matrices stay as they are stored
/// where the device multiplies them so (on the CPU: floats, Q8_0, Q4_0 and Q4_1); of other kinds they become F32 once.
/// Throws `error` as the families' loaders do.
template <class T, class D>
language_model<T, D> load_language_model(D& device, const std::filesystem::path& path) {
  const auto load = [&]<class Files>(const std::shared_ptr<Files>& files) -> language_model<T, D> {
    const auto find = [&](const std::string& name) {
      stored_tensor t;
      if constexpr (std::is_same_v<Files, detail::llama_files>)
        t = files->find(device, name, false);
      else
        t = files->find(name);
      return detail::multiplies_stored<T, D>(t.dtype) ? t : files->converted.widened(device, t);
    };
    return {device, files->config, find, files};
  };
  switch (kind_of_model(path)) {
    case model_kind::xlstm: return load(std::make_shared<detail::xlstm_files>(path));
    case model_kind::linearised: return load(std::make_shared<detail::linearised_files>(path));
    case model_kind::xlstm_7b: return load(std::make_shared<detail::xlstm_7b_files>(path));
    case model_kind::transformer: break;
  }
  return load(std::make_shared<detail::llama_files>(path));
}

}  // namespace distil_xlstm

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/load_language_model.ipp>
#endif
