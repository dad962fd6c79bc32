#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>

#include "mirrored.hpp"
#include "tensor_error.hpp"

namespace distil_xlstm::testing {

/// Whose kernels run a cell: the device's own, or the reference operations that any device has, which are the oracle.
enum class kernels { fused, reference };

namespace detail {
/// Rows first .. last - 1 of each of `batch` sequences of `time` rows.
template <class T>
std::vector<T> rows_of(const std::vector<T>& x, index batch, index time, index first, index last) {
  std::vector<T> out;
  const index row = static_cast<index>(x.size()) / (batch * time);
  for (index b = 0; b < batch; ++b)
    out.insert(out.end(), x.begin() + (b * time + first) * row, x.begin() + (b * time + last) * row);
  return out;
}
inline std::vector<std::int32_t> starts_of(const std::vector<std::int32_t>& start, index batch, index time,
                                           index first, index last) {
  auto out = rows_of(start, batch, time, first, last);
  for (auto& s : out) s = s >= first ? static_cast<std::int32_t>(s - first) : -1;
  return out;
}
template <class T>
matrix_view<T> matrix_of(std::vector<T>& x, index rows) {
  return {x.data(), rows, static_cast<index>(x.size()) / rows};
}
/// Rows as another type stores them, `slack` numbers longer.
template <class To, class T>
std::vector<To> stored_as(const std::vector<T>& x, index rows, index slack) {
  const index width = static_cast<index>(x.size()) / rows;
  std::vector<To> out(static_cast<std::size_t>(rows * (width + slack)));
  for (index r = 0; r < rows; ++r)
    for (index c = 0; c < width; ++c)
      out[static_cast<std::size_t>(r * (width + slack) + c)] =
          static_cast<To>(x[static_cast<std::size_t>(r * width + c)]);
  return out;
}
template <class T>
void sized(std::vector<T>& x, index n) {
  x.assign(static_cast<std::size_t>(n), T(0));
}
template <class T>
void noise(rng& random, std::vector<T>& x, index n, double scale = 1, double mean = 0) {
  sized(x, n);
  for (auto& v : x) v = static_cast<T>(mean + scale * random.normal());
}
}  // namespace detail

/// The mLSTM cell over `batch` sequences: its inputs, and what forward and backward make of them.
template <class T>
struct mlstm_run {
  index batch = 1, time = 1;
  mlstm_shape shape;
  index slack = 0;                   ///< numbers between the rows of q, k and v
  T beta = 0;                        ///< dv = beta v + its gradient
  std::vector<std::int32_t> start;   ///< of each token's document
  std::vector<T> q, k, v, i, f, dh;  ///< rows
  std::vector<T> c, n, m;            ///< the state before, then after
  std::vector<T> dstate;             ///< its gradient after, then before; empty: none after, before not wanted
  std::vector<T> h, dq, dk, dv, di, df, chunk_states;

