#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/math/numeric.hpp>
#include <distil_xlstm/math/softmax_weight.hpp>

namespace distil_xlstm {

namespace detail {

/// ids[r] = the column of the largest finite number of row r, the first of several; -1 where there is none.
/// highest[r] = that number.
template <class T>
struct likeliest_tokens {
  using scalar = T;
  matrix_view<const T> logits;
  std::int32_t* ids;
  T* highest;
  static constexpr T none = -std::numeric_limits<T>::infinity();
  template <class V>
  struct acc {
    V largest, column;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {V(none), V(0)};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    using math::select_positive;
    using std::abs;
    const V read = math::load<V>(logits.row(r) + c);
    const V x = select_positive(V(std::numeric_limits<T>::max()) - V(0.5) * abs(read), read, V(none));
    const V more = x - a.largest;
    a.column = select_positive(more, math::lanes<V>([&](index i) { return static_cast<T>(c + i); }), a.column);
    a.largest = select_positive(more, x, a.largest);
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const {
    if (from.largest > into.largest || (from.largest == into.largest && from.column < into.column)) into = from;
  }
  DISTIL_XLSTM_HD void finish(index r, const acc<T>& a) const {
    ids[r] = a.largest == none ? -1 : static_cast<std::int32_t>(a.column);
    if (highest) highest[r] = a.largest;
  }
};

/// The inverse of a row's cumulative weights, in double: sums over spans of columns, sums of those over groups
/// of spans, then a walk over groups, spans of one group, and columns of one span.
template <class T>
struct drawn_tokens {
  static constexpr index span = 32, group = 32;
  matrix_view<const T> logits;
  const T* highest;
  const double *temperature, *uniform;
  double* spans;   ///< [rows, span_count()]
  double* groups;  ///< [rows, group_count()]
  std::int32_t* ids;

  DISTIL_XLSTM_HD index span_count() const { return (logits.cols + span - 1) / span; }
  DISTIL_XLSTM_HD index group_count() const { return (span_count() + group - 1) / group; }
  DISTIL_XLSTM_HD static index least(index a, index b) { return a < b ? a : b; }
  DISTIL_XLSTM_HD bool draws(index r) const { return temperature[r] > 0 && ids[r] >= 0; }
  /// Of a number that is not finite: less than 0.
  DISTIL_XLSTM_HD double weight(index r, index c) const {
    const double below = static_cast<double>(logits.row(r)[c]) - static_cast<double>(highest[r]);
    return below - below == 0 ? math::softmax_weight(below, temperature[r]) : -1;
  }
};
template <class T>
struct weigh_spans {
  drawn_tokens<T> t;
  DISTIL_XLSTM_HD void operator()(index task) const {
    const index r = task / t.span_count(), s = task % t.span_count();
    if (!t.draws(r)) return;
    double sum = 0;
    for (index c = s * t.span, end = t.least(c + t.span, t.logits.cols); c < end; ++c) {
      const double w = t.weight(r, c);
      if (w > 0) sum += w;
    }
    t.spans[task] = sum;
  }
};
template <class T>
struct weigh_groups {
  drawn_tokens<T> t;
  DISTIL_XLSTM_HD void operator()(index task) const {
    const index r = task / t.group_count(), g = task % t.group_count(), spans = t.span_count();
    if (!t.draws(r)) return;
    double sum = 0;
    for (index s = g * t.group, end = t.least(s + t.group, spans); s < end; ++s) sum += t.spans[r * spans + s];
    t.groups[task] = sum;
  }
};
/// The first of sums begin .. end - 1 that is larger than what is left when those before it are taken off, or
/// the last; they are taken off.
DISTIL_XLSTM_HD inline index walk_sums(const double* sums, index begin, index end, double& left) {
  index at = begin;
  bool found = false;
  for (index i = begin; i + 1 < end; ++i) {
    const double x = sums[i];
    found = found || left < x;
    if (!found) left -= x, ++at;
  }
  return at;
}
/// The same of weight(begin .. end - 1), of those above 0; `otherwise` where rounding led to a span that has none. Both
/// walk to the end: what is looked at next does not wait for what was found.
template <class F>
DISTIL_XLSTM_HD index walk_weights(const F& weight, index begin, index end, double left, index otherwise) {
  index at = otherwise;
  bool found = false;
  for (index i = begin; i < end; ++i) {
    const double w = weight(i);
    if (w <= 0 || found) continue;
    at = i;
    found = (left -= w) < 0;
  }
  return at;
}
template <class T>
struct draw_token {
  drawn_tokens<T> t;
  DISTIL_XLSTM_HD void operator()(index r) const {
    if (!t.draws(r)) return;
    const index spans = t.span_count(), groups = t.group_count();
    const double *group = t.groups + r * groups, *span = t.spans + r * spans;
    double left = 0;
    for (index g = 0; g < groups; ++g) left += group[g];
    left *= t.uniform[r];
    const index g = walk_sums(group, 0, groups, left);
    const index s = walk_sums(span, g * t.group, t.least((g + 1) * t.group, spans), left);
    const auto weight = [&](index c) { return t.weight(r, c); };
    const index end = t.least((s + 1) * t.span, t.logits.cols);
    t.ids[r] = static_cast<std::int32_t>(walk_weights(weight, s * t.span, end, left, t.ids[r]));
  }
};

}  // namespace detail

/// ids[r] = the likeliest token, the first of several; -1 where no logit is a finite number. highest[r] = its logit, or
/// -infinity; null: not asked for. The default of any device.
template <class D, class T>
void choose_likeliest(D& d, matrix_view<const T> logits, std::int32_t* ids, T* highest) {
  fold_rows(d, logits.rows, logits.cols, detail::likeliest_tokens<T>{logits, ids, highest});
}

/// The sums of spans, of rows that draw. The default of any device.
template <class D, class T>
void weigh_drawn_spans(D& d, const detail::drawn_tokens<T>& t) {
  parallel_for(d, t.logits.rows * t.span_count(), detail::weigh_spans<T>{t});
}

/// Draws ids[r] where t.draws(r); `choose_likeliest` comes first. The default of any device.
template <class D, class T>
void draw_tokens(D& d, const detail::drawn_tokens<T>& t) {
  weigh_drawn_spans(d, t);
  parallel_for(d, t.logits.rows * t.group_count(), detail::weigh_groups<T>{t});
  parallel_for(d, t.logits.rows, detail::draw_token<T>{t});
}

/// ids[r] = a token by softmax(logits[r] / temperature[r]): the first with which the probabilities from token 0
/// on sum up to more than uniform[r], a number in [0, 1); the likeliest token where temperature[r] is 0,
/// everywhere where `temperature` is null. Logits that are not finite have no part; where none is, ids[r] = -1.
///
/// A `sampler` without top-k and top-p chooses the same, but for the rounding of sums in double. All memory is
/// the device's; columns are counted in T: up to 2^24 of them.
template <class D, class T>
void choose_tokens(D& d, matrix_view<const T> logits, const double* temperature, const double* uniform,
                   std::int32_t* ids) {
  auto highest = d.template scratch<T>(logits.rows);
  choose_likeliest(d, logits, ids, highest.data());
  if (!temperature) return;
  detail::drawn_tokens<T> t{logits, highest.data(), temperature, uniform, nullptr, nullptr, ids};
  auto sums = d.template scratch<double>(logits.rows * (t.span_count() + t.group_count()));
  t.spans = sums.data(), t.groups = sums.data() + logits.rows * t.span_count();
  draw_tokens(d, t);
}

}  // namespace distil_xlstm
