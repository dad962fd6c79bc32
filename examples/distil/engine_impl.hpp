#pragma once

// What engine.hpp declares, on a device D: included by the files that compile it, one a device and a precision.

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/distil/calibrate_gates.hpp>
#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/distil/evaluate.hpp>
#include <distil_xlstm/distil/kept_states.hpp>
#include <distil_xlstm/distil/mixer_trainer.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/distil/score_divergence.hpp>
#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/loss/any_objective.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/load_language_model.hpp>
#include <distil_xlstm/model/reader.hpp>

#include "engine.hpp"
#include "processes.hpp"

namespace program {

template <class D>
class loaded_model_on final : public loaded_model {
  using T = typename D::scalar;

 public:
  loaded_model_on(D& device, const fs::path& path)
      : device_(device), model_(dx::load_language_model<T>(device, path)), read_(device, model_) {}

  loaded_model_on(D& device, const fs::path& teacher, const dx::linearised_config& mixers)
      : device_(device),
        model_(dx::load_windowed<T, dx::any_config>(device, teacher, mixers)),
        read_(device, model_) {}
  void mixers(const dx::linearised_config& mixers) override {
    dx::linearised_config all = std::get<dx::linearised_config>(model_.config().family);
    all.mixers = mixers.mixers, all.window = mixers.window, all.sinks = mixers.sinks;
    model_ = model_.with(dx::any_config(all));
    read_ = dx::reader<model_type>(device_, model_);
    kept_.reset();
  }

  dx::index vocabulary() const override { return model_.vocabulary(); }
  bool has_cache() const override { return model_.has_cache(); }
  dx::index text_bytes(dx::index tokens) const override {
    dx::layout<T> l;
    l.capacity(tokens);
    model_.stack().state(l);
    return l.size() * static_cast<dx::index>(sizeof(T));
  }
  dx::index context() const override { return model_.config().context; }

  void keep(const dx::io::token_file& text) override {
    kept_.emplace(dx::index(1) << 31);
    kept_text_ = &text;
  }
  dx::text_score score(const dx::io::token_file& text, dx::index window, bool carry,
                       dx::comm::any ranks) override {
    return score_any(text, window, carry, ranks);
  }
  dx::text_score score(const dx::token_text& text, dx::index window, bool carry, dx::comm::any ranks) override {
    return score_any(text, window, carry, ranks);
  }
  std::vector<dx::continuation_score> score(std::span<const dx::continuation> asked,
                                            const on_progress& progress, dx::comm::any ranks) override {
    return dx::score_continuations<T>(device_, asked, model_.head(), 8, read_, progress, ranks);
  }
  dx::divergence_score score(const dx::io::token_file& text, dx::index window, loaded_model& teacher,
                             dx::comm::any ranks) override {
    return divergence(text, window, teacher, ranks);
  }
  dx::divergence_score score(const dx::token_text& text, dx::index window, loaded_model& teacher,
                             dx::comm::any ranks) override {
    return divergence(text, window, teacher, ranks);
  }

  void write(std::span<const std::vector<std::int32_t>> prompts, dx::index most, dx::index batch,
             const dx::sampling& how, const std::function<bool(std::size_t, std::int32_t)>& on_token,
             std::span<const std::size_t> numbers) override {
    struct growing {
      std::size_t number;
      dx::index tokens = 0;
    };
    if (most == 0) return;
    std::size_t longest = 0;
    for (const auto& p : prompts) longest = std::max(longest, p.size());
    using decoder = dx::decoder<model_type>;
    decoder texts(device_, model_,
                  {.capacity = std::min<dx::index>(batch, std::ssize(prompts)),
                   .context = static_cast<dx::index>(longest) + most,
                   .part = prompts.size() == 1 ? 256 : 64});
    std::map<typename decoder::handle, growing> here;
    for (std::size_t next = 0;;) {
      for (; texts.free() > 0 && next < prompts.size(); ++next) {
        dx::sampling one = how;
        one.seed += numbers.empty() ? next : numbers[next];
        here.emplace(texts.join(prompts[next], one), growing{next});
      }
      if (texts.texts() == 0) return;
      texts.step([&](auto name, std::int32_t id) {
        const auto at = here.find(name);
        const bool goes_on = on_token(at->second.number, id) && ++at->second.tokens < most;
        if (!goes_on) here.erase(at);
        return goes_on;
      });
    }
  }

