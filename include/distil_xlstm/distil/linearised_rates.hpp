#pragma once

#include <charconv>
#include <cstddef>
#include <string_view>

#include <distil_xlstm/model/linearised.hpp>

namespace distil_xlstm {

/// Whether a tensor of a linearised student is one that its teacher does not have.
constexpr bool is_added(std::string_view tensor) {
  return tensor.find(".self_attn.feature_") != tensor.npos || tensor.find(".self_attn.gates.") != tensor.npos;
}

/// What multiplies the learning rate of each tensor while mixers are aligned, `training_options::rate_of`: 1 of new
/// matrices; `gate_bias` of the gates' biases; `projections` of q, k, v and o, biases and norms of heads among them; 0
/// of all else, and of layers that keep attention.
struct alignment_rates {
  const linearised_config* config;  ///< the student's, which must live as long
  /// @{
  /// The factors of those names.
  double gate_bias = 4, projections = 0.1;
  /// @}
  /// The factor of a tensor by its name.
  double operator()(std::string_view tensor) const {
    const std::string_view layers = "model.layers.", mixer = ".self_attn.";
    if (!tensor.starts_with(layers) || tensor.find(mixer) == tensor.npos) return 0;
    std::size_t layer = 0;
    std::from_chars(tensor.data() + layers.size(), tensor.data() + tensor.size(), layer);
    if (config->mixers[layer] == mixer_kind::attention) return 0;
    if (!is_added(tensor)) return projections;
    return tensor.ends_with("gates.bias") ? gate_bias : 1;
  }
};

/// And while all of it is trained: 1 of what the teacher has, `added` of the rest.
struct distillation_rates {
  double added = 5;  ///< of the tensors that `is_added` names
  /// The factor of a tensor by its name.
  double operator()(std::string_view tensor) const { return is_added(tensor) ? added : 1; }
};

}  // namespace distil_xlstm
