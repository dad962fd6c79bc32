#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/block/embedding.hpp>
#include <distil_xlstm/block/repeat.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/frozen_memory.hpp>
#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>
#include <distil_xlstm/io/tensor_match.hpp>
#include <distil_xlstm/model/llama_config.hpp>
#include <distil_xlstm/op/decoder_layer/op.hpp>

namespace distil_xlstm {

/// The keys and values of `batch` sequences, each of its own length up to `capacity` tokens: a value that can
/// be copied (the text so far is then continued twice).
template <class T, class D>
class llama_state {
 public:
  llama_state(D& device, const llama_config& config, index batch, index capacity)
      : device_(&device),
        layer_(config.layer(capacity)),
        layers_(config.layers),
        batch_(batch),
        capacity_(capacity),
        lengths_(static_cast<std::size_t>(std::max<index>(batch, 0))),
        next_(lengths_) {
    require(batch > 0 && capacity > 0, "llama: a state of ", batch, " sequences of ", capacity,
            " tokens is not possible");
    layout<T> measure;
    for (index i = 0; i < layers_; ++i) layer_.state(measure);
    stride_ = measure.size();
    bind();
  }
  llama_state(const llama_state& other)
      : device_(other.device_),
        layer_(other.layer_),
        layers_(other.layers_),
        batch_(other.batch_),
        capacity_(other.capacity_),
        stride_(other.stride_),
        lengths_(other.lengths_),
        next_(other.lengths_) {
    bind();
    device_->copy(arena_.data(), other.arena_.data(), batch_ * bytes());
  }
  llama_state(llama_state&&) noexcept = default;
  llama_state& operator=(llama_state&&) noexcept = default;
  llama_state& operator=(const llama_state& other) {
    if (this != &other) *this = llama_state(other);
    return *this;
  }

  index batch() const { return batch_; }
  index capacity() const { return capacity_; }
  /// Numbers of one sequence.
  index size() const { return stride_; }
  /// Tokens of sequence b's document so far.
  index position(index b) const { return lengths_[static_cast<std::size_t>(b)]; }
  void reset() {
    for (index b = 0; b < batch_; ++b) reset(b);
  }
  /// Sequence b is empty again.
  void reset(index b) {
    const T none = 0;
    lengths_[static_cast<std::size_t>(b)] = 0;
    for (index i = 0; i < layers_; ++i) device_->upload(cache(i).position.of(b), &none, sizeof none);
  }
  /// The numbers of sequence b, to host memory and back: a state that is saved, forked or shipped.
  std::vector<T> save(index b) const {
    std::vector<T> out(static_cast<std::size_t>(stride_));
    device_->download(out.data(), arena_.data() + b * stride_, bytes());
    return out;
  }
  void restore(index b, const std::vector<T>& saved) {
    require(static_cast<index>(saved.size()) == stride_, "llama: ", saved.size(),
            " numbers where a sequence has ", stride_);
    device_->upload(arena_.data() + b * stride_, saved.data(), bytes());
    const auto at = static_cast<std::size_t>(cache(0).position.data - arena_.data());
    lengths_[static_cast<std::size_t>(b)] = static_cast<index>(saved[at]);
  }

  /// Before a call of `seq`: throws `error` when a sequence would exceed the capacity. The lengths are known to
  /// the host, so that nothing waits for the device, unless documents begin in the call.
  void require_room(sequence_view seq) {
    require(seq.batch == batch_, "llama: a state of ", batch_, " sequences for a batch of ", seq.batch);
    for (index b = 0; b < batch_; ++b) {
      std::int32_t start = -1;  // of the last token's document
      if (seq.start && seq.time > 0)
        device_->download(&start, seq.start + (b + 1) * seq.time - 1, sizeof start);
      const index length = start < 0 ? position(b) + seq.time : seq.time - start;
      require(length <= capacity_, "llama: sequence ", b, " would hold ", length,
              " tokens, the capacity of its state is ", capacity_);
      next_[static_cast<std::size_t>(b)] = length;
    }
  }
  /// After the call.
  void advance() { lengths_ = next_; }