  void write_logits(dx::index batch, dx::index time, std::span<const std::int32_t> ids,
                    const fs::path& out) override {
    const dx::index rows = batch * time, d = model_.width(), v = model_.vocabulary();
    std::vector<dx::buffer<T, D>> hidden;
    for (dx::index i = 0; i <= model_.depth(); ++i) hidden.emplace_back(device_, rows * d);
    const dx::buffer<T, D> last(device_, rows * d);
    read_(batch, time, ids, {last.data(), rows, d}, [&](dx::index i, dx::matrix_view<const T> h) {
      device_.copy(hidden[static_cast<std::size_t>(i)].data(), h.data,
                   h.size() * static_cast<dx::index>(sizeof(T)));
    });
    const auto type = std::is_same_v<T, double> ? dx::dtype::f64 : dx::dtype::f32;
    dx::io::safetensors_writer file;
    for (dx::index i = 0; i <= model_.depth(); ++i)
      file.declare("hidden." + std::to_string(i), type, {batch, time, d});
    file.declare("last_hidden", type, {batch, time, d});
    file.declare("logits", type, {batch, time, v});
    file.open(out);
    dx::host_copy<T, D> values;
    for (const auto& h : hidden) file.append(values.get(device_, h.data(), rows * d), rows * d);
    file.append(values.get(device_, last.data(), rows * d), rows * d);
    // A vocabulary is wide: a few rows at a time.
    const dx::index part = std::min<dx::index>(rows, 64);
    const dx::buffer<T, D> logits(device_, part * v);
    for (dx::index first = 0; first < rows; first += part) {
      const dx::index n = std::min(part, rows - first);
      dx::write_logits(device_, dx::matrix_view<const T>(last.data() + first * d, n, d), model_.head(),
                       dx::matrix_view<T>(logits.data(), n, v));
      file.append(values.get(device_, logits.data(), n * v), n * v);
    }
    file.commit();
  }

 private:
  using model_type = dx::language_model<T, D>;
  using forward_type = std::function<void(dx::sequence_view, const std::int32_t*, dx::matrix_view<T>)>;

  /// What reads the text from its beginning, window by window: the model, or what is kept of it.
  forward_type forward_of(const void* text, dx::index window) {
    if (kept_ && text == kept_text_) return kept_->pass(device_, window, read_);
    return std::ref(read_);
  }
  template <class Text>
  dx::text_score score_any(const Text& text, dx::index window, bool carry, dx::comm::any ranks) {
    if (!carry)
      return dx::score_text<T>(device_, text, window, 8, model_.head(), forward_of(&text, window),
                               dx::window_state::empty, ranks);
    read_.reset();
    return dx::score_text<T>(
        device_, text, window, 1, model_.head(), [this](auto... call) { read_.read(call...); },
        dx::window_state::carried, ranks);
  }
  template <class Text>
  dx::divergence_score divergence(const Text& text, dx::index window, loaded_model& teacher,
                                  dx::comm::any ranks) {
    auto& from = dynamic_cast<loaded_model_on&>(teacher);
    return dx::score_divergence<T>(device_, text, window, 8, from.model_.head(), from.forward_of(&text, window),
                                   model_.head(), forward_of(&text, window), ranks);
  }

  D& device_;
  model_type model_;
  dx::reader<model_type> read_;
  std::optional<dx::kept_states<T>> kept_;
  const void* kept_text_ = nullptr;
};

/// A trainer, its student, and what it refers to.
template <class D, class Trainer>
class training_on final : public training {
  using T = typename D::scalar;

 public:
  using student_type = typename Trainer::student_type;

