#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/core/hash.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/frozen_memory.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

template <class B, class T, class D>
class weight_memory;

namespace detail {
/// Tells what a block describes from what others do: a hash of the names and shapes that `describe(layout)` takes.
/// Throws `error` where the block has sizes that make no sense, which its weights check.
template <class B, class F>
std::uint64_t description_hash(const B& block, const F& describe) {
  layout<float> weights;
  block.params(weights);
  manifest names;
  layout<float> l(nullptr, &names);
  describe(l);
  fnv_hash hash;
  for (const auto& e : names) {
    hash.add(e.name);
    for (const index n : e.shape) hash.add(n);
  }
  return hash.value();
}
/// Of a block's state; of caches, as if they held one token.
template <class B>
std::uint64_t state_kind(const B& block) {
  return description_hash(block, [&](layout<float>& l) { l.capacity(1), block.state(l); });
}
/// Of its tape, of one token.
template <class B>
std::uint64_t tape_kind(const B& block) {
  return description_hash(block, [&](layout<float>& l) { block.tape(l, sequence_view{}); });
}
/// The views that kernels read, of whatever a model has for weights.
struct kernel_views {
  template <class B, class T, class D>
  static const weights_t<B, T>& of(const weight_memory<B, T, D>& m) {
    return m.views_;
  }
  template <class M>
  static const auto& of(const M& m) {
    return m.views();
  }
};
}  // namespace detail

/// Weights, or gradients, or a moment of them: one arena, and the views over it of a block, or of what else describes
/// weights as one does (`params`). Who has it const reads alone.
template <class B, class T, class D>
class weight_memory {
  static_assert(
      requires(const B& b, layout<float>& l) { b.params(l); } && std::floating_point<T> && Device<D>,
      "distil_xlstm::weight_memory<B, T, D>: B is a block, T float or double, and D a device; write "
      "weight_memory<slstm, float, device::cpu>");

 public:
  /// Memory for what `block` describes, zero at first. Throws `error` as its `params` does.
  weight_memory(D& device, const B& block) : device_(&device), block_(block) { bind(); }
  /// The same numbers in memory of their own: the best weights so far, say.
  weight_memory(const weight_memory& other) : device_(other.device_), block_(other.block_) {
    bind();
    *this = other;
  }
  /// @{
  /// The memory itself moves: views over it stay valid.
  weight_memory(weight_memory&&) noexcept = default;
  weight_memory& operator=(weight_memory&&) noexcept = default;
  /// @}
  /// The other's numbers, in the memory that is there: whoever works with it sees them. Throws `error` unless both
  /// describe the same tensors.
  weight_memory& operator=(const weight_memory& other) {
    if (this == &other) return *this;
    require(names() == other.names(), "weights: the others are those of another model");
    device_->copy(arena_.data(), other.arena_.data(), size() * static_cast<index>(sizeof(T)));
    return *this;
  }
  /// @{
  /// The tensors, as `params` of the block gives them.
  const weights_t<B, T>& views() { return views_; }
  const weights_t<B, const T>& views() const { return const_views_; }
  /// @}
  /// @{
  /// The arena, in the device's memory: a `manifest` of the block says where each tensor begins.
  T* data() { return arena_.data(); }
  const T* data() const { return arena_.data(); }
  /// @}
  /// Numbers of the arena, those between tensors among them.
  index size() const { return arena_.size(); }

 private:
  void bind() {
    layout<T> measure;
    block_.params(measure);
    arena_ = buffer<T, D>(*device_, measure.size());
    layout<T> bind(arena_.data());
    views_ = block_.params(bind);
    layout<const T> read(arena_.data());
    const_views_ = block_.params(read);
  }
  std::uint64_t names() const {
    return detail::description_hash(block_, [this](layout<float>& l) { block_.params(l); });
  }

  D* device_;
  B block_;
  buffer<T, D> arena_;
  weights_t<B, T> views_;
  weights_t<B, const T> const_views_;

