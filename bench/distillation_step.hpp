#pragma once

#include <cstdint>
#include <utility>

#include <distil_xlstm/comm/single.hpp>
#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/model/xlstm.hpp>

namespace distil_xlstm {

/// A student of six blocks, sLSTM at 0, 2, 4, four heads, that learns random tokens from `Teacher`: 0.6 KL at T = 2,
/// 0.1 alignment, the rest cross-entropy; AdamW. Its first step, which allocates, is done. Ranks share the batch.
template <class Teacher, Communicator C = comm::single>
struct distillation_step {
  using D = typename Teacher::device_type;
  xlstm<float, D> student;
  token_text text;
  token_windows windows;
  live_teacher<Teacher> live;
  trainer<xlstm<float, D>, loss::distillation, C> run;

  distillation_step(D& device, const Teacher& teacher, index batch, index length, C& ranks = comm::alone,
                    training_options options = {})
      : student(device,
                xlstm_architecture("default", teacher.vocabulary(), teacher.width(), teacher.config().layers,
                                   teacher.config().heads, teacher.embedding().data == teacher.head().data),
                teacher.embedding(), teacher.head(), teacher.owner()),
        text(random_text(4 * batch * length + 1, teacher.vocabulary())),
        windows(text, length),
        live(teacher),
        run(device, student, windows, live, {.alpha = 0.6, .beta = 0.1, .temperature = 2.0},
            for_step(std::move(options), batch, length), ranks) {
    student.initialise(device, 1);
    run.step();
  }
  distillation_step(const distillation_step&) = delete;
  distillation_step& operator=(const distillation_step&) = delete;

 private:
  static training_options for_step(training_options o, index batch, index length) {
    o.batch = batch, o.length = length, o.total_steps = 1000000, o.lr = {1e-4};
    return o;
  }
  static token_text random_text(index tokens, index vocabulary) {
    rng random(1);
    token_text text;
    for (index i = 0; i < tokens; ++i)
      text.ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary))));
    return text;
  }
};

}  // namespace distil_xlstm
