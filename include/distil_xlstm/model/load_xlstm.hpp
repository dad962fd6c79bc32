#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/io/json_fwd.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>
#include <distil_xlstm/model/tensor_files.hpp>
#include <distil_xlstm/model/xlstm.hpp>

namespace distil_xlstm {

/// Reads `xlstm_cfg` of a config.json. What the library does not do is refused by name.
xlstm_config read_xlstm_config(const io::json& file, const std::string& name);

/// A whole config.json that the reference's Python can instantiate as it is, types checked: `_block_idx`, null
/// in the reference's own dictionaries but an int by its annotation, is left out.
io::json write_xlstm_config(const xlstm_config& x);
/// Writes it into a folder.
void write_xlstm_config(const xlstm_config& x, const std::filesystem::path& folder);

namespace detail {

/// A student's files, mapped, under today's names.
class xlstm_files {
 public:
  /// Throws `error` that lists every tensor that is missing, unused or of another shape.
  template <class Config = xlstm_config>
  explicit xlstm_files(const std::filesystem::path& model);

  io::tensor_folder folder;
  xlstm_config config;
  converted_tensors converted;

  /// The reference's cuda backend stores R and the bias of sLSTM in another order, which the shape of R tells.
  /// Throws `error` naming a tensor that holds a number that is not finite.
  stored_tensor find(const std::string& name);

 private:
  /// The names of other commits of the authors' code, in today's.
  static std::string canonical(const std::string& name);
  /// t becomes a tensor of three dimensions whose number (i, j, k) is the stored number at(i, j, k).
  template <class At>
  void reorder(stored_tensor& t, const std::vector<index>& shape, const At& at) {
    const std::size_t size = static_cast<std::size_t>(shape[0] * shape[1] * shape[2]);
    std::vector<double> from(size);
    unpack(t.dtype, t.data, std::ssize(from), from.data());
    reordered_.clear();
    for (index i = 0; i < shape[0]; ++i)
      for (index j = 0; j < shape[1]; ++j)
        for (index k = 0; k < shape[2]; ++k) reordered_.push_back(from[static_cast<std::size_t>(at(i, j, k))]);
    t = {reordered_.data(), dtype::f64, shape};
  }

  std::string path_;
  std::map<std::string, const io::tensor_info*> tensors_;
  std::vector<double> reordered_;
  bool cuda_ = false;
};

}  // namespace detail

/// The configuration of a student.
xlstm_config read_xlstm_config(const std::filesystem::path& model);

/// Loads a student: a folder (config.json, model.safetensors) or a GGUF file of `quantise`. Throws `error` that lists
/// every tensor that is missing, unused or of another shape, or names one that is not finite.
template <class T, class D>
xlstm<T, D> load_xlstm(D& device, const std::filesystem::path& model) {
  const auto files = std::make_shared<detail::xlstm_files>(model);
  const xlstm_config& config = files->config;
  const auto frozen = [&](std::string_view name) {
    const stored_tensor t = files->converted.widened(device, files->find(std::string(name)));
    return frozen_matrix{t.data, t.dtype, config.vocabulary, config.width};
  };
  const frozen_matrix embedding = frozen(config.embedding_name);
  embedding_and_head both = upload_embedding_and_head<T>(
      device, embedding, config.tied ? embedding : frozen(config.head_name), files);
  xlstm<T, D> m(device, config, both.embedding, both.head, std::move(both.owner));
  assign_tensors(device, m, [&](const std::string& name) { return files->find(name); });
  return m;
}

/// Writes config.json and model.safetensors as the reference's Python reads them; `type` is F32 or BF16 (F64 in
/// proofs).
template <class T, class D>
void save_xlstm(D& device, const xlstm<T, D>& m, const std::filesystem::path& folder, dtype type = dtype::f32) {
  std::filesystem::create_directories(folder);
  save_tensors(device, m, folder / "model.safetensors", type);
  write_xlstm_config(m.config(), folder);
}

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
namespace distil_xlstm {
extern template detail::xlstm_files::xlstm_files(const std::filesystem::path&);
}  // namespace distil_xlstm
#endif
#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/load_xlstm.ipp>
#endif
