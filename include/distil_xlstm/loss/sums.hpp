#pragma once

#include <array>
#include <cstddef>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>

namespace distil_xlstm::loss {

/// What a pass over a site gives back to the host.
template <index Terms>
struct sums {
  std::array<double, static_cast<std::size_t>(Terms)>
      raw{};         ///< what is logged, in the order of the term's names()
  double value = 0;  ///< the weighted terms together
  index rows = 0;    ///< rows that took part
};

/// How many doubles a pass leaves in the device's memory: `terms` raw values, the value, the rows.
template <index Terms>
inline constexpr index totals_size = Terms + 2;

/// What a pass left in the device's memory, on the host; waits for the device.
template <index Terms, class D>
sums<Terms> download_sums(D& device, const double* totals) {
  double host[static_cast<std::size_t>(totals_size<Terms>)];
  device.download(host, totals, static_cast<index>(sizeof host));
  sums<Terms> out;
  for (std::size_t i = 0; i < out.raw.size(); ++i) out.raw[i] = host[i];
  out.value = host[Terms];
  out.rows = static_cast<index>(host[Terms + 1]);
  return out;
}

}  // namespace distil_xlstm::loss
