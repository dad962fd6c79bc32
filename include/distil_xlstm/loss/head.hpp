#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/fold_into.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/loss/objective.hpp>
#include <distil_xlstm/loss/sums.hpp>
#include <distil_xlstm/math/kth_largest.hpp>
#include <distil_xlstm/math/log_sum_exp.hpp>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm::loss {

/// Bytes of logits that a head holds at a time, unless told otherwise; a device may prefer
/// another number.
inline constexpr index head_bytes = index{96} << 20;

namespace detail {

/// Rows of logits that a budget allows; it depends on sizes alone, so that results do not depend on threads.
template <class T>
index head_chunk(index rows, index vocabulary, index sides, index bytes) {
  const index row = sides * vocabulary * static_cast<index>(sizeof(T));
  return std::clamp(bytes / std::max(row, index{1}), index{1}, std::max(rows, index{1}));
}

/// Rows 0 .. n-1 of the student over rows 0 .. n-1 of the teacher.
template <class T>
struct stack_rows {
  using scalar = T;
  matrix_view<const T> student, teacher;
  matrix_view<T> out;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const T* from = r < student.rows ? student.row(r) : teacher.row(r - student.rows);
    math::store<V>(out.row(r) + c, math::load<V>(from + c));
  }
};

/// What is asked of each row of logits: the terms, what is reported, and what their gradient is multiplied by.
/// `Terms` is a `term_list` or a step's.
template <class Terms>
struct head_rows {
  using terms_type = Terms;
  using scalar = typename Terms::scalar;
  using list = list_of<Terms>;
  using results = typename list::results;
  using target = target_logits<scalar>;
  static constexpr index columns = totals_size<Terms::terms>;

  Terms terms;
  const std::int32_t* targets;
  const std::uint8_t* scored;  ///< or null
  double* report;              ///< a row: [terms] raw values, the value, 1 if scored
  scalar factor;

  /// The same from row `first` on.
  head_rows from(index first) const {
    return {terms, targets + first, scored ? scored + first : nullptr, report + first * columns, factor};
  }
  DISTIL_XLSTM_HD bool takes(index r) const { return !scored || scored[r] != 0; }
  DISTIL_XLSTM_HD scalar gradient_factor() const { return factor * terms.factor(); }
  /// Of a row that takes part, after its last fold.
  DISTIL_XLSTM_HD void finish(const list& all, index r, const results& found, const target& t) const {
    double* row = report + r * columns;
    for (index i = 0; i < columns; ++i) row[i] = 0;
    row[Terms::terms] = all.report(found, t, row);
    row[Terms::terms + 1] = 1;
  }
  DISTIL_XLSTM_HD void skip(index r) const {
    for (index i = 0; i < columns; ++i) report[r * columns + i] = 0;
  }
};

/// A chunk of rows and their logits.
template <class Terms>
struct head_chunk_view {
  using scalar = typename Terms::scalar;
  head_rows<Terms> rows;
  matrix_view<scalar> student;
  matrix_view<const scalar> teacher;
  typename head_rows<Terms>::results* found;
  target_logits<scalar>* at_target;
};

/// The teacher's k-th largest logit of a row for each term that asks for it.
template <class Terms>
struct head_selection {
  using scalar = typename Terms::scalar;
  head_chunk_view<Terms> h;
  DISTIL_XLSTM_HD void operator()(index r) const {
    if (!h.rows.takes(r)) return;
    const scalar* row = h.teacher.row(r);
    const index n = h.teacher.cols;
    h.rows.terms().select(h.found[r], [row, n](index k) {
      math::kth_largest<scalar> search(k);
      while (!search.done()) {
        index counts[search.buckets] = {};
        for (index c = 0; c < n; ++c)
          if (const int b = search.bucket(row[c]); b >= 0) ++counts[b];
        search.advance(counts);
      }
      return search.value();
    });
  }
};

