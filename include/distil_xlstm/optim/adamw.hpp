#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm::optim {

/// AdamW (Loshchilov, Hutter 2019): decoupled weight decay, bias correction, epsilon outside the root; the
/// formula and the order of operations are PyTorch's.
///
///   p <- p (1 - lr wd);  m <- m + (1 - b1) (g - m);  v <- b2 v + (1 - b2) g²
///   p <- p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
struct adamw {
  double lr = 1e-3;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
};

/// What AdamW remembers, owned by the caller: two moments as long as the parameters, 0 at first, and steps
/// taken.
template <class T>
struct adamw_state {
  T *m = nullptr, *v = nullptr;
  std::int64_t step = 0;
};

/// Numbers of the arena, and whether weight decay applies to them.
struct decay_range {
  index offset = 0, size = 0;
  bool decay = true;
};

namespace detail {

/// One update of a stretch of the arena, seen as rows of `columns` numbers.
template <class T>
struct adamw_update {
  using scalar = T;
  T* p;
  const T* g;
  T *m, *v;
  index columns;
  T clip, keep, new_m, beta2, new_v, step_size, inverse_root, epsilon;

  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    using std::sqrt;
    const index i = r * columns + c;
    const V gi = V(clip) * math::load<V>(g + i);
    const V m0 = math::load<V>(m + i);
    const V mi = m0 + V(new_m) * (gi - m0);
    const V vi = V(beta2) * math::load<V>(v + i) + V(new_v) * gi * gi;
    const V denominator = sqrt(vi) * V(inverse_root) + V(epsilon);
    math::store<V>(m + i, mi);
    math::store<V>(v + i, vi);
    math::store<V>(p + i, V(keep) * math::load<V>(p + i) - V(step_size) * mi / denominator);
  }
};

template <class D, class T>
void update_range(D& device, adamw_update<T> u, index offset, index size) {
  constexpr index columns = 4096;
  u.p += offset, u.g += offset, u.m += offset, u.v += offset;
  u.columns = columns;
  const index rows = size / columns, rest = size % columns;
  if (rows > 0) map(device, rows, columns, u);
  if (rest == 0) return;
  const index done = rows * columns;
  u.p += done, u.g += done, u.m += done, u.v += done;
  map(device, 1, rest, u);
}

}  // namespace detail

/// One step over a flat arena of n numbers: parameters p, gradients g (multiplied by `clip` as they are read),
/// moments and count in `state`. `lr` is this step's. `ranges`, sorted by offset, say where weight decay
/// applies; padding between them goes with the range before it; no ranges at all: everything decays. Runs of
/// equal decay are one pass. Throws `error` when the ranges overlap, are not sorted or leave the arena.
template <class D, class T>
void step(D& device, const adamw& h, double lr, T* p, const T* g, adamw_state<T>& state, index n,
          std::span<const decay_range> ranges = {}, double clip = 1.0) {
  ++state.step;
  const double t = static_cast<double>(state.step);
  detail::adamw_update<T> u{};
  u.p = p, u.g = g, u.m = state.m, u.v = state.v;
  u.clip = static_cast<T>(clip);
  u.new_m = static_cast<T>(1 - h.beta1);
  u.beta2 = static_cast<T>(h.beta2);
  u.new_v = static_cast<T>(1 - h.beta2);
  u.step_size = static_cast<T>(lr / (1 - std::pow(h.beta1, t)));
  u.inverse_root = static_cast<T>(1 / std::sqrt(1 - std::pow(h.beta2, t)));
  u.epsilon = static_cast<T>(h.epsilon);

  const auto run = [&](index from, index to, bool decay) {
    if (from == to) return;
    u.keep = static_cast<T>(decay ? 1 - lr * h.weight_decay : 1.0);
    detail::update_range(device, u, from, to - from);
  };
  if (ranges.empty() || h.weight_decay == 0) {
    run(0, n, true);
    return;
  }
  index begin = 0, end = 0;
  bool decay = ranges.front().decay;
  for (const auto& r : ranges) {
    require(r.offset >= end && r.size >= 0 && r.offset + r.size <= n, "weight decay: the range ", r.offset,
            " .. ", r.offset + r.size, " follows ", end, " in an arena of ", n);
    if (r.decay != decay) {
      run(begin, r.offset, decay);
      begin = r.offset, decay = r.decay;
    }
    end = r.offset + r.size;
  }
  run(begin, n, decay);
}

}  // namespace distil_xlstm::optim
