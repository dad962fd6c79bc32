#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/block/embedding.hpp>
#include <distil_xlstm/block/repeat.hpp>
#include <distil_xlstm/core/hash.hpp>
#include <distil_xlstm/device/frozen_memory.hpp>
#include <distil_xlstm/model/embedded_stack.hpp>
#include <distil_xlstm/model/fingerprint.hpp>
#include <distil_xlstm/model/memory.hpp>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm {

/// What a model has for weights: a stack of its own, which training changes, between a teacher's embedding and head;
struct trainable {
  template <class B, class T, class D>
  using memory = weight_memory<B, T, D>;  ///< what it has, of a stack `B`
};
/// all of them its own, embedding and head, too;
struct fully_trainable {
  template <class B, class T, class D>
  using memory = weight_memory<embedded_stack<B>, T, D>;  ///< what it has, of a stack `B`
};
/// or those of a file.
struct frozen {
  template <class B, class T, class D>
  using memory = frozen_weights<embedded_stack<B>, T, D>;  ///< what it has, of a stack `B`
};

/// Where a model's tensors come from: the stored tensor of a name. On a device that shares the host's memory it
/// stays there, on others until the next is asked for.
using tensor_source = std::function<stored_tensor(const std::string&)>;

namespace detail {
/// A family is a configuration: vocabulary, width, whether the head is the embedding (`tied`), the stack between
/// the two, and what files call them all; `identify(fnv_hash&)`, where there is one, adds the numbers that change what
/// the model says and that no tensor tells. A stack alone is a family, too.
template <class Family>
struct family_of {
  using stack_type = decltype(std::declval<const Family&>().stack());
  static stack_type stack(const Family& f) { return f.stack(); }
  static std::string_view prefix(const Family& f) { return f.prefix; }
  static std::string_view embedding(const Family& f) { return f.embedding_name; }
  static std::string_view head(const Family& f) { return f.head_name; }
};
template <Block Stack>
struct family_of<Stack> {
  using stack_type = Stack;
  static Stack stack(const Stack& s) { return s; }
  static std::string_view prefix(const Stack&) { return "stack"; }
  static std::string_view embedding(const Stack&) { return "token_embedding.weight"; }
  static std::string_view head(const Stack&) { return "lm_head.weight"; }
};
template <class Family>
concept ModelFamily = requires {
  typename family_of<Family>::stack_type;
};
}  // namespace detail

/// All weights of a configuration's model, under the family's names.
template <class Family>
auto all_weights_of(const Family& f) {
  return embedded_stack<decltype(f.stack())>{f.stack(),
                                             f.vocabulary,
                                             f.tied,
                                             std::string(f.embedding_name),
                                             std::string(f.prefix),
                                             std::string(f.head_name)};
}

/// A language model: logits = stack(embedding[ids]) headᵀ, softly capped where the family says so. `Weights` says what
/// it owns: the stack's weights, embedding and head being frozen and borrowed from a teacher (`trainable`), or all
/// (`fully_trainable`), or nothing, sharing a file's (`frozen`). Const use from several threads is safe, each with its
/// own device, state and tape. A frozen model can be copied, and copies share the weights.
///
/// `Family` is a configuration, such as `llama_config`, or a block of one's own that maps the embedding's width to
/// itself, such as `stack<Layer, N>`; its sizes may be known to the compiler or only to the program.
template <class Family, class T, class D, class Weights = trainable>
class model {
  static_assert(
      detail::ModelFamily<Family> && std::floating_point<T> && Device<D>,
      "distil_xlstm::model<Family, T, D>: Family is a stack or a configuration of one, T float or double, "
      "and D a device; write model<xlstm_config, float, device::cpu>");
  using family = detail::family_of<Family>;
  static constexpr bool is_frozen = std::same_as<Weights, frozen>;
  static constexpr bool borrows_embedding_and_head = std::same_as<Weights, trainable>;
  static constexpr bool is_stack = Block<Family>;

