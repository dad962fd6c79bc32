#include <boost/test/unit_test.hpp>

#include <filesystem>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/write_token_file.hpp>
#include <distil_xlstm/model/xlstm.hpp>

#include "../temporary_folder.hpp"
#include "invented_teacher.hpp"

namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;
using cpu = device::cpu;

constexpr index vocabulary = 23, width = 16, layers = 5;

struct text_file {
  temporary_folder folder;
  io::token_file file;
  explicit text_file(const std::vector<std::int64_t>& documents)
      : file(make(folder.path / "text.safetensors", documents)) {}
  static io::token_file make(const fs::path& path, const std::vector<std::int64_t>& documents) {
    rng random(5);
    std::vector<std::int32_t> ids;
    for (index i = 0; i < 400; ++i) ids.push_back(static_cast<std::int32_t>(random.below(vocabulary)));
    io::write_token_file(path, ids, documents, vocabulary);
    return io::token_file(path);
  }
};

template <class T>
struct ends {
  std::vector<T> embedding;
  ends() {
    rng random(11);
    for (index i = 0; i < vocabulary * width; ++i) embedding.push_back(static_cast<T>(random.normal()));
  }
  frozen_matrix matrix() const { return {embedding.data(), dtype_of<T>, vocabulary, width}; }
};

xlstm_config shape() {
  xlstm_config c;
  c.vocabulary = vocabulary, c.width = width, c.blocks = 3, c.slstm_at = {0}, c.mlstm_heads = c.slstm_heads = 2,
  c.tied = true;
  return c;
}

template <class T>
struct setting {
  cpu device{2};
  text_file text;
  ends<T> memory;
  token_windows cut;
  xlstm<T, cpu> student;
  invented_teacher<T> teacher;
  training_options options;
  loss::distillation objective;
  std::unique_ptr<trainer<xlstm<T, cpu>, loss::distillation>> run;

