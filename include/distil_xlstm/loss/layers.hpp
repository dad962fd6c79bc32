#pragma once

#include <string_view>

#include <distil_xlstm/core/error.hpp>

namespace distil_xlstm::loss {

/// Which hidden states the hidden terms of an objective compare, as pairs of a student's tensor and its target.
/// The teacher's layers are 1 .. L_t; the last one's output counts after the final norm. The student has L_s
/// blocks.
enum class layers {
  none,
  average,    ///< one pair: the student's final hidden state, and the mean of the teacher's layers
  ratio,      ///< a pair a block: its output, and the mean of floor(L_t / L_s) layers; the last takes the rest
  block_wise  ///< a pair a block: its output, and that of the teacher's layer of its number; L_s = L_t
};

/// The enumerator's name.
constexpr std::string_view name_of(layers l) {
  constexpr std::string_view names[] = {"none", "average", "ratio", "block_wise"};
  return names[static_cast<int>(l)];
}

namespace detail {
/// What a sum compares. Throws `error` where its parts differ.
constexpr layers common_layers(layers a, layers b) {
  if (a == layers::none || a == b) return b;
  if (b != layers::none)
    fail("loss: one term compares layers::", name_of(a), ", another layers::", name_of(b),
         "; the hidden terms of an objective compare the same");
  return a;
}
}  // namespace detail

}  // namespace distil_xlstm::loss
