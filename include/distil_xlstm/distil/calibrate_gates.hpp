#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <distil_xlstm/distil/teacher_mixers.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/model/linearised.hpp>

namespace distil_xlstm {

/// How far back the heads of each layer of a transformer look, over the second half of `sequences` windows of a text,
/// evenly spread: of each head the mass of its attention at least `beyond` tokens back that is not on its document's
/// first `sinks`, and the mean distance of that mass. Waits for the device.
template <class Teacher>
std::vector<std::vector<head_reach>> attention_reach_of(typename Teacher::device_type& d,
                                                        const Teacher& teacher, const token_windows& text,
                                                        index beyond, index sinks, index sequences = 8) {
  using T = typename Teacher::scalar;
  token_batch tokens;
  std::vector<index> which;
  const index n = std::min(sequences, text.count());
  for (index i = 0; i < n; ++i) which.push_back(i * text.count() / n);
  text.read(which, tokens);
  device_batch<typename Teacher::device_type> placed;
  placed.put(d, tokens);
  std::vector<std::vector<head_reach>> out;
  for_each_mixer(d, teacher, placed.view(), placed.ids(), [&](index i, auto u, matrix_view<const T>) {
    const auto at = static_cast<std::size_t>(i);
    const auto& layer = teacher.stack().blocks.blocks[at];
    attention mixer = layer.mixer;
    mixer.window = mixer.sinks = 0;
    const sequence_view seq = placed.view();
    const auto memory = make_scratch<T>(d, [&](auto& l) { return mixer.tape(l, seq); });
    mixer.project(d, seq, layer.mixer_of(teacher.stack_weights().blocks[at]), attention_state<T>{},
                  memory.views, u);
    out.push_back(mixer.reach(d, seq, memory.views, beyond, sinks, seq.time / 2));
  });
  return out;
}

/// What the gates' biases of a layer begin with, from such a reach: a memory remembers over the mean distance of what
/// it takes over, f~ = ln(max(distance, 1)) + 1, and is mixed by as much as it takes over, o~ = logit(mass in
/// [0.05, 0.5]); i~ = 0. Without a window there is no o~.
inline std::vector<double> calibrated_gates(const std::vector<head_reach>& reach, bool has_window) {
  std::vector<double> bias(reach.size(), 0.0);
  for (const auto& head : reach) bias.push_back(std::log(std::max(head.distance, 1.0)) + 1);
  for (const auto& head : reach)
    if (has_window) {
      const double mass = std::clamp(head.mass, 0.05, 0.5);
      bias.push_back(std::log(mass / (1 - mass)));
    }
  return bias;
}

/// Sets the biases of all gates of a linearised student so, from its teacher: a hybrid's from what lies beyond its
/// window (at most a quarter of the text's windows), a memory's alone from all but the sinks.
template <class Student, class Teacher>
void calibrate_gates(typename Student::device_type& d, const Teacher& teacher, Student& student,
                     const token_windows& text, index sequences = 8) {
  using T = typename Student::scalar;
  const linearised_config& c = student.config();
  for (const bool has_window : {false, true}) {
    const mixer_kind kind = has_window ? mixer_kind::hybrid : mixer_kind::memory;
    if (c.count(kind) == 0) continue;
    const auto reach = attention_reach_of(
        d, teacher, text, has_window ? std::min(c.window, std::max<index>(text.length() / 4, 1)) : 0, c.sinks,
        sequences);
    for (std::size_t i = 0; i < reach.size(); ++i) {
      if (c.mixers[i] != kind) continue;
      const auto& layer = std::get<hybrid_decoder_layer>(student.stack().blocks.blocks[i].block);
      const auto& weights =
          std::get<weights_t<hybrid_decoder_layer, T>>(student.weights().views().stack.blocks[i]);
      const std::vector<double> bias = calibrated_gates(reach[i], has_window);
      const std::vector<T> values(bias.begin(), bias.end());
      d.upload(layer.mixer_of(weights).gates.bias, values.data(),
               std::ssize(values) * static_cast<index>(sizeof(T)));
    }
  }
}

}  // namespace distil_xlstm
