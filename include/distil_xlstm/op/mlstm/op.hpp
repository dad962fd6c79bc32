#pragma once

#include <algorithm>
#include <concepts>
#include <limits>
#include <type_traits>

#include <distil_xlstm/core/layout.hpp>
#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

/// The recurrent memory of mLSTM, with a stabiliser m; k is not scaled in it.
template <class T>
struct mlstm_state {
  /// @{ C [heads, dq, dv], the decayed sum of i k vᵀ, n [heads, dq], that of i k, both divided by exp(m), m [heads].
  batched_state<T> c, n, m;
  /// @}
};

/// What h divides by, r = n.q of the memory with its stabiliser, and whether q is scaled.
enum class mlstm_normaliser {
  at_least_one,  ///< q / sqrt(dq), and max(|r|, exp(-m)): xLSTM's own (Beck et al. 2024, arXiv 2405.04517)
  sum  ///< q as it is, and r: a mean of the values, as linear attention has it (Katharopoulos et al. 2020, arXiv
       ///< 2006.16236). q and k are positive; where next to nothing is left of r (1e-19 of a float, 1e-154 of a
       ///< double), h is nearer to 0
};

/// Sizes and numbers of the cell.
struct mlstm_shape {
  /// @{ Heads, and the width dq of one head's q and k, dv of its v.
  index heads = 1, query = 0, value = 0;
  /// @}
  /// Tokens of a chunk: results do not depend on it, to rounding. CUDA's kernels have chunks of their own.
  index chunk = 64;
  double empty_m =
      -std::numeric_limits<double>::infinity();  ///< m of an empty state: -inf (Family A), 0 (Family B)
  double epsilon = 1e-6;                         ///< beside what h is divided by
  mlstm_normaliser normaliser = mlstm_normaliser::at_least_one;  ///< what h is divided by
  index value_group = 1;                                         ///< neighbouring heads that share one v

  /// The memory of one sequence, in a layout.
  template <class L>
  mlstm_state<typename L::scalar> state(L& l) const {
    mlstm_state<typename L::scalar> s;
    s.c = l.state("c", {heads, query, value});
    s.n = l.state("n", {heads, query});
    s.m = l.state("m", {heads}, initial::constant(empty_m));
    return s;
  }
  /// How many different v a token has.
  constexpr index value_heads() const { return heads / value_group; }
  /// Chunks of `time` tokens; the last may be short.
  constexpr index chunks(index time) const { return (time + chunk - 1) / chunk; }
  /// Numbers that forward leaves for backward, for one chunk of one head: C, n, m and the position m came from.
  constexpr index chunk_state_size() const { return query * value + query + 2; }
  /// The same for `time` tokens of one head. Where products' operands take half a number's memory (`half`), a device
  /// may keep the state, in tiles of 64, 96 or 128, and the scores of each `rounded_chunk` tokens as such, in less.
  constexpr index kept_size(index time, bool half = false) const {
    const index whole = chunks(time) * chunk_state_size();
    if (!half) return whole;
    index tiles = std::numeric_limits<index>::max();
    for (const index n : {64, 96, 128})
      tiles = std::min(tiles, (query + n - 1) / n * n * ((value + n - 1) / n * n));
    const index state = tiles / 2 + query + 127, scores = rounded_chunk * (rounded_chunk / 2 + 1);
    // And as much as beginning each of five arrays at 256 bytes takes.
    return std::min(whole, (time + rounded_chunk - 1) / rounded_chunk * (state + scores) + 1 + 5 * 64);
  }
  static constexpr index rounded_chunk = 128;  ///< tokens of such a chunk
};

/// What the cell reads and writes. `Operand`: what q, k and v are stored as, which products read (`operand_t`); `H`:
/// what h is.
template <class T, class Operand = T, class H = T>
struct mlstm_arguments {
  sequence_view seq;  ///< of the call
  mlstm_shape shape;  ///< sizes and numbers
  /// @{ [rows, heads * query] twice, and [rows, value_heads() * value].
  matrix_view<const Operand> q, k, v;
  /// @}
  /// @{ [rows, heads] pre-activations of the input gate (exponential) and the forget gate (sigmoid).
  matrix_view<const T> i, f;
  /// @}
  matrix_view<H> h;      ///< [rows, heads * value], written
  mlstm_state<T> state;  ///< before the call; advanced
  T* chunk_states;       ///< [batch, heads, kept_size(time, half operands)]; null: no backward follows
};

