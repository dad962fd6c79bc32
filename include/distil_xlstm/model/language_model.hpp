#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/session.hpp>
#include <distil_xlstm/model/xlstm_7b.hpp>

namespace distil_xlstm {

/// True for the folder of a student: its config.json holds `xlstm_cfg`.
inline bool is_student(const std::filesystem::path& path) {
  const auto config = path / "config.json";
  return std::filesystem::is_directory(path) && std::filesystem::exists(config) &&
         io::read_json_file(config).contains("xlstm_cfg");
}

/// True for a Hugging Face folder of model type xlstm.
inline bool is_xlstm_7b(const std::filesystem::path& path) {
  const auto config = path / "config.json";
  return std::filesystem::is_directory(path) && std::filesystem::exists(config) &&
         is_xlstm_7b_config(io::read_json_file(config));
}

/// A teacher, a student or an xLSTM-7B-like model, whichever a path holds: for programs that take any.
template <class T, class D>
class language_model {
  static_assert(std::floating_point<T> && Device<D>,
                "distil_xlstm::language_model<T, D>: T is float or double, and D a device; write "
                "language_model<float, device::cpu>");

 public:
  using scalar = T;
  using teacher_type = llama<T, D>;
  using student_type = xlstm<T, D>;
  using large_type = xlstm_7b<T, D>;

  /// A GGUF file, a Hugging Face folder or a student folder. Throws `error` as the loaders do.
  static language_model load(D& device, const std::filesystem::path& path) {
    require(std::filesystem::exists(path), path.string(), ": no such file or folder");
    if (is_student(path)) return language_model(student_type::load(device, path));
    if (is_xlstm_7b(path)) return language_model(large_type::load(device, path));
    return language_model(teacher_type::load(device, path));
  }
  explicit language_model(student_type model) : model_(std::move(model)) {}
  explicit language_model(teacher_type model) : model_(std::move(model)) {}
  explicit language_model(large_type model) : model_(std::move(model)) {}

  /// Null where it is another.
  const student_type* student() const { return std::get_if<student_type>(&model_); }
  const teacher_type* teacher() const { return std::get_if<teacher_type>(&model_); }
  const large_type* large() const { return std::get_if<large_type>(&model_); }
  /// Give it to `write_logits`, not to a product: it may cap the logits.
  logit_head head() const {
    return std::visit([](const auto& m) -> logit_head { return m.head(); }, model_);
  }
  index width() const { return head().cols; }
  index vocabulary() const { return head().rows; }
  /// Blocks or layers: `reader` shows the embedding and then so many outputs.
  index depth() const {
    return teacher() ? teacher()->config().layers
           : large() ? large()->config().blocks
                     : student()->config().blocks;
  }

 private:
  /// What reading with a recurrent model needs; kept from one call to the next of the same shape.
  template <class Model>
  struct recurrent_memory {
    std::optional<typename Model::tape_type> tape;
    std::optional<typename Model::state_type> state;
    buffer<T, D> x;
    template <class OnLayer>
    void read(D& device, const Model& model, sequence_view seq, const std::int32_t* ids, matrix_view<T> hidden,
              OnLayer& on_layer) {
      if (!tape || !tape->fits(seq)) {
        tape.emplace(model.make_tape(device, seq.batch, seq.time));
        state.emplace(model.make_state(device, seq.batch));
        x = buffer<T, D>(device, seq.rows() * model.width());
      }
      state->reset();
      const matrix_view<T> embedded(x.data(), seq.rows(), model.width());
      bool first = true;
      model.forward(device, seq, ids, *state, *tape, embedded, hidden, [&](index i, matrix_view<const T> y) {
        if (std::exchange(first, false)) on_layer(0, matrix_view<const T>(embedded));
        on_layer(i + 1, y);
      });
    }
  };

 public:
  /// Reads whole texts, each from an empty state. Memory is kept from one call to the next of the same shape.
  class reader {
   public:
    reader(D& device, const language_model& model) : device_(&device), model_(&model) {}
    /// hidden [rows, width], the vectors that the head reads. on_layer(i, h) sees the embedding (i = 0) and
    /// each block's output, before the final norm. `seq.start`, `ids` and `hidden` lie in the device's memory.
    template <class OnLayer = no_taps>
    void operator()(sequence_view seq, const std::int32_t* ids, matrix_view<T> hidden,
                    OnLayer&& on_layer = {}) {
      if (const auto* teacher = model_->teacher()) {
        teacher->forward(*device_, seq, ids, hidden, on_layer);
        return;
      }
      if (const auto* large = model_->large())
        large_.read(*device_, *large, seq, ids, hidden, on_layer);
      else
        student_.read(*device_, *model_->student(), seq, ids, hidden, on_layer);
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

   private:
    D* device_;
    const language_model* model_;
    recurrent_memory<student_type> student_;
    recurrent_memory<large_type> large_;
    device_copy<std::int32_t, D> ids_;
  };

  /// Reads one text as it comes. `capacity` bounds a transformer's text; a recurrent model's state does not
  /// grow.
  class session {
   public:
    using scalar = T;
    session(D& device, const language_model& model, index capacity)
        : session_(model.student()   ? any(std::in_place_index<0>, device, *model.student())
                   : model.teacher() ? any(std::in_place_index<1>, device, *model.teacher(), capacity)
                                     : any(std::in_place_index<2>, device, *model.large())) {}
    logit_head head() const {
      return std::visit([](const auto& s) -> logit_head { return s.head(); }, session_);
    }
    void read(std::span<const std::int32_t> ids, matrix_view<T> hidden) {
      std::visit([&](auto& s) { s.read(ids, hidden); }, session_);
    }
    void reset() {
      std::visit([](auto& s) { s.reset(); }, session_);
    }
    std::vector<T> save() const {
      return std::visit([](const auto& s) { return s.save(); }, session_);
    }
    void restore(const std::vector<T>& saved) {
      std::visit([&](auto& s) { s.restore(saved); }, session_);
    }

   private:
    using any = std::variant<xlstm_session<T, D>, llama_session<T, D>, student_session<large_type>>;
    any session_;
  };

 private:
  std::variant<student_type, teacher_type, large_type> model_;
};

}  // namespace distil_xlstm
