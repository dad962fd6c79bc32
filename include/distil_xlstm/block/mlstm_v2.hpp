#pragma once

#include <array>

#include <distil_xlstm/block/initial_deviation.hpp>
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/op/logits/soft_cap.hpp>
#include <distil_xlstm/op/mlstm/op.hpp>

namespace distil_xlstm {

namespace detail {

/// y = sigmoid(o) norm(h), norm(h) = scale u
struct gated_norm {
  template <class V>
  DISTIL_XLSTM_HD V operator()(V scale, V u, V o) const {
    return math::sigmoid(o) * scale * u;
  }
};
/// Its gradients by norm(h) and o.
struct gated_norm_backward {
  template <class V>
  struct gradients {
    V norm, o;
  };
  template <class V>
  DISTIL_XLSTM_HD gradients<V> operator()(V scale, V u, V o, V dy) const {
    const V gate = math::sigmoid(o), dnorm = dy * gate;
    return {dnorm, dnorm * scale * u * (V(1) - gate)};
  }
};

}  // namespace detail

/// Weights of `mlstm_v2`.
template <class Matrix, class Pointer>
struct mlstm_v2_params {
  /// @{

  /// Weights [query, width] of q and k, [value, width] of v and ogate, [heads, width] of igate and fgate, which have
  /// biases [heads], and [width, value] of out_proj.
  linear_params<Matrix, Pointer> q, k, v, ogate, igate, fgate, out_proj;
  /// @}
  norm_params<Pointer> multihead_norm;  ///< [value]
};
/// Tape of `mlstm_v2`.
template <class T>
struct mlstm_v2_tape {
  /// @{

  /// [rows, query] of q and k, [rows, value] of v and o; o before the sigmoid.
  matrix_view<T> q, k, v, o;
  /// @}

  /// @{

  /// [rows, heads]: the gates before their functions, capped.
  matrix_view<T> i, f;
  /// @}
  matrix_view<T> h;   ///< [rows, value]: the cell's result
  T* chunk_states;    ///< see `mlstm_arguments`; null of a transient tape
  norm_tape<T> norm;  ///< of the norm of h, a group a head
  matrix_view<T> y;   ///< [rows, value]: what the last projection reads
};

/// The mLSTM layer of xLSTM-7B, NX-AI's xLSTMLarge: dense q, k, v and gates, all of the input itself; input and
/// forget gate softly capped; the matrix memory; a norm per head; output gate; output projection. No convolution, no
/// up projection, no skip (Beck et al. 2025, arXiv 2503.13427).
///
///     q = Wq x    k = Wk x    v = Wv x    o = sigmoid(Wo x)
///     i~ = cap(Wi x + bi)    f~ = cap(Wf x + bf)    cap(u) = gate_cap tanh(u / gate_cap), a number a head each
///     C <- sigmoid(f~) C + exp(i~) k vᵀ    n <- sigmoid(f~) n + exp(i~) k
///     h = Cᵀq / max(|n.q|, sqrt(dq))       of each head, dq = query / heads
///     y = Wout (o norm(h))
///
/// The memory is kept times exp(-m), m a running maximum of the exponents, 0 for an empty memory, so that nothing
/// overflows.
struct mlstm_v2 {
  /// Width of x and of y.
  index width = 0, heads = 1;  ///< number of heads, which share `query` and `value` equally