  const state_t<llama_layer, T>& views(index layer) const { return views_[static_cast<std::size_t>(layer)]; }

 private:
  index bytes() const { return stride_ * static_cast<index>(sizeof(T)); }
  const attention_state<T>& cache(index layer) const { return std::get<1>(std::get<0>(views(layer))); }
  void bind() {
    arena_ = buffer<T, D>(*device_, batch_ * stride_);
    layout<T> l(arena_.data());
    l.sequence_stride(stride_);
    for (index i = 0; i < layers_; ++i) views_.push_back(layer_.state(l));
  }
  D* device_;
  llama_layer layer_;
  index layers_, batch_, capacity_, stride_ = 0;
  std::vector<index> lengths_, next_;  ///< the positions that lie in every layer's state, now and after a call
  buffer<T, D> arena_;
  std::vector<state_t<llama_layer, T>> views_;
};

struct llama_load_options {
  /// Quantised matrices become F32 once, for speed; false: they stay as stored, for memory, on a device that
  /// shares the host's.
  bool unpack_quantised = true;
};

/// The teacher: a frozen transformer of the Llama and Qwen2 family. Matrices stay as their files store them,
/// mapped (BF16, F16, F32, and quantised ones by choice), or are copied to the device once, as `frozen_memory`
/// says; the norms and biases are widened to T. Copies share the weights. Const use from several threads is
/// safe, each with its own device and state.
template <class T, class D>
class llama {
  static_assert(
      std::floating_point<T> && Device<D>,
      "distil_xlstm::llama<T, D>: T is float or double, and D a device; write llama<float, device::cpu>");

 public:
  using scalar = T;
  using device_type = D;
  using state_type = llama_state<T, D>;

  /// Loads a GGUF file, or a Hugging Face folder (config.json with model.safetensors, or with
  /// model.safetensors.index.json and its shards). Throws `error` that lists every tensor that is missing,
  /// unused or misshapen.
  static llama load(D& device, const std::filesystem::path& path, llama_load_options options = {}) {
    auto m = std::make_shared<memory>(device);
    if (std::filesystem::is_directory(path)) {
      const auto config = path / "config.json";
      m->config = read_llama_config(io::read_json_file(config), config.string());
      m->folder = io::tensor_folder(path);
      m->tensors = m->folder.tensors();
    } else {
      m->gguf = std::make_unique<io::gguf_file>(path);
      m->config = read_llama_config(*m->gguf);
      for (const auto& t : m->gguf->tensors()) m->tensors[t.name] = &t;
    }
    check_tensors(*m, path.string());
    bind(device, *m, options);
    m->tensors.clear();
    if constexpr (!D::host_memory) m->gguf.reset(), m->folder = {};
    return llama(std::move(m));
  }

  const llama_config& config() const { return memory_->config; }
  index width() const { return config().width; }
  index vocabulary() const { return config().vocabulary; }
  /// [vocabulary, width] both, in the device's memory; one matrix where the model ties them. They live as long
  /// as `owner`.
  frozen_matrix embedding() const { return memory_->embedding; }
  frozen_matrix head() const { return memory_->head; }
  std::shared_ptr<const void> owner() const { return memory_; }

  /// An empty state for sequences of up to `capacity` tokens.
  state_type make_state(D& device, index batch, index capacity) const {
    return state_type(device, config(), batch, capacity);
  }

