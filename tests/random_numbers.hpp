#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/core/view.hpp>

namespace distil_xlstm {

/// n normal numbers of this standard deviation, as T's.
template <class T>
std::vector<T> random_numbers(index n, std::uint64_t seed, double deviation = 1) {
  rng random(seed);
  std::vector<T> x(static_cast<std::size_t>(n));
  for (T& each : x) each = static_cast<T>(deviation * random.normal());
  return x;
}

}  // namespace distil_xlstm
