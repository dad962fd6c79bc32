#pragma once

#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/loss/any_alignment.hpp>

namespace distil_xlstm {

/// Which teacher layers an alignment averages for each of its targets, and what of the student it compares them
/// with.
struct alignment_plan {
  loss::alignment form = loss::alignment::average;
  bool blocks = false;  ///< every block's output is compared; false: the final hidden state
  std::vector<std::pair<index, index>> groups;  ///< of each target: first and last layer, 1 .. layers, both
                                                ///< included; the last group ends at the top

  /// average, paper, mse: one target, the mean of layers 1 .. L_t. ratio, cosine: L_s targets of floor(L_t /
  /// L_s) layers, the last takes what is left. block_wise: a layer a block. Throws `error` when the counts do
  /// not fit.
  static alignment_plan make(loss::alignment form, index teacher_layers, index student_blocks) {
    alignment_plan p;
    p.form = form;
    if (form == loss::alignment::none) return p;
    if (form != loss::alignment::ratio && form != loss::alignment::block_wise &&
        form != loss::alignment::cosine) {
      p.groups = {{1, teacher_layers}};
      return p;
    }
    p.blocks = true;
    require(form != loss::alignment::block_wise || student_blocks == teacher_layers,
            "alignment block_wise: the student has ", student_blocks, " blocks, the teacher ", teacher_layers,
            " layers");
    require(student_blocks <= teacher_layers, "alignment ", loss::name_of(form), ": the student has ",
            student_blocks, " blocks, the teacher only ", teacher_layers, " layers");
    const index step = teacher_layers / student_blocks;
    for (index i = 0; i < student_blocks; ++i)
      p.groups.push_back({i * step + 1, i + 1 == student_blocks ? teacher_layers : (i + 1) * step});
    return p;
  }
};

}  // namespace distil_xlstm
