#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <distil_xlstm/block/embedding.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/model/memory.hpp>
#include <distil_xlstm/model/xlstm_config.hpp>

namespace distil_xlstm {

/// A recurrent language model: a frozen embedding, a stack of sLSTM and mLSTM blocks, a frozen head. The
/// stack's weights are its own; embedding and head are borrowed, from a teacher or from the file that it was
/// loaded from. Const use from several threads is safe, each with its own device, state and tape.
template <class T, Device D>
class xlstm {
 public:
  using scalar = T;
  using state_type = state_memory<xlstm_stack, T, D>;
  using tape_type = tape_memory<xlstm_stack, T, D>;
  using weights_type = weight_memory<xlstm_stack, T, D>;

  /// `owner` keeps the memory of `embedding` and `head` alive. Weights are zero until initialised or loaded.
  xlstm(D& device, const xlstm_config& config, frozen_matrix embedding, frozen_matrix head,
        std::shared_ptr<const void> owner)
      : config_(config),
        stack_(config.stack()),
        weights_(device, stack_),
        embedding_(embedding),
        head_(head),
        owner_(std::move(owner)) {
    for (const auto* m : {&embedding_, &head_})
      require(m->rows == config.vocabulary && m->cols == config.width, "xlstm: the ",
              m == &embedding_ ? "embedding" : "head", " is [", m->rows, ", ", m->cols,
              "], the student needs [", config.vocabulary, ", ", config.width, "]");
    layout<T> names(nullptr, &names_);
    names.scope("xlstm_block_stack", [&] { return stack_.params(names); });
  }

  const xlstm_config& config() const { return config_; }
  const xlstm_stack& stack() const { return stack_; }
  /// Checkpoint names, shapes and places of the stack's tensors.
  const manifest& names() const { return names_; }
  const weights_type& weights() const { return weights_; }
  frozen_matrix embedding() const { return embedding_; }
  frozen_matrix head() const { return head_; }
  index width() const { return config_.width; }
  index vocabulary() const { return config_.vocabulary; }

  /// The reference's reset_parameters, from a seed.
  void initialise(D& device, std::uint64_t seed) {
    rng random(seed);
    std::vector<T> values;
    for (const auto& e : names_) {
      values.resize(static_cast<std::size_t>(e.size));
      for (index i = 0; i < e.size; ++i)
        values[static_cast<std::size_t>(i)] = static_cast<T>(e.initial(i, random));
      device.upload(weights_.data() + e.offset, values.data(), e.size * static_cast<index>(sizeof(T)));
    }
  }

  state_type make_state(D& device, index batch) const { return {device, stack_, batch}; }
  tape_type make_tape(D& device, index batch, index time, bool transient = true) const {
    return {device, stack_, batch, time, transient};
  }

  /// hidden = norm(stack(embedding[ids])), the vectors that the head reads. `x` is where the embeddings go.
  /// Advances state.
  template <class Taps = no_taps>
  void forward(D& device, sequence_view seq, const std::int32_t* ids, const state_type& state,
               const tape_type& tape, matrix_view<T> x, matrix_view<T> hidden, Taps&& on_output = {}) const {
    require(tape.fits(seq) && state.batch() == seq.batch, "xlstm: tape or state was made for another shape");
    embed(device, embedding_, ids, x);
    stack_.forward(device, seq, weights_.views(), state.views(), tape.views(), matrix_view<const T>(x), hidden,
                   on_output);
  }