  /// A model's own passes take views of one type, those that gradients have, so that each is compiled once.
  friend struct detail::kernel_views;
};

/// Weights as a file holds them, which nothing changes: matrices as they are stored, in the file where the device
/// reads the host's memory (`frozen_memory`), the small rest widened to T. Copies share them.
template <class B, class T, class D>
class frozen_weights {
 public:
  using views_type = params_t<B, frozen_layout<T>>;  ///< what the block's `params` gives of a file
  /// `memory` has what `views` refers to, and keeps alive.
  frozen_weights(views_type views, std::shared_ptr<const void> memory)
      : views_(std::make_shared<const views_type>(std::move(views))), memory_(std::move(memory)) {}
  /// Valid while a copy of this lives.
  const views_type& views() const { return *views_; }

 private:
  std::shared_ptr<const views_type> views_;
  std::shared_ptr<const void> memory_;
};

namespace detail {
/// Every row becomes the same.
template <class T>
struct empty_sequences {
  using scalar = T;
  const T* empty;
  matrix_view<T> states;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index b, index c) const {
    math::store<V>(states.row(b) + c, math::load<V>(empty + c));
  }
};
}  // namespace detail

/// The whole memory of `batch` sequences: what is recurrent, and caches of keys and values for up to `capacity`
/// tokens each. Sequence b is one run of elements, so that sequences are reset, copied, saved and moved between
/// batches one by one; a copy of all of it continues every text twice.
template <class B, class T, class D>
class state_memory {
  static_assert(Block<B> && std::floating_point<T> && Device<D>,
                "distil_xlstm::state_memory<B, T, D>: B is a block, T float or double, and D a device; write "
                "state_memory<slstm, float, device::cpu>");

 public:
  /// Empty sequences. Throws `error` where such numbers, or the block's sizes, are not possible.
  state_memory(D& device, const B& block, index batch, index capacity = 0)
      : device_(&device), block_(block), kind_(detail::state_kind(block)), batch_(batch), declared_(capacity) {
    require(batch >= 0 && capacity >= 0, "state: ", batch, " sequences of ", capacity,
            " tokens are not possible");
    layout<T> measure(nullptr, &names_);
    measure.capacity(capacity);
    block.state(measure);
    stride_ = measure.size(), capacity_ = measure.held();
    lengths_.resize(static_cast<std::size_t>(capacity_ > 0 ? batch : 0)), next_ = lengths_;
    bind();
    write_empty();
    reset();
  }
  /// The same texts, in memory of their own.
  state_memory(const state_memory& other)
      : device_(other.device_),
        block_(other.block_),
        kind_(other.kind_),
        batch_(other.batch_),
        declared_(other.declared_),
        stride_(other.stride_),
        capacity_(other.capacity_),
        names_(other.names_),
        lengths_(other.lengths_),
        next_(other.lengths_) {
    bind();
    write_empty();
    device_->copy(arena_.data(), other.arena_.data(), batch_ * bytes(stride_));
  }
  /// @{
  /// The memory itself moves: views over it stay valid.
  state_memory(state_memory&&) noexcept = default;
  state_memory& operator=(state_memory&&) noexcept = default;
  /// @}
  /// In new memory, whatever the shape was: views taken before are void.
  state_memory& operator=(const state_memory& other) {
    if (this != &other) *this = state_memory(other);
    return *this;
  }

  /// The state as the block's `state` gives it, of all sequences.
  const state_t<B, T>& views() const { return views_; }
  /// The same for the states of blocks that describe the same tensors.
  std::uint64_t kind() const { return kind_; }
  /// Sequences.
  index batch() const { return batch_; }
  /// Numbers of one sequence.
  index size() const { return stride_; }
  /// The tensors of one sequence, and where each begins in it.
  const manifest& names() const { return names_; }
  /// Tokens that the caches hold, of each sequence; 0: there are none, and any text has this size.
  index capacity() const { return capacity_; }
  /// Tokens of sequence b's document so far, where there are caches.
  index length(index b) const { return lengths_[static_cast<std::size_t>(b)]; }