  index rows() const { return batch * time; }
  sequence_view seq() const { return {batch, time, start.data()}; }
  void empty_state() {
    detail::sized(c, batch * shape.heads * shape.query * shape.value);
    detail::sized(n, batch * shape.heads * shape.query);
    m.assign(static_cast<std::size_t>(batch * shape.heads), static_cast<T>(shape.empty_m));
    detail::sized(dstate, batch * shape.heads * shape.query * (shape.value + 1));
  }
  /// Random inputs; from a past, with a document that begins at `begins` in the first sequence.
  static mlstm_run random(index batch, index time, mlstm_shape shape, index begins, std::uint64_t seed = 1) {
    mlstm_run r;
    r.batch = batch, r.time = time, r.shape = shape;
    rng random(seed);
    const index rows = r.rows(), heads = shape.heads;
    for (auto* x : {&r.q, &r.k}) detail::noise(random, *x, rows * heads * shape.query);
    const bool positive = shape.normaliser == mlstm_normaliser::sum;
    if (positive)
      for (auto* x : {&r.q, &r.k})
        for (T& each : *x) each = std::abs(each);
    detail::noise(random, r.v, rows * shape.value_heads() * shape.value);
    detail::noise(random, r.dh, rows * heads * shape.value);
    detail::noise(random, r.i, rows * heads), detail::noise(random, r.f, rows * heads, 2, 2);
    r.empty_state();
    detail::noise(random, r.c, static_cast<index>(r.c.size()));
    detail::noise(random, r.n, static_cast<index>(r.n.size()));
    if (positive)
      for (T& each : r.n) each = std::abs(each);
    detail::noise(random, r.m, static_cast<index>(r.m.size()));
    detail::noise(random, r.dstate, static_cast<index>(r.dstate.size()));
    r.start.assign(static_cast<std::size_t>(rows), -1);
    for (index t = begins; t < time; ++t)
      r.start[static_cast<std::size_t>(t)] = static_cast<std::int32_t>(begins);
    return r;
  }
  /// Tokens first .. last - 1, with this state.
  mlstm_run part(index first, index last) const {
    mlstm_run p;
    p.batch = batch, p.time = last - first, p.shape = shape;
    p.start = detail::starts_of(start, batch, time, first, last);
    for (const auto x :
         {&mlstm_run::q, &mlstm_run::k, &mlstm_run::v, &mlstm_run::i, &mlstm_run::f, &mlstm_run::dh})
      p.*x = detail::rows_of(this->*x, batch, time, first, last);
    p.c = c, p.n = n, p.m = m, p.dstate = dstate;
    return p;
  }
  /// `keep`: a backward follows. One token without is the recurrent form, more are the chunkwise form. q, k and v are
  /// stored as Operand.
  template <class Operand = T, class D>
  void forward(D& d, kernels which = kernels::fused, bool keep = true) {
    const index heads = shape.heads;
    detail::sized(h, rows() * heads * shape.value);
    if (keep)  // whatever the memory held
      chunk_states.assign(
          static_cast<std::size_t>(batch * heads * shape.kept_size(time, sizeof(Operand) < sizeof(T))),
          std::numeric_limits<T>::quiet_NaN());
    operands<Operand> in(*this);
    mirrored on(d);
    const mlstm_arguments<T, Operand> a{{batch, time, on(start)},
                                        shape,
                                        in.matrix(on, in.q),
                                        in.matrix(on, in.k),
                                        in.matrix(on, in.v),
                                        on.matrix(i, rows()),
                                        on.matrix(f, rows()),
                                        on.matrix(h, rows()),
                                        state(on),
                                        keep ? on(chunk_states) : nullptr};
    if (which == kernels::fused)
      mlstm_forward(d, a);
    else if constexpr (std::is_same_v<Operand, T>)
      distil_xlstm::mlstm_forward<D, T>(d, a);
    on.back();
  }
  template <class Operand = T, class D>
  void backward(D& d, kernels which = kernels::fused) {
    dv = v, di = df = i;
    std::vector<Operand> of_q = detail::stored_as<Operand>(q, rows(), 0), of_k = of_q,
                         of_h = detail::stored_as<Operand>(dh, rows(), 0);
    operands<Operand> in(*this);
    mirrored on(d);
    mlstm_backward_arguments<T, Operand> a{{batch, time, on(start)}, shape,
                                           in.matrix(on, in.q),      in.matrix(on, in.k),
                                           in.matrix(on, in.v),      on.matrix(i, rows()),
                                           on.matrix(f, rows()),     on.matrix(h, rows()),
                                           on.matrix(of_h, rows()),  on(chunk_states),
                                           on.matrix(of_q, rows()),  on.matrix(of_k, rows()),
                                           on.matrix(dv, rows()),    on.matrix(di, rows()),
                                           on.matrix(df, rows())};
    a.beta = beta, a.dstate = dstate.empty() ? nullptr : on(dstate), a.last = state(on);
    if (which == kernels::fused)
      mlstm_backward(d, a);
    else if constexpr (std::is_same_v<Operand, T>)
      distil_xlstm::mlstm_backward<D, T>(d, a);
    on.back();
    dq.assign(of_q.begin(), of_q.end()), dk.assign(of_k.begin(), of_k.end());
  }
  /// All that the two directions give.
  static auto results() {
    using r = mlstm_run;
    return std::vector<std::pair<const char*, std::vector<T> r::*>>{
        {"h", &r::h},   {"c", &r::c},   {"n", &r::n},   {"m", &r::m},   {"dq", &r::dq},
        {"dk", &r::dk}, {"dv", &r::dv}, {"di", &r::di}, {"df", &r::df}, {"dstate", &r::dstate}};
  }
  /// Those that have a row a token.
  static bool by_row(std::vector<T> mlstm_run::*x) {
    using r = mlstm_run;
    return x != &r::c && x != &r::n && x != &r::m && x != &r::dstate;
  }
  static auto inputs() {
    using r = mlstm_run;
    return std::vector<std::vector<T> r::*>{&r::q, &r::k, &r::v, &r::i, &r::f};
  }
  static auto memory() {
    using r = mlstm_run;
    return std::vector<std::vector<T> r::*>{&r::c, &r::n, &r::m};
  }