/// The same for the way back; the gradients of h, q and k are stored as Gradients.
template <class T, class Operand = T, class Gradient = Operand, class H = T>
struct mlstm_backward_arguments {
  sequence_view seq;  ///< of the call
  mlstm_shape shape;  ///< sizes and numbers
  /// @{ As forward had them, h as it gave it; and the gradient of h.
  matrix_view<const Operand> q, k, v;
  matrix_view<const T> i, f;
  matrix_view<const H> h;
  matrix_view<const Gradient> dh;
  /// @}
  const T* chunk_states;  ///< as forward left them
  /// @{ Gradients, shapes as those of q, k, v, i, f; overwritten, but for dv = beta dv + its gradient.
  matrix_view<Gradient> dq, dk;
  matrix_view<T> dv, di, df;
  /// @}
  T beta = 0;  ///< 0: dv is overwritten
  T* dstate =
      nullptr;  ///< [batch, heads, query (value + 1)]: in dC, dn of the last state, out of the initial; or null
  mlstm_state<T> last{};  ///< the state after forward; read where `dstate` is given
};

namespace detail {

/// What h is divided by, and its derivative by r.
template <class T>
struct mlstm_norm {
  T value, slope;
};
/// `rest`: exp(-m).
template <class T>
DISTIL_XLSTM_HD mlstm_norm<T> mlstm_norm_of(mlstm_normaliser rule, T r, T rest) {
  using std::abs;
  // The root of the smallest normal number: no gradient overflows.
  constexpr T least = std::is_same_v<T, float> ? T(1.0842022e-19) : T(1.4916681462400413e-154);
  if (rule == mlstm_normaliser::sum) return r > least ? mlstm_norm<T>{r, 1} : mlstm_norm<T>{least, 0};
  return abs(r) >= rest ? mlstm_norm<T>{abs(r), r < 0 ? T(-1) : T(1)} : mlstm_norm<T>{rest, 0};
}
template <class T>
DISTIL_XLSTM_HD T mlstm_query_scale(const mlstm_shape& shape) {
  using std::sqrt;
  return shape.normaliser == mlstm_normaliser::sum ? T(1) : T(1) / sqrt(static_cast<T>(shape.query));
}

/// The chunkwise form of one sequence and head, over any products (Beck et al. 2024, arXiv 2405.04517, appendix;
/// in chunks as in TFLA, Beck et al. 2025, arXiv 2503.14376).
///
/// In a chunk with entering state (C, n, m), positions t, s, b_t the running sum of log sigmoid(f~):
///
///   D~_ts = b_t - b_s + i~_s (s <= t)        mu_t   = max(b_t + m, max_s D~_ts)
///   D_ts  = exp(D~_ts - mu_t)                beta_t = exp(b_t + m - mu_t)
///   S_ts  = q_t.k_s / sqrt(dq)
///   U_t   = beta_t Cᵀq_t / sqrt(dq) + sum_s S_ts D_ts v_s
///   r_t   = beta_t n.q_t / sqrt(dq) + sum_s S_ts D_ts
///   N_t   = max(|r_t|, exp(-mu_t))
///   h_t   = U_t / (N_t + eps)
///
/// (with `mlstm_normaliser::sum` without the root of dq, N_t = r_t)
///
/// and the state leaves with m = mu_L, C = beta_L C + sum_s D_Ls k_s v_sᵀ, n = beta_L n + sum_s D_Ls k_s.
/// A document that begins inside a chunk sees neither earlier positions nor the entering state.
///
/// Products: P.multiply(m, n, k, a, lda, a_transposed, b, ldb, b_transposed, beta, c, ldc); V is the vector
/// type.
template <class T, class V, class Products>
struct mlstm_chunkwise {
  mlstm_shape shape;
  index time;
  const T *q, *k, *v, *i, *f;
  index ldq, ldk, ldv, ldi, ldf;
  sequence_view seq;
  index sequence;
  Products products;
  T* memory;  ///< scratch(shape, time) numbers

