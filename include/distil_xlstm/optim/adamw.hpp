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

/// What changes a model's parameters: AdamW over one flat arena of numbers, the norm that gradients are clipped by,
/// and the arena's parts for several ranks.
namespace distil_xlstm::optim {

/// AdamW (Loshchilov, Hutter 2019): decoupled weight decay, bias correction, epsilon outside the root; the
/// formula and the order of operations are PyTorch's.
///
///     p <- p (1 - lr wd);  m <- m + (1 - b1) (g - m);  v <- b2 v + (1 - b2) g²
///     p <- p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
struct adamw {
  /// @{
  /// b1 and b2, with which the two moments decay.
  double beta1 = 0.9, beta2 = 0.999;
  /// @}
  double epsilon = 1e-8;    ///< eps
  double weight_decay = 0;  ///< wd
};

/// What AdamW remembers of n parameters; the memory is the caller's.
template <class T>
struct adamw_state {
  /// @{
  /// The first and the second moment, [n] each in the device's memory, 0 at first.
  T *m = nullptr, *v = nullptr;
  /// @}
  std::int64_t step = 0;  ///< steps taken
};

/// A stretch of the arena, and what an update does with it.
struct parameter_range {
  /// @{
  /// Numbers offset .. offset + size - 1 of the arena.
  index offset = 0, size = 0;
  /// @}
  bool decay = true;  ///< weight decay applies
  double rate = 1;    ///< what the learning rate is multiplied by; 0: they stay as they are
};

/// What an update reads that changes from step to step: b1, b2 and wd are those of `adamw`.
template <class T>
struct adamw_scalars {
  T clip;          ///< what gradients are multiplied by
  T keep;          ///< what decaying parameters are multiplied by: 1 - lr wd
  T step_size;     ///< lr / (1 - b1^t)
  T inverse_root;  ///< 1 / sqrt(1 - b2^t)
  T update = 1;    ///< 0: nothing is updated

  /// Those of step number `step`, counted from 1.
  DISTIL_XLSTM_HD static adamw_scalars of(const adamw& h, double lr, std::int64_t step, double clip) {
    using std::pow, std::sqrt;
    const double t = static_cast<double>(step);
    return {static_cast<T>(clip), static_cast<T>(1 - lr * h.weight_decay),
            static_cast<T>(lr / (1 - pow(h.beta1, t))), static_cast<T>(1 / sqrt(1 - pow(h.beta2, t)))};
  }
};

namespace detail {

/// What becomes of a number of a range: p <- keep p - step_size m / denominator.
template <class V>
struct update_factors {
  V keep, step_size;
};
template <class T>
DISTIL_XLSTM_HD update_factors<T> factors_of(const adamw_scalars<T>& s, bool decay, T rate) {
  // Exactly s.keep where rate is 1: for keep >= 1/2 both differences are exact.
  return {decay ? T(1) - rate * (T(1) - s.keep) : T(1), rate * s.step_size};
}
/// A stretch of the arena of one decay and rate.
template <class T>
struct one_run {
  bool decay;
  T rate;
  template <class V>
  DISTIL_XLSTM_HD update_factors<V> factors(index, const adamw_scalars<T>& s) const {
    const auto f = factors_of(s, decay, rate);
    return {V(f.keep), V(f.step_size)};
  }
};
/// Stretches one after another from number 0 on.
template <class T>
struct many_runs {
  static constexpr int most = 128;
  index ends[most];
  T rates[most];
  bool decays[most];
  int count;

  DISTIL_XLSTM_HD int find(index i) const {
    int at = 0;
    for (int half = most / 2; half > 0; half /= 2)
      if (at + half <= count - 1 && ends[at + half - 1] <= i) at += half;
    return at;
  }
  DISTIL_XLSTM_HD update_factors<T> of(int run, const adamw_scalars<T>& s) const {
    return factors_of(s, decays[run], rates[run]);
  }
  template <class V>
  DISTIL_XLSTM_HD update_factors<V> factors(index i, const adamw_scalars<T>& s) const {
    constexpr index width = math::width_of<V>;
    const int run = find(i);
    if (i + width <= ends[run]) {
      const auto f = of(run, s);
      return {V(f.keep), V(f.step_size)};
    }
    return {math::lanes<V>([&](index j) { return of(find(i + j), s).keep; }),
            math::lanes<V>([&](index j) { return of(find(i + j), s).step_size; })};
  }
};

/// One update of a stretch of the arena, seen as rows of `columns` numbers. `Scalars` points to adamw_scalars.
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
    const adamw_scalars<T>& s = *scalars;
    if (s.update == T(0)) return;
    const index i = r * columns + c;
    const V gi = V(s.clip) * math::load<V>(g + i);
    const V m0 = math::load<V>(m + i);
    const V mi = m0 + V(new_m) * (gi - m0);
    const V vi = V(beta2) * math::load<V>(v + i) + V(new_v) * gi * gi;
    const V denominator = sqrt(vi) * V(s.inverse_root) + V(epsilon);
    const auto f = runs.template factors<V>(i, s);
    const V pi = f.keep * math::load<V>(p + i) - f.step_size * mi / denominator;
    math::store<V>(m + i, mi);
    math::store<V>(v + i, vi);
    math::store<V>(p + i, pi);
  }
};

