#pragma once

#include "cells.hpp"

namespace distil_xlstm::testing {

namespace detail {
/// Tensors of `got` against those of `want`.
template <class Run>
void compare_runs(tensor_errors& out, const std::string& what, const Run& got, const Run& want,
                  bool backward = true) {
  for (const auto& [name, x] : Run::results())
    if (backward || !(want.*x).empty()) {
      if (!backward && name[0] == 'd') continue;
      out.push_back({what + ": " + name, relative_error(got.*x, want.*x)});
    }
}
/// Appends rows of a part to those of the parts before it, sequence by sequence.
template <class T>
void append_rows(std::vector<T>& all, const std::vector<T>& more, index batch) {
  std::vector<T> out;
  const auto a = static_cast<index>(all.size()) / batch, b = static_cast<index>(more.size()) / batch;
  for (index i = 0; i < batch; ++i) {
    out.insert(out.end(), all.begin() + i * a, all.begin() + (i + 1) * a);
    out.insert(out.end(), more.begin() + i * b, more.begin() + (i + 1) * b);
  }
  all.swap(out);
}
}  // namespace detail

/// The parallel form, number by number: every token against every token before it in its document, from an
/// empty state. With F_t the sum of log sigmoid(f~) up to t:
///   w_ts = exp(F_t - F_s + i~_s - M_t) q_t.k_s / sqrt(dq);  h_t = sum_s w_ts v_s / (max(|sum_s w_ts|,
///   exp(-M_t)) + eps)
/// or, as the shape says, without the root and divided by the sum.
inline std::vector<double> parallel_form(const mlstm_run<double>& r) {
  const index dq = r.shape.query, dv = r.shape.value, heads = r.shape.heads;
  const bool mean = r.shape.normaliser == mlstm_normaliser::sum;
  std::vector<double> h(static_cast<std::size_t>(r.rows() * heads * dv));
  for (index b = 0; b < r.batch; ++b)
    for (index e = 0; e < heads; ++e)
      for (index t = 0; t < r.time; ++t) {
        const auto at = [&](const std::vector<double>& x, index s, index width, index group = 1) {
          return x.data() + ((b * r.time + s) * heads + e) / group * width;
        };
        const index first = std::max<index>(r.seq().document_start(b, t), 0);
        std::vector<double> log_d;
        double forget = 0, largest = -INFINITY, sum = 0;
        for (index s = t; s >= first; --s) {
          log_d.push_back(forget + *at(r.i, s, 1));
          largest = std::max(largest, log_d.back());
          forget += math::log_sigmoid(*at(r.f, s, 1));
        }
        double* out = h.data() + (b * r.time + t) * heads * dv + e * dv;
        for (index s = t; s >= first; --s) {
          double score = 0;
          for (index j = 0; j < dq; ++j) score += at(r.q, t, dq)[j] * at(r.k, s, dq)[j];
          const double w = score / (mean ? 1 : std::sqrt(static_cast<double>(dq))) *
                           std::exp(log_d[static_cast<std::size_t>(t - s)] - largest);
          sum += w;
          for (index j = 0; j < dv; ++j) out[j] += w * at(r.v, s, dv, r.shape.value_group)[j];
        }
        const double norm = mean ? sum : std::max(std::abs(sum), std::exp(-largest));
        for (index j = 0; j < dv; ++j) out[j] /= norm + r.shape.epsilon;
      }
  return h;
}

/// Without epsilon, where a state's gradient is all that halves need to exchange: with it, the stabiliser's own
/// share (2e-6 of a gate's gradient, op/mlstm) would go back to the token that set it, in the other half.
inline mlstm_run<double> without_epsilon(mlstm_run<double> run) {
  run.shape.epsilon = 0;
  return run;
}
inline slstm_run<double> without_epsilon(const slstm_run<double>& run) { return run; }

/// One cell's forms against the whole on the CPU: the reference operations; token by token; two halves with carried state, and
/// its gradient carried back.
template <class Run>
tensor_errors form_errors(device::cpu& cpu, const Run& run) {
  tensor_errors out;
  Run whole = run;
  whole.forward(cpu), whole.backward(cpu);
  Run reference = run;
  reference.forward(cpu, kernels::reference), reference.backward(cpu, kernels::reference);
  detail::compare_runs(out, "reference", whole, reference);

  Run steps = run;
  for (index t = 0; t < run.time; ++t) {
    Run step = run.part(t, t + 1);
    for (const auto x : Run::memory()) step.*x = steps.*x;
    step.forward(cpu, kernels::fused, false);
    detail::append_rows(steps.h, step.h, run.batch);
    for (const auto x : Run::memory()) steps.*x = step.*x;
  }
  detail::compare_runs(out, "steps", steps, whole, false);

  if (run.time < 2) return out;
  whole = without_epsilon(run);
  Run a = whole.part(0, run.time / 2), b = whole.part(run.time / 2, run.time);
  whole.forward(cpu), whole.backward(cpu);
  a.forward(cpu);
  for (const auto x : Run::memory()) b.*x = a.*x;
  b.forward(cpu), b.backward(cpu);
  a.dstate = b.dstate;
  a.backward(cpu);
  Run halves = b;
  halves.dstate = a.dstate;
  for (const auto& [name, x] : Run::results())
    if (Run::by_row(x)) {
      halves.*x = a.*x;
      detail::append_rows(halves.*x, b.*x, run.batch);
    } else if (std::string(name) == "dr" || std::string(name) == "dbias") {
      for (std::size_t i = 0; i < (a.*x).size(); ++i) (halves.*x)[i] += (a.*x)[i];
    }
  detail::compare_runs(out, "halves", halves, whole);
  return out;
}

/// The chunkwise form of mLSTM in chunks of `chunk` against one chunk.
template <class T>
tensor_errors chunk_errors(device::cpu& cpu, const mlstm_run<T>& run, index chunk) {
  tensor_errors out;
  auto one = run, many = run;
  one.shape.chunk = run.time, many.shape.chunk = chunk;
  for (auto* r : {&one, &many}) r->forward(cpu), r->backward(cpu);
  detail::compare_runs(out, "chunks of " + std::to_string(chunk), many, one);
  return out;
}

/// mLSTM's heads that share values against heads that have copies of them.
template <class Operand, class D, class T>
tensor_errors sharing_errors(D& d, const mlstm_run<T>& run, kernels which = kernels::fused) {
  const index group = run.shape.value_group, width = run.shape.value;
  auto shared = run, own = run;
  own.shape.value_group = 1, own.beta = 0, own.v.clear();
  for (index e = 0; e < run.rows() * run.shape.heads; ++e) {
    const auto from = run.v.begin() + e / group * width;
    own.v.insert(own.v.end(), from, from + width);
  }
  for (auto* r : {&shared, &own})
    r->template forward<Operand>(d, which), r->template backward<Operand>(d, which);
  std::vector<T> dv = run.v;
  for (auto& x : dv) x *= run.beta;
  for (index e = 0; e < run.rows() * run.shape.heads; ++e)
    for (index c = 0; c < width; ++c)
      dv[static_cast<std::size_t>(e / group * width + c)] += own.dv[static_cast<std::size_t>(e * width + c)];
  own.dv = dv;
  tensor_errors out;
  detail::compare_runs(out, "shared values", shared, own);
  return out;
}

/// What another first document and another past do to the second document of the first sequence, and what the
/// second document's gradient does to the first: max |difference|, to be 0 exactly.
template <class Run>
tensor_errors leaks(device::cpu& cpu, const Run& run) {
  Run before = run, other = run;
  rng random(77);
  const index begins = run.start[static_cast<std::size_t>(run.time - 1)];
  const auto rows = [&](const auto& x) { return static_cast<index>(x.size()) / (run.batch * run.time); };
  for (const auto x : Run::inputs()) {
    const auto lowest = *std::min_element((run.*x).begin(), (run.*x).end());
    for (index e = 0; e < begins * rows(other.*x); ++e) {
      auto& number = (other.*x)[static_cast<std::size_t>(e)];
      number = 30 * random.normal();
      if (lowest >= 0) number = std::abs(number);  // what is positive stays so
    }
  }
  for (const auto x : Run::memory()) {
    const index size = static_cast<index>((other.*x).size()) / run.batch;
    for (index e = 0; e < size; ++e)
      (other.*x)[static_cast<std::size_t>(e)] = 1 + std::abs(30 * random.normal());
  }
  // Nor does a gradient go back.
  Run later = run;
  for (index e = begins * rows(run.dh); e < run.time * rows(run.dh); ++e)
    later.dh[static_cast<std::size_t>(e)] = 30 * random.normal();
  const index size = static_cast<index>(run.dstate.size()) / run.batch;
  for (index e = 0; e < size; ++e) later.dstate[static_cast<std::size_t>(e)] = 30 * random.normal();
  for (auto* r : {&before, &other, &later}) r->forward(cpu), r->backward(cpu);

  tensor_errors out;
  const auto differ = [&](const std::string& name, const auto& a, const auto& b, index first, index last) {
    double off = 0;
    for (index e = first; e < last; ++e) {
      const auto i = static_cast<std::size_t>(e);
      if (!(a[i] == b[i])) off = std::max(off, std::isfinite(a[i]) ? std::abs(a[i] - b[i]) : INFINITY);
    }
    out.push_back({name, off});
  };
  for (const auto& [name, x] : Run::results()) {
    const std::string n = name;
    if (Run::by_row(x)) {
      const index width = rows(before.*x);
      differ("forward: " + n, other.*x, before.*x, begins * width, run.time * width);
      if (n[0] == 'd') differ("back: " + n, later.*x, before.*x, 0, begins * width);
    } else if (n == "dstate") {
      differ("back: " + n, later.*x, before.*x, 0, static_cast<index>((before.*x).size()) / run.batch);
    } else if (n[0] != 'd') {
      differ("forward: " + n, other.*x, before.*x, 0, static_cast<index>((before.*x).size()) / run.batch);
    }
  }
  return out;
}

}  // namespace distil_xlstm::testing
