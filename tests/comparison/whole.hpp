#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <unistd.h>

#include <distil_xlstm/distil/evaluate.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/distil/score_divergence.hpp>
#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/read_tokenizer.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/write_token_file.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/load_language_model.hpp>
#include <distil_xlstm/model/reader.hpp>
#include <distil_xlstm/testing/on_host.hpp>

namespace distil_xlstm::testing {

/// A folder that goes when the test does.
struct temporary_folder {
  static inline int count = 0;
  std::filesystem::path path =
      std::filesystem::temp_directory_path() /
      ("distil_xlstm-whole-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
  temporary_folder() { std::filesystem::create_directories(path); }
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  ~temporary_folder() { std::filesystem::remove_all(path); }
};

/// Random tokens, several documents, in a file.
inline io::token_file text_of(const std::filesystem::path& path, index vocabulary) {
  rng random(5);
  std::vector<std::int32_t> ids;
  for (index i = 0; i < 300; ++i)
    ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary))));
  io::write_token_file(path, ids, std::vector<std::int64_t>{0, 13, 14, 40, 90, 222}, vocabulary);
  return io::token_file(path);
}

/// A whole small training on one device: a live teacher, a student between its embedding and head, an objective of
/// three terms.
template <class T, class D>
struct small_training {
  static constexpr index length = 9;
  D& device;
  llama<T, D> teacher;
  xlstm<T, D> student;
  token_windows cut;
  live_teacher<llama<T, D>> live;
  training_options options;
  loss::distillation objective;

  static xlstm_config shape(const llama<T, D>& t) {
    auto c = xlstm_architecture("default", t.vocabulary(), t.width(), t.config().layers, t.config().heads,
                                t.config().tied);
    c.blocks = 2, c.slstm_at = {0};
    return c;
  }
  small_training(D& d, const std::filesystem::path& model, const io::token_file& text, loss::alignment form)
      : device(d),
        teacher(load_llama<T>(d, model)),
        student(d, shape(teacher), teacher.embedding(), teacher.head(), teacher.owner()),
        cut(text, length),
        live(teacher) {
    student.initialise(d, 3);
    options.batch = 3, options.length = length, options.accumulate = 2, options.total_steps = 8;
    options.lr = {1e-2};
    objective.alpha = 0.5, objective.beta = 0.3, objective.temperature = 1.7, objective.form = form;
  }
  auto make_trainer(teacher_source<T, D>& source) {
    return trainer<xlstm<T, D>, loss::distillation>(device, student, cut, source, objective, options);
  }
  auto make_trainer() { return make_trainer(live); }
  std::vector<T> weights() {
    return on_host(device, static_cast<const T*>(student.weights().data()), student.weights().size());
  }
  /// What the teacher says, written down in F32.
  void write_cache(const std::filesystem::path& to, const std::string& tokens_sha256) {
    const auto targets = target_layers(layers_of(objective.form), teacher.config().layers, 2);
    cache_writer out(to,
                     {"a teacher", "00", tokens_sha256, cut.count(), length, teacher.width(),
                      teacher.config().layers, std::string(name_of(objective.form)), std::ssize(targets)},
                     dtype::f32);
    const signal_memory<T, D> memory(device, length, teacher.width(), targets);
    append_windows(device, out, live, cut, memory, [](index) {});
    out.finish(device, teacher.embedding(), teacher.head());
  }
};