template <class Terms, int Pass>
struct head_fold {
  using scalar = typename Terms::scalar;
  template <class V>
  using acc = typename head_rows<Terms>::list::template acc<V, Pass>;
  head_chunk_view<Terms> h;
  bool last;  ///< no second pass follows

  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return h.rows.terms().template init<V, Pass>();
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    const V student[1] = {math::load<V>(h.student.row(r) + c)},
            teacher[1] = {math::load<V>(h.teacher.row(r) + c)};
    h.rows.terms().template visit<Pass>(a, h.found[r], student, teacher);
  }
  DISTIL_XLSTM_HD void merge(acc<scalar>& into, const acc<scalar>& from) const {
    h.rows.terms().template merge<Pass>(into, from);
  }
  DISTIL_XLSTM_HD void finish(index r, const acc<scalar>& a) const {
    if (!h.rows.takes(r)) return h.rows.skip(r);
    h.rows.terms().template record<Pass>(h.found[r], a);
    if (!last) return;
    const index target = h.rows.targets[r];
    h.at_target[r] = {h.student.row(r)[target], h.teacher.row(r)[target]};
    h.rows.finish(h.rows.terms(), r, h.found[r], h.at_target[r]);
  }
};

/// The gradient takes the place of the student's logits, but for the target's own part.
template <class Terms>
struct head_gradient {
  using scalar = typename Terms::scalar;
  head_chunk_view<Terms> h;

  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    scalar* p = h.student.row(r) + c;
    if (h.rows.takes(r))
      math::store<V>(p, h.rows.terms().grad(h.found[r], h.at_target[r], math::load<V>(p),
                                            math::load<V>(h.teacher.row(r) + c), h.rows.gradient_factor()));
    else
      math::store<V>(p, V(0));
  }
};
template <class Terms>
struct add_target_gradient {
  head_chunk_view<Terms> h;
  DISTIL_XLSTM_HD void operator()(index r) const {
    if (h.rows.takes(r))
      h.student.row(r)[h.rows.targets[r]] +=
          h.rows.terms().target_grad(h.found[r], h.at_target[r], h.rows.gradient_factor());
  }
};

/// logits = h headT of student and (with data) teacher, chunk by chunk; `rows` folds and reports them; dlogits
/// are its gradients by the student's. dhs (with data) <- dlogits head, the head's gradient (with data) +=
/// dlogitsT hs. A device may have a kernel for it.
template <class D, class Rows, class T, class Head>
void head_pass(D& device, const Rows& rows, matrix_view<const T> hs, matrix_view<const T> ht, const Head& head,
               matrix_view<T> dhs, index bytes) {
  using Terms = typename Rows::terms_type;
  const auto heads = distil_xlstm::detail::as_head_pair<T>(head);
  const bool stacked_rows = ht.data && heads.shared();  // one product for both
  const index n = hs.rows, d = hs.cols, sides = ht.data ? 2 : 1, vocabulary = heads.student.rows;
  const index chunk = head_chunk<T>(n, vocabulary, sides, bytes > 0 ? bytes : head_bytes);
  auto found = device.template scratch<typename Rows::results>(chunk);
  auto at_target = device.template scratch<target_logits<T>>(chunk);
  auto stacked = device.template scratch<T>(stacked_rows ? 2 * chunk * d : 0);
  auto logits = device.template scratch<T>(sides * chunk * vocabulary);
  for (index first = 0; first < n; first += chunk) {
    const index m = std::min(chunk, n - first);
    const matrix_view<const T> hidden = hs.slice(first, m);
    const matrix_view<T> all(logits.data(), sides * m, vocabulary), student = all.slice(0, m);
    if (stacked_rows) {
      const matrix_view<T> both(stacked.data(), 2 * m, d);
      map(device, 2 * m, d, stack_rows<T>{hidden, ht.slice(first, m), both});
      write_logits(device, matrix_view<const T>(both), heads.student, all);
    } else {
      write_logits(device, hidden, heads.student, student);
      if (ht.data) write_logits(device, ht.slice(first, m), heads.teacher, all.slice(m, m));
    }
    // A teacher that no weight asks for is the student itself: its divergence is 0.
    const head_chunk_view<Terms> h{rows.from(first), student, ht.data ? all.slice(m, m) : student, found.data(),
                                   at_target.data()};
    const term_facts facts = rows.terms.facts();
    if constexpr (Rows::list::selections > 0)
      if (facts.selects) parallel_for(device, m, head_selection<Terms>{h});
    fold_rows(device, m, vocabulary, head_fold<Terms, 0>{h, !facts.second_pass});
    if constexpr (Rows::list::two_passes)
      if (facts.second_pass) fold_rows(device, m, vocabulary, head_fold<Terms, 1>{h, true});
    if constexpr (!heads.capped) {
      if (!dhs.data && !heads.gradient.data) continue;
      map(device, m, vocabulary, head_gradient<Terms>{h});
      parallel_for(device, m, add_target_gradient<Terms>{h});
      const matrix_view<const T> dlogits = student;
      if (dhs.data) gemm(device, dlogits, heads.student, dhs.slice(first, m));
      if (heads.gradient.data) gemm(device, transposed(dlogits), hidden, heads.gradient, T(1));
    }
  }
}

