#pragma once

#include <cstdint>
#include <span>

#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/comm/single.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/fold_into.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/loss/objective.hpp>
#include <distil_xlstm/loss/sums.hpp>
#include <distil_xlstm/math/sum.hpp>

namespace distil_xlstm::loss {

/// A student's tensor and what it should be, in the device's memory.
template <class T>
struct hidden_pair {
  /// @{
  /// [rows, d]
  matrix_view<const T> student, target;
  /// @}
  matrix_view<T> gradient{};  ///< [rows, d]: the student's is added here; without data it is not wanted
};

namespace detail {

/// Accumulators of every group: pair l, row r at rows[l * n + r], sequence b at sequences[l * batch + b].
template <class Term>
struct hidden_groups {
  using list = list_of<Term>;
  using acc = typename list::results;
  Term term;
  index pairs, batch, time, width;
  const std::uint8_t* scored;  ///< [batch * time] or null
  acc *rows, *sequences, *batches;

  DISTIL_XLSTM_HD bool takes(index r) const { return !scored || scored[r] != 0; }
};

template <class Term>
struct hidden_fold {
  using scalar = typename Term::scalar;
  template <class V>
  using acc = typename list_of<Term>::template acc<V>;
  hidden_groups<Term> g;
  index pair;
  matrix_view<const scalar> student, target;

  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return g.term().template init<V>();
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    g.term().template visit<V>(a, math::load<V>(student.row(r) + c), math::load<V>(target.row(r) + c));
  }
  DISTIL_XLSTM_HD void merge(acc<scalar>& into, const acc<scalar>& from) const { g.term().merge(into, from); }
  DISTIL_XLSTM_HD void finish(index r, const acc<scalar>& a) const {
    auto& row = g.rows[pair * g.batch * g.time + r];
    row = g.takes(r) ? a : g.term().template init<scalar>();
    g.term().share(row);
  }
};

/// Groups of `size` accumulators, one after another, in `parts` parts of `each`: to[group * parts + part] <- a
/// part's, merged in order.
template <class Term>
struct merge_parts {
  using acc = typename list_of<Term>::results;
  index size, parts, each;
  const acc* from;
  acc* to;
  DISTIL_XLSTM_HD void operator()(index i) const {
    const index begin = i % parts * each, end = begin + each < size ? begin + each : size;
    const acc* group = from + i / parts * size;
    acc total = list_of<Term>::template init<typename Term::scalar>();
    for (index k = begin; k < end; ++k) list_of<Term>::merge(total, group[k]);
    to[i] = total;
  }
};
/// to[group] <- the group's accumulators, merged: parts of it, which are as many tasks, then those.
template <class Term, class D, class Acc>
void merge_groups(D& device, index groups, index size, const Acc* from, Acc* to) {
  constexpr index each = 64;
  const index parts = (size + each - 1) / each;
  if (parts <= 1) return parallel_for(device, groups, merge_parts<Term>{size, 1, each, from, to});
  auto partial = device.template scratch<Acc>(groups * parts);
  parallel_for(device, groups * parts, merge_parts<Term>{size, parts, each, from, partial.data()});
  merge_groups<Term>(device, groups, parts, static_cast<const Acc*>(partial.data()), to);
}

/// to[pair] <- the pair's accumulators of all ranks, merged in their order.
template <class Term>
struct merge_ranks {
  using acc = typename list_of<Term>::results;
  index ranks, pairs;
  const acc* from;  ///< [ranks, pairs]
  acc* to;
  DISTIL_XLSTM_HD void operator()(index pair) const {
    acc total = from[pair];
    for (index r = 1; r < ranks; ++r) list_of<Term>::merge(total, from[r * pairs + pair]);
    to[pair] = total;
  }
};

/// tally[b] = the rows of sequence b that take part, and whether there are any.
struct count_scored : fold_into<math::sum, double> {
  index time;
  const std::uint8_t* scored;
  double* tally;
  template <class V>
  DISTIL_XLSTM_HD void visit(math::sum<V>& a, index b, index t) const {
    const std::uint8_t* s = scored + b * time + t;
    push(a, math::lanes<V>([s](index i) { return s[i] != 0 ? 1.0 : 0.0; }));
  }
  DISTIL_XLSTM_HD void finish(index b, const math::sum<double>& a) const {
    tally[2 * b] = a.total;
    tally[2 * b + 1] = a.total > 0;
  }
};

/// One task: what takes part, from the sums of the tallies (null: all).
template <class Term>
struct set_counts {
  using T = typename Term::scalar;
  hidden_groups<Term> g;
  const double* sums;
  step_counts<T>* counts;
  double batches;  ///< of the step
  double ranks;    ///< which have as many rows each of every batch
  double* rows_out;
  DISTIL_XLSTM_HD void operator()(index) const {
    const double rows = sums ? sums[0] : static_cast<double>(g.batch * g.time);
    const double sequences = sums ? sums[1] : static_cast<double>(g.batch);
    *counts = {of(ranks * batches * rows, ranks * batches * sequences, batches),
               of(ranks * rows, ranks * sequences, 1), static_cast<T>(1 / batches)};
    *rows_out = rows;
  }
  DISTIL_XLSTM_HD hidden_counts<T> of(double rows, double sequences, double batches_there) const {
    const double pairs = static_cast<double>(g.pairs);
    return {static_cast<T>(rows * pairs), static_cast<T>(sequences * pairs),
            static_cast<T>(batches_there * pairs), static_cast<T>(rows * pairs * static_cast<double>(g.width))};
  }
};

/// What each group reports, a row each: [terms] raw values, the value. Rows first, then sequences, then
/// batches.
template <class Term>
struct report_groups {
  using T = typename Term::scalar;
  static constexpr index columns = Term::terms + 1;
  hidden_groups<Term> g;
  const double* tally;  ///< of the sequences, or null: all take part
  const step_counts<T>* counts;
  bool has_batches;  ///< of the ranks that a batch is spread over one reports it
  double* report;
  DISTIL_XLSTM_HD void operator()(index i) const {
    double* row = report + i * columns;
    for (index k = 0; k < columns; ++k) row[k] = 0;
    const index n = g.batch * g.time;
    if (i < g.pairs * n) {
      if (g.takes(i % n)) row[Term::terms] = g.term().report(scope::row, g.rows[i], counts->step, row);
    } else if (i -= g.pairs * n; i < g.pairs * g.batch) {
      if (!tally || tally[2 * (i % g.batch) + 1] != 0)
        row[Term::terms] = g.term().report(scope::sequence, g.sequences[i], counts->step, row);
    } else if (i -= g.pairs * g.batch; has_batches && counts->batch.rows > T(0)) {
      row[Term::terms] = g.term().report(scope::batch, g.batches[i], counts->batch, row);
      for (index k = 0; k < columns; ++k) row[k] *= static_cast<double>(counts->share);
    }
  }
};

template <class Term>
struct hidden_gradient {
  using scalar = typename Term::scalar;
  hidden_groups<Term> g;
  index pair;
  matrix_view<const scalar> student, target;
  matrix_view<scalar> gradient;
  const step_counts<scalar>* counts;
  scalar factor;

  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    if (!g.takes(r)) return;
    const auto a = g.term().choose(g.rows[pair * g.batch * g.time + r],
                                   g.sequences[pair * g.batch + r / g.time], g.batches[pair]);
    scalar* p = gradient.row(r) + c;
    math::store<V>(
        p, math::load<V>(p) + g.term().grad(a, *counts, math::load<V>(student.row(r) + c),
                                            math::load<V>(target.row(r) + c), factor * g.term.factor()));
  }
};

}  // namespace detail