  /// Loads a student folder (config.json, model.safetensors). Throws `error` that lists every tensor that is
  /// missing, unused or misshapen.
  static xlstm load(D& device, const std::filesystem::path& folder) {
    const auto path = folder / "config.json";
    const xlstm_config config = read_xlstm_config(io::read_json_file(path), path.string());
    auto file = std::make_shared<const io::safetensors_file>(folder / "model.safetensors");
    std::map<std::string, const io::tensor_info*> tensors;
    for (const auto& t : file->tensors()) tensors[canonical(t.name)] = &t;
    std::vector<std::string> complaints;
    auto take = [&](const std::string& name, const std::vector<index>& shape) -> const io::tensor_info* {
      const auto at = tensors.find(name);
      if (at == tensors.end()) {
        complaints.push_back(name + " is missing");
        return nullptr;
      }
      const io::tensor_info* t = at->second;
      tensors.erase(at);
      if (!t->readable || !(t->element == element::f32 || t->element == element::bf16 ||
                            t->element == element::f16 || t->element == element::f64)) {
        complaints.push_back(name + " holds " + t->type);
        return nullptr;
      }
      if (t->shape != shape && !is_cuda_kernel(name, t->shape, shape)) {
        complaints.push_back(name + " has shape " + io::detail::shape_text(t->shape) + " instead of " +
                             io::detail::shape_text(shape));
        return nullptr;
      }
      return t;
    };
    auto frozen = [&](const std::string& name) -> frozen_matrix {
      const io::tensor_info* t = take(name, {config.vocabulary, config.width});
      return t ? frozen_matrix{t->data, t->element, config.vocabulary, config.width}
               : frozen_matrix{nullptr, element::f32, config.vocabulary, config.width};
    };
    const frozen_matrix embedding = frozen("token_embedding.weight");
    if (config.tied && tensors.count("lm_head.weight"))
      tensors.erase("lm_head.weight");  // the same numbers again
    const frozen_matrix head = config.tied ? embedding : frozen("lm_head.weight");
    xlstm model(device, config, embedding, head, file);
    std::vector<const io::tensor_info*> found;
    for (const auto& e : model.names_) found.push_back(take(e.name, e.shape));
    for (const auto& [name, t] : tensors) complaints.push_back(name + " is not used");
    if (!complaints.empty()) {
      std::string all;
      for (const auto& c : complaints) all += (all.empty() ? "" : "; ") + c;
      fail(file->path(), ": ", all);
    }
    std::vector<T> values, turned;
    bool cuda = false;
    for (std::size_t n = 0; n < found.size(); ++n) {
      const auto& e = model.names_[n];
      values.resize(static_cast<std::size_t>(e.size));
      unpack(found[n]->element, found[n]->data, e.size, values.data());
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
      device.upload(model.weights_.data() + e.offset, values.data(), e.size * static_cast<index>(sizeof(T)));
    }
    return model;
  }

  /// Writes config.json and model.safetensors as the reference's Python reads them; `kind` is F32 or BF16 (F64
  /// in proofs).
  void save(D& device, const std::filesystem::path& folder, element kind = element::f32) const {
    std::filesystem::create_directories(folder);
    io::safetensors_writer file;
    file.metadata("format", "pt");
    file.declare("token_embedding.weight", kind, {config_.vocabulary, config_.width});
    for (const auto& e : names_) file.declare(e.name, kind, e.shape);
    if (!config_.tied) file.declare("lm_head.weight", kind, {config_.vocabulary, config_.width});
    file.open(folder / "model.safetensors");
    std::vector<T> values;
    auto frozen = [&](const frozen_matrix& m) {
      values.resize(static_cast<std::size_t>(m.cols));
      for (index r = 0; r < m.rows; ++r) {
        unpack(m.kind, m.row(r), m.cols, values.data());
        file.append(values.data(), m.cols);
      }
    };
    frozen(embedding_);
    for (const auto& e : names_) {
      values.resize(static_cast<std::size_t>(e.size));
      device.download(values.data(), weights_.data() + e.offset, e.size * static_cast<index>(sizeof(T)));
      file.append(values.data(), e.size);
    }
    if (!config_.tied) frozen(head_);
    file.commit();
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
  xlstm_stack stack_;
  manifest names_;
  weights_type weights_;
  frozen_matrix embedding_, head_;
  std::shared_ptr<const void> owner_;
};

}  // namespace distil_xlstm
