#pragma once

#include <cmath>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::detail {

/// Standard deviation sqrt(2 / (5 width)) of the initial weights of what reads `width` numbers (Nguyen and Salazar
/// 2019, arXiv 1910.05895).
inline double small_deviation(index width) { return std::sqrt(2.0 / (5.0 * static_cast<double>(width))); }

/// Standard deviation 2 / (blocks sqrt(width)) of the initial weights of a block's last projection, which gives
/// `width` numbers (mesh-transformer-jax, as NX-AI/xlstm has it). Throws `error` naming the block where the model has
/// none.
inline double last_deviation(const char* block, index width, index blocks) {
  require(blocks > 0, block, ": block_count is ", blocks, ", it must be 1 or more");
  return 2.0 / (static_cast<double>(blocks) * std::sqrt(static_cast<double>(width)));
}

}  // namespace distil_xlstm::detail
