#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/io/tensor_match.hpp>
#include <distil_xlstm/model/model.hpp>

namespace distil_xlstm {

/// Every tensor of a configuration's model, under the family's names: what its files must hold.
template <class Family>
manifest tensors_of(const Family& config) {
  manifest all;
  layout<float> names(nullptr, &all);
  all_weights_of(config).params(names);
  return all;
}

/// Whether every number of a stored tensor is finite; of integers, all are.
bool all_finite(const stored_tensor& t);
/// Throws `error` naming `file` and the tensor when it holds a number that is not finite.
void require_finite(const stored_tensor& t, const std::string& name, const std::string& file);

/// The tensors that a trainable model owns, as `find` gives them; one without data stays as it is.
template <class Model>
void assign_tensors(typename Model::device_type& device, Model& m, const tensor_source& find) {
  using T = typename Model::scalar;
  std::vector<T> values;
  for (const auto& e : m.names()) {
    const stored_tensor t = find(e.name);
    if (!t.data) continue;
    values.resize(static_cast<std::size_t>(e.size));
    unpack(t.dtype, t.data, e.size, values.data());
    device.upload(m.weights().data() + e.offset, values.data(), e.size * static_cast<index>(sizeof(T)));
  }
}

/// Writes every tensor of a trainable model, embedding and head included, as `type`: F32 or BF16 (F64 in proofs).
template <class Model>
void save_tensors(typename Model::device_type& device, const Model& m, const std::filesystem::path& path,
                  dtype type = dtype::f32) {
  using T = typename Model::scalar;
  const frozen_matrix embedding = m.embedding(), head = logit_head(m.head()).matrix;
  const bool apart = !Model::trains_embedding_and_head, tied = embedding.data == head.data;
  io::safetensors_writer file;
  file.metadata("format", "pt");
  if (apart) file.declare(m.embedding_name(), type, {m.vocabulary(), m.width()});
  for (const auto& e : m.names()) file.declare(e.name, type, e.shape);
  if (apart && !tied) file.declare(m.head_name(), type, {m.vocabulary(), m.width()});
  file.open(path);
  const auto frozen = [&](const frozen_matrix& matrix) {
    for_each_frozen_row<T>(device, matrix, [&](index, const T* values) { file.append(values, matrix.cols); });
  };
  if (apart) frozen(embedding);
  host_copy<T, typename Model::device_type> values;
  for (const auto& e : m.names())
    file.append(values.get(device, m.weights().data() + e.offset, e.size), e.size);
  if (apart && !tied) frozen(head);
  file.commit();
}

namespace detail {
/// Row r of a converted matrix.
struct convert_row {
  stored_tensor from;
  index head_dim;  ///< 0: rows keep their order
  bool widen;
  std::byte* to;
  void operator()(index r) const;
};
/// Whether products of T's read a matrix of this kind as it is stored.
template <class T, class D>
constexpr bool multiplies_stored(dtype type) {
  if constexpr (std::is_same_v<T, float> && requires { D::multiplies_stored(type); })
    return D::multiplies_stored(type);
  else
    return traits(type).block_size == 1;
}
/// Tensors that a model reads otherwise than as its file has them; they live as long as this.
class converted_tensors {
 public:
  /// Rows in the order of Hugging Face (`head_dim` 0: they have it), numbers as F32 where they are to be widened.
  template <class D>
  stored_tensor add(D& device, stored_tensor t, index head_dim, bool widen) {
    const index rows = t.shape[0], cols = t.shape.size() > 1 ? t.shape[1] : 1;
    const index row_size = widen ? cols * static_cast<index>(sizeof(float)) : row_bytes(t.dtype, cols);
    if constexpr (!D::host_memory) memory_.clear();  // has been copied
    const convert_row row{t, head_dim, widen,
                          memory_.emplace_back(static_cast<std::size_t>(rows * row_size)).data()};
    if constexpr (D::host_memory)
      parallel_for(device, rows, row);
    else
      for (index r = 0; r < rows; ++r) row(r);
    t.data = row.to;
    if (widen) t.dtype = dtype::f32;
    return t;
  }
  /// A quantised matrix as F32, for speed, where the device shares the host's memory; everything else as it is.
  template <class D>
  stored_tensor widened(D& device, const stored_tensor& t) {
    const bool widen = D::host_memory && traits(t.dtype).block_size > 1 && t.shape.size() == 2;
    return widen ? add(device, t, 0, true) : t;
  }

