#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <distil_xlstm/core/require_ids.hpp>
#include <distil_xlstm/device/captured_graph.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/model/llama.hpp>
#include <distil_xlstm/model/student.hpp>
#include <distil_xlstm/model/xlstm.hpp>

namespace distil_xlstm {

/// One text that a student reads as it comes: a state of constant size and a little working memory. The model
/// must outlive the session.
template <class Student>
class student_session {
  using T = typename Student::scalar;
  using D = typename Student::device_type;

 public:
  using scalar = T;
  student_session(D& device, const Student& model)
      : device_(&device), model_(&model), state_(model.make_state(device, 1)) {}

  auto head() const { return model_->head(); }

  /// hidden [ids, width], in the device's memory: the vectors that the head reads after each of the next
  /// tokens; the ids are the host's. Throws `error` naming an id that the vocabulary does not have; nothing has
  /// changed then.
  void read(std::span<const std::int32_t> ids, matrix_view<T> hidden) {
    require_ids(ids, model_->vocabulary());
    // A long prompt goes through in parts, so that memory stays constant.
    for (index first = 0, n; first < std::ssize(ids); first += n) {
      n = std::min<index>(longest, std::ssize(ids) - first);
      part& p = n == 1 ? single_ : several_;
      if (!p.tape || !p.tape->fits({1, n})) {
        p.tape.emplace(model_->make_tape(*device_, 1, n));
        p.x = buffer<T, D>(*device_, n * model_->width());
      }
      const std::int32_t* here = p.ids.put(*device_, ids.data() + first, n);
      const matrix_view<T> out = hidden.slice(first, n);
      const auto work = [&] {
        model_->forward(*device_, {1, n}, here, state_, *p.tape, {p.x.data(), n, model_->width()}, out);
      };
      if (n == 1)
        step_(*device_, out.data, work);
      else
        work();
    }
  }
  /// The text is empty again.
  void reset() { state_.reset(); }
  /// The whole memory of the text so far, to be kept, forked or shipped, and back.
  std::vector<T> save() const { return state_.save(0); }
  void restore(const std::vector<T>& saved) { state_.restore(0, saved); }

 private:
  static constexpr index longest = 256;
  struct part {
    std::optional<typename Student::tape_type> tape;
    buffer<T, D> x;
    device_copy<std::int32_t, D> ids;
  };
  D* device_;
  const Student* model_;
  typename Student::state_type state_;
  part single_, several_;
  captured_graph<D> step_;
};
template <class T, Device D>
using xlstm_session = student_session<xlstm<T, D>>;

/// One text that a transformer reads as it comes, up to `capacity` tokens: its keys and values.
template <class T, Device D>
class llama_session {
 public:
  using scalar = T;
  llama_session(D& device, const llama<T, D>& model, index capacity)
      : device_(&device), model_(&model), state_(model.make_state(device, 1, capacity)) {}

  frozen_matrix head() const { return model_->head(); }
  /// As `student_session::read`; throws `error`, too, when the text exceeds the capacity.
  void read(std::span<const std::int32_t> ids, matrix_view<T> hidden) {
    require_ids(ids, model_->vocabulary());
    const index n = std::ssize(ids);
    model_->forward(*device_, {1, n}, ids_.put(*device_, ids.data(), n), state_, hidden);
  }
  void reset() { state_.reset(); }
  std::vector<T> save() const { return state_.save(0); }
  void restore(const std::vector<T>& saved) { state_.restore(0, saved); }

 private:
  D* device_;
  const llama<T, D>* model_;
  typename llama<T, D>::state_type state_;
  device_copy<std::int32_t, D> ids_;
};

}  // namespace distil_xlstm
