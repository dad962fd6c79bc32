#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <distil_xlstm/core/require_ids.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/model/model.hpp>
#include <distil_xlstm/model/require_weights.hpp>
#include <distil_xlstm/model/saved_text.hpp>

namespace distil_xlstm {

/// Reads texts, and gives their hidden states: one as it comes, from call to call, or whole ones, each from its
/// beginning. The model must outlive it, and what it reads first throws `error` while all of a student's weights are 0.
/// `decoder` continues texts.
template <class Model>
class reader {
  using T = typename Model::scalar;
  using D = typename Model::device_type;
  using saved_type = saved_text<T, product_t<typename D::precision, T>>;

 public:
  using scalar = T;  ///< the model's
  /// A model with caches needs a `capacity`, in tokens, for a text that comes bit by bit; for whole texts it needs
  /// none.
  reader(D& device, const Model& model, index capacity = 0)
      : device_(&device),
        model_(&model),
        caches_(model.has_cache()),
        state_(model.make_state(device, 1, capacity)) {}
  /// An error of the compiler: a temporary model would not live as long.
  template <std::same_as<Model> M>
  reader(D&, const M&&, index = 0) {
    static_assert(
        sizeof(M) == 0,
        "distil_xlstm::reader(device, model) refers to the model, which must live as long: give it a name "
        "first");
  }

  /// The one that it reads with.
  const Model& model() const { return *model_; }

  /// hidden [rows, width], the vectors that the head reads, of whole texts; what has been read before is forgotten.
  /// on_layer(i, h) sees the embedding
  /// (i = 0) and each layer's output, before the final norm. `seq.start`, `ids` and `hidden` lie in the device's
  /// memory.
  template <class OnLayer = no_taps>
  void operator()(sequence_view seq, const std::int32_t* ids, matrix_view<T> hidden, OnLayer&& on_layer = {}) {
    require_ready(seq.rows(), hidden);
    if (state_.batch() < seq.batch) state_ = model_->make_state(*device_, seq.batch, state_.capacity());
    state_.reset();
    model_->forward(*device_, seq, ids, state_, hidden, on_layer);
  }
  /// The same, of the host's ids [batch * time]. Throws `error` naming one that the vocabulary does not have.
  template <class OnLayer = no_taps>
  void operator()(index batch, index time, std::span<const std::int32_t> ids, matrix_view<T> hidden,
                  OnLayer&& on_layer = {}) {
    require(std::ssize(ids) == batch * time, "reading: ", ids.size(), " ids for ", batch, " texts of ", time,
            " tokens");
    require_ids(ids, model_->vocabulary());
    (*this)({batch, time}, ids_.put(*device_, ids.data(), batch * time), hidden, on_layer);
  }

  /// The next tokens of the one text, in the device's memory. Throws `error`, and nothing has changed, when the
  /// text exceeds the capacity.
  template <class OnLayer = no_taps>
  void read(sequence_view seq, const std::int32_t* ids, matrix_view<T> hidden, OnLayer&& on_layer = {}) {
    require(!caches_ || state_.capacity() > 0,
            "reader: this model remembers a text in caches; say how many tokens they are to hold");
    require_ready(seq.rows(), hidden);
    model_->forward(*device_, seq, ids, state_, hidden, on_layer);
  }
  /// The same, of the host's ids; a long part goes through in pieces of 256, of which those that the capacity holds
  /// have been read where it is exceeded. Throws `error` naming an id that the vocabulary does not have; nothing has
  /// changed then.
  void read(std::span<const std::int32_t> ids, matrix_view<T> hidden) {
    require_ids(ids, model_->vocabulary());
    require_ready(std::ssize(ids), hidden);
    constexpr index longest = 256;
    for (index first = 0, n; first < std::ssize(ids); first += n) {
      n = std::min<index>(longest, std::ssize(ids) - first);
      read({1, n}, ids_.put(*device_, ids.data() + first, n), hidden.slice(first, n));
    }
  }
  /// The text is empty again.
  void reset() { state_.reset(); }
  /// The whole memory of the text so far, to be kept, forked or shipped.
  std::vector<std::byte> save() const {
    return saved_type{state_.save(0)}.bytes(model_->fingerprint(*device_), state_.capacity());
  }
  /// Goes on from it. Throws `error` as `saved_text::read` does; nothing has changed then.
  void restore(std::span<const std::byte> saved) {
    state_.restore(0, saved_type::read(saved, model_->fingerprint(*device_), state_.capacity()).state);
  }

 private:
  void require_ready(index rows, matrix_view<T> hidden) {
    require(hidden.rows == rows && hidden.cols == model_->width(), "reader: the hidden states are [",
            hidden.rows, ", ", hidden.cols, "], the call needs [", rows, ", ", model_->width(), "]");
    require(hidden.data || rows == 0, "reader: the hidden states have no memory");
    if (!begun_) detail::require_weights(*device_, *model_, "reader");
    begun_ = true;
  }

  D* device_;
  const Model* model_;
  bool caches_, begun_ = false;
  typename Model::state_type state_;
  device_copy<std::int32_t, D> ids_;
};

}  // namespace distil_xlstm