 private:
  std::vector<std::vector<std::byte>> memory_;
};

/// What tells between which embedding and head a stack was trained, in a file without them.
inline constexpr const char *embedding_row = "embedding_row", *head_row = "head_row";
}  // namespace detail

/// Writes the stack of a trainable model alone, as `type`, and the middle rows of the embedding and head that it lies
/// between, by which `load_tensors` knows them again. A student of the same teacher takes it.
template <class Model>
void save_stack(typename Model::device_type& device, const Model& m, const std::filesystem::path& path,
                dtype type = dtype::f32) {
  static_assert(
      !Model::trains_embedding_and_head,
      "distil_xlstm::save_stack(device, model, path): embedding and head of this model are its own; write "
      "save_tensors(device, model, path)");
  const std::vector<double> middle_rows[] = {detail::middle_row(device, m.embedding()),
                                             detail::middle_row(device, logit_head(m.head()).matrix)};
  io::safetensors_writer file;
  file.metadata("format", "pt");
  for (const char* name : {detail::embedding_row, detail::head_row})
    file.declare(name, dtype::f32, {m.width()});
  for (const auto& e : m.names()) file.declare(e.name, type, e.shape);
  file.open(path);
  for (const auto& row : middle_rows) file.append(row.data(), m.width());
  host_copy<typename Model::scalar, typename Model::device_type> values;
  for (const auto& e : m.names())
    file.append(values.get(device, m.weights().data() + e.offset, e.size), e.size);
  file.commit();
}

/// Reads the tensors that a model owns back from a file of `save_tensors` or `save_stack`. Throws `error` that lists
/// every tensor that is missing, unused or of another shape, names one that is not finite, or says that the file's
/// embedding or head is another teacher's; nothing has changed then.
template <class Model>
void load_tensors(typename Model::device_type& device, Model& m, const std::filesystem::path& path) {
  const io::safetensors_file file(path);
  io::tensor_match match;
  for (const auto& t : file.tensors()) match.offer(t.name, t);
  if constexpr (!Model::trains_embedding_and_head) {
    const auto same = [&](const std::string& whole, const char* row, const frozen_matrix& ours) {
      match.ignore(whole), match.ignore(row);
      const std::vector<double> middle = detail::middle_row(device, ours);
      std::vector<double> theirs(middle.size());
      const io::tensor_info *all = file.find(whole), *one = file.find(row);
      if (all && all->readable && all->shape == std::vector{ours.rows, ours.cols})
        unpack(all->dtype,
               static_cast<const std::byte*>(all->stored().data) +
                   ours.rows / 2 * row_bytes(all->dtype, ours.cols),
               ours.cols, theirs.data());
      else if (one && one->readable && one->shape == std::vector{ours.cols})
        unpack(one->dtype, one->stored().data, ours.cols, theirs.data());
      else
        return require(!all && !one, file.path(), ": ", all ? whole : row,
                       " does not fit the model's, which is [", ours.rows, ", ", ours.cols, "]");
      require(detail::alike(middle, theirs), file.path(), ": its ", all ? whole : row,
              " is not the model's: it was trained between another teacher's embedding and head");
    };
    same(m.embedding_name(), detail::embedding_row, m.embedding());
    same(m.head_name(), detail::head_row, logit_head(m.head()).matrix);
  }
  std::map<std::string, const io::tensor_info*> found;
  for (const auto& e : m.names()) found[e.name] = match.take(e.name, e.shape);
  match.finish(file.path());
  for (const auto& [name, t] : found) require_finite(t->stored(), name, file.path());
  assign_tensors(device, m, [&](const std::string& name) { return found.at(name)->stored(); });
}

}  // namespace distil_xlstm

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/tensor_files.ipp>
#endif
