#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/json_fwd.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/tensor_info.hpp>

namespace distil_xlstm::io {

/// The weights of a model, mapped: of a Hugging Face folder, model.safetensors or all shards that
/// model.safetensors.index.json lists; or of a GGUF file.
class tensor_folder {
 public:
  tensor_folder() = default;
  /// Throws `error` naming the file that is missing or malformed, or the tensor that is in no shard or in two.
  explicit tensor_folder(const std::filesystem::path& path);

  /// All tensors by name; they live as long as the folder.
  const std::map<std::string, const tensor_info*>& tensors() const { return tensors_; }
  /// The file, or null where it is a folder.
  const gguf_file* gguf() const { return gguf_.get(); }

 private:
  void open(const std::filesystem::path& file);
  void open_shards(const std::filesystem::path& folder, const json& list, const std::string& name);

  std::vector<std::unique_ptr<safetensors_file>> shards_;
  std::unique_ptr<gguf_file> gguf_;
  std::map<std::string, const tensor_info*> tensors_;
};

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/tensor_folder.ipp>
#endif