  /// Width of q and of k, over all heads.
  index query = 0, value = 0;  ///< width of v, over all heads
  double gate_cap = 15;        ///< of input and forget gate; 0: none
  /// Of the heads' norm.
  double norm_epsilon = 1e-6, cell_epsilon = 1e-6;  ///< beside what h is divided by
  index chunk = 64;                                 ///< tokens of a chunk of the memory's chunkwise form
  index block_count = 1;                            ///< blocks of the model, for the initial output projection

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  constexpr index width_in() const { return width; }
  constexpr index width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(heads > 0 && query > 0 && value > 0 && query % heads == 0 && value % heads == 0,
            "mlstm_v2: ", heads, " heads do not divide the width ", query, " of the queries and ", value,
            " of the values");
    require(chunk > 0, "mlstm_v2: a chunk of ", chunk, " tokens is not possible");
    mlstm_v2_params<typename L::matrix_type, typename L::pointer> p;
    p.q = l.scope("q", [&] { return queries().params(l); });
    p.k = l.scope("k", [&] { return queries().params(l); });
    p.v = l.scope("v", [&] { return values().params(l); });
    p.ogate = l.scope("ogate_preact", [&] { return output_gate().params(l); });
    p.igate =
        l.scope("igate_preact", [&] { return detail::gate_params(l, heads, width, initial::constant(-10)); });
    p.fgate = l.scope("fgate_preact",
                      [&] { return detail::gate_params(l, heads, width, initial::spaced(3, 6, heads)); });
    p.multihead_norm = l.scope("multihead_norm", [&] { return head_norm().params(l); });
    p.out_proj = l.scope("out_proj", [&] { return out().params(l); });
    return p;
  }
  template <class L>
  auto state(L& l) const {
    return shape().state(l);
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    using T = typename L::scalar;
    const index rows = seq.rows();
    mlstm_v2_tape<T> k{};
    k.q = l.matrix("q", rows, query);
    k.k = l.matrix("k", rows, query);
    k.v = l.matrix("v", rows, value);
    k.o = l.matrix("o", rows, value);
    k.i = l.matrix("i", rows, heads);
    k.f = l.matrix("f", rows, heads);
    k.h = l.matrix("h", rows, value);
    if (!l.transient())
      k.chunk_states = l.tensor("chunk_states", {seq.batch, heads, shape().kept_size(seq.time)});
    k.norm = head_norm().tape(l, seq);
    // Where no backward will look, the product takes the gate's place.
    k.y = l.transient() ? k.o : l.matrix("y", rows, value);
    return k;
  }

  template <class T>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y) const {
    linear<>::forward(d, std::array{p.q, p.k, p.v, p.ogate}, x, std::array{k.q, k.k, k.v, k.o});
    linear<>::forward(d, std::array{p.igate, p.fgate}, x, std::array{k.i, k.f});
    soft_cap(d, k.i, gate_cap);
    soft_cap(d, k.f, gate_cap);
    mlstm_forward(d, mlstm_arguments<T>{seq, shape(), k.q, k.k, k.v, k.i, k.f, k.h, s, k.chunk_states});
    const auto norm = head_norm().template view<T>(p.multihead_norm.weight);
    norm_transform(d, norm, matrix_view<const T>(k.h), k.norm.statistics, k.y, detail::gated_norm{}, k.o);
    out().forward(d, p.out_proj, k.y, y);
  }

  template <class T>
  void backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, const_view<T> x,
                const_view<T> dy, matrix_view<T> dx) const {
    const auto memory = scratch_matrices<T>(d, x.rows, query, query, value, value, value, value, heads, heads);
    const auto [dq, dk, dv, d_o, dnorm, dh, di, df] = memory.views;
    const auto norm = head_norm().template view<T>(p.multihead_norm.weight);

    out().backward(d, p.out_proj, g.out_proj, k.y, dy, dnorm);
    transform_groups(d, heads, outputs{dnorm, d_o}, detail::gated_norm_backward{}, norm_scale<T>{norm},
                     normalised<T>{k.h, k.norm.statistics}, k.o, dnorm);
    head_norm().backward(d, p.multihead_norm, g.multihead_norm, k.norm, k.h, dnorm, dh);
    mlstm_backward(d, mlstm_backward_arguments<T>{seq, shape(), k.q, k.k, k.v, k.i, k.f, k.h, dh,
                                                  k.chunk_states, dq, dk, dv, di, df});
    soft_cap_backward(d, k.i, di, gate_cap);
    soft_cap_backward(d, k.f, df, gate_cap);
    queries().backward(d, p.q, g.q, x, dq, dx);
    queries().backward(d, p.k, g.k, x, dk, dx, T(1));
    values().backward(d, p.v, g.v, x, dv, dx, T(1));
    output_gate().backward(d, p.ogate, g.ogate, x, d_o, dx, T(1));
    gate().backward(d, p.igate, g.igate, x, di, dx, T(1));
    gate().backward(d, p.fgate, g.fgate, x, df, dx, T(1));
  }
  /// @}

  /// The memory's sizes as `mlstm_forward` takes them.
  mlstm_shape shape() const { return {heads, query / heads, value / heads, chunk, 0.0, cell_epsilon}; }

 private:
  double small() const { return detail::small_deviation(width); }
  linear<> queries() const { return {width, query, false, small()}; }
  linear<> values() const { return {width, value, false, small()}; }
  linear<> output_gate() const { return {width, value, false, 0.0}; }
  linear<> gate() const { return {width, heads, true, 0.0}; }
  linear<> out() const { return {value, width, false, detail::last_deviation("mlstm_v2", width, block_count)}; }
  plain_layer_norm<> head_norm() const { return {value, heads, norm_epsilon}; }
};

}  // namespace distil_xlstm