/// Value of a hidden site's term over pairs of equal shape [sequence.rows(), d], and gradient += factor * its
/// derivative where a pair has a gradient. Rows with scored[r] = 0 (null: none) count neither in sums nor in
/// the numbers that divide them. scored and totals lie in the device's memory; totals <- as totals_size says;
/// the value is not multiplied by `factor`. Nothing is done, and all is 0, where the term is absent or its
/// weights are 0.
///
/// `batches` of one shape make a step: the value and the gradient are then this one's share of the step's, whose
/// means are taken over the rows and sequences of all of them, so that the shares' sum is what one batch of all
/// would give. A term over a whole batch (scope::batch) is the mean of the batches' terms: a mean square is that
/// of all of them, a root of one stays the batch's own. All rows take part then.
///
/// A batch may be spread over `ranks`, each with as many sequences: value and gradient are then this rank's share, so
/// that the sum of the ranks' is what one of them would give that has the whole batch.
///
/// Throws `error` when shapes disagree, or where `scored` is given for a part of a step: one of several batches, or a
/// rank's share.
template <class D, class Term, Communicator C = comm::single>
void align(D& device, const Term& term, sequence_view sequence,
           std::span<const hidden_pair<typename Term::scalar>> pairs, const std::uint8_t* scored,
           typename Term::scalar factor, double* totals, index batches = 1, C& ranks = comm::alone) {
  constexpr index columns = totals_size<Term::terms>;
  fill(device, matrix_view<double>(totals, 1, columns));
  if constexpr (Term::terms > 0) {
    using T = typename Term::scalar;
    using acc = typename detail::list_of<Term>::results;
    if (!term.facts().active) return;
    require(!pairs.empty(), "loss: the alignment has a weight but no hidden states to compare");
    const index n = sequence.rows(), count = static_cast<index>(pairs.size()), width = pairs[0].student.cols;
    const index batch = sequence.batch;
    require(batches > 0 && (batches == 1 || !scored), "loss: an alignment of one of ", batches,
            " batches with rows left out: what the others leave out is not known");
    require(ranks.size() == 1 || !scored, "loss: an alignment of one of ", ranks.size(),
            " ranks with rows left out: what the others leave out is not known");
    if (n == 0) return;
    for (const auto& p : pairs) {
      require(p.student.rows == n && p.target.rows == n && p.student.cols == width && p.target.cols == width,
              "loss: alignment of [", p.student.rows, ", ", p.student.cols, "] with [", p.target.rows, ", ",
              p.target.cols, "], expected [", n, ", ", width, "] twice");
      require(!p.gradient.data || (p.gradient.rows == n && p.gradient.cols == width),
              "loss: the gradient of an alignment is [", p.gradient.rows, ", ", p.gradient.cols,
              "], expected [", n, ", ", width, "]");
    }
    auto rows = device.template scratch<acc>(count * n);
    auto sequences = device.template scratch<acc>(count * batch);
    auto wholes = device.template scratch<acc>(count);
    auto counts = device.template scratch<step_counts<T>>(1);
    const detail::hidden_groups<Term> g{
        term, count, batch, sequence.time, width, scored, rows.data(), sequences.data(), wholes.data()};
    for (index l = 0; l < count; ++l) {
      const auto& p = pairs[static_cast<std::size_t>(l)];
      fold_rows(device, n, width, detail::hidden_fold<Term>{g, l, p.student, p.target});
    }
    // Rows that do not take part hold what merges into nothing.
    detail::merge_groups<Term>(device, count * batch, sequence.time, static_cast<const acc*>(rows.data()),
                               sequences.data());
    detail::merge_groups<Term>(device, count, batch, static_cast<const acc*>(sequences.data()), wholes.data());
    if (ranks.size() > 1) {
      auto all = device.template scratch<acc>(count * ranks.size());
      const index bytes = count * static_cast<index>(sizeof(acc));
      device.copy(all.data() + ranks.rank() * count, wholes.data(), bytes);
      ranks.all_gather(device, all.data(), bytes);
      parallel_for(device, count, detail::merge_ranks<Term>{ranks.size(), count, all.data(), wholes.data()});
    }

    auto tally = device.template scratch<double>(scored ? 2 * batch + 2 : 0);
    const double *tallies = nullptr, *tally_sums = nullptr;
    if (scored) {
      double* s = tally.data() + 2 * batch;
      tallies = tally.data(), tally_sums = s;
      fold_rows(device, batch, sequence.time, detail::count_scored{{}, sequence.time, scored, tally.data()});
      fill(device, matrix_view<double>(s, 1, 2));
      add_column_sums(device, matrix_view<const double>(tallies, batch, 2), s);
    }
    parallel_for(device, 1,
                 detail::set_counts<Term>{g, tally_sums, counts.data(), static_cast<double>(batches),
                                          static_cast<double>(ranks.size()), totals + Term::terms + 1});
    const index groups = count * (n + batch + 1);
    auto report = device.template scratch<double>(groups * (Term::terms + 1));
    parallel_for(device, groups,
                 detail::report_groups<Term>{g, tallies, counts.data(), ranks.rank() == 0, report.data()});
    add_column_sums(device, matrix_view<const double>(report.data(), groups, Term::terms + 1), totals);
    for (index l = 0; l < count; ++l) {
      const auto& p = pairs[static_cast<std::size_t>(l)];
      if (p.gradient.data)
        map(device, n, width,
            detail::hidden_gradient<Term>{g, l, p.student, p.target, p.gradient, counts.data(), factor});
    }
  }
}

/// The same with the sums on the host, which waits for them.
template <class D, class Term>
sums<Term::terms> align(D& device, const Term& term, sequence_view sequence,
                        std::span<const hidden_pair<typename Term::scalar>> pairs, const std::uint8_t* scored,
                        typename Term::scalar factor, index batches = 1) {
  auto totals = device.template scratch<double>(totals_size<Term::terms>);
  align(device, term, sequence, pairs, scored, factor, totals.data(), batches);
  return download_sums<Term::terms>(device, totals.data());
}

}  // namespace distil_xlstm::loss