  explicit setting(loss::alignment form, index batch = 2, index accumulate = 1,
                   const std::vector<std::int64_t>& documents = {0, 13, 14, 40, 55, 90, 300})
      : text(documents),
        cut(text.file, 9),
        student(device, shape(), memory.matrix(), memory.matrix(), nullptr) {
    student.initialise(device, 3);
    // Weights that start from 0 would hide their gradients' errors.
    rng random(17);
    for (index i = 0; i < student.weights().size(); ++i)
      student.weights().data()[i] += static_cast<T>(0.1 * random.normal());
    options.batch = batch, options.length = 9, options.accumulate = accumulate, options.total_steps = 12;
    objective.alpha = schedule::any<double>(0.5), objective.beta = schedule::any<double>(0.3);
    objective.temperature = schedule::any<double>(1.7);
    objective.form = form;
    options.optimiser.weight_decay = 0.1, options.seed = 4;
    run = std::make_unique<trainer<xlstm<T, cpu>, loss::distillation>>(device, student, cut, teacher, objective,
                                                                       options);
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(gradient_of_the_whole_objective) {
  for (auto form :
       {loss::alignment::average, loss::alignment::ratio, loss::alignment::cosine, loss::alignment::none}) {
    setting<double> s(form);
    s.run->measure();
    const std::vector<double> gradient(s.run->gradients().data(),
                                       s.run->gradients().data() + s.run->gradients().size());
    double* w = s.student.weights().data();
    for (const auto& e : s.student.names()) {
      double worst = 0, largest = 0;
      for (index i = e.offset; i < e.offset + e.size; i += std::max<index>(1, e.size / 5)) {
        const double keep = w[i];
        double best = INFINITY, slope = 0;
        for (double h : {1e-4, 1e-5}) {
          auto at = [&](double x) {
            w[i] = keep + x;
            const double total = s.run->measure().total;
            w[i] = keep;
            return total;
          };
          const double numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
          const double off = std::abs(numeric - gradient[static_cast<std::size_t>(i)]);
          if (off < best) best = off, slope = numeric;
        }
        worst = std::max(worst, best), largest = std::max(largest, std::abs(slope));
      }
      BOOST_TEST_CONTEXT(loss::name_of(form) << " " << e.name)
      BOOST_TEST(worst <= 1e-7 * std::max(largest, 1e-3));
    }
  }
}

/// Documents of one token where windows begin and in the middle of them: parts with many targets, few, none.
const std::vector<std::int64_t>& uneven_documents() {
  static const std::vector<std::int64_t> made = [] {
    std::vector<std::int64_t> starts{0, 7, 13};
    for (std::int64_t i = 18; i < 28; ++i) starts.push_back(i);  // window 2 has no target
    for (std::int64_t i = 30; i < 90; i += 4) starts.push_back(i);
    for (std::int64_t i = 91; i < 130; ++i) starts.push_back(i);  // windows 11 to 13 have none
    return starts;
  }();
  return made;
}

BOOST_AUTO_TEST_CASE(a_step_does_not_depend_on_the_split) {
  using loss::alignment;
  for (const auto form : {alignment::none, alignment::mse, alignment::cosine, alignment::paper})
    for (const auto& [batch, accumulate] : {std::pair<index, index>{1, 4}, {2, 2}}) {
      setting<double> whole(form, 4, 1, uneven_documents()), split(form, batch, accumulate, uneven_documents());
      for (auto* s : {&whole, &split}) {
        s->options.batch = s == &whole ? 4 : batch, s->options.accumulate = s == &whole ? 1 : accumulate;
        s->options.order = window_order::sequential;
        s->run = std::make_unique<trainer<xlstm<double, cpu>, loss::distillation>>(
            s->device, s->student, s->cut, s->teacher, s->objective, s->options);
      }
      for (int i = 0; i < 5; ++i) BOOST_TEST_CONTEXT(loss::name_of(form) << " " << batch << " step " << i) {
          const auto a = whole.run->step(), b = split.run->step();
          BOOST_TEST(a.tokens == b.tokens);
          BOOST_REQUIRE(a.terms().size() == b.terms().size());
          for (const auto& t : a.terms()) BOOST_TEST(std::abs(t.value - b[t.name]) <= 1e-12 * t.value);
          BOOST_TEST(std::abs(a.total - b.total) <= 1e-12 * a.total);
          BOOST_TEST(std::abs(a.grad_norm - b.grad_norm) <= 1e-12 * a.grad_norm);
        }
    }
}

/// A root over a batch is each part's own, as the authors' code takes it: the step is the mean of its parts.
BOOST_AUTO_TEST_CASE(a_root_over_a_batch_is_the_mean_of_the_parts) {
  for (const auto form : {loss::alignment::average, loss::alignment::ratio}) {
    setting<double> split(form, 1, 4, uneven_documents()), one(form, 1, 1, uneven_documents());
    for (auto* s : {&split, &one}) {
      s->options.order = window_order::sequential;
      s->objective.alpha = schedule::any<double>(0.0), s->objective.beta = schedule::any<double>(1.0);
      s->run = std::make_unique<trainer<xlstm<double, cpu>, loss::distillation>>(
          s->device, s->student, s->cut, s->teacher, s->objective, s->options);
    }
    split.run->count({1, 0, 0, 0}), split.run->measure();  // windows 4 to 7
    const auto& got = split.run->gradients();
    std::vector<double> mean(static_cast<std::size_t>(got.size()));
    double total = 0;
    for (index window = 4; window < 8; ++window) {
      one.run->count({window, 0, 0, 0});
      total += one.run->measure().total / 4;
      for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += one.run->gradients().data()[i] / 4;
    }
    BOOST_TEST(std::abs(split.run->measure().total - total) <= 1e-12 * total);
    double worst = 0, largest = 0;
    for (std::size_t i = 0; i < mean.size(); ++i) {
      worst = std::max(worst, std::abs(mean[i] - got.data()[i]));
      largest = std::max(largest, std::abs(mean[i]));
    }
    BOOST_TEST(worst <= 1e-12 * largest, loss::name_of(form));
  }
}

BOOST_AUTO_TEST_CASE(a_resumed_run_is_the_same_run_bit_for_bit) {
  temporary_folder folder;
  const checkpoints store(folder.path / "checkpoints");
  std::vector<double> uninterrupted;
  {
    setting<float> s(loss::alignment::average);
    for (int i = 0; i < 8; ++i) {
      uninterrupted.push_back(s.run->step().total);
      if (i == 2 || i == 3 || i == 4) store.save(*s.run, {{"seed", 4}});
    }
  }
  BOOST_TEST(store.steps().size() == 2u);
  const auto refuse = [](const std::string& why) { BOOST_ERROR(why); };
  {
    setting<float> s(loss::alignment::average);
    const auto run = store.restore(*s.run, refuse);
    BOOST_REQUIRE(run);
    BOOST_TEST(s.run->step_count() == 5);
    for (std::size_t i = 5; i < 8; ++i) BOOST_TEST(s.run->step().total == uninterrupted[i]);
  }
  // A damaged newest checkpoint: the one before it takes its place.
  fs::resize_file(store.folder_of(5) / "state.safetensors", 1000);
  setting<float> s(loss::alignment::average);
  int warnings = 0;
  BOOST_REQUIRE(store.restore(*s.run, [&](const std::string&) { ++warnings; }));
  BOOST_TEST(warnings == 1);
  BOOST_TEST(s.run->step_count() == 4);
  BOOST_TEST(s.run->step().total == uninterrupted[4]);
}

BOOST_AUTO_TEST_CASE(a_run_is_the_same_whatever_the_number_of_threads) {
  std::vector<double> totals;
  for (int threads : {1, 2, 3}) {
    cpu device(threads);
    setting<float> s(loss::alignment::ratio);
    trainer run(device, s.student, s.cut, s.teacher, s.objective, s.options);
    for (int i = 0; i < 3; ++i) run.step();
    totals.push_back(run.step().total);
  }
  BOOST_TEST(totals[1] == totals[0]);
  BOOST_TEST(totals[2] == totals[0]);
}

BOOST_AUTO_TEST_CASE(gradients_that_are_not_numbers_skip_the_step_and_ten_stop_the_run) {
  setting<float> s(loss::alignment::average);
  s.run->total_steps(20);
  s.run->step();
  float& broken = s.student.weights().data()[s.student.names()[0].offset];
  const float keep = broken;
  broken = NAN;
  const std::vector<float> before(s.student.weights().data() + 64,
                                  s.student.weights().data() + s.student.weights().size());
  BOOST_TEST(s.run->step().skipped);
  for (std::size_t i = 0; i < before.size(); ++i)
    BOOST_REQUIRE(before[i] == s.student.weights().data()[i + 64]);
  broken = keep;
  BOOST_TEST(!s.run->step().skipped);
  broken = NAN;
  for (int i = 0; i < 9; ++i) s.run->step();
  BOOST_CHECK_EXCEPTION(s.run->step(), numeric_error, [](const error& e) {
    return std::string(e.what()).find("blocks.0") != std::string::npos;
  });
}

/// What is not finite first is named, and the step that it happened at; the steps do nothing.
BOOST_AUTO_TEST_CASE(a_run_that_diverges_is_named) {
  const auto said = [](const auto& f) {
    try {
      f();
    } catch (const numeric_error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const auto until_the_end = [](auto& s) {
    for (int i = 0; i < 12; ++i) s.run->step();
  };
  const auto contains = [](const std::string& text, const std::string& part) {
    BOOST_TEST((text.find(part) != std::string::npos), text << " lacks " << part);
  };
  {
    setting<float> s(loss::alignment::none);  // a finite loss, gradients that are not
    s.run->step(), s.run->check();
    for (float& x : s.memory.embedding) x = 1e30f * x;
    contains(said([&] { s.run->check(); }),
             "diverged at step 1: with the weights that it left the gradient norm is not finite");
    const auto m = s.run->step();
    BOOST_TEST(m.skipped);
    BOOST_TEST(std::isfinite(m.total));
    contains(said([&] { s.run->check(); }), "diverged at step 2: the gradient norm is not finite");
    contains(said([&] { until_the_end(s); }),
             "diverged at step 2: the gradient norm is not finite; ten steps in a row were not, at step 11 the "
             "gradients, first in xlstm_block_stack.");
  }
  {
    setting<float> s(loss::alignment::average);  // a finite gradient beside a loss that is not
    s.teacher.scale = 1e25f;
    const std::vector<float> before(s.student.weights().data(),
                                    s.student.weights().data() + s.student.weights().size());
    s.objective.alpha = schedule::any<double>(0.0);
    trainer run(s.device, s.student, s.cut, s.teacher, s.objective, s.options);
    const auto m = run.step();
    BOOST_TEST(!std::isfinite(m.total));
    BOOST_TEST(std::isfinite(m.grad_norm));
    BOOST_TEST(m.skipped);
    BOOST_TEST((std::equal(before.begin(), before.end(), s.student.weights().data())));
    contains(said([&] { run.check(); }), "diverged at step 1: the loss");
  }
  {
    setting<float> s(loss::alignment::none);  // the weights
    s.options.lr = {3e38}, s.options.optimiser.weight_decay = 10;
    trainer run(s.device, s.student, s.cut, s.teacher, s.objective, s.options);
    run.step();
    contains(said([&] { run.check(); }),
             "diverged at step 1: the weights that it left are not finite, first in ");
    run.step();
    contains(said([&] { run.check(); }),
             "diverged at step 1: the weights that it left are not finite, first in ");
    temporary_folder folder;
    const checkpoints store(folder.path / "checkpoints");
    contains(said([&] { store.save(run, {}); }), "is not finite");
    BOOST_TEST(store.steps().empty());
  }
}

/// Steps without a target are passed over and counted; schedules go on; a resumed run is the same bit for bit.
BOOST_AUTO_TEST_CASE(steps_with_nothing_to_score_are_passed_over) {
  const auto sequential = [](auto& s) {
    s.options.order = window_order::sequential, s.options.total_steps = 44;
    s.objective.alpha = schedule::any<double>(schedule::linear{0.8, 0.2});
    s.run = std::make_unique<trainer<xlstm<float, cpu>, loss::distillation>>(s.device, s.student, s.cut,
                                                                             s.teacher, s.objective, s.options);
  };
  temporary_folder folder;
  const checkpoints store(folder.path / "checkpoints", 50);
  setting<float> s(loss::alignment::average, 1, 1, uneven_documents());
  sequential(s);
  std::vector<step_metrics> all;
  index empty = 0;
  while (s.run->step_count() < 44) {
    const std::vector<float> before(s.student.weights().data(),
                                    s.student.weights().data() + s.student.weights().size());
    const bool due = s.run->step_count() == 2 || s.run->step_count() == 3 || s.run->step_count() == 12;
    if (due) store.save(*s.run, {});
    if (s.run->step_count() == 2)
      BOOST_TEST(s.run->measure().tokens > 0);  // of the next with something to score
    all.push_back(s.run->step());
    const auto& m = all.back();
    BOOST_TEST(m.step == std::ssize(all));
    BOOST_TEST(m.empty == (m.tokens == 0));
    BOOST_TEST(!m.skipped);
    empty += m.empty;
    if (m.empty) BOOST_TEST((std::equal(before.begin(), before.end(), s.student.weights().data())));
    BOOST_TEST(m.lr == s.options.lr.at({m.step - 1, 44, 44}));
  }
  BOOST_TEST(empty == 5);
  BOOST_TEST(s.run->count().empty == empty);
  BOOST_TEST(s.run->count().updates == 44 - empty);
  BOOST_TEST(s.run->count().skipped == 0);
  for (const index at : {12, 3, 2}) {
    setting<float> again(loss::alignment::average, 1, 1, uneven_documents());
    sequential(again);
    BOOST_REQUIRE(store.restore(*again.run, [](const std::string&) {}));
    BOOST_REQUIRE(again.run->step_count() == at);
    for (index i = at; i < 44; ++i)
      BOOST_TEST(again.run->step().total == all[static_cast<std::size_t>(i)].total);
    BOOST_TEST(again.run->count().empty == empty);
    BOOST_TEST((std::equal(s.student.weights().data(), s.student.weights().data() + s.student.weights().size(),
                           again.student.weights().data())));
    fs::remove_all(store.folder_of(at));
  }
}

BOOST_AUTO_TEST_CASE(a_text_with_nothing_to_score_is_refused) {
  std::vector<std::int64_t> single;
  for (std::int64_t i = 0; i < 400; ++i) single.push_back(i);
  const auto made = [](const std::vector<std::int64_t>& documents, index batch, window_order order) {
    setting<float> s(loss::alignment::none);
    const text_file text(documents);
    const token_windows cut(text.file, 9);
    s.options.batch = batch, s.options.order = order;
    trainer run(s.device, s.student, cut, s.teacher, s.objective, s.options);
  };
  const auto nothing = [](const error& e) {
    return std::string(e.what()).find("nothing to score") != std::string::npos;
  };
  for (const auto order : {window_order::shuffled, window_order::sequential})
    BOOST_CHECK_EXCEPTION(made(single, 2, order), error, nothing);
  // Windows 30 on have targets: steps of 30 windows in sequence never read them.
  single.resize(275);
  BOOST_CHECK_EXCEPTION(made(single, 30, window_order::sequential), error, nothing);
  made(single, 30, window_order::shuffled);
  made(single, 31, window_order::sequential);
}

BOOST_AUTO_TEST_CASE(a_cache_gives_the_losses_of_the_live_run) {
  temporary_folder folder;
  setting<float> live(loss::alignment::ratio);
  const auto tokens = live.text.file.data_sha256();
  const auto targets = target_layers(loss::layers::ratio, layers, shape().blocks);
  {
    cache_writer out(
        folder.path / "cache",
        {"invented", "00", tokens, live.cut.count(), 9, width, layers, "ratio", std::ssize(targets)},
        dtype::f32);
    const signal_memory<float, cpu> memory(live.device, 2 * 9, width, targets);
    append_windows(live.device, out, live.teacher, live.cut, memory, [](index) {});
    out.finish(live.device, live.memory.matrix(), live.memory.matrix());
  }
  const teacher_cache cache(folder.path / "cache");
  cache.verify(tokens, live.cut.count(), 9);
  BOOST_CHECK_THROW(cache.verify("other", live.cut.count(), 9), error);
  BOOST_CHECK_THROW(cache.verify(tokens, live.cut.count(), 8), error);
  BOOST_CHECK_THROW(cache.verify_teacher("11"), error);
  cached_teacher<float, cpu> source(cache);
  setting<float> other(loss::alignment::ratio);
  trainer run(other.device, other.student, other.cut, source, other.objective, other.options);
  for (int i = 0; i < 4; ++i) BOOST_TEST(run.step().total == live.run->step().total);
}

}  // namespace distil_xlstm
