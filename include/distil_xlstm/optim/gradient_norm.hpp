#pragma once

#include <algorithm>
#include <cmath>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/device/device.hpp>

namespace distil_xlstm::optim {

/// The norm of all gradients, and where they stop being numbers.
struct gradient_norm {
  double value = 0;             ///< sqrt(sum g²), summed in double; not finite if a gradient is not
  index first_non_finite = -1;  ///< flat index of the first gradient that is infinite or NaN, -1 if none is

  bool finite() const { return std::isfinite(value); }
};

namespace detail {

inline constexpr index norm_block = 4096;

template <class T>
struct block_squares {
  const T* g;
  index n;
  double* sums;
  DISTIL_XLSTM_HD void operator()(index block) const {
    const index begin = block * norm_block, end = begin + norm_block < n ? begin + norm_block : n;
    double lanes[8] = {};  // in a fixed order, and independent enough for vectors
    index i = begin;
    for (; i + 8 <= end; i += 8)
      for (index j = 0; j < 8; ++j) {
        const double x = static_cast<double>(g[i + j]);
        lanes[j] += x * x;
      }
    for (; i < end; ++i) lanes[0] += static_cast<double>(g[i]) * static_cast<double>(g[i]);
    sums[block] =
        ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
  }
};

/// out[0] = the sum of squares, out[1] = the flat index of the first number that is not finite, or -1.
template <class T>
struct sum_squares {
  const T* g;
  index n, blocks;
  const double* sums;
  double* out;
  DISTIL_XLSTM_HD void operator()(index) const {
    double total = 0;
    index bad = -1;
    for (index b = 0; b < blocks; ++b) {
      total += sums[b];
      if (bad >= 0 || sums[b] - sums[b] == 0) continue;
      for (index i = b * norm_block; i < n && i < (b + 1) * norm_block && bad < 0; ++i)
        if (g[i] - g[i] != 0) bad = i;
    }
    out[0] = total;
    out[1] = static_cast<double>(bad);
  }
};

}  // namespace detail

/// The global norm of n gradients; the same whatever the number of threads.
template <class D, class T>
gradient_norm global_norm(D& device, const T* g, index n) {
  const index blocks = (n + detail::norm_block - 1) / detail::norm_block;
  auto sums = device.template scratch<double>(blocks);
  auto out = device.template scratch<double>(2);
  for_each(device, blocks, detail::block_squares<T>{g, n, sums.data()});
  for_each(device, 1, detail::sum_squares<T>{g, n, blocks, sums.data(), out.data()});
  double host[2];
  device.download(host, out.data(), static_cast<index>(sizeof host));
  return {std::sqrt(host[0]), static_cast<index>(host[1])};
}

/// What gradients are multiplied by so that their norm is at most `max_norm` (0 or less: no clipping):
/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_.
inline double clip_factor(double norm, double max_norm) {
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace distil_xlstm::optim
