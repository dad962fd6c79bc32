#pragma once

#include <array>
#include <cstddef>

#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::loss {

/// What a pass over a site gives back to the host.
template <index Terms>
struct sums {
  std::array<double, static_cast<std::size_t>(Terms)>
      raw{};         ///< what is logged, in the order of the term's names()
  double value = 0;  ///< the weighted terms together
  index rows = 0;    ///< rows that took part
};

}  // namespace distil_xlstm::loss
