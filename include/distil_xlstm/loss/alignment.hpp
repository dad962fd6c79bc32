#pragma once

#include <cstdint>
#include <span>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/loss/objective.hpp>
#include <distil_xlstm/loss/sums.hpp>

namespace distil_xlstm::loss {

/// A student tensor [rows, d], what it should be, and where its gradient is added (no data: it is not wanted).
template <class T>
struct hidden_pair {
  matrix_view<const T> student, target;
  matrix_view<T> gradient{};
};

namespace detail {

/// Accumulators of every group: pair l, row r at rows[l * n + r], sequence b at sequences[l * batch + b].
template <class Term>
struct hidden_groups {
  using acc = typename Term::template acc<typename Term::scalar>;
  Term term;
  index pairs, batch, time, width;
  const std::uint8_t* scored;  ///< [batch * time] or null
  acc *rows, *sequences, *batches;

  DISTIL_XLSTM_HD bool takes(index r) const { return !scored || scored[r] != 0; }
  DISTIL_XLSTM_HD bool takes_sequence(index b) const {
    for (index t = 0; t < time; ++t)
      if (takes(b * time + t)) return true;
    return false;
  }
};

template <class Term>
struct hidden_fold {
  using scalar = typename Term::scalar;
  template <class V>
  using acc = typename Term::template acc<V>;
  hidden_groups<Term> g;
  index pair;
  matrix_view<const scalar> student, target;

  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return g.term.template init<V>();
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    g.term.template visit<V>(a, math::load<V>(student.row(r) + c), math::load<V>(target.row(r) + c));
  }
  DISTIL_XLSTM_HD void merge(acc<scalar>& into, const acc<scalar>& from) const { g.term.merge(into, from); }
  DISTIL_XLSTM_HD void finish(index r, const acc<scalar>& a) const {
    g.rows[pair * g.batch * g.time + r] = g.takes(r) ? a : g.term.template init<scalar>();
  }
};

template <class Term>
struct merge_sequences {
  hidden_groups<Term> g;
  DISTIL_XLSTM_HD void operator()(index i) const {
    auto total = g.term.template init<typename Term::scalar>();
    for (index t = 0; t < g.time; ++t)
      if (g.takes(i % g.batch * g.time + t)) g.term.merge(total, g.rows[i * g.time + t]);
    g.sequences[i] = total;
  }
};
template <class Term>
struct merge_batches {
  hidden_groups<Term> g;
  DISTIL_XLSTM_HD void operator()(index i) const {
    auto total = g.term.template init<typename Term::scalar>();
    for (index b = 0; b < g.batch; ++b) g.term.merge(total, g.sequences[i * g.batch + b]);
    g.batches[i] = total;
  }
};

/// One task: counts what takes part, then sums the groups of each scope in their order.
/// report: [terms] raw values, the value, rows.
template <class Term>
struct report_hidden {
  using T = typename Term::scalar;
  hidden_groups<Term> g;
  hidden_counts<T>* counts;
  double* report;
  DISTIL_XLSTM_HD void operator()(index) const {
    index rows = 0, sequences = 0;
    for (index b = 0; b < g.batch; ++b) {
      index here = 0;
      for (index t = 0; t < g.time; ++t) here += g.takes(b * g.time + t);
      rows += here, sequences += here > 0;
    }
    for (index i = 0; i < Term::terms + 2; ++i) report[i] = 0;
    report[Term::terms + 1] = static_cast<double>(rows);
    *counts = {static_cast<T>(rows * g.pairs), static_cast<T>(sequences * g.pairs), static_cast<T>(g.pairs),
               static_cast<T>(rows * g.pairs * g.width)};
    if (rows == 0) return;
    double value = 0;
    for (index l = 0; l < g.pairs; ++l) {
      for (index b = 0; b < g.batch; ++b) {
        bool any = false;
        for (index t = 0; t < g.time; ++t) {
          const index r = b * g.time + t;
          if (!g.takes(r)) continue;
          any = true;
          value += g.term.report(scope::row, g.rows[l * g.batch * g.time + r], *counts, report);
        }
        if (any) value += g.term.report(scope::sequence, g.sequences[l * g.batch + b], *counts, report);
      }
      value += g.term.report(scope::batch, g.batches[l], *counts, report);
    }
    report[Term::terms] = value;
  }
};

template <class Term>
struct hidden_gradient {
  using scalar = typename Term::scalar;
  hidden_groups<Term> g;
  index pair;
  matrix_view<const scalar> student, target;
  matrix_view<scalar> gradient;
  const hidden_counts<scalar>* counts;
  scalar factor;

  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    if (!g.takes(r)) return;
    const auto a = g.term.choose(g.rows[pair * g.batch * g.time + r], g.sequences[pair * g.batch + r / g.time],
                                 g.batches[pair]);
    scalar* p = gradient.row(r) + c;
    math::store<V>(
        p, math::load<V>(p) + V(factor) * g.term.template grad<V>(a, *counts, math::load<V>(student.row(r) + c),
                                                                  math::load<V>(target.row(r) + c)));
  }
};

}  // namespace detail