/// Calls f(from, to, range) for the stretches of equal decay and rate of an arena of n numbers.
template <class F>
void for_runs(index n, std::span<const parameter_range> ranges, const F& f) {
  if (ranges.empty()) return f(0, n, parameter_range{});
  index begin = 0, end = 0;
  parameter_range of = ranges.front();
  for (const auto& r : ranges) {
    require(r.offset >= end && r.size >= 0 && r.offset + r.size <= n, "adamw: the range ", r.offset, " .. ",
            r.offset + r.size, " follows ", end, " in an arena of ", n);
    if (r.decay != of.decay || r.rate != of.rate) {
      if (r.offset > begin) f(begin, r.offset, of);
      begin = r.offset, of = r;
    }
    end = r.offset + r.size;
  }
  f(begin, n, of);
}

/// The host updates a stretch in rows of so many numbers, and a rest.
inline constexpr index update_columns = 4096;

/// One step over the arena, with the hyper-parameters of `h`.
template <class D, class T, class Scalars>
void update(D& device, const adamw& h, Scalars scalars, T* p, const T* g, T* m, T* v, index n,
            std::span<const parameter_range> ranges) {
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
  if constexpr (D::host_memory) {
    for_runs(n, ranges, [&](index from, index to, const parameter_range& of) {
      constexpr index columns = update_columns;
      const index rows = (to - from) / columns, rest = (to - from) % columns;
      const one_run<T> run{of.decay, static_cast<T>(of.rate)};
      if (rows > 0) map(device, rows, columns, part(from, columns, run));
      if (rest > 0) map(device, 1, rest, part(to - rest, columns, run));
    });
  } else {
    // All stretches at once: a launch each would take longer than their numbers do.
    many_runs<T> runs{};
    index begin = 0, end = 0;
    const auto flush = [&] {
      if (end > begin) map(device, 1, end - begin, part(begin, 0, runs));
      begin = end, runs.count = 0;
    };
    for_runs(n, ranges, [&](index, index to, const parameter_range& of) {
      if (runs.count == many_runs<T>::most) flush();
      runs.decays[runs.count] = of.decay && h.weight_decay != 0,
      runs.rates[runs.count] = static_cast<T>(of.rate);
      end = to;
      runs.ends[runs.count++] = end - begin;
    });
    flush();
  }
}

/// One task: the scalars of the coming step, which is not counted where a gradient is not finite.
template <class T>
struct set_adamw_scalars {
  adamw h;
  const double* lr;
  double max_norm;
  const double* squared_norm;
  std::int64_t* steps;
  adamw_scalars<T>* out;
  DISTIL_XLSTM_HD void operator()(index) const {
    using std::sqrt;
    const double norm = sqrt(*squared_norm);
    out->update = T(0);
    if (norm - norm == 0) *out = adamw_scalars<T>::of(h, *lr, ++*steps, clip_factor(norm, max_norm));
  }
};

}  // namespace detail

/// One step over a flat arena of n numbers: parameters p, gradients g (multiplied by `clip` as they are read),
/// moments and count in `state`. `lr` is this step's. `ranges`, sorted by offset, say where weight decay
/// applies and what multiplies `lr`; padding between them goes with the range before it; no ranges at all:
/// everything decays. Neighbours of equal decay and rate are one pass. Throws `error` when the ranges overlap, are
/// not sorted or leave the arena.
template <class D, class T>
void step(D& device, const adamw& h, double lr, T* p, const T* g, adamw_state<T>& state, index n,
          std::span<const parameter_range> ranges = {}, double clip = 1.0) {
  ++state.step;
  const by_value<adamw_scalars<T>> scalars{adamw_scalars<T>::of(h, lr, state.step, clip)};
  detail::update(device, h, scalars, p, g, state.m, state.v, n, ranges);
}

/// For a step with all that changes from step to step in the device's memory: nothing waits for the host, and the
/// calls stay the same. `prepare_step` takes the learning rate, what `squared_norm` gave and the count of steps
/// taken, which it raises, to scalars <- the step's; clipped to `max_norm` as clip_factor says. A norm that is
/// not finite lets everything stay as it is.
template <class D, class T>
void prepare_step(D& device, const adamw& h, const double* lr, double max_norm, const double* squared_norm,
                  std::int64_t* steps, adamw_scalars<T>* scalars) {
  parallel_for(device, 1, detail::set_adamw_scalars<T>{h, lr, max_norm, squared_norm, steps, scalars});
}
/// The step with what `prepare_step` wrote to `scalars`; moments m and v as in `adamw_state`.
template <class D, class T>
void step(D& device, const adamw& h, const adamw_scalars<T>* scalars, T* p, const T* g, T* m, T* v, index n,
          std::span<const parameter_range> ranges = {}) {
  detail::update(device, h, scalars, p, g, m, v, n, ranges);
}

}  // namespace distil_xlstm::optim

#ifdef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/device/cpu.hpp>

/// The step with scalars in memory, of a precision P and its scalar T, with `keyword` extern template or template.
#define DISTIL_XLSTM_COMPILED_ADAMW(keyword, P, T)                                                         \
  keyword void optim::prepare_step(device::basic_cpu<P>&, const optim::adamw&, const double*, double,      \
                                   const double*, std::int64_t*, optim::adamw_scalars<T>*);                \
  keyword void optim::step(device::basic_cpu<P>&, const optim::adamw&, const optim::adamw_scalars<T>*, T*, \
                           const T*, T*, T*, index, std::span<const optim::parameter_range>);

namespace distil_xlstm {
DISTIL_XLSTM_EACH_PRECISION(DISTIL_XLSTM_COMPILED_ADAMW, extern template)
}  // namespace distil_xlstm
#endif
