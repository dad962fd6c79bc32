#pragma once

#include <cmath>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/io/json_fwd.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>
#include <distil_xlstm/model/tensor_files.hpp>
#include <distil_xlstm/model/xlstm_7b.hpp>

namespace distil_xlstm {

/// True for a config.json of Hugging Face's model type xlstm.
bool is_xlstm_7b_config(const io::json& c);

/// Reads a Hugging Face config.json of model type xlstm; what is not given is as there. What the library does
/// not do is refused by name; fields that choose kernels or the types of numbers change nothing here.
xlstm_7b_config read_xlstm_7b_config(const io::json& c, const std::string& name);

namespace detail {

/// The names of NX-AI's xLSTMLarge, and of other commits of transformers, in today's.
std::string xlstm_7b_name(std::string name);

/// Puts the parts of fused tensors in their place: rows under rows, in the order of the reference. `into` has them
/// for as long as `match` and what is taken from it.
void split_fused(const xlstm_7b_config& c, io::tensor_match& match, std::deque<io::tensor_info>& into);

/// The files of such a model, mapped.
struct xlstm_7b_files {
  std::string path;
  io::tensor_folder folder;
  xlstm_7b_config config;
  std::deque<io::tensor_info> parts;                    ///< of fused tensors
  std::map<std::string, const io::tensor_info*> found;  ///< by today's names
  converted_tensors converted;

  /// Throws `error` that lists every tensor that is missing, unused or of another shape.
  template <class Config = xlstm_7b_config>
  explicit xlstm_7b_files(const std::filesystem::path& where);
  /// Throws `error` naming a tensor that holds a number that is not finite.
  stored_tensor find(const std::string& name) const;
};

}  // namespace detail

/// Loads a Hugging Face folder (config.json with model.safetensors, or with model.safetensors.index.json and
/// its shards) or a GGUF file of `quantise`. Throws `error` that lists every tensor that is missing, unused or
/// of another shape, or names one that is not finite.
template <class T, class Family = xlstm_7b_config, class D>
model<Family, T, D, frozen> load_xlstm_7b(D& device, const std::filesystem::path& path) {
  const auto files = std::make_shared<detail::xlstm_7b_files>(path);
  const auto find = [&](const std::string& name) {
    return files->converted.widened(device, files->find(name));
  };
  return {device, files->config, find, files};
}

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
namespace distil_xlstm {
extern template detail::xlstm_7b_files::xlstm_7b_files(const std::filesystem::path&);
}  // namespace distil_xlstm
#endif
#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/load_xlstm_7b.ipp>
#endif