  static constexpr index row_numbers = 9;  ///< of each row of a chunk, after three squares
  static index scratch(const mlstm_shape& s, index time) {
    const index wide = s.query > s.value ? s.query : s.value;
    return 3 * s.chunk * s.chunk + 3 * s.chunk * wide + row_numbers * s.chunk + time;
  }

  template <class F>
  DISTIL_XLSTM_HD static void columns(index begin, index end, const F& body) {
    index c = begin;
    if constexpr (math::width_of < V >> 1)
      for (; c + math::width_of<V> <= end; c += math::width_of<V>) body.template operator()<V>(c);
    for (; c < end; ++c) body.template operator()<T>(c);
  }
  DISTIL_XLSTM_HD static T dot(const T* a, const T* b, index n) {
    V wide(0);
    T rest = 0;
    index c = 0;
    if constexpr (math::width_of < V >> 1)
      for (; c + math::width_of<V> <= n; c += math::width_of<V>)
        wide = wide + math::load<V>(a + c) * math::load<V>(b + c);
    for (; c < n; ++c) rest += a[c] * b[c];
    T lanes[math::width_of<V>];
    math::store<V>(lanes, wide);
    for (index l = 0; l < math::width_of<V>; ++l) rest += lanes[l];
    return rest;
  }

  /// What both directions know of a chunk.
  struct chunk_numbers {
    index first, length;
    T *decay, *gated;                // D, and S D: [length, chunk]
    T *b, *mu, *beta, *r, *n, *low;  // of each row; `low`: the first position that the row sees
    T* origin;  // of each row's mu: a position of the whole sequence, -1 for the entering state's
  };

  DISTIL_XLSTM_HD index begin_of(index t) const { return seq.document_start(sequence, t); }
  DISTIL_XLSTM_HD T scale() const { return mlstm_query_scale<T>(shape); }
  DISTIL_XLSTM_HD mlstm_norm<T> norm_of(T r, T m) const {
    using std::exp;
    return mlstm_norm_of<T>(shape.normaliser, r, exp(-m));
  }

  /// Fills D, S D, mu, beta, r, N. `c`, `n`, `m`, `origin` are the entering state.
  DISTIL_XLSTM_HD chunk_numbers prepare(index first, const T* n_state, T m, T origin) const {
    using std::exp;
    chunk_numbers z;
    const index L = shape.chunk;
    z.first = first;
    z.length = time - first < L ? time - first : L;
    z.decay = memory, z.gated = memory + L * L;
    T* rows = memory + 3 * L * L;  // the third square is dS
    z.b = rows, z.mu = rows + L, z.beta = rows + 2 * L, z.r = rows + 3 * L, z.n = rows + 4 * L,
    z.low = rows + 5 * L, z.origin = rows + 6 * L;
    // i~_s - b_s, and what rounds off: b_t - b_s cancels, so that b's own rounding would be D's error. What
    // rounds off b itself lies in mu until its row has one.
    T *shifted = rows + 7 * L, *rest = rows + 8 * L;
    double sum = 0;
    for (index t = 0; t < z.length; ++t) {
      if (begin_of(first + t) == first + t) sum = 0;  // so that not even rounding crosses a boundary
      sum += static_cast<double>(math::log_sigmoid(f[(first + t) * ldf]));
      const double difference = static_cast<double>(i[(first + t) * ldi]) - sum;
      z.b[t] = static_cast<T>(sum), z.mu[t] = static_cast<T>(sum - static_cast<double>(z.b[t]));
      shifted[t] = static_cast<T>(difference);
      const bool finite = shifted[t] > -std::numeric_limits<T>::infinity();
      rest[t] = finite ? static_cast<T>(difference - static_cast<double>(shifted[t])) : T(0);
    }
    products.multiply(z.length, z.length, shape.query, q + first * ldq, ldq, false, k + first * ldk, ldk, true,
                      T(0), z.gated, L);
    const T s = scale();
    for (index t = 0; t < z.length; ++t) {
      const index start = begin_of(first + t) - first;
      const bool carried = start <= 0;
      const index low = carried ? 0 : start;
      const double b = static_cast<double>(z.b[t]) + static_cast<double>(z.mu[t]);
      const double entering = b + (carried ? static_cast<double>(m) : shape.empty_m);
      T best = static_cast<T>(entering);
      index from = -1;
      for (index u = low; u <= t; ++u)
        if (z.b[t] + shifted[u] > best) best = z.b[t] + shifted[u], from = u;
      z.low[t] = static_cast<T>(low);
      z.origin[t] = from >= 0 ? static_cast<T>(first + from) : carried ? origin : T(-1);
      z.mu[t] = best;
      z.beta[t] = carried && entering > -std::numeric_limits<double>::infinity()
                      ? exp(static_cast<T>(entering - static_cast<double>(best)))
                      : T(0);
      T* decay = z.decay + t * L;
      T* gated = z.gated + t * L;
      const double offset = b - static_cast<double>(best);
      const T high = static_cast<T>(offset), low_part = static_cast<T>(offset - static_cast<double>(high));
      for (index u = 0; u < low; ++u) decay[u] = gated[u] = 0;
      columns(low, t + 1, [&]<class W>(index u) {
        using std::exp;
        const W d = exp((math::load<W>(shifted + u) + W(high)) + (math::load<W>(rest + u) + W(low_part)));
        math::store<W>(decay + u, d);
        math::store<W>(gated + u, math::load<W>(gated + u) * d * W(s));
      });
      for (index u = t + 1; u < z.length; ++u) decay[u] = gated[u] = 0;
      T r = 0;
      for (index u = low; u <= t; ++u) r += gated[u];
      if (z.beta[t] > 0) r += z.beta[t] * s * dot(q + (first + t) * ldq, n_state, shape.query);
      z.r[t] = r;
      z.n[t] = norm_of(r, best).value;
    }
    return z;
  }

