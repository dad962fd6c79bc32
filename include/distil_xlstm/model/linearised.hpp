#pragma once

#include <algorithm>
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

/// What config.json calls it: memory is "mlstm".
constexpr std::string_view name_of(mixer_kind k) {
  constexpr std::array<std::string_view, 4> names = {"attention", "window", "mlstm", "hybrid"};
  return names[static_cast<std::size_t>(k)];
}
/// The kind of that name. Throws `error` naming what it does not know.
mixer_kind mixer_named(std::string_view name);

/// What lies between embedding and head, under the teacher's names.
using linearised_stack = stack<any_decoder_layer, dynamic, named<"norm", rms_norm<>>, "layers">;

/// A transformer of the Llama family whose layers have other mixers: the teacher's configuration, and one kind a
/// layer.
struct linearised_config : llama_config {
  std::vector<mixer_kind> mixers{};  ///< one a layer
  /// @{
  /// Tokens, of windows and hybrids; not the teacher's own window.
  index window = 64, sinks = 4;
  /// @}
  index features = 64;     ///< of one softmax of a memory's queries and keys
  bool both_signs = true;  ///< twice as many: of z and of -z

  /// Throws `error` as `check` does.
  template <class Stack = linearised_stack>
  Stack stack() const;

  /// As `llama_config::identify`.
  void identify(fnv_hash& hash) const;
  /// Throws `error` beginning with `name` unless the numbers make a model.
  void check(const std::string& name) const;
  /// Layers whose mixer is of this kind.
  index count(mixer_kind k) const { return std::count(mixers.begin(), mixers.end(), k); }
};

/// A linearised student whose every weight is trained, embedding and head, too. `linearise` makes one of a teacher,
/// `load_linearised` reads one; `language_model` reads one to use it.
template <class T, class D>
using linearised_model = model<linearised_config, T, D, fully_trainable>;

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
namespace distil_xlstm {
extern template linearised_stack linearised_config::stack() const;
}  // namespace distil_xlstm
#endif
#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/linearised.ipp>
#endif
