#pragma once

#include <cstdint>

#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// What a trainer counts, and a checkpoint keeps.
struct training_counters {
  index step = 0;            ///< steps finished
  std::int64_t updates = 0;  ///< those among them that changed the weights
  /// @{
  /// Steps that were not finite: all, and the last ones in a row.
  index skipped = 0, unusable = 0;
  /// @}
  index empty = 0;  ///< steps with nothing to score
};

}  // namespace distil_xlstm