  /// Advances (c, n, m) in place, writes h; keeps each chunk's entering state where `chunk_states` is given.
  DISTIL_XLSTM_HD void forward(T* c, T* n, T* m, T* h, index ldh, T* chunk_states) const {
    const index L = shape.chunk, dq = shape.query, dv = shape.value;
    const index wide = dq > dv ? dq : dv;
    T* weighted =
        memory + 3 * L * L + row_numbers * L;  // [L, value] Cᵀ q, then [L, query] keys times their decay
    T origin = -1;
    const T s = scale();
    for (index first = 0; first < time;
         first += L, chunk_states = chunk_states ? chunk_states + shape.chunk_state_size() : nullptr) {
      if (begin_of(first) == first) {
        for (index e = 0; e < dq * dv; ++e) c[e] = 0;
        for (index e = 0; e < dq; ++e) n[e] = 0;
        *m = static_cast<T>(shape.empty_m), origin = -1;
      }
      if (chunk_states) {
        columns(0, dq * dv, [&]<class W>(index e) { math::store<W>(chunk_states + e, math::load<W>(c + e)); });
        for (index e = 0; e < dq; ++e) chunk_states[dq * dv + e] = n[e];
        chunk_states[dq * dv + dq] = *m, chunk_states[dq * dv + dq + 1] = origin;
      }
      const chunk_numbers z = prepare(first, n, *m, origin);
      products.multiply(z.length, dv, z.length, z.gated, L, false, v + first * ldv, ldv, false, T(0),
                        h + first * ldh, ldh);
      bool any = false;
      for (index t = 0; t < z.length; ++t) any = any || z.beta[t] > 0;
      if (any)
        products.multiply(z.length, dv, dq, q + first * ldq, ldq, false, c, dv, false, T(0), weighted, wide);
      for (index t = 0; t < z.length; ++t) {
        T* row = h + (first + t) * ldh;
        const T over = T(1) / (z.n[t] + static_cast<T>(shape.epsilon)), inter = any ? z.beta[t] * s : T(0);
        const T* past = weighted + t * wide;
        if (inter > 0)
          columns(0, dv, [&]<class W>(index e) {
            math::store<W>(row + e, (math::load<W>(row + e) + W(inter) * math::load<W>(past + e)) * W(over));
          });
        else
          columns(0, dv, [&]<class W>(index e) { math::store<W>(row + e, math::load<W>(row + e) * W(over)); });
      }
      const index last = z.length - 1;
      weigh_keys(z, last, weighted, wide);
      products.multiply(dq, dv, z.length, weighted, wide, true, v + first * ldv, ldv, false, z.beta[last], c,
                        dv);
      for (index e = 0; e < dq; ++e) n[e] *= z.beta[last];
      for (index t = static_cast<index>(z.low[last]); t < z.length; ++t)
        for (index e = 0; e < dq; ++e) n[e] += weighted[t * wide + e];
      *m = z.mu[last], origin = z.origin[last];
    }
  }