 public:
  /// Embedding and head are trained, too.
  static constexpr bool trains_embedding_and_head = std::same_as<Weights, fully_trainable>;
  /// Outputs that are in memory when `on_layer` of a forward sees one: its own and those of the layers before it, but
  /// not the embedding's; as many as the stack says, or one.
  static constexpr index kept_outputs = detail::kept_outputs_of<typename family::stack_type>;
  using scalar = T;                                   ///< of hidden states, of what is trained, and of logits
  using device_type = D;                              ///< on which it runs, and whose memory has its weights
  using family_type = Family;                         ///< its configuration, or a stack of one's own
  using stack_type = typename family::stack_type;     ///< the block between embedding and head
  using state_type = state_memory<stack_type, T, D>;  ///< of `make_state`
  using tape_type = tape_memory<stack_type, T, D>;    ///< of `make_tape`
  /// Of `weights`, and of their gradients.
  using weights_type = typename Weights::template memory<stack_type, T, D>;

  /// `owner` keeps the memory of `embedding` and `head` [vocabulary, width] alive, which lie where the device
  /// reads them (`upload_embedding_and_head`); the names of a stack of one's own begin with `prefix` and a dot.
  /// Weights are zero until initialised or loaded. Throws `error` where the sizes do not fit.
  model(D& device, Family config, frozen_matrix embedding, frozen_matrix head,
        std::shared_ptr<const void> owner, std::string_view prefix = {}) requires(borrows_embedding_and_head)
      : config_(std::move(config)),
        stack_(family::stack(config_)),
        embedding_(embedding),
        head_(head),
        weights_(device, stack_),
        owner_(std::move(owner)) {
    require(embedding.data && embedding.rows > 0, "model: the embedding has no numbers");
    require(head.data, "model: the head has no numbers");
    require(embedding.rows == head.rows && embedding.cols == head.cols, "model: the embedding is [",
            embedding.rows, ", ", embedding.cols, "], the head [", head.rows, ", ", head.cols, "]");
    require(index(stack_.width_in()) == embedding.cols && index(stack_.width_out()) == head.cols,
            "model: the stack maps width ", index(stack_.width_in()), " to ", index(stack_.width_out()),
            ", embedding and head have width ", embedding.cols);
    if constexpr (!is_stack) {
      require(embedding.rows == config_.vocabulary, "model: the embedding has ", embedding.rows,
              " rows, the configuration asks for ", config_.vocabulary);
      require(config_.tied == (embedding.data == head.data), "model: the configuration says that the head is ",
              config_.tied ? "the embedding" : "a matrix of its own", ", but they are ",
              config_.tied ? "two matrices" : "one");
    }
    name_tensors(prefix.empty() ? family::prefix(config_) : prefix);
  }
  /// Between the embedding and the head of `teacher`, whose memory it keeps alive.
  template <class Teacher>
  model(D& device, Family config, const Teacher& teacher) requires(borrows_embedding_and_head)
      : model(device, std::move(config), teacher.embedding(), teacher.head(),
              std::make_shared<const Teacher>(teacher)) {}
  /// All of it as `find` gives it; `files` keeps that alive.
  model(D& device, Family config, const tensor_source& find,
        std::shared_ptr<const void> files) requires(is_frozen)
      : model(std::move(config), find, std::move(files), std::make_shared<frozen_memory<T, D>>(device)) {}

  /// All of it trained; the weights are zero until initialised or loaded.
  model(D& device, Family config) requires(trains_embedding_and_head)
      : config_(std::move(config)), stack_(family::stack(config_)), weights_(device, all_weights_of(config_)) {
    const auto& [embedding, stack, head] = weights_.views();
    embedding_ = {embedding.data, dtype_of<T>, embedding.rows, embedding.cols};
    head_ = {head.data, dtype_of<T>, head.rows, head.cols};
    layout<T> names(nullptr, &names_);
    all_weights_of(config_).params(names);
  }