  /// Before a call of `seq`: its tokens are counted. Throws `error`, and nothing has changed, when a sequence would
  /// hold more than the capacity. The host knows the lengths, so that nothing waits for the device, unless
  /// documents begin in the call.
  void advance(sequence_view seq) {
    if (capacity_ == 0 || seq.time == 0) return;
    for (index b = 0; b < seq.batch; ++b) {
      std::int32_t start = -1;  // of the last token's document
      if (seq.start) device_->download(&start, seq.start + (b + 1) * seq.time - 1, sizeof start);
      const index now = start < 0 ? length(b) + seq.time : seq.time - start;
      require(now <= capacity_, "sequence ", b, " would hold ", now, " tokens, the capacity of its state is ",
              capacity_);
      next_[static_cast<std::size_t>(b)] = now;
    }
    std::copy_n(next_.begin(), seq.batch, lengths_.begin());
  }

  /// All sequences are empty again.
  void reset() {
    for (const span& s : spans_)
      map(*device_, batch_, s.size,
          detail::empty_sequences<T>{empty_.data() + s.from, {arena_.data() + s.at, batch_, s.size, stride_}});
    std::fill(lengths_.begin(), lengths_.end(), 0);
  }
  /// Sequence b is empty again.
  void reset(index b) {
    for (const span& s : spans_) device_->copy(of(b) + s.at, empty_.data() + s.from, bytes(s.size));
    if (capacity_ > 0) lengths_[static_cast<std::size_t>(b)] = 0;
  }
  /// Sequence b becomes what sequence `a` of `from` is, which may be this memory; nothing passes the host.
  void copy(index b, const state_memory& from, index a) {
    require(from.stride_ == stride_, "state: ", from.stride_, " numbers where a sequence has ", stride_);
    device_->copy(of(b), from.of(a), bytes(stride_));
    if (capacity_ > 0) lengths_[static_cast<std::size_t>(b)] = from.length(a);
  }
  /// The numbers of sequence b, to host memory and back; 0 where its caches hold nothing. `saved_text` tells whose
  /// they are.
  std::vector<T> save(index b) const {
    std::vector<T> out(static_cast<std::size_t>(stride_));
    device_->download(out.data(), of(b), bytes(stride_));
    const index tokens = length_of(out);
    for (const auto& e : names_)
      if (!e.initial)
        std::fill_n(out.begin() + e.offset + tokens * (e.size / capacity_),
                    e.size - tokens * (e.size / capacity_), T(0));
    return out;
  }
  /// Throws `error`, and nothing has changed, when the numbers are no state of this kind.
  void restore(index b, const std::vector<T>& saved) {
    const index tokens = length_of(saved);
    device_->upload(of(b), saved.data(), bytes(stride_));
    if (capacity_ > 0) lengths_[static_cast<std::size_t>(b)] = tokens;
  }
  /// Tokens that lie in the caches of such numbers. Throws `error` when there are too few or too many numbers, or
  /// when they say that there are more tokens than the capacity, or a number that is none of tokens.
  index length_of(const std::vector<T>& saved) const {
    require(std::ssize(saved) == stride_, "state: ", saved.size(), " numbers where a sequence has ", stride_);
    index tokens = -1;
    for (const auto& e : names_) {
      if (!e.name.ends_with("position")) continue;
      const T n = saved[static_cast<std::size_t>(e.offset)];
      const bool whole = n >= 0 && n <= T(1e15) && n == static_cast<T>(static_cast<index>(n));
      require(whole && (tokens < 0 || static_cast<index>(n) == tokens), "state: ", e.name, " is ", n,
              ", which is no number of tokens, or not that of the layers before");
      require(capacity_ == 0 || n <= static_cast<T>(capacity_), "state: ", e.name, " is ", n,
              ", the capacity is ", capacity_);
      tokens = static_cast<index>(n);
    }
    return capacity_ > 0 ? std::max<index>(tokens, 0) : 0;
  }

