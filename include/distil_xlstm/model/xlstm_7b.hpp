#pragma once

#include <concepts>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/block/embedding.hpp>
#include <distil_xlstm/block/repeat.hpp>
#include <distil_xlstm/device/frozen_memory.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>
#include <distil_xlstm/io/tensor_match.hpp>
#include <distil_xlstm/model/memory.hpp>
#include <distil_xlstm/model/xlstm_7b_config.hpp>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm {

/// A frozen recurrent language model like xLSTM-7B: logits = cap tanh(stack(embedding[ids]) headᵀ / cap).
/// Matrices stay as their files store them, mapped (BF16, F16, F32), or are copied to the device once, as
/// `frozen_memory` says; norms and biases are widened to T. Copies share the weights. Const use from several
/// threads is safe, each with its own device, state and tape. It is read as a `student` is: by
/// `student_session`, for one.
///
/// To train one, put its `config().stack()` into a `student`.
template <class T, class D>
class xlstm_7b {
  static_assert(std::floating_point<T> && Device<D>,
                "distil_xlstm::xlstm_7b<T, D>: T is float or double, and D a device; write xlstm_7b<float, "
                "device::cpu>");

 public:
  using scalar = T;
  using device_type = D;
  using stack_type = xlstm_7b_stack;
  using state_type = state_memory<stack_type, T, D>;
  using tape_type = tape_memory<stack_type, T, D>;

  /// Loads a Hugging Face folder (config.json with model.safetensors, or with model.safetensors.index.json and
  /// its shards). Throws `error` that lists every tensor that is missing, unused or misshapen.
  static xlstm_7b load(D& device, const std::filesystem::path& folder) {
    const auto config = folder / "config.json";
    auto m = std::make_shared<memory>(device);
    m->config = read_xlstm_7b_config(io::read_json_file(config), config.string());
    m->stack = m->config.stack();
    m->folder = io::tensor_folder(folder);
    bind(*m, folder.string());
    if constexpr (!D::host_memory) m->folder = {}, m->parts.clear();
    return xlstm_7b(std::move(m));
  }

  const xlstm_7b_config& config() const { return memory_->config; }
  const stack_type& stack() const { return memory_->stack; }
  index width() const { return config().width; }
  index vocabulary() const { return config().vocabulary; }
  /// [vocabulary, width], in the device's memory; it lives as long as `owner`.
  frozen_matrix embedding() const { return memory_->embedding; }
  logit_head head() const { return {memory_->head, config().logit_cap}; }
  std::shared_ptr<const void> owner() const { return memory_; }

  state_type make_state(D& device, index batch) const { return {device, stack(), batch}; }
  tape_type make_tape(D& device, index batch, index time, bool transient = true) const {
    return {device, stack(), batch, time, transient};
  }

  /// As `student::forward`.
  template <class Taps = no_taps>
  void forward(D& device, sequence_view seq, const std::int32_t* ids, const state_type& state,
               const tape_type& tape, matrix_view<T> x, matrix_view<T> hidden, Taps&& on_output = {}) const {
    require(tape.fits(seq) && state.batch() >= seq.batch, "xlstm_7b: tape or state was made for another shape");
    embed(device, memory_->embedding, ids, x);
    stack().forward(device, seq, memory_->weights, state.views(), tape.views(), matrix_view<const T>(x), hidden,
                    on_output);
  }

 private:
  struct memory {
    xlstm_7b_config config;
    stack_type stack;
    io::tensor_folder folder;
    std::deque<io::tensor_info> parts;  ///< of fused tensors
    frozen_memory<T, D> kept;
    frozen_matrix embedding, head;
    params_t<stack_type, frozen_layout<T>> weights;
    explicit memory(D& device) : kept(device) {}
  };
  explicit xlstm_7b(std::shared_ptr<const memory> m) : memory_(std::move(m)) {}