  /// last_hidden [rows, width] = norm(layers(embedding[ids])), the vectors that the head reads; logits are
  /// last_hidden headᵀ. `seq.start`, `ids` and the result lie in the device's memory. on_layer(i, h) sees the
  /// embedding (i = 0) and each layer's output, before the final norm. Documents that began before the call
  /// count from its first token. Temporary memory is the device's scratch.
  template <class OnLayer = no_taps>
  void forward(D& device, sequence_view seq, const std::int32_t* ids, matrix_view<T> last_hidden,
               OnLayer&& on_layer = {}) const {
    run(device, seq, ids, nullptr, last_hidden, on_layer);
  }
  /// The same, going on from `state` and advancing it: whole prompts or single tokens, each sequence at its own
  /// position. Throws `error`, before anything changes, when a sequence would exceed the capacity.
  template <class OnLayer = no_taps>
  void forward(D& device, sequence_view seq, const std::int32_t* ids, state_type& state,
               matrix_view<T> last_hidden, OnLayer&& on_layer = {}) const {
    state.require_room(seq);
    run(device, seq, ids, &state, last_hidden, on_layer);
    state.advance();
  }

 private:
  using layer_weights = params_t<llama_layer, frozen_layout<T>>;
  struct memory {
    llama_config config;
    std::unique_ptr<io::gguf_file> gguf;
    io::tensor_folder folder;
    std::map<std::string, const io::tensor_info*> tensors;  ///< while loading
    frozen_memory<T, D> kept;
    std::vector<std::vector<float>> unpacked;
    std::vector<std::vector<std::byte>> reordered;
    frozen_matrix embedding, head;
    std::vector<layer_weights> layers;
    norm_params<const T*> norm;
    explicit memory(D& device) : kept(device) {}
  };
  explicit llama(std::shared_ptr<const memory> m) : memory_(std::move(m)) {}

  // ---- forward
  // -----------------------------------------------------------------------------------------------
  struct temporaries {
    matrix_view<T> hidden[2];
    norm_tape<T> norm;
    tape_t<llama_layer, T> layer;
  };
  temporaries describe(layout<T>& l, const llama_layer& layer, sequence_view seq) const {
    l.transient(true);
    temporaries t;
    for (auto& h : t.hidden) h = l.matrix("hidden", seq.rows(), width());
    t.norm = config().final_norm().tape(l, seq);
    t.layer = layer.tape(l, seq);
    return t;
  }
  template <class OnLayer>
  void run(D& device, sequence_view seq, const std::int32_t* ids, state_type* state, matrix_view<T> last_hidden,
           OnLayer& on_layer) const {
    require(last_hidden.rows == seq.rows() && last_hidden.cols == width(), "llama: last_hidden is [",
            last_hidden.rows, ", ", last_hidden.cols, "], the call needs [", seq.rows(), ", ", width(), "]");
    if (seq.rows() == 0) return;
    if constexpr (DecoderDevice<D, T>)
      if (!state && run_whole_layers(device, seq, ids, last_hidden, on_layer)) return;
    const llama_layer layer = config().layer();
    const state_t<llama_layer, T> stateless{};
    layout<T> measure;
    describe(measure, layer, seq);
    auto scratch = device.template scratch<T>(measure.size());
    layout<T> l(scratch.data());
    const temporaries t = describe(l, layer, seq);

    embed(device, memory_->embedding, ids, t.hidden[0]);
    on_layer(0, matrix_view<const T>(t.hidden[0]));
    for (index i = 0; i < config().layers; ++i) {
      const matrix_view<const T> x = t.hidden[i % 2];
      const matrix_view<T> y = t.hidden[(i + 1) % 2];
      layer.forward(device, seq, memory_->layers[static_cast<std::size_t>(i)],
                    state ? state->views(i) : stateless, t.layer, x, y);
      on_layer(i + 1, matrix_view<const T>(y));
    }
    config().final_norm().forward(device, memory_->norm, t.norm,
                                  matrix_view<const T>(t.hidden[config().layers % 2]), last_hidden);
  }