/// Value of a hidden site's term over pairs of equal shape [sequence.rows(), d], and gradient += factor * its
/// derivative where a pair has a gradient. Rows with scored[r] = 0 (null: none; in the device's memory) count
/// neither in sums nor in the numbers that divide them. The value is not multiplied by `factor`. Nothing is
/// done, and all is 0, where the term is absent or its weights are 0. Throws `error` when shapes disagree.
template <class D, class Term>
sums<Term::terms> align(D& device, const Term& term, sequence_view sequence,
                        std::span<const hidden_pair<typename Term::scalar>> pairs, const std::uint8_t* scored,
                        typename Term::scalar factor) {
  sums<Term::terms> out;
  if constexpr (Term::terms > 0) {
    using T = typename Term::scalar;
    using acc = typename Term::template acc<T>;
    if (!term.active()) return out;
    require(!pairs.empty(), "loss: the alignment has a weight but no hidden states to compare");
    const index n = sequence.rows(), count = static_cast<index>(pairs.size()), width = pairs[0].student.cols;
    if (n == 0) return out;
    for (const auto& p : pairs) {
      require(p.student.rows == n && p.target.rows == n && p.student.cols == width && p.target.cols == width,
              "loss: alignment of [", p.student.rows, ", ", p.student.cols, "] with [", p.target.rows, ", ",
              p.target.cols, "], expected [", n, ", ", width, "] twice");
      require(!p.gradient.data || (p.gradient.rows == n && p.gradient.cols == width),
              "loss: the gradient of an alignment is [", p.gradient.rows, ", ", p.gradient.cols,
              "], expected [", n, ", ", width, "]");
    }
    auto rows = device.template scratch<acc>(count * n);
    auto sequences = device.template scratch<acc>(count * sequence.batch);
    auto batches = device.template scratch<acc>(count);
    auto counts = device.template scratch<hidden_counts<T>>(1);
    auto report = device.template scratch<double>(Term::terms + 2);
    const detail::hidden_groups<Term> g{term,   count,       sequence.batch,   sequence.time, width,
                                        scored, rows.data(), sequences.data(), batches.data()};
    for (index l = 0; l < count; ++l) {
      const auto& p = pairs[static_cast<std::size_t>(l)];
      fold_rows(device, n, width, detail::hidden_fold<Term>{g, l, p.student, p.target});
    }
    for_each(device, count * sequence.batch, detail::merge_sequences<Term>{g});
    for_each(device, count, detail::merge_batches<Term>{g});
    for_each(device, 1, detail::report_hidden<Term>{g, counts.data(), report.data()});
    for (index l = 0; l < count; ++l) {
      const auto& p = pairs[static_cast<std::size_t>(l)];
      if (p.gradient.data)
        map(device, n, width,
            detail::hidden_gradient<Term>{g, l, p.student, p.target, p.gradient, counts.data(), factor});
    }
    double host[Term::terms + 2];
    device.download(host, report.data(), static_cast<index>(sizeof host));
    for (std::size_t i = 0; i < out.raw.size(); ++i) out.raw[i] = host[i];
    out.value = host[Term::terms];
    out.rows = static_cast<index>(host[Term::terms + 1]);
  }
  return out;
}

}  // namespace distil_xlstm::loss