 private:
  /// Neighbours among the tensors that an empty sequence sets: where they lie in a sequence, and in `empty_`.
  struct span {
    index at, from, size;
  };
  void bind() {
    arena_ = buffer<T, D>(*device_, batch_ * stride_);
    layout<T> l(arena_.data());
    l.sequence_stride(stride_);
    l.capacity(declared_);
    views_ = block_.state(l);
  }
  void write_empty() {
    const auto aligned = [](index n) {
      return (n + layout<T>::alignment - 1) / layout<T>::alignment * layout<T>::alignment;
    };
    std::vector<T> empty;
    rng none;
    for (const auto& e : names_) {
      if (!e.initial) continue;
      if (spans_.empty() || spans_.back().at + aligned(spans_.back().size) != e.offset)
        spans_.push_back({e.offset, aligned(std::ssize(empty)), 0});
      span& s = spans_.back();
      s.size = e.offset + e.size - s.at;
      empty.resize(static_cast<std::size_t>(s.from + s.size));
      for (index i = 0; i < e.size; ++i)
        empty[static_cast<std::size_t>(s.from + e.offset - s.at + i)] = static_cast<T>(e.initial(i, none));
    }
    empty_ = buffer<T, D>(*device_, std::ssize(empty));
    device_->upload(empty_.data(), empty.data(), bytes(std::ssize(empty)));
  }
  T* of(index b) const { return arena_.data() + b * stride_; }
  static index bytes(index numbers) { return numbers * static_cast<index>(sizeof(T)); }

  D* device_;
  B block_;
  std::uint64_t kind_;
  index batch_, declared_, stride_ = 0, capacity_ = 0;
  manifest names_;
  std::vector<index> lengths_, next_;
  std::vector<span> spans_;
  buffer<T, D> arena_, empty_;
  state_t<B, T> views_;
};

/// What one forward leaves for its backward, for sequences of one shape. Transient: no backward will follow,
/// and layers share memory.
template <class B, class T, class D>
class tape_memory {
  static_assert(Block<B> && std::floating_point<T> && Device<D>,
                "distil_xlstm::tape_memory<B, T, D>: B is a block, T float or double, and D a device; write "
                "tape_memory<slstm, float, device::cpu>");

 public:
  /// For [batch, time] tokens. Throws `error` where the block's sizes are not possible.
  tape_memory(D& device, const B& block, index batch, index time, bool transient)
      : kind_(detail::tape_kind(block)), transient_(transient) {
    fit(device, block, batch, time);
  }
  /// Becomes a tape of another shape, in the memory that it has where that is enough.
  void fit(D& device, const B& block, index batch, index time) {
    const sequence_view seq{batch, time};
    const auto describe = [&](layout<T>& l) {
      l.transient(transient_), l.half_operands(2 * sizeof(operand_t<D, T>) <= sizeof(T));
      return block.tape(l, seq);
    };
    layout<T> measure;
    describe(measure);
    if (arena_.size() < measure.size()) arena_ = buffer<T, D>(device, measure.size());
    layout<T> bind(arena_.data());
    views_ = describe(bind);
    batch_ = batch, time_ = time;
  }
  /// The tape as the block's `tape` gives it.
  const tape_t<B, T>& views() const { return views_; }
  /// The same for the tapes of blocks that describe the same tensors.
  std::uint64_t kind() const { return kind_; }
  /// Whether no backward can follow a forward over it.
  bool transient() const { return transient_; }
  /// Whether it has that shape.
  bool fits(sequence_view seq) const { return seq.batch == batch_ && seq.time == time_; }
  /// Numbers at hand.
  index size() const { return arena_.size(); }

 private:
  std::uint64_t kind_;
  bool transient_;
  index batch_ = 0, time_ = 0;
  buffer<T, D> arena_;
  tape_t<B, T> views_;
};

}  // namespace distil_xlstm
