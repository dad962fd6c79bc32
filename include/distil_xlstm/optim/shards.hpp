#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/optim/adamw.hpp>

namespace distil_xlstm::optim {

/// What one of several ranks updates of an arena.
struct shard {
  /// @{
  /// Numbers from .. to - 1.
  index from = 0, to = 0;
  /// @}
  index size() const { return to - from; }  ///< how many numbers
};

/// Where the parts of an arena of n numbers begin that as many ranks update, of about one size; the last entry is n.
/// They are cut where an update of the whole has its rows, so that each part's numbers are those of the whole, bit
/// for bit.
inline std::vector<index> shards_of(index n, std::span<const parameter_range> ranges, index parts) {
  std::vector<index> starts(static_cast<std::size_t>(parts) + 1, 0);
  starts.back() = n;
  detail::for_runs(n, ranges, [&](index from, index to, const parameter_range&) {
    for (index k = 1; k < parts; ++k)
      if (const index ideal = n / parts * k; from <= ideal && ideal < to)
        starts[static_cast<std::size_t>(k)] =
            from + (ideal - from) / detail::update_columns * detail::update_columns;
  });
  return starts;
}

/// The ranges of a part as an arena by itself: counted from its first number.
inline std::vector<parameter_range> ranges_of(shard part, std::span<const parameter_range> ranges) {
  std::vector<parameter_range> out;
  for (parameter_range r : ranges) {
    const index from = std::max(r.offset, part.from), to = std::min(r.offset + r.size, part.to);
    if (r.offset + r.size <= part.from) {  // padding behind it goes with it
      out.assign(1, {0, 0, r.decay, r.rate});
      continue;
    }
    if (from >= to) continue;
    r.offset = from - part.from, r.size = to - from;
    out.push_back(r);
  }
  return out;
}

}  // namespace distil_xlstm::optim