 private:
  /// q, k and v as the cell gets them.
  template <class Operand>
  struct operands {
    index rows, slack;
    std::vector<Operand> q, k, v;
    explicit operands(const mlstm_run& r)
        : rows(r.rows()),
          slack(r.slack),
          q(detail::stored_as<Operand>(r.q, rows, slack)),
          k(detail::stored_as<Operand>(r.k, rows, slack)),
          v(detail::stored_as<Operand>(r.v, rows, slack)) {}
    template <class D>
    matrix_view<const Operand> matrix(mirrored<D>& on, std::vector<Operand>& x) const {
      const matrix_view<Operand> all = on.matrix(x, rows);
      return all.columns(0, all.cols - slack);
    }
  };
  template <class D>
  mlstm_state<T> state(mirrored<D>& on) {
    const index heads = shape.heads, dq_ = shape.query, dv_ = shape.value;
    return {{on(c), heads * dq_ * dv_}, {on(n), heads * dq_}, {on(m), heads}};
  }
};

/// The sLSTM cell likewise.
template <class T>
struct slstm_run {
  index batch = 1, time = 1, heads = 1, head = 1;
  std::vector<std::int32_t> start;
  std::vector<T> r, bias, x, dh;    ///< x: what the layer's maps give the gates, rows
  std::vector<T> state, dstate;     ///< [batch, 4 width] before, then after; [batch, 3 width] its gradient
  std::vector<T> h, dx, dr, dbias;  ///< h of each row, and gradients
  std::vector<T> raw, states, initial;

  index rows() const { return batch * time; }
  index width() const { return heads * head; }
  sequence_view seq() const { return {batch, time, start.data()}; }