  /// `student` and `source` are kept; `more` is what the trainer takes behind device, student and text.
  template <class... More>
  training_on(D& device, std::shared_ptr<student_type> student, std::shared_ptr<const void> source,
              const dx::token_windows& text, More&&... more)
      : device_(device),
        student_(std::move(student)),
        source_(std::move(source)),
        trainer_(device, *student_, text, std::forward<More>(more)...) {}

  nlohmann::json config() const override { return config_json(student_->config()); }
  std::string shape() const override { return shape_of(student_->config()); }
  dx::index trainable() const override {
    dx::index n = 0;
    for (const auto& e : student_->names()) n += e.size;
    return n;
  }
  dx::index total() const override {
    const dx::index both = student_->vocabulary() * student_->width() * (student_->config().tied ? 1 : 2);
    return trainable() + (student_type::trains_embedding_and_head ? 0 : both);
  }
  const dx::training_options& options() const override { return trainer_.options(); }
  void total_steps(dx::index n) override { trainer_.total_steps(n); }
  void warmup(dx::index steps) override { trainer_.warmup(steps); }
  dx::index steps_per_epoch() const override { return trainer_.steps_per_epoch(); }
  dx::index step_count() const override { return trainer_.step_count(); }
  dx::index updates() const override { return trainer_.count().updates; }
  dx::index skipped() const override { return trainer_.count().skipped; }
  dx::index empty() const override { return trainer_.count().empty; }
  dx::schedule::clock clock() const override { return trainer_.clock(); }

  dx::step_metrics step() override { return trainer_.step(); }
  std::vector<double> layer_errors() const override {
    if constexpr (requires { trainer_.layer_errors(); })
      return trainer_.layer_errors();
    else
      return {};
  }
  void measure() override { trainer_.measure(); }
  void check() override { trainer_.check(); }

  void save(const dx::checkpoints& to, const nlohmann::json& run) const override { to.save(trainer_, run); }
  bool restore(const dx::checkpoints& from, const std::function<void(const std::string&)>& warn) override {
    return from.restore(trainer_, warn).has_value();
  }
  void save_student(const fs::path& folder) const override { save_folder(*student_, folder); }

  dx::text_score score(const dx::io::token_file& text, dx::index window) override {
    return dx::score_text<T>(device_, text, window, 8, student_->head(), dx::reader(device_, *student_),
                             dx::window_state::empty, processes());
  }
  void write(std::span<const std::int32_t> prompt, dx::index most, const dx::sampling& how,
             const std::function<bool(std::int32_t)>& on_token) override {
    dx::generate(device_, *student_, prompt, most, how, on_token);
  }

 private:
  static nlohmann::json config_json(const dx::xlstm_config& c) { return dx::write_xlstm_config(c); }
  static nlohmann::json config_json(const dx::linearised_config& c) { return dx::write_linearised_config(c); }
  static std::string shape_of(const dx::xlstm_config& c) {
    return std::to_string(c.blocks) + " blocks of width " + std::to_string(c.width);
  }
  static std::string shape_of(const dx::linearised_config& c) {
    return std::to_string(c.layers) + " layers of width " + std::to_string(c.width);
  }
  void save_folder(const dx::xlstm<T, D>& m, const fs::path& folder) const {
    dx::save_xlstm(device_, m, folder);
  }
  void save_folder(const dx::linearised_model<T, D>& m, const fs::path& folder) const {
    dx::save_linearised(device_, m, folder);
  }

  D& device_;
  std::shared_ptr<student_type> student_;
  std::shared_ptr<const void> source_;
  Trainer trainer_;
};

/// A trainer for the objective of a method, or for that of --objective.
template <class D, class Student, class T>
std::unique_ptr<training> distillation_of(D& device, std::shared_ptr<Student> student,
                                          const dx::token_windows& text,
                                          std::shared_ptr<dx::teacher_source<T, D>> source,
                                          const training_objective& objective,
                                          const dx::training_options& options) {
  return std::visit(
      [&]<class Objective>(const Objective& chosen) -> std::unique_ptr<training> {
        return std::make_unique<training_on<D, dx::trainer<Student, Objective, dx::comm::any>>>(
            device, std::move(student), source, text, *source, chosen, options, processes());
      },
      objective);
}

template <class D>
class linearised_student_on final : public linearised_student {
  using T = typename D::scalar;
  using student_type = dx::linearised_model<T, D>;
  using teacher_type = dx::llama<T, D>;