/// Two trainings alike: step by step, and as the device records them, with weights and a temperature that
/// change and a term whose weight becomes 0. `check(what, same)` hears whether all numbers are the same.
template <class T, class D, class Check>
void train_recorded(D& d, const std::filesystem::path& model, const io::token_file& text, const Check& check) {
  small_training<T, D> x(d, model, text, loss::alignment::average), y(d, model, text, loss::alignment::average);
  for (auto* s : {&x, &y}) {
    s->objective.alpha = schedule::linear{0.5, 0.1}, s->objective.temperature = schedule::linear{2.0, 1.0};
    s->objective.beta = schedule::linear{0.3, 0.0};
    s->options.lr.floor = s->options.lr.peak / 10;  // the run goes on beyond its schedules
  }
  auto p = x.make_trainer();
  auto q = y.make_trainer();
  p.timer([] { return 0.0; });
  for (index i = 0; i < 13; ++i) {
    const auto m = p.step(), n = q.step();
    check("totals", m.total == n.total);
    check("norms", m.grad_norm == n.grad_norm);
    check("alignment", m["alignment"] == n["alignment"]);
    check("plain", !p.recorded());
    // The weight of the alignment is 0 from the end of the schedule on, and what was recorded is void.
    const index end = y.options.total_steps;
    check("recorded", q.recorded() == (i > 0 && i != end));
  }
  check("weights", x.weights() == y.weights());
}

/// What a model makes of a text, in every way that there is to read one.
template <class T>
struct readings {
  text_score plain, carried;                 ///< the second of recurrent models alone
  double kl = 0;                             ///< from itself where it takes all documents for one
  std::vector<continuation_score> answers;   ///< where the tokenizer fits
  std::vector<std::int32_t> written, drawn;  ///< the likeliest continuation, and one by chance
  std::vector<T> hidden;                     ///< of the session, then of every layer
};

template <class T, class D>
readings<T> read_all(D& d, const std::filesystem::path& path, const io::token_file& text,
                     const std::filesystem::path& tokenizer_folder) {
  readings<T> out;
  const auto model = load_language_model<T>(d, path);
  reader read(d, model);
  out.plain = score_text<T>(d, text, 17, 3, model.head(), read);
  reader other(d, model);
  const auto no_documents = [&](sequence_view seq, auto... rest) { other({seq.batch, seq.time}, rest...); };
  out.kl = score_divergence<T>(d, text, 17, 3, model.head(), no_documents, model.head(), read).kl;
  const io::tokenizer tokenizer(io::read_tokenizer(tokenizer_folder));
  std::vector<continuation> asked;
  for (const auto& [context, answer] :
       {std::pair{"Of all the inv", "entions"}, {"", "the alphabet"}, {"and the print", "ing press"}})
    asked.push_back(tokenize_continuation(tokenizer, context, answer));
  if (model.vocabulary() >= tokenizer.vocab_size())
    out.answers = score_continuations<T>(d, asked, model.head(), 2, read, [](index, index) {});

  std::vector<std::int32_t> prompt;
  for (index i = 0; i < 7; ++i) prompt.push_back(text[i]);
  for (auto& [to, temperature] : {std::pair{&out.written, 0.0}, {&out.drawn, 0.8}})
    generate(d, model, prompt, 9, {.temperature = temperature, .seed = 3}, [to = to](std::int32_t id) {
      to->push_back(id);
      return true;
    });
  reader session(d, model, 40);
  // A state that was saved goes on as if nothing had been read since.
  const auto saved = session.save();
  const buffer<T, D> h(d, model.width() * 3);
  const auto three = std::span<const std::int32_t>(prompt).first(3);
  session.read(three, {h.data(), 3, model.width()});
  session.restore(saved);
  session.read(three, {h.data(), 3, model.width()});
  out.hidden = on_host(d, h);
  // Whole texts, and every layer of them.
  const buffer<T, D> whole(d, model.width() * 6);
  read(2, 3, std::span<const std::int32_t>(prompt).first(6), {whole.data(), 6, model.width()},
       [&](index, matrix_view<const T> y) {
         const auto more = on_host(d, y.data, y.size());
         out.hidden.insert(out.hidden.end(), more.begin(), more.end());
       });
  if (!model.has_cache()) {
    reader carried(d, model);
    out.carried = score_text<T>(
        d, text, 17, 1, model.head(), [&](auto... call) { carried.read(call...); }, window_state::carried);
  }
  return out;
}

}  // namespace distil_xlstm::testing
