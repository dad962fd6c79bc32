#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/model/linearised.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE mixer_kind mixer_named(std::string_view name) {
  for (const auto k : {mixer_kind::attention, mixer_kind::window, mixer_kind::memory, mixer_kind::hybrid})
    if (name == name_of(k)) return k;
  fail("mixer '", name, "' is not known (attention, window, mlstm, hybrid are)");
}

template <class Stack>
Stack linearised_config::stack() const {
  check("linearised");
  Stack s{{}, true, epsilon};
  for (index i = 0; i < layers; ++i) {
    const mixer_kind kind = mixers[static_cast<std::size_t>(i)];
    attention of_teacher = mixer_of(i);
    if (kind == mixer_kind::window || kind == mixer_kind::hybrid)
      of_teacher.window = window, of_teacher.sinks = sinks;
    else if (kind == mixer_kind::memory)
      of_teacher.window = 0;
    if (kind == mixer_kind::attention || kind == mixer_kind::window)
      s.blocks.blocks.push_back(decoder_layer{of_teacher, intermediate, epsilon});
    else
      s.blocks.blocks.push_back(
          hybrid_decoder_layer{{of_teacher, features, both_signs}, intermediate, epsilon});
  }
  return s;
}

DISTIL_XLSTM_INLINE void linearised_config::identify(fnv_hash& hash) const {
  llama_config::identify(hash);
  for (const mixer_kind kind : mixers) hash.add(static_cast<int>(kind));
  hash.add(window), hash.add(sinks), hash.add(features), hash.add(both_signs);
}

DISTIL_XLSTM_INLINE void linearised_config::check(const std::string& name) const {
  llama_config::check(name);
  require(static_cast<index>(mixers.size()) == layers, name, ": ", mixers.size(), " mixers for ", layers,
          " layers");
  bool windowed = false, memory = false;
  for (const mixer_kind kind : mixers) {
    windowed = windowed || kind == mixer_kind::window || kind == mixer_kind::hybrid;
    memory = memory || kind == mixer_kind::memory || kind == mixer_kind::hybrid;
  }
  require(!windowed || (window > 0 && window <= (1 << 24)), name, ": a window of ", window,
          " tokens is not possible");
  require(!windowed || (sinks >= 0 && sinks <= window), name, ": ", sinks, " sinks beside a window of ", window,
          " tokens are not possible (at most as many as the window has are)");
  require(!memory || (features > 0 && features <= (1 << 16)), name, ": ", features,
          " features are not possible");
}

}  // namespace distil_xlstm