 public:
  /// Refers to `teacher`.
  linearised_student_on(D& device, const teacher_type& teacher, student_type student)
      : device_(device), teacher_(teacher), student_(std::make_shared<student_type>(std::move(student))) {}

  const dx::linearised_config& config() const override { return student_->config(); }
  void calibrate(const dx::token_windows& text) override {
    dx::calibrate_gates(device_, teacher_, *student_, text);
  }
  std::unique_ptr<training> align(const dx::token_windows& text, const dx::training_options& options) override {
    using trainer = dx::mixer_trainer<student_type, teacher_type, dx::comm::any>;
    return std::make_unique<training_on<D, trainer>>(device_, student_, nullptr, text, teacher_, options,
                                                     processes());
  }
  std::unique_ptr<training> distil(const dx::token_windows& text, const training_objective& objective,
                                   const dx::training_options& options) override {
    std::shared_ptr<dx::teacher_source<T, D>> source =
        std::make_shared<dx::live_teacher<teacher_type>>(teacher_);
    return distillation_of(device_, student_, text, source, objective, options);
  }

 private:
  D& device_;
  const teacher_type& teacher_;
  std::shared_ptr<student_type> student_;
};

/// What a running teacher and a cached one share: they give students their embedding, head and signals.
template <class D>
class teacher_on : public teacher {
 protected:
  using T = typename D::scalar;

  teacher_on(D& device, dx::embedding_and_head matrices, dx::index layers, dx::index heads, dx::index head_dim,
             dx::index context)
      : device_(device),
        matrices_(std::move(matrices)),
        layers_(layers),
        heads_(heads),
        head_dim_(head_dim),
        context_(context) {}
  virtual std::unique_ptr<dx::teacher_source<T, D>> source() const = 0;

  D& device_;
  dx::embedding_and_head matrices_;

 public:
  teacher_facts facts() const override {
    return {matrices_.embedding.rows,
            matrices_.embedding.cols,
            layers_,
            heads_,
            head_dim_,
            matrices_.embedding.data == matrices_.head.data,
            context_};
  }

  std::unique_ptr<training> train(const dx::xlstm_config& config, std::uint64_t seed,
                                  const dx::token_windows& text, const training_objective& objective,
                                  const dx::training_options& options) override {
    student_type student(device_, config, matrices_.embedding, matrices_.head, matrices_.owner);
    student.initialise(device_, seed);
    return train(std::move(student), text, objective, options);
  }
  std::unique_ptr<training> train(const fs::path& folder, const dx::token_windows& text,
                                  const training_objective& objective,
                                  const dx::training_options& options) override {
    student_type student = dx::load_xlstm<T>(device_, folder);
    const auto [vocabulary, width] = std::pair(matrices_.embedding.rows, matrices_.embedding.cols);
    dx::require(student.width() == width && student.vocabulary() == vocabulary, folder.string(),
                ": a student of width ", student.width(), " and vocabulary ", student.vocabulary(),
                ", the teacher has ", width, " and ", vocabulary);
    return train(std::move(student), text, objective, options);
  }

 private:
  using student_type = dx::xlstm<T, D>;

  std::unique_ptr<training> train(student_type student, const dx::token_windows& text,
                                  const training_objective& objective, const dx::training_options& options) {
    return distillation_of(device_, std::make_shared<student_type>(std::move(student)), text,
                           std::shared_ptr<dx::teacher_source<T, D>>(source()), objective, options);
  }

  dx::index layers_, heads_, head_dim_, context_;
};

template <class D>
class live_teacher_on final : public teacher_on<D> {
  using base = teacher_on<D>;
  using T = typename D::scalar;
  using model_type = dx::llama<T, D>;