template <class Head>
void require_head(const Head& head, index width) {
  require(head.cols == width, "loss: hidden states of width ", width, " do not fit a head of [", head.rows,
          ", ", head.cols, "]");
}
template <class Student, class Teacher, class T>
void require_heads(const head_pair<Student, Teacher, T>& heads, index width) {
  require_head(heads.student, width);
  require(heads.teacher.rows == heads.student.rows, "loss: the student's head has a vocabulary of ",
          heads.student.rows, ", the teacher's of ", heads.teacher.rows);
  const auto& g = heads.gradient;
  require(!g.data || (g.rows == heads.student.rows && g.cols == width), "loss: the head's gradient is [",
          g.rows, ", ", g.cols, "], the head [", heads.student.rows, ", ", width, "]");
}

}  // namespace detail

/// The language-model head fused with the objective's logits term.
///
/// hs [n, d] student and ht [n, d] teacher hidden states after their final norms (ht without data where no
/// weight asks for the teacher), head [V, d] (frozen_matrix or matrix_view, one for both; or a `head_pair`),
/// targets [n] in 0 .. V-1, scored [n] or null: rows with 0 have no loss, no gradient and are not counted; all
/// of it in the device's memory. dhs [n, d] <- d (factor * sum over scored rows of the term) / d hs; without
/// data, it is not wanted. A head_pair's gradient [V, d] += the same / d head. totals <- sums, not means, over
/// the scored rows, and not multiplied by `factor`: see totals_size.
///
/// Chunks of rows with at most `bytes` of logits (0: what suits the device) are alive at a time, one row at
/// least. With one matrix, student and teacher logits are one product. Throws `error` when shapes disagree or
/// the teacher is missing.
template <class D, class Term, class Head>
void head(D& device, const Term& term, matrix_view<const typename Term::scalar> hs,
          matrix_view<const typename Term::scalar> ht, Head head, const std::int32_t* targets,
          const std::uint8_t* scored, typename Term::scalar factor, matrix_view<typename Term::scalar> dhs,
          double* totals, index bytes = 0) {
  static_assert(
      !std::is_same_v<Head, logit_head>,
      "distil_xlstm::loss::head: a cap on logits has no gradient here; give the head's matrix, and train "
      "without a cap; two heads in a head_pair are compared without a gradient");
  using T = typename Term::scalar;
  constexpr index columns = totals_size<Term::terms>;
  const index n = hs.rows, d = hs.cols;
  require(!dhs.data || (dhs.rows == n && dhs.cols == d), "loss: the hidden gradient is [", dhs.rows, ", ",
          dhs.cols, "], the hidden states are [", n, ", ", d, "]");
  fill(device, matrix_view<double>(totals, 1, columns));
  if constexpr (Term::terms == 0) {
    if (dhs.data) fill(device, dhs);
  } else {
    const auto heads = distil_xlstm::detail::as_head_pair<T>(head);
    detail::require_heads(heads, d);
    require(!heads.capped || (!dhs.data && !heads.gradient.data), "loss: a cap on logits has no gradient");
    const bool uses_teacher = term.facts().uses_teacher, teacher = ht.data && uses_teacher;
    require(teacher || !uses_teacher, "loss: the objective compares with the teacher, whose states are absent");
    require(!teacher || (ht.rows == n && ht.cols == heads.teacher.cols), "loss: the teacher's states are [",
            ht.rows, ", ", ht.cols, "], expected [", n, ", ", heads.teacher.cols, "]");
    if (n == 0) return;
    auto report = device.template scratch<double>(n * columns);
    const detail::head_rows<Term> rows{term, targets, scored, report.data(), factor};
    head_pass(device, rows, hs, teacher ? ht : matrix_view<const T>{}, heads, dhs, bytes);
    add_column_sums(device, matrix_view<const double>(report.data(), n, columns), totals);
  }
}

