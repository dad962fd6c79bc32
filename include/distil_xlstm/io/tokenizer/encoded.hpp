#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm::io {

/// What a text becomes.
struct encoded {
  std::vector<std::int32_t> ids;  ///< its tokens, in order
  std::size_t dropped_bytes = 0;  ///< bytes for which the vocabulary has no token
};

}  // namespace distil_xlstm::io