  static slstm_run random(index batch, index time, index heads, index head, index begins,
                          std::uint64_t seed = 1) {
    slstm_run s;
    s.batch = batch, s.time = time, s.heads = heads, s.head = head;
    rng random(seed);
    const index width = s.width();
    detail::noise(random, s.r, heads * 4 * head * head, 1 / std::sqrt(static_cast<double>(head)));
    detail::noise(random, s.bias, 4 * width), detail::noise(random, s.x, s.rows() * 4 * width, 2);
    detail::noise(random, s.dh, s.rows() * width), detail::noise(random, s.state, batch * 4 * width, 0.5);
    detail::noise(random, s.dstate, batch * 3 * width);
    for (index b = 0; b < batch; ++b)  // n is positive
      for (index j = 0; j < width; ++j) {
        auto& n = s.state[static_cast<std::size_t>((4 * b + 2) * width + j)];
        n = 1 + std::abs(n);
      }
    s.start.assign(static_cast<std::size_t>(s.rows()), -1);
    for (index t = begins; t < time; ++t)
      s.start[static_cast<std::size_t>(t)] = static_cast<std::int32_t>(begins);
    return s;
  }
  slstm_run part(index first, index last) const {
    slstm_run p;
    p.batch = batch, p.time = last - first, p.heads = heads, p.head = head;
    p.start = detail::starts_of(start, batch, time, first, last);
    p.r = r, p.bias = bias, p.state = state, p.dstate = dstate;
    p.x = detail::rows_of(x, batch, time, first, last), p.dh = detail::rows_of(dh, batch, time, first, last);
    return p;
  }
  template <class D>
  void forward(D& d, kernels which = kernels::fused, bool = true) {
    raw = x;
    detail::sized(states, rows() * 4 * width()), detail::sized(initial, batch * 4 * width());
    mirrored on(d);
    const slstm_arguments<T> a{{batch, time, on(start)},
                               heads,
                               head,
                               on(r),
                               on(bias),
                               on.matrix(raw, rows()),
                               on.matrix(states, rows()),
                               on(initial),
                               {on(state), 4 * width()}};
    if (which == kernels::fused)
      slstm_forward(d, a);
    else
      distil_xlstm::slstm_forward<D, T>(d, a);
    on.back();
    h.clear();
    for (index row = 0; row < rows(); ++row)
      h.insert(h.end(), states.begin() + row * 4 * width(), states.begin() + (row * 4 + 1) * width());
  }
  template <class D>
  void backward(D& d, kernels which = kernels::fused) {
    dx = raw;
    mirrored on(d);
    const slstm_backward_arguments<T> there{{batch, time, on(start)},
                                            heads,
                                            head,
                                            on(r),
                                            on.matrix(dx, rows()),
                                            on.matrix(states, rows()),
                                            on(initial),
                                            on.matrix(dh, rows())};
    if (which == kernels::fused)
      slstm_backward(d, there, on(dstate));
    else
      distil_xlstm::slstm_backward<D, T>(d, there, on(dstate));
    on.back();
    const slstm_backward_arguments<T> a{seq(),
                                        heads,
                                        head,
                                        r.data(),
                                        detail::matrix_of(dx, rows()),
                                        detail::matrix_of(states, rows()),
                                        initial.data(),
                                        detail::matrix_of(dh, rows())};
    // As the layer does it, one number at a time.
    detail::sized(dr, static_cast<index>(r.size())), detail::sized(dbias, static_cast<index>(bias.size()));
    for (index b = 0; b < batch; ++b)
      for (index t = 0; t < time; ++t) {
        const T* g = dx.data() + (b * time + t) * 4 * width();
        for (index j = 0; j < 4 * width(); ++j) dbias[static_cast<std::size_t>(j)] += g[j];
        const T* before = distil_xlstm::detail::slstm_before<T>(a, b, t);
        if (!before) continue;
        T* to = dr.data();
        for (index e = 0; e < heads; ++e)
          for (index q = 0; q < 4; ++q)
            for (index o = 0; o < head; ++o, to += head)
              for (index j = 0; j < head; ++j) to[j] += g[q * width() + e * head + o] * before[e * head + j];
      }
  }
  static auto results() {
    using s = slstm_run;
    return std::vector<std::pair<const char*, std::vector<T> s::*>>{
        {"h", &s::h},   {"state", &s::state}, {"dx", &s::dx},
        {"dr", &s::dr}, {"dbias", &s::dbias}, {"dstate", &s::dstate}};
  }
  static bool by_row(std::vector<T> slstm_run::*x) { return x == &slstm_run::h || x == &slstm_run::dx; }
  static auto inputs() { return std::vector<std::vector<T> slstm_run::*>{&slstm_run::x}; }
  static auto memory() { return std::vector<std::vector<T> slstm_run::*>{&slstm_run::state}; }
};

}  // namespace distil_xlstm::testing
