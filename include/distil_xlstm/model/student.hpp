#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/block/embedding.hpp>
#include <distil_xlstm/block/repeat.hpp>
#include <distil_xlstm/device/frozen_memory.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/io/tensor_match.hpp>
#include <distil_xlstm/model/memory.hpp>

namespace distil_xlstm {

/// A language model with a frozen embedding, a stack of one's own, and a frozen head: logits =
/// stack(embedding[ids]) headᵀ. The stack's weights are its own; embedding and head are borrowed, from a
/// teacher or from a file. Const use from several threads is safe, each with its own device, state and tape.
///
/// `Stack` is any block that maps the embedding's width to itself, such as `stack<Layer, N>`; its sizes may be
/// known to the compiler or only to the program. `xlstm` is the student that a config.json describes.
template <class Stack, class T, class D>
class student {
  static_assert(
      Block<Stack> && std::floating_point<T> && Device<D>,
      "distil_xlstm::student<Stack, T, D>: Stack is a block, T float or double, and D a device; write "
      "student<stack<layer>, float, device::cpu>");

 public:
  using scalar = T;
  using device_type = D;
  using stack_type = Stack;
  using state_type = state_memory<Stack, T, D>;
  using tape_type = tape_memory<Stack, T, D>;
  using weights_type = weight_memory<Stack, T, D>;

  /// `owner` keeps the memory of `embedding` and `head` [vocabulary, width] alive, which lie where the device
  /// reads them (`upload_embedding_and_head`); the stack's tensors are called `prefix`.<...>. Weights are zero until
  /// initialised or loaded. Throws `error` when the widths differ.
  student(D& device, Stack stack, frozen_matrix embedding, frozen_matrix head,
          std::shared_ptr<const void> owner, std::string_view prefix = "stack")
      : stack_(std::move(stack)),
        weights_(device, stack_),
        embedding_(embedding),
        head_(head),
        owner_(std::move(owner)) {
    require(embedding.rows == head.rows && embedding.cols == head.cols, "student: the embedding is [",
            embedding.rows, ", ", embedding.cols, "], the head [", head.rows, ", ", head.cols, "]");
    require(index(stack_.width_in()) == embedding.cols && index(stack_.width_out()) == head.cols,
            "student: the stack maps width ", index(stack_.width_in()), " to ", index(stack_.width_out()),
            ", embedding and head have width ", embedding.cols);
    layout<T> names(nullptr, &names_);
    names.scope(prefix, [&] { return stack_.params(names); });
  }

  /// Between the embedding and the head of `teacher`, whose memory it keeps alive.
  template <class Teacher>
  student(D& device, Stack stack, const Teacher& teacher)
      : student(device, std::move(stack), teacher.embedding(), teacher.head(),
                std::make_shared<const Teacher>(teacher)) {}

  const Stack& stack() const { return stack_; }
  /// Checkpoint names, shapes and places of the stack's tensors.
  const manifest& names() const { return names_; }
  const weights_type& weights() const { return weights_; }
  frozen_matrix embedding() const { return embedding_; }
  frozen_matrix head() const { return head_; }
  index width() const { return embedding_.cols; }
  index vocabulary() const { return embedding_.rows; }

  /// Every tensor as its block says a new one begins, from a seed.
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

  /// hidden = stack(embedding[ids]), the vectors that the head reads. `x` is where the embeddings go. All of
  /// it, `seq.start` and `ids` too, lies in the device's memory. Advances the first seq.batch sequences of
  /// `state`. `on_output(i, y_i)` sees each layer's output where the stack shows them.
  template <class Taps = no_taps>
  void forward(D& device, sequence_view seq, const std::int32_t* ids, const state_type& state,
               const tape_type& tape, matrix_view<T> x, matrix_view<T> hidden, Taps&& on_output = {}) const {
    require(tape.fits(seq) && state.batch() >= seq.batch, "student: tape or state was made for another shape");
    embed(device, embedding_, ids, x);
    const matrix_view<const T> in = x;
    if constexpr (std::is_same_v<std::remove_cvref_t<Taps>, no_taps>)
      stack_.forward(device, seq, weights_.views(), state.views(), tape.views(), in, hidden);
    else
      stack_.forward(device, seq, weights_.views(), state.views(), tape.views(), in, hidden, on_output);
  }

  /// Writes every tensor, embedding and head included, as `kind`: F32 or BF16 (F64 in proofs).
  void save_tensors(D& device, const std::filesystem::path& path, dtype type = dtype::f32) const {
    const bool tied = embedding_.data == head_.data;
    io::safetensors_writer file;
    file.metadata("format", "pt");
    file.declare("token_embedding.weight", type, {vocabulary(), width()});
    for (const auto& e : names_) file.declare(e.name, type, e.shape);
    if (!tied) file.declare("lm_head.weight", type, {vocabulary(), width()});
    file.open(path);
    const auto frozen = [&](const frozen_matrix& m) {
      for_each_frozen_row<T>(device, m, [&](index, const T* values) { file.append(values, m.cols); });
    };
    frozen(embedding_);
    host_copy<T, D> values;
    for (const auto& e : names_) file.append(values.get(device, weights_.data() + e.offset, e.size), e.size);
    if (!tied) frozen(head_);
    file.commit();
  }

  /// Reads the stack's tensors back from such a file. Throws `error` that lists every tensor that is missing,
  /// unused, misshapen or not finite; nothing has changed then.
  void load_tensors(D& device, const std::filesystem::path& path) {
    const io::safetensors_file file(path);
    io::tensor_match match;
    for (const auto& t : file.tensors()) match.offer(t.name, t);
    for (const char* end : {"token_embedding.weight", "lm_head.weight"}) match.ignore(end);
    std::vector<std::vector<T>> values(names_.size());
    for (std::size_t n = 0; n < names_.size(); ++n) {
      const io::tensor_info* t = match.take(names_[n].name, names_[n].shape);
      if (!t) continue;
      values[n] = t->template values<T>();
      const auto finite = [](T x) { return std::isfinite(static_cast<double>(x)); };
      if (!std::all_of(values[n].begin(), values[n].end(), finite))
        match.complain(names_[n].name + " holds a number that is not finite");
    }
    match.finish(file.path());
    for (std::size_t n = 0; n < names_.size(); ++n)
      device.upload(weights_.data() + names_[n].offset, values[n].data(),
                    names_[n].size * static_cast<index>(sizeof(T)));
  }

 private:
  Stack stack_;
  manifest names_;
  weights_type weights_;
  frozen_matrix embedding_, head_;
  std::shared_ptr<const void> owner_;
};
template <Block Stack, class Teacher, Device D>
student(D&, Stack, const Teacher&) -> student<Stack, typename Teacher::scalar, D>;

}  // namespace distil_xlstm
