#pragma once

#include <cmath>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/fold_into.hpp>
#include <distil_xlstm/math/numeric.hpp>
#include <distil_xlstm/math/sum.hpp>

namespace distil_xlstm::optim {

/// The norm of all gradients, and where they stop being numbers.
struct gradient_norm {
  double value = 0;             ///< sqrt(sum g²), summed in double; not finite if a gradient is not
  index first_non_finite = -1;  ///< flat index of the first gradient that is infinite or NaN, -1 if none is

  /// Whether the norm is finite, and so every gradient.
  bool finite() const { return std::isfinite(value); }
};

namespace detail {

inline constexpr index norm_block = 4096;

/// sums[block] = the sum of squares of a block of the gradients: one row each.
template <class T>
struct block_squares : fold_into<math::sum, double> {
  const T* g;
  index n;
  double* sums;
  template <class V>
  DISTIL_XLSTM_HD void visit(math::sum<V>& a, index block, index c) const {
    constexpr index width = math::width_of<V>;
    const index i = block * norm_block + c;
    const T* p = g + i;
    const index rest = n - i;
    V v;
    if (rest >= width)
      v = math::lanes<V>([p](index k) { return static_cast<double>(p[k]); });
    else
      v = math::lanes<V>([p, rest](index k) { return k < rest ? static_cast<double>(p[k]) : 0.0; });
    push(a, v * v);
  }
  DISTIL_XLSTM_HD void finish(index block, const math::sum<double>& a) const { sums[block] = a.total; }
};

/// out[0] = the sum of squares, out[1] = the flat index of the first number that is not finite, or -1: one row.
template <class T>
struct sum_squares {
  using scalar = double;
  static constexpr double none = 1e18;
  const T* g;
  index n;
  const double* sums;
  double* out;
  template <class V>
  struct acc {
    V total, bad;  ///< the first block whose sum is not finite
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {V(0), V(none)};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index, index block) const {
    using math::min, math::select_positive;
    const V s = math::load<V>(sums + block);
    const V at = math::lanes<V>([block](index k) { return static_cast<double>(block + k); });
    a.total = a.total + s;
    a.bad = min(a.bad, select_positive(s - s + V(1), V(none), at));
  }
  DISTIL_XLSTM_HD void merge(acc<double>& into, const acc<double>& from) const {
    into.total += from.total;
    into.bad = math::min(into.bad, from.bad);
  }
  DISTIL_XLSTM_HD void finish(index, const acc<double>& a) const {
    out[0] = a.total;
    out[1] = -1;
    if (a.bad == none) return;
    index i = static_cast<index>(a.bad) * norm_block;
    while (i < n && g[i] - g[i] == 0) ++i;
    out[1] = static_cast<double>(i);
  }
};

}  // namespace detail

/// out[0] <- the sum of squares of n gradients, out[1] <- the flat index of the first that is not finite, or
/// -1; in the device's memory. The same whatever the number of threads.
template <class D, class T>
void squared_norm(D& device, const T* g, index n, double* out) {
  const index blocks = (n + detail::norm_block - 1) / detail::norm_block;
  auto sums = device.template scratch<double>(blocks);
  fold_rows(device, blocks, detail::norm_block, detail::block_squares<T>{{}, g, n, sums.data()});
  fold_rows(device, 1, blocks, detail::sum_squares<T>{g, n, sums.data(), out});
}

/// The global norm of n gradients, on the host.
template <class D, class T>
gradient_norm global_norm(D& device, const T* g, index n) {
  auto out = device.template scratch<double>(2);
  squared_norm(device, g, n, out.data());
  double host[2];
  device.download(host, out.data(), static_cast<index>(sizeof host));
  return {std::sqrt(host[0]), static_cast<index>(host[1])};
}

/// What gradients are multiplied by so that their norm is at most `max_norm` (0 or less: no clipping):
/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_.
DISTIL_XLSTM_HD inline double clip_factor(double norm, double max_norm) {
  return max_norm > 0 ? math::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace distil_xlstm::optim

#ifdef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/device/cpu.hpp>

/// Of a precision P and its scalar T, with `keyword` extern template or template.
#define DISTIL_XLSTM_COMPILED_GRADIENT_NORM(keyword, P, T) \
  keyword void optim::squared_norm(device::basic_cpu<P>&, const T*, index, double*);

namespace distil_xlstm {
DISTIL_XLSTM_EACH_PRECISION(DISTIL_XLSTM_COMPILED_GRADIENT_NORM, extern template)
}  // namespace distil_xlstm
#endif
