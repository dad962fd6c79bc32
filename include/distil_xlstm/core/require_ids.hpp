#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// Throws `error` naming the first id that a vocabulary does not have.
inline void require_ids(std::span<const std::int32_t> ids, index vocabulary) {
  for (std::size_t i = 0; i < ids.size(); ++i)
    require(ids[i] >= 0 && ids[i] < vocabulary, "the id at position ", i, " is ", ids[i],
            ", the vocabulary has ", vocabulary);
}

}  // namespace distil_xlstm