  /// The same weights as another configuration reads them. Throws `error` unless it has the same tensors.
  model with(Family config) const requires(is_frozen) {
    model other = *this;
    other.config_ = std::move(config), other.stack_ = family::stack(other.config_);
    other.state_kind_ = detail::state_kind(other.stack_), other.tape_kind_ = detail::tape_kind(other.stack_);
    other.names_.clear();
    other.name_tensors(family::prefix(other.config_));
    const auto same = [](const manifest_entry& a, const manifest_entry& b) {
      return a.name == b.name && a.shape == b.shape;
    };
    require(std::equal(names_.begin(), names_.end(), other.names_.begin(), other.names_.end(), same),
            "model: a configuration of other tensors");
    return other;
  }

  /// As it was given.
  const Family& config() const { return config_; }
  /// The block that its state, tape and passes are of.
  const stack_type& stack() const { return stack_; }
  /// What its `weights()` are described by.
  auto trained() const requires(!is_frozen) {
    if constexpr (trains_embedding_and_head)
      return all_weights_of(config_);
    else
      return stack_;
  }
  /// Names, shapes and places of the tensors that it owns; of a frozen model's, of the stack's.
  const manifest& names() const { return names_; }
  /// @{
  /// What the family's files call it.
  std::string embedding_name() const { return std::string(family::embedding(config_)); }
  std::string head_name() const { return std::string(family::head(config_)); }
  /// @}
  /// What it owns, or of a frozen model what its files have.
  const weights_type& weights() const { return weights_; }
  /// Copies of it keep weights, and give them back: `auto best = m.weights(); ...; m.weights() = best;`.
  weights_type& weights() requires(!is_frozen) { return weights_; }
  /// The stack's part of `weights().views()`.
  const auto& stack_weights() const {
    if constexpr (borrows_embedding_and_head)
      return weights_.views();
    else
      return weights_.views().stack;
  }
  /// @{
  /// [vocabulary, width], in the device's memory; they live as long as `owner`, or, where they are trained, as the
  /// model. A head that caps its logits is no matrix, but a `logit_head`: give it to `write_logits`.
  frozen_matrix embedding() const { return embedding_; }
  auto head() const {
    if constexpr (requires { config_.logit_cap; })
      return logit_head(head_, config_.logit_cap);
    else
      return head_;
  }
  /// @}
  /// What `loss::head` takes: the head, or, where it is trained, that beside the teacher's, and the gradient of it.
  auto heads(weights_type& gradients, const frozen_matrix& teacher) const requires(!is_frozen) {
    if constexpr (trains_embedding_and_head)
      return head_pair<matrix_view<const T>, frozen_matrix, T>{weights_.views().head, teacher,
                                                               gradients.views().head};
    else
      return head();
  }
  /// Keeps embedding and head alive; null where they are trained.
  std::shared_ptr<const void> owner() const { return owner_; }
  /// Numbers of a hidden state.
  index width() const { return embedding_.cols; }
  /// Ids are below this: rows of embedding and head.
  index vocabulary() const { return embedding_.rows; }
  /// Layers of the stack.
  index depth() const { return stack_.count(); }
  /// Whether the model remembers a text in caches that grow with it: then a state declares its capacity.
  bool has_cache() const {
    layout<T> l;
    l.capacity(1);
    stack_.state(l);
    return l.held() > 0;
  }

  /// Every tensor as its block says a new one begins, from a seed.
  void initialise(D& device, std::uint64_t seed) requires(!is_frozen) {
    rng random(seed);
    std::vector<T> values;
    for (const auto& e : names_) {
      values.resize(static_cast<std::size_t>(e.size));
      for (index i = 0; i < e.size; ++i)
        values[static_cast<std::size_t>(i)] = static_cast<T>(e.initial(i, random));
      device.upload(weights_.data() + e.offset, values.data(), e.size * static_cast<index>(sizeof(T)));
    }
  }