  /// d log f: the sum of e, what `backward` has found of each position, over the rest of the document.
  DISTIL_XLSTM_HD void forget_gates_backward(const T* e, double inner, T* df, index lddf) const {
    const bool forgets_nothing = shape.empty_m == -std::numeric_limits<double>::infinity();
    double sum = inner;
    for (index t = time - 1; t >= 0; --t) {
      sum += static_cast<double>(e[t]);
      const bool begins = begin_of(t) == t;
      const double slope = static_cast<double>(math::sigmoid(-f[t * ldf]));
      df[t * lddf] = begins && forgets_nothing ? T(0) : static_cast<T>(slope * sum);
      if (begins) sum = 0;
    }
  }

  /// dq dk dv di df of the whole sequence. `dc`, `dn`: in the gradients of the last state, out of the initial
  /// one. `inner` is <dC_last, C_last> + <dn_last, n_last>: the last state decays with every forget gate.
  DISTIL_XLSTM_HD void backward(const T* chunk_states, const T* h, index ldh, const T* dh, index lddh, T* dc,
                                T* dn, double inner, T* dq_, index lddq, T* dk_, index lddk, T* dv_, index lddv,
                                T* di, index lddi, T* df, index lddf) const {
    const index L = shape.chunk, dq = shape.query, dv = shape.value, wide = dq > dv ? dq : dv;
    const T s = scale(), epsilon = static_cast<T>(shape.epsilon);
    T* ds = memory + 2 * L * L;
    T* du = memory + 3 * L * L + row_numbers * L;  // dU, [L, value]
    T* scaled = du + L * wide;                     // keys times decay, then beta dU
    T* spare = scaled + L * wide;
    T* e = spare + L * wide;  // q dq - k dk of each position
    for (index t = 0; t < time; ++t) di[t * lddi] = 0, e[t] = 0;
    const index chunks = shape.chunks(time);
    for (index chunk = chunks - 1; chunk >= 0; --chunk) {
      const index first = chunk * L;
      const T* c = chunk_states + chunk * shape.chunk_state_size();
      const T* n = c + dq * dv;
      const chunk_numbers z = prepare(first, n, n[dq], n[dq + 1]);
      const index last = z.length - 1;
      T* dr = z.b;  // b is not needed below
      for (index t = 0; t < z.length; ++t) {
        const T* g = dh + (first + t) * lddh;
        const T over = T(1) / (z.n[t] + epsilon);
        const T along = dot(g, h + (first + t) * ldh, dv) * over;  // dh.h / (N + eps)
        dr[t] = -along * norm_of(z.r[t], z.mu[t]).slope;
        columns(0, dv,
                [&]<class W>(index x) { math::store<W>(du + t * wide + x, math::load<W>(g + x) * W(over)); });
        // The stabiliser cancels but for eps; what is left goes to the position that gave the maximum.
        const T dmu = -along * epsilon;
        e[first + t] += dmu;
        if (z.origin[t] >= 0) {
          const index from = static_cast<index>(z.origin[t]);
          di[from * lddi] += dmu, e[from] -= dmu;
        }
      }
      // dS = (dU Vᵀ + dr) D
      products.multiply(z.length, z.length, dv, du, wide, false, v + first * ldv, ldv, true, T(0), ds, L);
      for (index t = 0; t < z.length; ++t)
        columns(0, z.length, [&]<class W>(index u) {
          math::store<W>(ds + t * L + u, (math::load<W>(ds + t * L + u) + W(dr[t])) *
                                             math::load<W>(z.decay + t * L + u) * W(s));
        });
      // dv = (S D)ᵀ dU + a K dC'
      products.multiply(z.length, dv, z.length, z.gated, L, true, du, wide, false, T(0), dv_ + first * lddv,
                        lddv);
      weigh_keys(z, last, scaled, wide);
      products.multiply(z.length, dv, dq, scaled, wide, false, dc, dv, false, T(1), dv_ + first * lddv, lddv);
      // dk = dSᵀ Q + a (V dC'ᵀ + dn')
      products.multiply(z.length, dq, z.length, ds, L, true, q + first * ldq, ldq, false, T(0),
                        dk_ + first * lddk, lddk);
      products.multiply(z.length, dq, dv, v + first * ldv, ldv, false, dc, dv, true, T(0), spare, wide);
      for (index t = static_cast<index>(z.low[last]); t < z.length; ++t) {
        const T a = z.decay[last * L + t];
        T* row = dk_ + (first + t) * lddk;
        columns(0, dq, [&]<class W>(index x) {
          math::store<W>(row + x, math::load<W>(row + x) +
                                      W(a) * (math::load<W>(spare + t * wide + x) + math::load<W>(dn + x)));
        });
      }
      // dq = dS K + beta (C dU + n dr)
      products.multiply(z.length, dq, z.length, ds, L, false, k + first * ldk, ldk, false, T(0),
                        dq_ + first * lddq, lddq);
      for (index t = 0; t < z.length; ++t) {
        const T w = z.beta[t] * s;
        columns(0, dv, [&]<class W>(index x) {
          math::store<W>(scaled + t * wide + x, math::load<W>(du + t * wide + x) * W(w));
        });
      }
      products.multiply(z.length, dq, dv, scaled, wide, false, c, dv, true, T(1), dq_ + first * lddq, lddq);
      for (index t = 0; t < z.length; ++t) {
        const T w = z.beta[t] * s * dr[t];
        T* row = dq_ + (first + t) * lddq;
        columns(0, dq, [&]<class W>(index x) {
          math::store<W>(row + x, math::load<W>(row + x) + W(w) * math::load<W>(n + x));
        });
      }
      // The state before this chunk.
      products.multiply(dq, dv, z.length, q + first * ldq, ldq, true, scaled, wide, false, z.beta[last], dc,
                        dv);
      for (index x = 0; x < dq; ++x) dn[x] *= z.beta[last];
      for (index t = 0; t < z.length; ++t) {
        const T w = z.beta[t] * s * dr[t];
        const T* row = q + (first + t) * ldq;
        for (index x = 0; x < dq; ++x) dn[x] += w * row[x];
      }
      if (begin_of(first) == first) {
        for (index x = 0; x < dq * dv; ++x) dc[x] = 0;
        for (index x = 0; x < dq; ++x) dn[x] = 0;
      }
      for (index t = first; t < first + z.length; ++t) {
        const T kdk = dot(k + t * ldk, dk_ + t * lddk, dq), qdq = dot(q + t * ldq, dq_ + t * lddq, dq);
        di[t * lddi] += kdk;
        e[t] += qdq - kdk;
      }
    }
    forget_gates_backward(e, inner, df, lddf);
  }

