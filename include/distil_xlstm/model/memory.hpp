#pragma once

#include <concepts>
#include <vector>

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

/// Weights, or gradients, or a moment of them: one arena, and the block's views over it.
template <class B, class T, class D>
class weight_memory {
  static_assert(Block<B> && std::floating_point<T> && Device<D>,
                "distil_xlstm::weight_memory<B, T, D>: B is a block, T float or double, and D a device; write "
                "weight_memory<slstm, float, device::cpu>");

 public:
  weight_memory(D& device, const B& block) {
    layout<T> measure;
    block.params(measure);
    arena_ = buffer<T, D>(device, measure.size());
    layout<T> bind(arena_.data());
    views_ = block.params(bind);
  }
  const weights_t<B, T>& views() const { return views_; }
  T* data() const { return arena_.data(); }
  index size() const { return arena_.size(); }

 private:
  buffer<T, D> arena_;
  weights_t<B, T> views_;
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

/// The whole recurrent memory of `batch` sequences; sequence b is one run of numbers, so that sequences are
/// reset, copied, saved and moved between batches one by one.
template <class B, class T, class D>
class state_memory {
  static_assert(Block<B> && std::floating_point<T> && Device<D>,
                "distil_xlstm::state_memory<B, T, D>: B is a block, T float or double, and D a device; write "
                "state_memory<slstm, float, device::cpu>");

 public:
  state_memory(D& device, const B& block, index batch) : device_(&device), batch_(batch) {
    layout<T> measure(nullptr, &names_);
    block.state(measure);
    stride_ = measure.size();
    arena_ = buffer<T, D>(device, batch * stride_);
    layout<T> bind(arena_.data());
    bind.sequence_stride(stride_);
    views_ = block.state(bind);
    // What an empty sequence holds is written once and copied ever after.
    std::vector<T> empty(static_cast<std::size_t>(stride_), T(0));
    rng none;
    for (const auto& e : names_)
      for (index i = 0; i < e.size; ++i)
        empty[static_cast<std::size_t>(e.offset + i)] = static_cast<T>(e.initial(i, none));
    empty_ = buffer<T, D>(device, stride_);
    device.upload(empty_.data(), empty.data(), bytes());
    reset();
  }
  const state_t<B, T>& views() const { return views_; }
  index batch() const { return batch_; }
  /// Numbers of one sequence.
  index size() const { return stride_; }
  const manifest& names() const { return names_; }

  void reset() {
    map(*device_, batch_, stride_, detail::empty_sequences<T>{empty_.data(), {arena_.data(), batch_, stride_}});
  }
  void reset(index b) { device_->copy(of(b), empty_.data(), bytes()); }
  /// Sequence b becomes what sequence `a` of `from` is, which may be this memory; nothing passes the host.
  void copy(index b, const state_memory& from, index a) {
    require(from.stride_ == stride_, "state: ", from.stride_, " numbers where a sequence has ", stride_);
    device_->copy(of(b), from.of(a), bytes());
  }
  /// The numbers of sequence b, to host memory and back: a state that is saved, forked or shipped.
  std::vector<T> save(index b) const {
    std::vector<T> out(static_cast<std::size_t>(stride_));
    device_->download(out.data(), of(b), bytes());
    return out;
  }
  void restore(index b, const std::vector<T>& saved) {
    require(static_cast<index>(saved.size()) == stride_, "state: ", saved.size(),
            " numbers where a sequence has ", stride_);
    device_->upload(of(b), saved.data(), bytes());
  }

 private:
  T* of(index b) const { return arena_.data() + b * stride_; }
  index bytes() const { return stride_ * static_cast<index>(sizeof(T)); }
  D* device_;
  index batch_, stride_ = 0;
  manifest names_;
  buffer<T, D> arena_;
  state_t<B, T> views_;
  buffer<T, D> empty_;
};

/// What one forward leaves for its backward, for sequences of one shape. Transient: no backward will follow,
/// and layers share memory.
template <class B, class T, class D>
class tape_memory {
  static_assert(Block<B> && std::floating_point<T> && Device<D>,
                "distil_xlstm::tape_memory<B, T, D>: B is a block, T float or double, and D a device; write "
                "tape_memory<slstm, float, device::cpu>");

 public:
  tape_memory(D& device, const B& block, index batch, index time, bool transient) : transient_(transient) {
    fit(device, block, batch, time);
  }
  /// Becomes a tape of another shape, in the memory that it has where that is enough.
  void fit(D& device, const B& block, index batch, index time) {
    const sequence_view seq{batch, time};
    layout<T> measure;
    measure.transient(transient_);
    block.tape(measure, seq);
    if (arena_.size() < measure.size()) arena_ = buffer<T, D>(device, measure.size());
    layout<T> bind(arena_.data());
    bind.transient(transient_);
    views_ = block.tape(bind, seq);
    batch_ = batch, time_ = time;
  }
  const tape_t<B, T>& views() const { return views_; }
  bool fits(sequence_view seq) const { return seq.batch == batch_ && seq.time == time_; }
  /// Numbers at hand.
  index size() const { return arena_.size(); }

 private:
  bool transient_;
  index batch_ = 0, time_ = 0;
  buffer<T, D> arena_;
  tape_t<B, T> views_;
};

}  // namespace distil_xlstm