  /// Empty texts. `capacity` is how many tokens of each a cache holds; without it there is none, and a text that
  /// began before a call counts from the call's first token.
  state_type make_state(D& device, index batch, index capacity = 0) const {
    return {device, stack_, batch, capacity};
  }
  /// For a forward of [batch, time] tokens; `transient` where no backward follows it.
  tape_type make_tape(D& device, index batch, index time, bool transient = true) const {
    return {device, stack_, batch, time, transient};
  }

  /// hidden = stack(embedding[ids]), the vectors that the head reads. `x` is where the embeddings go. All of
  /// it, `seq.start` and `ids` too, lies in the device's memory. Advances the first seq.batch sequences of
  /// `state`, which has no cache. `on_output(i, y_i)` sees each layer's output where the stack shows them.
  template <class Taps = no_taps>
  void forward(D& device, sequence_view seq, const std::int32_t* ids, const state_type& state,
               const tape_type& tape, matrix_view<T> x, matrix_view<T> hidden, Taps&& on_output = {}) const {
    require_state(state, seq);
    require_tape(tape, seq);
    require(state.capacity() == 0, "model: a forward with a tape takes a state without caches");
    require_rows("the embeddings", x, seq);
    require_rows("the hidden states", hidden, seq);
    embed(device, embedding_, ids, x);
    run_stack(device, seq, state.views(), tape.views(), x, hidden, on_output);
  }

  /// What `dhidden` gives, after such a forward: adds to the gradients, but those of the head; dx is used as scratch.
  /// `add_gradient(i, dy_i)` adds to the gradient of each layer's output where the stack shows them.
  template <class Taps = no_taps>
  void backward(D& device, sequence_view seq, const std::int32_t* ids, weights_type& gradients,
                const tape_type& tape, matrix_view<const T> x, matrix_view<const T> dhidden, matrix_view<T> dx,
                Taps&& add_gradient = {}) const requires(!is_frozen) {
    require_tape(tape, seq);
    require(
        !tape.transient(),
        "model: the tape is transient, which no backward can follow: make_tape(device, batch, time, false)");
    require_rows("the embeddings", x, seq);
    require_rows("the gradients of the hidden states", dhidden, seq);
    require_rows("the gradients of the embeddings", dx, seq);
    const auto& stack_gradients = [&]() -> const auto& {
      if constexpr (trains_embedding_and_head)
        return gradients.views().stack;
      else
        return gradients.views();
    }
    ();
    if constexpr (std::is_same_v<std::remove_cvref_t<Taps>, no_taps>)
      stack_.backward(device, seq, kernel_weights(), stack_gradients, tape.views(), x, dhidden, dx);
    else
      stack_.backward(device, seq, kernel_weights(), stack_gradients, tape.views(), x, dhidden, dx,
                      add_gradient);
    if constexpr (trains_embedding_and_head)
      embed_backward(device, ids, matrix_view<const T>(dx), gradients.views().embedding);
  }

  /// A forward where no backward follows, in the device's scratch. on_layer(i, h) sees the embedding (i = 0) and
  /// each layer's output, before the final norm. Throws `error`, before anything changes, when a sequence would
  /// exceed the capacity of a cache.
  template <class OnLayer = no_taps>
  void forward(D& device, sequence_view seq, const std::int32_t* ids, state_type& state, matrix_view<T> hidden,
               OnLayer&& on_layer = {}) const {
    require_state(state, seq);
    state.advance(seq);
    forward_unchecked(device, seq, ids, state, hidden, on_layer);
  }
  /// For whoever knows that there is room: nothing but work of the device, which can be recorded.
  template <class OnLayer = no_taps>
  void forward_unchecked(D& device, sequence_view seq, const std::int32_t* ids, const state_type& state,
                         matrix_view<T> hidden, OnLayer&& on_layer = {}) const {
    run(device, seq, ids, state.views(), hidden, on_layer);
  }
  /// Of a model with caches alone, without any: each text from its beginning, or from the call's.
  template <class OnLayer = no_taps>
  void forward(D& device, sequence_view seq, const std::int32_t* ids, matrix_view<T> hidden,
               OnLayer&& on_layer = {}) const {
    layout<T> none;
    const auto state = stack_.state(none);
    require(none.size() == 0, "model: it is recurrent, and needs a state to go on from");
    run(device, seq, ids, state, hidden, on_layer);
  }

