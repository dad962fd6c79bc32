#pragma once

#include <cstdint>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// What flows through blocks: `batch` sequences of `time` tokens, row b * time + t, and where documents begin.
/// A device that is given one reads `start` in its own memory.
struct sequence_view {
  /// @{ Sequences, and tokens of each in this call.
  index batch = 1, time = 1;
  /// @}
  /// [batch * time], or null: the time index at which the document of each token starts in this call,
  /// -1 if it started before (its past is in the state). Null means -1 everywhere.
  const std::int32_t* start = nullptr;

  /// Tokens of the call, a row each.
  DISTIL_XLSTM_HD constexpr index rows() const { return batch * time; }
  /// Where the document of token t of sequence b starts in this call; -1: before it.
  DISTIL_XLSTM_HD constexpr index document_start(index b, index t) const {
    return start ? static_cast<index>(start[b * time + t]) : -1;
  }
  /// True where token t is the first of its document.
  DISTIL_XLSTM_HD constexpr bool begins(index b, index t) const { return document_start(b, t) == t; }
};

}  // namespace distil_xlstm