  struct whole_temporaries {
    matrix_view<T> hidden;
    norm_tape<T> norm;
    rotary_tape<T> angles;
  };
  whole_temporaries describe_whole(layout<T>& l, sequence_view seq) const {
    return {l.matrix("hidden", seq.rows(), width()), config().final_norm().tape(l, seq),
            config().rope().tape(l, seq)};
  }
  /// Layer i as a device takes it that has a way of its own through the whole of it.
  decoder_layer_arguments<T> whole_layer(index i, sequence_view seq, const whole_temporaries& t) const {
    const auto& c = config();
    const auto& [mixer, inner] = memory_->layers[static_cast<std::size_t>(i)];
    const auto& [mixer_norm, a] = mixer;
    const auto& [inner_norm, f] = inner;
    const auto norm = c.final_norm();
    return {seq,
            {c.heads, c.kv_heads, c.head_dim},
            norm.template view<T>(mixer_norm.weight),
            norm.template view<T>(inner_norm.weight),
            a.q_proj.weight,
            a.k_proj.weight,
            a.v_proj.weight,
            a.o_proj.weight,
            a.q_proj.bias,
            a.k_proj.bias,
            a.v_proj.bias,
            f.gate_proj.weight,
            f.up_proj.weight,
            f.down_proj.weight,
            t.angles.cosines,
            t.angles.sines,
            t.hidden};
  }
  /// False, and nothing is done, where the device has no such way.
  template <class OnLayer>
  bool run_whole_layers(D& device, sequence_view seq, const std::int32_t* ids, matrix_view<T> last_hidden,
                        OnLayer& on_layer) const {
    layout<T> measure;
    const whole_temporaries sizes = describe_whole(measure, seq);
    for (index i = 0; i < config().layers; ++i)
      if (!has_decoder_layer(device, whole_layer(i, seq, sizes))) return false;
    auto scratch = device.template scratch<T>(measure.size());
    layout<T> l(scratch.data());
    const whole_temporaries t = describe_whole(l, seq);
    const matrix_view<const T> hidden = t.hidden;

    embed(device, memory_->embedding, ids, t.hidden);
    on_layer(0, hidden);
    config().rope().tables(device, seq, batched_state<T>{}, t.angles);
    for (index i = 0; i < config().layers; ++i) {
      decoder_layer_forward(device, whole_layer(i, seq, t));
      on_layer(i + 1, hidden);
    }
    config().final_norm().forward(device, memory_->norm, t.norm, hidden, last_hidden);
    return true;
  }

