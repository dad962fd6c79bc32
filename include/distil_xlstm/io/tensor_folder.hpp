#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors.hpp>

namespace distil_xlstm::io {

/// The weights of a Hugging Face folder, mapped: model.safetensors, or the shards that
/// model.safetensors.index.json lists.
class tensor_folder {
 public:
  tensor_folder() = default;
  /// Throws `error` naming the file that is missing or malformed.
  explicit tensor_folder(const std::filesystem::path& folder) {
    namespace fs = std::filesystem;
    std::vector<std::string> files;
    const auto index_file = folder / "model.safetensors.index.json";
    if (fs::exists(folder / "model.safetensors") || !fs::exists(index_file)) {
      files.push_back("model.safetensors");
    } else {
      const json list = read_json_file(index_file);
      const json& weights = member(list, "weight_map", index_file.string());
      require(weights.is_object(), index_file.string(), ": weight_map must be an object");
      for (const auto& [tensor, value] : weights.items()) {
        const auto file = get<std::string>(weights, tensor, index_file.string());
        require(!file.empty() && fs::path(file).filename() == file && file != "..", index_file.string(), ": '",
                detail::printable(file), "' is not the name of a file in the folder");
        if (std::find(files.begin(), files.end(), file) == files.end()) files.push_back(file);
      }
    }
    for (const auto& file : files) {
      shards_.push_back(std::make_unique<safetensors_file>(folder / file));
      for (const auto& t : shards_.back()->tensors())
        require(tensors_.emplace(t.name, &t).second, shards_.back()->path(), ": tensor ",
                detail::printable(t.name), " is in two shards");
    }
  }

  /// All tensors by name; they live as long as the folder.
  const std::map<std::string, const tensor_info*>& tensors() const { return tensors_; }

 private:
  std::vector<std::unique_ptr<safetensors_file>> shards_;
  std::map<std::string, const tensor_info*> tensors_;
};

}  // namespace distil_xlstm::io