 public:
  live_teacher_on(D& device, const fs::path& path, model_type model)
      : base(device, {model.embedding(), model.head(), model.owner()}, model.config().layers,
             model.config().heads, model.config().head_dim, model.config().context),
        path_(path),
        model_(std::move(model)) {}

  std::unique_ptr<linearised_student> linearise(const dx::linearised_config& mixers,
                                                std::uint64_t seed) override {
    return std::make_unique<linearised_student_on<D>>(this->device_, model_,
                                                      dx::linearise<T>(this->device_, path_, mixers, seed));
  }
  std::optional<dx::text_score> score(const dx::io::token_file& text, dx::index window) override {
    return dx::score_text<T>(this->device_, text, window, 8, model_.head(), dx::reader(this->device_, model_),
                             dx::window_state::empty, processes());
  }
  void write_cache(dx::cache_writer& cache, const dx::token_windows& text, dx::index batch,
                   std::span<const dx::layer_range> targets, const on_progress& progress) override {
    D& device = this->device_;
    dx::live_teacher source(model_);
    const dx::signal_memory<T, D> memory(device, batch * text.length(), model_.width(),
                                         {targets.begin(), targets.end()});
    append_windows(
        device, cache, source, text, memory, [&](dx::index done) { progress(done, text.count()); },
        processes());
    dx::comm::on_root(processes(), [&] { cache.finish(device, model_.embedding(), model_.head()); });
  }

 private:
  std::unique_ptr<dx::teacher_source<T, D>> source() const override {
    return std::make_unique<dx::live_teacher<model_type>>(model_);
  }

  fs::path path_;
  model_type model_;
};

template <class D>
class cached_teacher_on final : public teacher_on<D> {
  using base = teacher_on<D>;
  using T = typename D::scalar;

 public:
  cached_teacher_on(D& device, const dx::teacher_cache& cache)
      : base(device, dx::upload_embedding_and_head<T>(device, cache.embedding(), cache.head(), cache.owner()),
             cache.identity().layers, 0, 0, 0),
        cache_(cache) {}

  std::unique_ptr<linearised_student> linearise(const dx::linearised_config&, std::uint64_t) override {
    dx::fail("a cache cannot be linearised: a teacher can");
  }
  std::optional<dx::text_score> score(const dx::io::token_file&, dx::index) override { return {}; }
  void write_cache(dx::cache_writer&, const dx::token_windows&, dx::index, std::span<const dx::layer_range>,
                   const on_progress&) override {
    dx::fail("a cache is made from a teacher, not from a cache");
  }

 private:
  std::unique_ptr<dx::teacher_source<T, D>> source() const override {
    return std::make_unique<dx::cached_teacher<T, D>>(cache_);
  }

  const dx::teacher_cache& cache_;
};

/// The number of the GPU that is for a machine's process of this rank: a launcher may have shown each its own alone.
template <class D>
int visible(int rank_here) {
  return D::count() == 1 ? 0 : rank_here;
}

template <class D>
class engine_on final : public engine {
 public:
  template <class... Arguments>
  explicit engine_on(Arguments... arguments) : device_(arguments...) {}

  int threads() const override {
    if constexpr (requires { device_.threads(); })
      return device_.threads();
    else
      return 0;
  }
  std::unique_ptr<loaded_model> load(const fs::path& model) override {
    return std::make_unique<loaded_model_on<D>>(device_, model);
  }
  std::unique_ptr<loaded_model> load_windowed(const fs::path& teacher,
                                              const dx::linearised_config& mixers) override {
    return std::make_unique<loaded_model_on<D>>(device_, teacher, mixers);
  }
  std::unique_ptr<teacher> open_teacher(const fs::path& model) override {
    return std::make_unique<live_teacher_on<D>>(device_, model,
                                                dx::load_llama<typename D::scalar>(device_, model));
  }
  std::unique_ptr<teacher> open_cache(const dx::teacher_cache& cache) override {
    return std::make_unique<cached_teacher_on<D>>(device_, cache);
  }

 private:
  D device_;
};

}  // namespace program
