#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/json_fwd.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>
#include <distil_xlstm/model/llama.hpp>
#include <distil_xlstm/model/read_rope_scaling.hpp>
#include <distil_xlstm/model/tensor_files.hpp>

namespace distil_xlstm {

/// Reads a Hugging Face config.json of one of the `llama_families`. What the library does not do is refused by name.
llama_config read_llama_config(const io::json& c, const std::string& name);

/// Reads the keys of a GGUF file whose architecture is one of the `llama_families`; Mistral's is llama.
llama_config read_llama_config(const io::gguf_file& file);

/// What `read_llama_config` reads back.
io::json write_llama_config(const llama_config& c);

/// How `load_llama` keeps a model.
struct llama_load_options {
  /// Quantised matrices become F32 once, for speed; false: they stay as stored, for memory, on a device that
  /// shares the host's.
  bool unpack_quantised = true;
};

namespace detail {

/// What a GGUF file calls a tensor of Hugging Face.
std::string gguf_name(const std::string& name);

/// The files of a transformer, mapped, and what of them has been converted.
struct llama_files {
  std::string path;
  io::tensor_folder folder;
  llama_config config;
  std::map<std::string, const io::tensor_info*> found;  ///< by Hugging Face's names
  converted_tensors converted;

  /// Throws `error` that lists every tensor that is missing, unused or of another shape.
  explicit llama_files(const std::filesystem::path& where);

  /// The tensor that Hugging Face calls so, as it stores it; a quantised matrix as F32 where `widen` says so. Throws
  /// `error` naming one that holds a number that is not finite.
  template <class D>
  stored_tensor find(D& device, const std::string& name, bool widen) {
    stored_tensor t = found.at(name)->stored();
    const std::string& own = found.at(name)->name;
    require_finite(t, own, path);
    const bool paired = folder.gguf() && find_llama_family(config.model_type, "load_llama").paired;
    const bool reorder = paired && (name.find("q_proj.") != name.npos || name.find("k_proj.") != name.npos);
    require(!reorder || t.shape.size() == 2 || traits(t.dtype).block_size == 1, path, ": tensor ", own,
            " is quantised, which is not supported of a bias");
    widen = widen && traits(t.dtype).block_size > 1 && t.shape.size() == 2;
    return reorder || widen ? converted.add(device, t, reorder ? config.head_dim : 0, widen) : t;
  }
};

}  // namespace detail

/// Loads a GGUF file, or a Hugging Face folder (config.json with model.safetensors, or with
/// model.safetensors.index.json and its shards). A GGUF file that llama.cpp's converter made of a Mistral whose
/// attention has a window does not say so, and is read as llama.cpp does, without one. Throws `error` that lists
/// every tensor that is missing, unused or of another shape, or names one that is not finite.
template <class T, class Family = llama_config, class D>
model<Family, T, D, frozen> load_llama(D& device, const std::filesystem::path& path,
                                       llama_load_options options = {}) {
  const auto files = std::make_shared<detail::llama_files>(path);
  const auto find = [&](const std::string& name) {
    return files->find(device, name, D::host_memory && options.unpack_quantised);
  };
  return {device, files->config, find, files};
}

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/device/cpu.hpp>

/// Of a precision P and its scalar T, with `keyword` extern template or template.
#define DISTIL_XLSTM_COMPILED_LOAD_LLAMA(keyword, P, T)                                                  \
  keyword llama<T, device::basic_cpu<P>> load_llama(device::basic_cpu<P>&, const std::filesystem::path&, \
                                                    llama_load_options);

namespace distil_xlstm {
DISTIL_XLSTM_EACH_PRECISION(DISTIL_XLSTM_COMPILED_LOAD_LLAMA, extern template)
}  // namespace distil_xlstm
#endif
#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/load_llama.ipp>
#endif
