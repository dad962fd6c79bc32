#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/step_scalars.hpp>
#include <distil_xlstm/math/numeric.hpp>
#include <distil_xlstm/optim/gradient_norm.hpp>

namespace distil_xlstm::optim {

/// AdamW (Loshchilov, Hutter 2019): decoupled weight decay, bias correction, epsilon outside the root; the
/// formula and the order of operations are PyTorch's.
///
///   p <- p (1 - lr wd);  m <- m + (1 - b1) (g - m);  v <- b2 v + (1 - b2) g²
///   p <- p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
struct adamw {
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

/// What an update reads that changes from step to step.
template <class T>
struct step_scalars {
  T clip;          ///< what gradients are multiplied by
  T keep;          ///< what decaying parameters are multiplied by
  T step_size;     ///< lr / (1 - b1^t)
  T inverse_root;  ///< 1 / sqrt(1 - b2^t)
  T update = 1;    ///< 0: nothing is updated

  DISTIL_XLSTM_HD static step_scalars of(const adamw& h, double lr, std::int64_t step, double clip) {
    using std::pow, std::sqrt;
    const double t = static_cast<double>(step);
    return {static_cast<T>(clip), static_cast<T>(1 - lr * h.weight_decay),
            static_cast<T>(lr / (1 - pow(h.beta1, t))), static_cast<T>(1 / sqrt(1 - pow(h.beta2, t)))};
  }
};

namespace detail {

/// A stretch of the arena that decays, or does not.
struct one_run {
  bool decay;
  template <class V, class T>
  DISTIL_XLSTM_HD V keep(index, T k) const {
    return V(decay ? k : T(1));
  }
};
/// Stretches that decay and do not, in turn, from number 0 on.
struct decay_runs {
  static constexpr int most = 256;
  index ends[most];
  int count;
  bool first;  ///< the first stretch decays

