#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include <distil_xlstm/io/json_fwd.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>
#include <distil_xlstm/model/linearised.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/tensor_files.hpp>

namespace distil_xlstm {

/// True for a config.json of a linearised student: its model_type is distil_xlstm_linear.
bool is_linearised_config(const io::json& c);

/// A whole config.json: the teacher's fields, and
///
///   model_type          "distil_xlstm_linear", architectures ["DistilLinear"]
///   teacher_model_type  the teacher's family; where it is not given, llama
///   mixers              one a layer: "attention", "window", "mlstm", "hybrid"
///   window, sinks       tokens
///   features            "softmax_pm": phi(z) = [softmax(z W), softmax(-z W)]; "softmax": its first half
///   feature_count       columns of W, where they are not head_dim
io::json write_linearised_config(const linearised_config& c);
/// Writes it into `folder`, whole or not at all.
void write_linearised_config(const linearised_config& c, const std::filesystem::path& folder);
/// Reads it; what the library does not do is refused by name. Biases and norms of heads are there where the tensors
/// are: the loader sees to it.
linearised_config read_linearised_config(const io::json& c, const std::string& name);

namespace detail {
/// The files of a linearised student, mapped.
struct linearised_files {
  std::string path;
  io::tensor_folder folder;
  linearised_config config;
  std::map<std::string, const io::tensor_info*> found;
  converted_tensors converted;

  /// Throws `error` that lists every tensor that is missing, unused or of another shape.
  template <class Config = linearised_config>
  explicit linearised_files(const std::filesystem::path& where);
  /// Throws `error` naming a tensor that holds a number that is not finite.
  stored_tensor find(const std::string& name) const;
};
}  // namespace detail

/// Loads a linearised student: a folder (config.json, model.safetensors or its shards) or a GGUF file of `quantise`.
/// Every tensor is under the teacher's name, and where a layer's mixer has them there are self_attn.feature_q.weight
/// and feature_k.weight [heads, head_dim, features], self_attn.gates.weight [3 heads, hidden] and gates.bias (every
/// head's i~, then f~, then o~; an mlstm layer has no o~). Throws `error` that lists every tensor that is missing,
/// unused or of another shape, or names one that is not finite.
template <class T, class D>
linearised_model<T, D> load_linearised(D& device, const std::filesystem::path& model) {
  const detail::linearised_files files(model);
  linearised_model<T, D> m(device, files.config);
  assign_tensors(device, m, [&](const std::string& name) { return files.find(name); });
  return m;
}

/// Writes config.json and model.safetensors; `type` is F32 or BF16 (F64 in proofs).
template <class T, class D>
void save_linearised(D& device, const linearised_model<T, D>& m, const std::filesystem::path& folder,
                     dtype type = dtype::f32) {
  std::filesystem::create_directories(folder);
  save_tensors(device, m, folder / "model.safetensors", type);
  write_linearised_config(m.config(), folder);
}

/// A teacher's files as a student with other mixers: the teacher's tensors, and new ones that begin as their blocks
/// say, from `seed`. Of `mixers` the llama's part is not read: it is the teacher's. `calibrate_gates` is what follows.
/// Throws `error` as `load_llama` does, or where the mixers do not fit.
template <class T, class D>
linearised_model<T, D> linearise(D& device, const std::filesystem::path& teacher, linearised_config mixers,
                                 std::uint64_t seed) {
  detail::llama_files files(teacher);
  static_cast<llama_config&>(mixers) = files.config;
  linearised_model<T, D> m(device, std::move(mixers));
  m.initialise(device, seed);
  assign_tensors(device, m, [&](const std::string& name) {
    return files.found.count(name) ? files.find(device, name, false) : stored_tensor{};
  });
  return m;
}

/// A teacher as it is, but for layers whose attention has a window: `mixers` names attention and window alone, and of
/// its llama's part nothing is read. Nothing is copied; `model::with` gives another choice of the same weights.
template <class T, class Family = linearised_config, class D>
model<Family, T, D, frozen> load_windowed(D& device, const std::filesystem::path& teacher,
                                          linearised_config mixers) {
  const auto files = std::make_shared<detail::llama_files>(teacher);
  static_cast<llama_config&>(mixers) = files->config;
  require(mixers.count(mixer_kind::memory) + mixers.count(mixer_kind::hybrid) == 0, teacher.string(),
          ": a memory needs weights that a teacher does not have");
  return {device, mixers, [&](const std::string& name) { return files->find(device, name, D::host_memory); },
          files};
}

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
namespace distil_xlstm {
extern template detail::linearised_files::linearised_files(const std::filesystem::path&);
}  // namespace distil_xlstm
#endif
#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/load_linearised.ipp>
#endif
