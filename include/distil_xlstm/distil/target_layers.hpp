#pragma once

#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/loss/layers.hpp>

namespace distil_xlstm {

/// Layers of a teacher, first and last included, of 1 .. their number.
struct layer_range {
  /// @{
  /// Their numbers, from 1.
  index first = 0, last = 0;
  /// @}
};

/// The layers that each target of an alignment is the mean of, as loss::layers says; the last range ends at the
/// top. Throws `error` where the numbers of layers and of the student's blocks do not fit.
inline std::vector<layer_range> target_layers(loss::layers compared, index teacher_layers,
                                              index student_blocks) {
  using loss::layers;
  if (compared == layers::none) return {};
  if (compared == layers::average) return {{1, teacher_layers}};
  require(student_blocks > 0, "alignment ", loss::name_of(compared),
          " compares layers, which the student's stack does not show: make it a distil_xlstm::stack");
  require(compared != layers::block_wise || student_blocks == teacher_layers,
          "alignment block_wise: the student has ", student_blocks, " blocks, the teacher ", teacher_layers,
          " layers");
  require(student_blocks <= teacher_layers, "alignment ", loss::name_of(compared), ": the student has ",
          student_blocks, " blocks, the teacher only ", teacher_layers, " layers");
  const index each = teacher_layers / student_blocks;
  std::vector<layer_range> targets;
  for (index first = 1; std::ssize(targets) + 1 < student_blocks; first += each)
    targets.push_back({first, first + each - 1});
  targets.push_back({(student_blocks - 1) * each + 1, teacher_layers});
  return targets;
}

}  // namespace distil_xlstm