  /// One token of the recurrent form: no products, the state is read and written once.
  DISTIL_XLSTM_HD void step(T* c, T* n, T* m, T* h) const {
    using std::exp;
    const index dq = shape.query, dv = shape.value;
    const bool begins = begin_of(0) == 0;
    const T m0 = begins ? static_cast<T>(shape.empty_m) : *m;
    const T lf = math::log_sigmoid(*f) + m0, m1 = math::max(lf, *i);
    const T forget = begins || m0 == -std::numeric_limits<T>::infinity() ? T(0) : exp(lf - m1);
    const T input = exp(*i - m1), s = scale();
    columns(0, dv, [&]<class W>(index x) { math::store<W>(h + x, W(0)); });
    T r = 0;
    for (index d = 0; d < dq; ++d) {
      n[d] = (forget > 0 ? forget * n[d] : T(0)) + input * k[d];
      r += q[d] * n[d];
      T* row = c + d * dv;
      const T write = input * k[d], read = q[d];
      columns(0, dv, [&]<class W>(index x) {
        const W old = W(forget) * math::load_if<W>(forget > 0, row + x);
        const W now = old + W(write) * math::load<W>(v + x);
        math::store<W>(row + x, now);
        math::store<W>(h + x, math::load<W>(h + x) + W(read) * now);
      });
    }
    *m = m1;
    const T factor = s / (norm_of(s * r, m1).value + static_cast<T>(shape.epsilon));
    columns(0, dv, [&]<class W>(index x) { math::store<W>(h + x, math::load<W>(h + x) * W(factor)); });
  }