/// The same with the sums on the host, which waits for them.
template <class D, class Term, class Head>
sums<Term::terms> head(D& device, const Term& term, matrix_view<const typename Term::scalar> hs,
                       matrix_view<const typename Term::scalar> ht, Head head, const std::int32_t* targets,
                       const std::uint8_t* scored, typename Term::scalar factor,
                       matrix_view<typename Term::scalar> dhs, index bytes = 0) {
  auto totals = device.template scratch<double>(totals_size<Term::terms>);
  loss::head(device, term, hs, ht, head, targets, scored, factor, dhs, totals.data(), bytes);
  return download_sums<Term::terms>(device, totals.data());
}

/// What scoring a text gives.
struct token_scores {
  double nll = 0;  ///< the sum over the scored rows, in nats
  /// @{
  /// How many rows are scored, and in how many of these the target has the highest logit.
  index scored = 0, correct = 0;
  /// @}
};

namespace detail {
template <class T>
struct score_fold : fold_into<math::log_sum_exp, T> {
  matrix_view<const T> logits;
  const std::int32_t* targets;
  const std::uint8_t* scored;
  T* nll;
  std::uint8_t* is_argmax;
  double* report;  ///< a row: nll, 1 if scored, 1 if correct

  template <class V>
  DISTIL_XLSTM_HD void visit(math::log_sum_exp<V>& a, index r, index c) const {
    push(a, math::clamp_min(math::load<V>(logits.row(r) + c)));
  }
  DISTIL_XLSTM_HD void finish(index r, const math::log_sum_exp<T>& a) const {
    const bool takes = !scored || scored[r] != 0;
    const T target = takes ? logits.row(r)[targets[r]] : T(0);
    const T value = takes ? a.value() - math::clamp_min(target) : T(0);
    const bool correct = takes && target >= a.max;
    if (nll) nll[r] = value;
    if (is_argmax) is_argmax[r] = correct;
    report[3 * r] = static_cast<double>(value);
    report[3 * r + 1] = takes;
    report[3 * r + 2] = correct;
  }
};
}  // namespace detail

/// Negative log-likelihoods of targets under softmax(logits), logits = hs head^T (or a `logit_head`'s), for
/// evaluation: nll[n] and is_argmax[n] (either may be null; 0 where not scored; a target that shares the
/// highest logit counts as the arg max). Sizes as in `head`; targets, scored, nll and is_argmax lie in the
/// device's memory.
template <class D, class T, class Head>
token_scores score_tokens(D& device, matrix_view<const T> hs, Head head, const std::int32_t* targets,
                          const std::uint8_t* scored, T* nll = nullptr, std::uint8_t* is_argmax = nullptr,
                          index bytes = head_bytes) {
  const index n = hs.rows, vocabulary = head.rows;
  detail::require_head(head, hs.cols);
  if (n == 0) return {};
  const index chunk = detail::head_chunk<T>(n, vocabulary, 1, bytes);
  auto report = device.template scratch<double>(3 * n);
  auto totals = device.template scratch<double>(3);
  auto logits = device.template scratch<T>(chunk * vocabulary);
  for (index first = 0; first < n; first += chunk) {
    const index m = std::min(chunk, n - first);
    const matrix_view<T> z(logits.data(), m, vocabulary);
    write_logits(device, hs.slice(first, m), head, z);
    fold_rows(device, m, vocabulary,
              detail::score_fold<T>{{},
                                    z,
                                    targets + first,
                                    scored ? scored + first : nullptr,
                                    nll ? nll + first : nullptr,
                                    is_argmax ? is_argmax + first : nullptr,
                                    report.data() + 3 * first});
  }
  fill(device, matrix_view<double>(totals.data(), 1, 3));
  add_column_sums(device, matrix_view<const double>(report.data(), n, 3), totals.data());
  double host[3];
  device.download(host, totals.data(), static_cast<index>(sizeof host));
  return {host[0], static_cast<index>(host[1]), static_cast<index>(host[2])};
}

}  // namespace distil_xlstm::loss
