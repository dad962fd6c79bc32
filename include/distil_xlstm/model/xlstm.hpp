#pragma once

#include <concepts>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/tensor_match.hpp>
#include <distil_xlstm/model/student.hpp>
#include <distil_xlstm/model/xlstm_config.hpp>

namespace distil_xlstm {

/// The student that a config.json of NX-AI/xlstm (Family A) describes: sLSTM and mLSTM blocks chosen when the
/// program runs, in the reference's names and layouts.
template <class T, class D>
class xlstm : public student<xlstm_stack, T, D> {
  static_assert(
      std::floating_point<T> && Device<D>,
      "distil_xlstm::xlstm<T, D>: T is float or double, and D a device; write xlstm<float, device::cpu>");

  using base = student<xlstm_stack, T, D>;

 public:
  xlstm(D& device, const xlstm_config& config, frozen_matrix embedding, frozen_matrix head,
        std::shared_ptr<const void> owner)
      : base(device, config.stack(), embedding, head, std::move(owner), "xlstm_block_stack"), config_(config) {
    require(embedding.rows == config.vocabulary, "xlstm: the embedding has ", embedding.rows,
            " rows, the configuration asks for ", config.vocabulary);
    require(config.tied == (embedding.data == head.data), "xlstm: the configuration says tie_weights ",
            config.tied ? "true" : "false", ", but embedding and head are ",
            config.tied ? "two matrices" : "one");
  }
  const xlstm_config& config() const { return config_; }

  /// Loads a student folder (config.json, model.safetensors). Throws `error` that lists every tensor that is
  /// missing, unused or misshapen.
  static xlstm load(D& device, const std::filesystem::path& folder) {
    const auto path = folder / "config.json";
    const xlstm_config config = read_xlstm_config(io::read_json_file(path), path.string());
    auto file = std::make_shared<const io::safetensors_file>(folder / "model.safetensors");
    io::tensor_match match;
    for (const auto& t : file->tensors()) match.offer(canonical(t.name), t);
    const auto take = [&](const std::string& name, const std::vector<index>& shape) {
      return match.take(name, io::detail::shape_text(shape), [&](const std::vector<index>& given) {
        return given == shape || is_cuda_kernel(name, given, shape);
      });
    };
    auto frozen = [&](const std::string& name) -> frozen_matrix {
      const io::tensor_info* t = take(name, {config.vocabulary, config.width});
      return t ? frozen_matrix{t->data, t->dtype, config.vocabulary, config.width}
               : frozen_matrix{nullptr, dtype::f32, config.vocabulary, config.width};
    };
    const frozen_matrix embedding = frozen("token_embedding.weight");
    if (config.tied) match.ignore("lm_head.weight");  // the same numbers again
    const frozen_matrix head = config.tied ? embedding : frozen("lm_head.weight");
    embedding_and_head ends = upload_embedding_and_head<T>(device, embedding, head, file);
    xlstm model(device, config, ends.embedding, ends.head, std::move(ends.owner));
    std::vector<const io::tensor_info*> found;
    for (const auto& e : model.names()) found.push_back(take(e.name, e.shape));
    match.finish(file->path());
    std::vector<T> values;
    bool cuda = false;
    for (std::size_t n = 0; n < found.size(); ++n) {
      const auto& e = model.names()[n];
      values.resize(static_cast<std::size_t>(e.size));
      unpack(found[n]->dtype, found[n]->data, e.size, values.data());
      for (const T v : values)
        require(std::isfinite(static_cast<double>(v)), file->path(), ": tensor ", e.name,
                " holds a number that is not finite");
      // The reference's cuda backend stores R and the bias of sLSTM in another order; R's shape tells which.
      if (e.name.ends_with("_recurrent_kernel_")) {
        cuda = found[n]->shape != e.shape;
        if (cuda) values = from_cuda_kernel(values, e.shape[0], e.shape[2]);
      } else if (e.name.ends_with("_bias_") && cuda) {
        values = from_cuda_bias(values, config.slstm_heads, config.width / config.slstm_heads);
      }
      device.upload(model.weights().data() + e.offset, values.data(), e.size * static_cast<index>(sizeof(T)));
    }
    return model;
  }

  /// Writes config.json and model.safetensors as the reference's Python reads them; `kind` is F32 or BF16 (F64
  /// in proofs).
  void save(D& device, const std::filesystem::path& folder, dtype type = dtype::f32) const {
    std::filesystem::create_directories(folder);
    this->save_tensors(device, folder / "model.safetensors", type);
    io::write_text_atomically(folder / "config.json", write_xlstm_config(config_).dump(2) + "\n");
  }

 private:
  /// The names of other commits of the authors' code, in today's.
  static std::string canonical(const std::string& name) {
    if (name == "xlstm.embedding.weight" || name == "xlstm.token_embedding.weight")
      return "token_embedding.weight";
    for (const std::string_view prefix : {"xlstm.backbone.", "xlstm.xlstm_block_stack."})
      if (name.starts_with(prefix)) return "xlstm_block_stack." + name.substr(prefix.size());
    if (name == "xlstm.lm_head.weight") return "lm_head.weight";
    return name;
  }
  static bool is_cuda_kernel(const std::string& name, const std::vector<index>& given,
                             const std::vector<index>& wanted) {
    return name.ends_with("_recurrent_kernel_") && given.size() == 3 && given[0] == wanted[0] &&
           given[1] == wanted[2] && given[2] == wanted[1];
  }
  /// [heads, head (in), 4 head] to [heads, 4 head, head (in)]
  static std::vector<T> from_cuda_kernel(const std::vector<T>& v, index heads, index head) {
    std::vector<T> out(v.size());
    for (index a = 0; a < heads; ++a)
      for (index k = 0; k < head; ++k)
        for (index o = 0; o < 4 * head; ++o)
          out[static_cast<std::size_t>((a * 4 * head + o) * head + k)] =
              v[static_cast<std::size_t>((a * head + k) * 4 * head + o)];
    return out;
  }
  /// [heads, 4, head] to [4, heads, head]
  static std::vector<T> from_cuda_bias(const std::vector<T>& v, index heads, index head) {
    std::vector<T> out(v.size());
    for (index a = 0; a < heads; ++a)
      for (index g = 0; g < 4; ++g)
        for (index j = 0; j < head; ++j)
          out[static_cast<std::size_t>((g * heads + a) * head + j)] =
              v[static_cast<std::size_t>((a * 4 + g) * head + j)];
    return out;
  }

  xlstm_config config_;
};

}  // namespace distil_xlstm
