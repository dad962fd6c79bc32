#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/session.hpp>

namespace distil_xlstm {

/// True for the folder of a student: its config.json holds `xlstm_cfg`.
inline bool is_student(const std::filesystem::path& path) {
  const auto config = path / "config.json";
  return std::filesystem::is_directory(path) && std::filesystem::exists(config) &&
         io::read_json_file(config).contains("xlstm_cfg");
}

/// A teacher or a student, whichever a path holds: for programs that take either.
template <class T, class D>
class language_model {
  static_assert(std::floating_point<T> && Device<D>,
                "distil_xlstm::language_model<T, D>: T is float or double, and D a device; write language_model<float, device::cpu>");

 public:
  using scalar = T;
  using teacher_type = llama<T, D>;
  using student_type = xlstm<T, D>;

  /// A GGUF file, a Hugging Face folder or a student folder. Throws `error` as the two loaders do.
  static language_model load(D& device, const std::filesystem::path& path) {
    require(std::filesystem::exists(path), path.string(), ": no such file or folder");
    if (is_student(path)) return language_model(student_type::load(device, path));
    return language_model(teacher_type::load(device, path));
  }
  explicit language_model(student_type model) : model_(std::move(model)) {}
  explicit language_model(teacher_type model) : model_(std::move(model)) {}

  /// Null where it is the other.
  const student_type* student() const { return std::get_if<student_type>(&model_); }
  const teacher_type* teacher() const { return std::get_if<teacher_type>(&model_); }
  frozen_matrix head() const {
    return std::visit([](const auto& m) { return m.head(); }, model_);
  }
  index width() const { return head().cols; }
  index vocabulary() const { return head().rows; }
  /// Blocks or layers: `reader` shows the embedding and then so many outputs.
  index depth() const { return student() ? student()->config().blocks : teacher()->config().layers; }

  /// Reads whole texts, each from an empty state. Memory is kept from one call to the next of the same shape.
  class reader {
   public:
    reader(D& device, const language_model& model) : device_(&device), model_(&model) {}
    /// hidden [rows, width], the vectors that the head reads. on_layer(i, h) sees the embedding (i = 0) and each
    /// block's output, before the final norm.
    template <class OnLayer = no_taps>
    void operator()(sequence_view seq, const std::int32_t* ids, matrix_view<T> hidden, OnLayer&& on_layer = {}) {
      detail::require_ids({ids, static_cast<std::size_t>(seq.rows())}, model_->vocabulary());
      if (const auto* teacher = model_->teacher()) {
        teacher->forward(*device_, seq, ids, hidden, on_layer);
        return;
      }
      const auto& student = *model_->student();
      if (!tape_ || !tape_->fits(seq)) {
        tape_.emplace(student.make_tape(*device_, seq.batch, seq.time));
        state_.emplace(student.make_state(*device_, seq.batch));
        x_ = buffer<T, D>(*device_, seq.rows() * student.width());
      }
      state_->reset();
      const matrix_view<T> x(x_.data(), seq.rows(), student.width());
      bool first = true;
      student.forward(*device_, seq, ids, *state_, *tape_, x, hidden, [&](index i, matrix_view<const T> y) {
        if (std::exchange(first, false)) on_layer(0, matrix_view<const T>(x));
        on_layer(i + 1, y);
      });
    }

   private:
    D* device_;
    const language_model* model_;
    std::optional<typename student_type::tape_type> tape_;
    std::optional<typename student_type::state_type> state_;
    buffer<T, D> x_;
  };

  /// Reads one text as it comes. `capacity` bounds a transformer's text; a student's state does not grow.
  class session {
   public:
    using scalar = T;
    session(D& device, const language_model& model, index capacity)
        : session_(model.student() ? any(std::in_place_index<0>, device, *model.student())
                                   : any(std::in_place_index<1>, device, *model.teacher(), capacity)) {}
    frozen_matrix head() const {
      return std::visit([](const auto& s) { return s.head(); }, session_);
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
    using any = std::variant<xlstm_session<T, D>, llama_session<T, D>>;
    any session_;
  };

 private:
  std::variant<student_type, teacher_type> model_;
};

}  // namespace distil_xlstm
