#pragma once

#include <cstdint>

namespace distil_xlstm {

/// Tells a model from others (`model::fingerprint`).
struct model_fingerprint {
  std::uint64_t tensors = 0;  ///< names, shapes, and each tensor's middle row
  std::uint64_t whole =
      0;  ///< and the numbers of the configuration that no tensor tells, such as a rotary base

  /// Of models that differ only where nothing is hashed, too.
  friend bool operator==(const model_fingerprint&, const model_fingerprint&) = default;
};

}  // namespace distil_xlstm