  // ---- loading
  // -----------------------------------------------------------------------------------------------
  /// What a GGUF file calls a tensor of Hugging Face.
  static std::string gguf_name(const std::string& name) {
    static const std::map<std::string, std::string> parts = {
        {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"},
        {"self_attn.q_proj", "attn_q"},   {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"},   {"self_attn.o_proj", "attn_output"},
        {"mlp.gate_proj", "ffn_gate"},    {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"},    {"model.embed_tokens", "token_embd"},
        {"model.norm", "output_norm"},    {"lm_head", "output"},
    };
    const std::string_view prefix = "model.layers.";
    const auto end = name.rfind('.');
    if (!name.starts_with(prefix)) return parts.at(name.substr(0, end)) + name.substr(end);
    const auto dot = name.find('.', prefix.size());
    return "blk." + name.substr(prefix.size(), dot - prefix.size()) + "." +
           parts.at(name.substr(dot + 1, end - dot - 1)) + name.substr(end);
  }
  static const io::tensor_info* find(const memory& m, const std::string& name) {
    const auto at = m.tensors.find(m.gguf ? gguf_name(name) : name);
    return at == m.tensors.end() ? nullptr : at->second;
  }

  /// Describes the whole model over any layout.
  template <class L>
  static void describe_model(L& l, const llama_config& c, frozen_matrix* embedding, frozen_matrix* head,
                             std::vector<params_t<llama_layer, L>>& layers,
                             norm_params<typename L::pointer>& norm) {
    const llama_layer layer = c.layer();
    const auto table = [&](frozen_matrix* to) {
      const auto m = l.matrix("weight", c.vocabulary, c.width);
      if constexpr (std::is_same_v<typename L::matrix_type, frozen_matrix>) *to = m;
      return no_state{};
    };
    l.scope("model", [&] {
      l.scope("embed_tokens", [&] { return table(embedding); });
      l.scope("layers", [&] {
        for (index i = 0; i < c.layers; ++i)
          layers.push_back(l.scope(std::to_string(i), [&] { return layer.params(l); }));
        return no_state{};
      });
      norm = l.scope("norm", [&] { return c.final_norm().params(l); });
      return no_state{};
    });
    if (!c.tied) l.scope("lm_head", [&] { return table(head); });
  }

  static void check_tensors(const memory& m, const std::string& path) {
    manifest wanted;
    layout<T> names(nullptr, &wanted);
    std::vector<params_t<llama_layer, layout<T>>> layers;
    norm_params<T*> norm;
    describe_model(names, m.config, nullptr, nullptr, layers, norm);
    io::tensor_match match;
    for (const auto& [name, t] : m.tensors) match.offer(name, *t);
    for (const auto& e : wanted) match.take(m.gguf ? gguf_name(e.name) : e.name, e.shape);
    match.ignore_if([&](const std::string& name) {
      const bool same_again = m.config.tied && name == "lm_head.weight";
      return same_again || name.ends_with("rotary_emb.inv_freq");
    });
    match.finish(path);
  }

  static void bind(D& device, memory& m, llama_load_options options) {
    // llama.cpp's converter stores the q and k rows of llama models with each rotary pair side by side.
    const bool paired = m.gguf && m.config.model_type == "llama";
    frozen_layout<T> l(
        [&](const std::string& name) -> stored_tensor {
          if constexpr (!D::host_memory) m.unpacked.clear(), m.reordered.clear();  // has been copied
          stored_tensor t = find(m, name)->stored();
          const bool reorder = paired && (name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight"));
          const bool widen = traits(t.dtype).block_size > 1 && options.unpack_quantised && t.shape.size() == 2;
          if (reorder || (widen && D::host_memory))
            convert(device, m, t, reorder ? m.config.head_dim : 0, widen);
          return t;
        },
        m.kept);
    describe_model(l, m.config, &m.embedding, &m.head, m.layers, m.norm);
    if (m.config.tied) m.head = m.embedding;
  }

  /// Row r of a converted matrix.
  struct convert_row {
    stored_tensor from;
    index head_dim;  ///< 0: rows keep their order
    bool widen;
    std::byte* to;
    void operator()(index r) const {
      index source = r;
      if (head_dim > 0) {
        const index half = head_dim / 2, within = r % head_dim;
        source = r - within + 2 * (within % half) + within / half;
      }
      const index cols = from.shape[1], bytes = row_bytes(from.dtype, cols);
      const auto* row = static_cast<const std::byte*>(from.data) + source * bytes;
      if (widen)
        unpack(from.dtype, row, cols, reinterpret_cast<float*>(to) + r * cols);
      else
        std::memcpy(to + r * bytes, row, static_cast<std::size_t>(bytes));
    }
  };
  static void convert(D& device, memory& m, stored_tensor& t, index head_dim, bool widen) {
    const index rows = t.shape[0], cols = t.shape[1];
    std::byte* to;
    if (widen)
      to = reinterpret_cast<std::byte*>(m.unpacked.emplace_back(static_cast<std::size_t>(rows * cols)).data());
    else
      to = m.reordered.emplace_back(static_cast<std::size_t>(rows * row_bytes(t.dtype, cols))).data();
    const convert_row row{t, head_dim, widen, to};
    if constexpr (D::host_memory)
      parallel_for(device, rows, row);
    else
      for (index r = 0; r < rows; ++r) row(r);
    t.data = to;
    if (widen) t.dtype = dtype::f32;
  }

  std::shared_ptr<const memory> memory_;
};

}  // namespace distil_xlstm