 private:
  /// Keys times what is left of them at the chunk's end.
  DISTIL_XLSTM_HD void weigh_keys(const chunk_numbers& z, index last, T* out, index wide) const {
    for (index t = 0; t < z.length; ++t) {
      const T a = z.decay[last * shape.chunk + t];
      const T* row = k + (z.first + t) * ldk;
      columns(0, shape.query,
              [&]<class W>(index x) { math::store<W>(out + t * wide + x, math::load<W>(row + x) * W(a)); });
    }
  }
};

/// Products by the schoolbook, for the default and as an oracle.
template <class T>
struct plain_products {
  DISTIL_XLSTM_HD void multiply(index m, index n, index k, const T* a, index lda, bool transpose_a, const T* b,
                                index ldb, bool transpose_b, T beta, T* c, index ldc) const {
    for (index r = 0; r < m; ++r)
      for (index x = 0; x < n; ++x) {
        T sum = 0;
        for (index y = 0; y < k; ++y)
          sum += a[transpose_a ? y * lda + r : r * lda + y] * b[transpose_b ? x * ldb + y : y * ldb + x];
        c[r * ldc + x] = beta == T(0) ? sum : beta * c[r * ldc + x] + sum;
      }
  }
};

/// Binds one sequence and head of the arguments.
template <class T, class V, class Products, class A>
DISTIL_XLSTM_HD mlstm_chunkwise<T, V, Products> mlstm_head(const A& a, index b, index head, Products p,
                                                           T* memory) {
  const index row = b * a.seq.time, dq = a.shape.query, dv = a.shape.value;
  return {a.shape,
          a.seq.time,
          a.q.row(row) + head * dq,
          a.k.row(row) + head * dq,
          a.v.row(row) + head / a.shape.value_group * dv,
          a.i.row(row) + head,
          a.f.row(row) + head,
          a.q.stride,
          a.k.stride,
          a.v.stride,
          a.i.stride,
          a.f.stride,
          a.seq,
          b,
          p,
          memory};
}

template <class T, class V, class Products>
DISTIL_XLSTM_HD void mlstm_forward_head(const mlstm_arguments<T>& a, index b, index head, Products p,
                                        T* memory) {
  const index dq = a.shape.query, dv = a.shape.value, row = b * a.seq.time;
  const auto cell = mlstm_head<T, V, Products>(a, b, head, p, memory);
  T* c = a.state.c.of(b) + head * dq * dv;
  T* n = a.state.n.of(b) + head * dq;
  T* m = a.state.m.of(b) + head;
  T* h = a.h.row(row) + head * dv;
  if (a.seq.time == 1 && !a.chunk_states) return cell.step(c, n, m, h);
  const index chunks = a.shape.chunks(a.seq.time);
  cell.forward(c, n, m, h, a.h.stride,
               a.chunk_states
                   ? a.chunk_states + (b * a.shape.heads + head) * chunks * a.shape.chunk_state_size()
                   : nullptr);
}

/// Backward of one sequence and head, whose own dv is written: see `with_own_dv`.
template <class T, class V, class Products>
DISTIL_XLSTM_HD void mlstm_backward_head(const mlstm_backward_arguments<T>& a, index b, index head, Products p,
                                         T* memory, T* carry) {
  const index dq = a.shape.query, dv = a.shape.value, row = b * a.seq.time, size = dq * (dv + 1);
  const auto cell = mlstm_head<T, V, Products>(a, b, head, p, memory);
  double inner = 0;
  if (a.dstate) {
    carry = a.dstate + (b * a.shape.heads + head) * size;
    const T *c = a.last.c.of(b) + head * dq * dv, *n = a.last.n.of(b) + head * dq;
    for (index x = 0; x < dq * dv; ++x) inner += static_cast<double>(carry[x]) * static_cast<double>(c[x]);
    for (index x = 0; x < dq; ++x) inner += static_cast<double>(carry[dq * dv + x]) * static_cast<double>(n[x]);
  } else {
    for (index x = 0; x < size; ++x) carry[x] = 0;
  }
  cell.backward(
      a.chunk_states + (b * a.shape.heads + head) * a.shape.chunks(a.seq.time) * a.shape.chunk_state_size(),
      a.h.row(row) + head * dv, a.h.stride, a.dh.row(row) + head * dv, a.dh.stride, carry, carry + dq * dv,
      inner, a.dq.row(row) + head * dq, a.dq.stride, a.dk.row(row) + head * dq, a.dk.stride,
      a.dv.row(row) + head * dv, a.dv.stride, a.di.row(row) + head, a.di.stride, a.df.row(row) + head,
      a.df.stride);
}

template <class T>
struct mlstm_forward_task {
  mlstm_arguments<T> a;
  T* memory;
  index each;
  DISTIL_XLSTM_HD void operator()(index task) const {
    mlstm_forward_head<T, T>(a, task / a.shape.heads, task % a.shape.heads, plain_products<T>{},
                             memory + task * each);
  }
};
template <class T>
struct mlstm_backward_task {
  mlstm_backward_arguments<T> a;
  T* memory;
  index each;
  DISTIL_XLSTM_HD void operator()(index task) const {
    const index size = a.shape.query * (a.shape.value + 1);
    T* mine = memory + task * (each + size);
    mlstm_backward_head<T, T>(a, task / a.shape.heads, task % a.shape.heads, plain_products<T>{}, mine,
                              mine + each);
  }
};

/// dx = beta dx + the sum of dy over the heads that share an x.
template <class T>
struct sum_heads {
  using scalar = T;
  index inputs, group;
  matrix_view<const T> dy;  ///< [rows, inputs * group * width]
  T beta;
  matrix_view<T> dx;  ///< [rows, inputs * width]
  template <class V>
  DISTIL_XLSTM_HD void operator()(index i, index c) const {
    const index row = i / inputs, input = i % inputs, width = dx.cols / inputs;
    T* to = dx.row(row) + input * width + c;
    V sum = V(beta) * math::load_if<V>(beta != T(0), to);
    for (index j = 0; j < group; ++j) sum = sum + math::load<V>(dy.row(row) + (input * group + j) * width + c);
    math::store<V>(to, sum);
  }
};

/// f(a) with a dv of every head's own, [rows, heads * value], that is overwritten; then what a asked for.
template <class D, class T, class Operand, class Gradient, class H, class F>
void with_own_dv(D& d, mlstm_backward_arguments<T, Operand, Gradient, H> a, const F& f) {
  if (a.shape.value_group == 1 && a.beta == T(0)) return f(a);
  const index rows = a.dv.rows, heads = a.shape.value_heads(), width = a.shape.heads * a.shape.value;
  auto memory = d.template scratch<T>(rows * width);
  const matrix_view<T> dv = a.dv;
  a.dv = {memory.data(), rows, width};
  f(a);
  map(d, rows * heads, a.shape.value, sum_heads<T>{heads, a.shape.value_group, a.dv, a.beta, dv});
}

}  // namespace detail