  /// Tells this model from others: a hash of names and shapes, of each tensor's middle row (where it is trainable, as
  /// it is now), and of what the family's `identify` adds. Two that differ elsewhere alone are taken for one.
  model_fingerprint fingerprint(D& device) const {
    fnv_hash hash;
    for (const auto& e : names_) {
      hash.add(e.name);
      for (const index n : e.shape) hash.add(n);
    }
    hash.add(tensors_hash_);
    host_copy<std::byte, D> host;
    const auto add = [&](dtype type, const void* data, index rows, index cols) {
      const index row = row_bytes(type, cols);
      const std::byte* at = host.get(device, static_cast<const std::byte*>(data) + rows / 2 * row, row);
      add_row(hash, {at, type, {1, cols}});
    };
    if constexpr (!is_frozen)
      for (const auto& e : names_)
        add(dtype_of<T>, weights_.data() + e.offset, e.shape.front(), e.size / e.shape.front());
    for (const auto* m : {&embedding_, &head_}) add(m->dtype, m->data, m->rows, m->cols);
    const std::uint64_t tensors = hash.value();
    if constexpr (requires { config_.identify(hash); }) config_.identify(hash);
    return {tensors, hash.value()};
  }

 private:
  model(Family config, const tensor_source& find, std::shared_ptr<const void> files,
        std::shared_ptr<frozen_memory<T, D>> memory) requires(is_frozen)
      : config_(std::move(config)),
        stack_(family::stack(config_)),
        weights_(bind(find, *memory), memory),
        // Where the device has copied everything, the files can go.
        owner_(std::make_shared<const std::pair<std::shared_ptr<const void>, std::shared_ptr<const void>>>(
            memory, D::host_memory ? std::move(files) : nullptr)) {
    name_tensors(family::prefix(config_));
  }
  params_t<embedded_stack<stack_type>, frozen_layout<T>> bind(const tensor_source& find,
                                                              frozen_memory<T, D>& memory) requires(is_frozen) {
    fnv_hash hash;
    frozen_layout<T> l(
        [&](const std::string& name) {
          stored_tensor t = find(name);
          add_row(hash, t);
          return t;
        },
        memory);
    auto views = all_weights_of(config_).params(l);
    embedding_ = views.embedding, head_ = views.head;
    tensors_hash_ = hash.value();
    return views;
  }
  void name_tensors(std::string_view prefix) {
    layout<T> names(nullptr, &names_);
    names.scope(prefix, [&] { return stack_.params(names); });
  }
  /// Of a tensor's middle row, the numbers as float.
  static void add_row(fnv_hash& hash, const stored_tensor& t) {
    if (t.shape.empty() || t.shape.front() == 0) return;
    index cols = 1;
    for (std::size_t i = 1; i < t.shape.size(); ++i) cols *= t.shape[i];
    std::vector<float> row(static_cast<std::size_t>(cols));
    unpack(t.dtype, static_cast<const std::byte*>(t.data) + t.shape.front() / 2 * row_bytes(t.dtype, cols),
           cols, row.data());
    hash.add(row.data(), row.size() * sizeof(float));
  }