  DISTIL_XLSTM_HD int find(index i) const {
    int at = 0;
    for (int half = most / 2; half > 0; half /= 2)
      if (at + half <= count - 1 && ends[at + half - 1] <= i) at += half;
    return at;
  }
  template <class T>
  DISTIL_XLSTM_HD T keep_of(int run, T k) const {
    return (run % 2 == 0) == first ? k : T(1);
  }
  template <class V, class T>
  DISTIL_XLSTM_HD V keep(index i, T k) const {
    constexpr index width = math::width_of<V>;
    const int run = find(i);
    if (i + width <= ends[run]) return V(keep_of(run, k));
    return math::lanes<V>([&](index j) { return keep_of(find(i + j), k); });
  }
};

/// One update of a stretch of the arena, seen as rows of `columns` numbers. `Scalars` points to step_scalars.
template <class T, class Scalars, class Runs>
struct adamw_update {
  using scalar = T;
  T* p;
  const T* g;
  T *m, *v;
  Scalars scalars;
  Runs runs;
  index columns;
  T new_m, beta2, new_v, epsilon;

  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    using std::sqrt;
    const step_scalars<T>& s = *scalars;
    if (s.update == T(0)) return;
    const index i = r * columns + c;
    const V gi = V(s.clip) * math::load<V>(g + i);
    const V m0 = math::load<V>(m + i);
    const V mi = m0 + V(new_m) * (gi - m0);
    const V vi = V(beta2) * math::load<V>(v + i) + V(new_v) * gi * gi;
    const V denominator = sqrt(vi) * V(s.inverse_root) + V(epsilon);
    const V pi = runs.template keep<V>(i, s.keep) * math::load<V>(p + i) - V(s.step_size) * mi / denominator;
    math::store<V>(m + i, mi);
    math::store<V>(v + i, vi);
    math::store<V>(p + i, pi);
  }
};

/// Calls f(from, to, decay) for the stretches of equal decay of an arena of n numbers.
template <class F>
void for_runs(index n, std::span<const decay_range> ranges, const F& f) {
  if (ranges.empty()) return f(0, n, true);
  index begin = 0, end = 0;
  bool decay = ranges.front().decay;
  for (const auto& r : ranges) {
    require(r.offset >= end && r.size >= 0 && r.offset + r.size <= n, "weight decay: the range ", r.offset,
            " .. ", r.offset + r.size, " follows ", end, " in an arena of ", n);
    if (r.decay != decay) {
      if (r.offset > begin) f(begin, r.offset, decay);
      begin = r.offset, decay = r.decay;
    }
    end = r.offset + r.size;
  }
  f(begin, n, decay);
}

/// One step over the arena, with the hyper-parameters of `h`.
template <class D, class T, class Scalars>
void update(D& device, const adamw& h, Scalars scalars, T* p, const T* g, T* m, T* v, index n,
            std::span<const decay_range> ranges) {
  const auto part = [&]<class Runs>(index offset, index columns, Runs runs) {
    return adamw_update<T, Scalars, Runs>{p + offset,
                                          g + offset,
                                          m + offset,
                                          v + offset,
                                          scalars,
                                          runs,
                                          columns,
                                          static_cast<T>(1 - h.beta1),
                                          static_cast<T>(h.beta2),
                                          static_cast<T>(1 - h.beta2),
                                          static_cast<T>(h.epsilon)};
  };
  if (h.weight_decay == 0) ranges = {};
  if constexpr (D::host_memory) {
    for_runs(n, ranges, [&](index from, index to, bool decay) {
      constexpr index columns = 4096;
      const index rows = (to - from) / columns, rest = (to - from) % columns;
      if (rows > 0) map(device, rows, columns, part(from, columns, one_run{decay}));
      if (rest > 0) map(device, 1, rest, part(to - rest, columns, one_run{decay}));
    });
  } else {
    // All stretches at once: a launch each would take longer than their numbers do.
    decay_runs runs{};
    index begin = 0, end = 0;
    const auto flush = [&] {
      if (end > begin) map(device, 1, end - begin, part(begin, 0, runs));
      begin = end, runs.count = 0;
    };
    for_runs(n, ranges, [&](index, index to, bool decay) {
      const bool goes_on = runs.count > 0 && ((runs.count % 2 == 1) == runs.first) == decay;
      if (!goes_on && runs.count == decay_runs::most) flush();
      if (runs.count == 0) runs.first = decay;
      if (!goes_on) ++runs.count;
      end = to;
      runs.ends[runs.count - 1] = end - begin;
    });
    flush();
  }
}

/// One task: the scalars of the coming step, which is not counted where a gradient is not finite.
template <class T>
struct set_step_scalars {
  adamw h;
  const double* lr;
  double max_norm;
  const double* squared_norm;
  std::int64_t* steps;
  step_scalars<T>* out;
  DISTIL_XLSTM_HD void operator()(index) const {
    using std::sqrt;
    const double norm = sqrt(*squared_norm);
    out->update = T(0);
    if (norm - norm == 0) *out = step_scalars<T>::of(h, *lr, ++*steps, clip_factor(norm, max_norm));
  }
};

}  // namespace detail

/// One step over a flat arena of n numbers: parameters p, gradients g (multiplied by `clip` as they are read),
/// moments and count in `state`. `lr` is this step's. `ranges`, sorted by offset, say where weight decay
/// applies; padding between them goes with the range before it; no ranges at all: everything decays. Runs of
/// equal decay are one pass. Throws `error` when the ranges overlap, are not sorted or leave the arena.
template <class D, class T>
void step(D& device, const adamw& h, double lr, T* p, const T* g, adamw_state<T>& state, index n,
          std::span<const decay_range> ranges = {}, double clip = 1.0) {
  ++state.step;
  const by_value<step_scalars<T>> scalars{step_scalars<T>::of(h, lr, state.step, clip)};
  detail::update(device, h, scalars, p, g, state.m, state.v, n, ranges);
}

/// The same with all that changes from step to step in the device's memory: nothing waits for the host, and the
/// calls stay the same. `prepare_step` takes the learning rate, what `squared_norm` gave and the count of steps
/// taken, which it raises, to scalars <- the step's; clipped to `max_norm` as clip_factor says. A norm that is
/// not finite lets everything stay as it is.
template <class D, class T>
void prepare_step(D& device, const adamw& h, const double* lr, double max_norm, const double* squared_norm,
                  std::int64_t* steps, step_scalars<T>* scalars) {
  parallel_for(device, 1, detail::set_step_scalars<T>{h, lr, max_norm, squared_norm, steps, scalars});
}
template <class D, class T>
void step(D& device, const adamw& h, const step_scalars<T>* scalars, T* p, const T* g, T* m, T* v, index n,
          std::span<const decay_range> ranges = {}) {
  detail::update(device, h, scalars, p, g, m, v, n, ranges);
}

}  // namespace distil_xlstm::optim