/// The mLSTM cell over whole sequences (Beck et al. 2024, arXiv 2405.04517). The default of any device; a device
/// with better overloads it, and may take operands of another type.
template <class D, class T, std::same_as<T> Operand, std::same_as<T> H>
void mlstm_forward(D& d, const mlstm_arguments<T, Operand, H>& a) {
  const index tasks = a.seq.batch * a.shape.heads;
  const index each = detail::mlstm_chunkwise<T, T, detail::plain_products<T>>::scratch(a.shape, a.seq.time);
  auto memory = d.template scratch<T>(tasks * each);
  parallel_for(d, tasks, detail::mlstm_forward_task<T>{a, memory.data(), each});
}
/// Its gradient, the whole one: the normaliser's and the stabiliser's parts included.
template <class D, class T, std::same_as<T> Operand, std::same_as<T> Gradient, std::same_as<T> H>
void mlstm_backward(D& d, const mlstm_backward_arguments<T, Operand, Gradient, H>& a) {
  const index tasks = a.seq.batch * a.shape.heads;
  const index each = detail::mlstm_chunkwise<T, T, detail::plain_products<T>>::scratch(a.shape, a.seq.time);
  detail::with_own_dv(d, a, [&](const mlstm_backward_arguments<T>& own) {
    auto memory = d.template scratch<T>(tasks * (each + a.shape.query * (a.shape.value + 1)));
    parallel_for(d, tasks, detail::mlstm_backward_task<T>{own, memory.data(), each});
  });
}

}  // namespace distil_xlstm
