#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/block/decoder_layer.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/model/llama.hpp>

namespace distil_xlstm {

/// What a layer of a linearised transformer has where its teacher has attention: the same; attention over a window
/// and sinks; a recurrent memory; both, mixed by a gate of each head.
enum class mixer_kind { attention, window, memory, hybrid };

constexpr std::string_view name_of(mixer_kind k) {
  constexpr std::array<std::string_view, 4> names = {"attention", "window", "mlstm", "hybrid"};
  return names[static_cast<std::size_t>(k)];
}
/// Throws `error` naming what it does not know.
inline mixer_kind mixer_named(std::string_view name) {
  for (const auto k : {mixer_kind::attention, mixer_kind::window, mixer_kind::memory, mixer_kind::hybrid})
    if (name == name_of(k)) return k;
  fail("mixer '", name, "' is not known (attention, window, mlstm, hybrid are)");
}

/// What lies between embedding and head, under the teacher's names.
using linearised_stack = stack<any_decoder_layer, dynamic, named<"norm", rms_norm<>>, "layers">;

/// A transformer of the Llama family whose layers have other mixers: the teacher's configuration, and one kind a
/// layer.
struct linearised_config : llama_config {
  std::vector<mixer_kind> mixers{};
  index window = 64, sinks = 4;  ///< tokens, of windows and hybrids; not the teacher's own window
  index features = 64;           ///< of one softmax of a memory's queries and keys
  bool both_signs = true;        ///< twice as many: of z and of -z

  /// Throws `error` as `check` does.
  linearised_stack stack() const {
    check("linearised");
    linearised_stack s{{}, true, epsilon};
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

  /// Throws `error` beginning with `name` unless the numbers make a model.
  void check(const std::string& name) const {
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
    require(!windowed || (sinks >= 0 && sinks <= window), name, ": ", sinks, " sinks beside a window of ",
            window, " tokens are not possible (at most as many as the window has are)");
    require(!memory || (features > 0 && features <= (1 << 16)), name, ": ", features,
            " features are not possible");
  }
};

}  // namespace distil_xlstm
