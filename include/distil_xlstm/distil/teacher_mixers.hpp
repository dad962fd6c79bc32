#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <distil_xlstm/block/embedding.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/model/llama.hpp>

namespace distil_xlstm {

/// Shows each layer of a transformer at work: on_mixer(i, u, a) with the normed input u [rows, width] of layer i's
/// attention, stored as the device's `operand_t`, and what that gives, a, after its output projection, both in the
/// device's scratch. `ids` and `seq.start` lie in the device's memory; a text that began before the call counts from
/// the call's first token. Throws `error` where the attention has a window of its own that the texts do not fit in.
template <class Teacher, class D, class OnMixer>
void for_each_mixer(D& d, const Teacher& teacher, sequence_view seq, const std::int32_t* ids,
                    const OnMixer& on_mixer) {
  using T = typename Teacher::scalar;
  const auto& layers = teacher.stack().blocks.blocks;
  const auto& weights = teacher.stack_weights().blocks;
  using layer_type = std::remove_cvref_t<decltype(layers.front())>;
  struct parts {
    matrix_view<T> x;
    tape_t<layer_type, T> tape;
  };
  for (std::size_t i = 0; i < layers.size(); ++i)
    require(layers[i].mixer.window == 0 || layers[i].mixer.window >= seq.time,
            "linearise: the teacher's attention has a window of its own, ", layers[i].mixer.window,
            " tokens; texts may not be longer");
  const auto memory = make_scratch<T>(d, [&](auto& l) {
    l.transient(true);
    matrix_view<T> x = l.matrix("x", seq.rows(), teacher.width());
    return parts{x, layers.front().tape(l, seq)};
  });
  const auto& [x, tape] = memory.views;
  embed(d, teacher.embedding(), ids, x);
  layout<T> none;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    layer_type layer = layers[i];
    layer.first = i == 0 || !layer.mixer.rope().has_angles_of(layers[i - 1].mixer.rope());
    if (layer.mixer.window > 0) layer.mixer.window = layer.mixer.sinks = 0;
    const auto state = layer.state(none);
    layer.forward(d, seq, weights[i], state, tape, matrix_view<const T>(x), x,
                  [&](auto u, matrix_view<const T> a) { on_mixer(static_cast<index>(i), u, a); });
  }
}

}  // namespace distil_xlstm