  static constexpr const char* embedding_name = "backbone.embeddings.weight";
  static constexpr const char* head_name = "lm_head.weight";

  /// The names of NX-AI's xLSTMLarge, and of other commits of transformers, in today's.
  static std::string canonical(std::string name) {
    if (name == "embedding.weight" || name == "backbone.embedding.weight") return embedding_name;
    for (const auto& [other, ours] : {std::pair{".query.", ".q."}, {".key.", ".k."}, {".value.", ".v."}})
      if (const auto at = name.find(std::string(".mlstm_layer") + other); at != name.npos)
        name.replace(at + 12, std::string(other).size(), ours);
    return name;
  }

  /// Puts the parts of fused tensors in their place: rows under rows, in the order of the reference.
  static void split(memory& m, io::tensor_match& match) {
    struct rows_of {
      std::string name;
      index rows;
    };
    const auto& c = m.config;
    const auto take = [&](const std::string& name, const std::vector<rows_of>& parts) {
      index rows = 0, first = 0;
      for (const auto& p : parts) rows += p.rows;
      const io::tensor_info* whole = match.take(name, std::to_string(rows) + " rows", [&](const auto& shape) {
        return !shape.empty() && shape[0] == rows;
      });
      if (!whole) return;
      for (const auto& p : parts) {
        io::tensor_info& part = m.parts.emplace_back(*whole);
        part.name = p.name, part.shape[0] = p.rows;
        part.data += whole->bytes / rows * first, part.bytes = whole->bytes / rows * p.rows;
        match.offer(p.name, part);
        first += p.rows;
      }
    };
    for (index i = 0; i < c.blocks; ++i) {
      const std::string block = "backbone.blocks." + std::to_string(i) + ".", cell = block + "mlstm_layer.";
      take(cell + "qkv_opreact.weight", {{cell + "q.weight", c.query()},
                                         {cell + "k.weight", c.query()},
                                         {cell + "v.weight", c.value()},
                                         {cell + "ogate_preact.weight", c.value()}});
      for (const std::string end : {"weight", "bias"})
        take(cell + "ifgate_preact." + end,
             {{cell + "igate_preact." + end, c.heads}, {cell + "fgate_preact." + end, c.heads}});
      take(block + "ffn.proj_up_gate_z.weight", {{block + "ffn.proj_up_gate.weight", c.feed_forward()},
                                                 {block + "ffn.proj_up.weight", c.feed_forward()}});
    }
  }

  static void bind(memory& m, const std::string& path) {
    io::tensor_match match;
    for (const auto& [name, t] : m.folder.tensors()) match.offer(canonical(name), *t);
    if (m.config.fused) split(m, match);
    // Hugging Face ties nothing where a file has a head of its own.
    const bool own_head = !m.config.tied || match.has(head_name);

    manifest wanted;
    layout<T> names(nullptr, &wanted);
    names.scope("backbone", [&] { return m.stack.params(names); });
    const std::vector<index> table = {m.config.vocabulary, m.config.width};
    wanted.push_back({embedding_name, table, 0, 0, {}});
    if (own_head) wanted.push_back({head_name, table, 0, 0, {}});
    std::map<std::string, const io::tensor_info*> tensors;
    for (const auto& e : wanted) tensors[e.name] = match.take(e.name, e.shape);
    match.finish(path);

    frozen_layout<T> l([&](const std::string& name) { return tensors.at(name)->stored(); }, m.kept);
    m.weights = l.scope("backbone", [&] { return m.stack.params(l); });
    const auto frozen = [&](const char* name) {
      const io::tensor_info& t = *tensors.at(name);
      return m.kept.keep(frozen_matrix{t.data, t.dtype, m.config.vocabulary, m.config.width});
    };
    m.embedding = frozen(embedding_name);
    m.head = own_head ? frozen(head_name) : m.embedding;
  }

  std::shared_ptr<const memory> memory_;
};

}  // namespace distil_xlstm