  const auto& kernel_weights() const {
    const auto& views = detail::kernel_views::of(weights_);
    if constexpr (borrows_embedding_and_head)
      return views;
    else
      return views.stack;
  }
  void require_state(const state_type& state, sequence_view seq) const {
    require(state.kind() == state_kind_, "model: the state was made for a stack of other sizes");
    require(state.batch() >= seq.batch, "model: a state of ", state.batch(), " sequences for ", seq.batch);
  }
  void require_tape(const tape_type& tape, sequence_view seq) const {
    require(tape.kind() == tape_kind_, "model: the tape was made for a stack of other sizes");
    require(tape.fits(seq), "model: the tape was made for another shape than [", seq.batch, ", ", seq.time,
            "]");
  }
  template <class U>
  void require_rows(const char* what, matrix_view<U> m, sequence_view seq) const {
    require(m.rows == seq.rows() && m.cols == width(), "model: ", what, " are [", m.rows, ", ", m.cols,
            "], the call needs [", seq.rows(), ", ", width(), "]");
  }

  template <class OnLayer>
  void run(D& device, sequence_view seq, const std::int32_t* ids, const state_t<stack_type, T>& state,
           matrix_view<T> hidden, OnLayer& on_layer) const {
    require_rows("the hidden states", hidden, seq);
    if (seq.rows() == 0) return;
    matrix_view<T> x;
    const auto describe = [&](layout<T> l) {
      l.transient(true);
      auto tape = stack_.tape(l, seq);
      if constexpr (requires { stack_.input(tape); })
        x = stack_.input(tape);
      else
        x = l.matrix("x", seq.rows(), width());
      return std::pair{std::move(tape), l.size()};
    };
    const auto memory = device.template scratch<T>(describe(layout<T>()).second);
    const auto tape = describe(layout<T>(memory.data())).first;
    embed(device, embedding_, ids, x);
    if constexpr (std::is_same_v<OnLayer, const no_taps> || std::is_same_v<OnLayer, no_taps>) {
      run_stack(device, seq, state, tape, x, hidden, on_layer);
    } else {
      on_layer(0, matrix_view<const T>(x));
      run_stack(device, seq, state, tape, x, hidden,
                [&](index i, matrix_view<const T> y) { on_layer(i + 1, y); });
    }
  }
  template <class S, class K, class Taps>
  void run_stack(D& device, sequence_view seq, const S& state, const K& tape, matrix_view<T> x,
                 matrix_view<T> hidden, Taps&& on_output) const {
    const matrix_view<const T> in = x;
    if constexpr (std::is_same_v<std::remove_cvref_t<Taps>, no_taps>)
      stack_.forward(device, seq, kernel_weights(), state, tape, in, hidden);
    else
      stack_.forward(device, seq, kernel_weights(), state, tape, in, hidden, on_output);
  }

  Family config_;
  stack_type stack_;
  manifest names_;
  frozen_matrix embedding_, head_;
  std::uint64_t tensors_hash_ = 0;
  weights_type weights_;
  std::shared_ptr<const void> owner_;
  /// Copies of a model share its weights: of what is trained there are none, but of its weights.
  struct moved_only {
    moved_only() = default;
    moved_only(moved_only&&) noexcept = default;
    moved_only& operator=(moved_only&&) noexcept = default;
  };
  [[no_unique_address]] std::conditional_t<is_frozen, no_taps, moved_only> copies_{};
  std::uint64_t state_kind_ = detail::state_kind(stack_), tape_kind_ = detail::tape_kind(stack_);
};
/// Trainable, between the embedding and head of a teacher, whose numbers' type it has.
template <Block Stack, class Teacher, Device D>
model(D&, Stack, const Teacher&) -> model<Stack, typename Teacher::scalar, D>;
/// The same of a configuration.
template <detail::ModelFamily Family, class Teacher, Device D>
requires(!Block<Family>) model(D&, Family, const Teacher&)
->model<Family, typename Teacher::scalar, D>;

}  // namespace distil_xlstm
