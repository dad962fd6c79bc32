#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE tensor_folder::tensor_folder(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) {
    gguf_ = std::make_unique<gguf_file>(path);
    for (const auto& t : gguf_->tensors()) tensors_[t.name] = &t;
    return;
  }
  const auto index_file = path / "model.safetensors.index.json";
  if (std::filesystem::exists(path / "model.safetensors") || !std::filesystem::exists(index_file)) {
    open(path / "model.safetensors");
  } else {
    open_shards(path, read_json_file(index_file), index_file.string());
  }
}

DISTIL_XLSTM_INLINE void tensor_folder::open(const std::filesystem::path& file) {
  shards_.push_back(std::make_unique<safetensors_file>(file));
  for (const auto& t : shards_.back()->tensors())
    require(tensors_.emplace(t.name, &t).second, shards_.back()->path(), ": tensor ", detail::printable(t.name),
            " is in two shards");
}

DISTIL_XLSTM_INLINE void tensor_folder::open_shards(const std::filesystem::path& folder, const json& list,
                                                    const std::string& name) {
  const json& weights = member(list, "weight_map", name);
  require(weights.is_object(), name, ": weight_map must be an object");
  std::set<std::string> files;
  for (const auto& [tensor, value] : weights.items()) {
    const auto file = detail::convert<std::string>(value, tensor, name);
    require(!file.empty() && std::filesystem::path(file).filename() == file && file != "..", name, ": '",
            detail::printable(file), "' is not the name of a file in the folder");
    if (files.insert(file).second) open(folder / file);
  }
  for (const auto& [tensor, value] : weights.items())
    require(tensors_.contains(tensor), name, ": tensor ", detail::printable(tensor), " is not in ",
            detail::convert<std::string>(value, tensor, name));
}

}  // namespace distil_xlstm::io
