#pragma once

#include <array>
#include <type_traits>

#include <distil_xlstm/block/attention.hpp>
#include <distil_xlstm/block/softmax_features.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/math/numeric.hpp>
#include <distil_xlstm/op/gated_mix/op.hpp>
#include <distil_xlstm/op/mlstm/op.hpp>

namespace distil_xlstm {

/// Weights of `hybrid_attention`.
template <class Matrix, class Pointer>
struct hybrid_attention_params {
  attention_params<Matrix, Pointer> attention;  ///< of `base`
  /// @{

  /// Each [heads, head_dim, features].
  softmax_features_params<Pointer> q_features, k_features;
  /// @}
  linear_params<Matrix, Pointer> gates;  ///< rows: input gates of all heads, forget gates, output gates
};
/// State of `hybrid_attention`.
template <class T>
struct hybrid_attention_state {
  attention_state<T> window;  ///< without a window: the position alone
  mlstm_state<T> cell;        ///< C, n, m of each head; dq: features of a key, dv: head_dim
};
/// Tape of `hybrid_attention`.
template <class T>
struct hybrid_attention_tape {
  attention_tape<T> attention;  ///< its y: what the window gives; without one, what the memory gives
  matrix_view<T> gates;         ///< [rows, 3 heads], 2 heads without a window
  /// [rows, heads * head_dim]: what the memory gives, stored as the device's `operand_t` where a backward may follow.
  matrix_view<T> r;
  /// @{ What the memory reads, where operands are half as large and a backward may follow: phi of queries and keys, and
  /// values. Else without data, and made again.
  matrix_view<T> q_phi, k_phi, values;
  /// @}
  T* chunk_states;  ///< see `mlstm_arguments`; null of a transient tape
};

/// A transformer's attention with a recurrent memory in the place of what lies beyond a window: projections, rotary
/// positions and output projection are `attention`'s, by the same names. Of each head, with q and k rotated and keys
/// and values shared as there,
///
///     phi(z) = [softmax(z W), softmax(-z W)]    W of its own for q and for k (softmax_features)
///     i~, f~, o~ = Wg x + bg                    a number each
///     C <- sigmoid(f~) C + exp(i~) phi(k) vᵀ    n <- sigmoid(f~) n + exp(i~) phi(k)
///     r = Cᵀ phi(q) / (n.phi(q))                mLSTM's memory (mlstm_normaliser::sum)
///     w = attention over the last base.window tokens and the document's first base.sinks
///     h = sigmoid(o~) r + (1 - sigmoid(o~)) w
///
/// then the output projection of h. Without a window (`base.window` 0) h = r and there is no o~. A text's state has
/// one size: C, n, m of each head, the ring of the window's keys and values, the position. Tensors beside
/// attention's: feature_q.weight and feature_k.weight [heads, head_dim, features], gates.weight [3 heads, width]
/// and gates.bias, the heads' i~ first, then f~, then o~ (2 heads without a window).
struct hybrid_attention {
  attention base{};         ///< projections, positions and window; its capacity is not read
  index features = 64;      ///< of one softmax
  bool both = true;         ///< both signs: a key has twice as many features
  double forget_bias = 5;   ///< of the initial f~: what is remembered fades over exp(f~) tokens
  index chunk = 64;         ///< of the memory's chunkwise form
  double cell_epsilon = 0;  ///< beside n.phi(q) of the memory with its stabiliser
  /// @{ As `Block` says.
  static constexpr bool adds_to_y = true, takes_operand = true;
  /// @}

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  constexpr index width_in() const { return base.width; }
  constexpr index width_out() const { return base.width; }

  template <class L>
  auto params(L& l) const {
    require(chunk > 0, "hybrid_attention: a chunk of ", chunk, " tokens is not possible");
    hybrid_attention_params<typename L::matrix_type, typename L::pointer> p;
    p.attention = base.params(l);
    p.q_features = l.scope("feature_q", [&] { return query_features().params(l); });
    p.k_features = l.scope("feature_k", [&] { return key_features().params(l); });
    p.gates = l.scope("gates", [&] {
      const auto bias = [n = base.heads, forget = forget_bias](index i, rng&) {
        return i / n == forget_gate ? forget : 0.0;
      };
      return detail::gate_params(l, gate_count(), base.width, bias);
    });
    return p;
  }
  template <class L>
  auto state(L& l) const {
    hybrid_attention_state<typename L::scalar> s;
    if (has_window())
      s.window = base.state(l);
    else
      s.window.position = l.state("position", {1});
    s.cell = cell().state(l);
    return s;
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    using T = typename L::scalar;
    hybrid_attention_tape<T> k{};
    attention part = base;
    part.capacity = 0;
    k.attention = part.tape(l, seq);
    k.gates = l.matrix("gates", seq.rows(), gate_count());
    k.r = has_window() ? l.operand("r", seq.rows(), inner()) : k.attention.y;
    if (l.half_operands()) {
      const index wide = query_features().width_out();
      k.q_phi = l.operand("q_phi", seq.rows(), wide);
      k.k_phi = l.operand("k_phi", seq.rows(), wide);
      k.values = l.operand("values", seq.rows(), k.attention.v.cols);
    }
    if (!l.transient())
      k.chunk_states =
          l.tensor("chunk_states", {seq.batch, base.heads, cell().kept_size(seq.time, l.half_operands())});
    return k;
  }

  template <class T, class X = const T>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, matrix_view<X> x,
               matrix_view<T> y, const_view<T> skip = {}) const {
    // Of few rows, as a decoder has them over a transient tape, the output projection may read what is not rounded.
    using operand = operand_t<decltype(d), T>;
    k.chunk_states ? forward_through(d, seq, p, s, k, x, y, skip, detail::stored_as<operand>(k.r))
                   : forward_through(d, seq, p, s, k, x, y, skip, k.r);
  }

  /// dy may be stored as the device's `operand_t` where there is no `base.output_bias`; no dx is made where it has no
  /// data.
  template <class T, class X = const T, class Dy = const T>
  void backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, matrix_view<X> x,
                matrix_view<Dy> dy, matrix_view<T> dx) const {
    using operand = operand_t<decltype(d), T>;
    const index keys = k.attention.k.cols;
    const auto memory = scratch_matrices<T>(d, x.rows, inner(), inner(), keys, keys, k.gates.cols);
    const auto [dw, dq, dk, dv, dgates] = memory.views;
    const auto above = scratch_matrices<operand>(d, x.rows, inner(), inner());
    const auto [dh, dr] = above.views;
    const index heads = base.heads;
    const matrix_view<operand> r = detail::stored_as<operand>(k.r);
    matrix_view<operand> dmemory = dh;
    base.output().input_gradient(d, p.attention.o_proj, dy, dh);
    if (has_window()) {
      {
        const auto scratch = scratch_matrices<operand>(d, x.rows, inner());
        const matrix_view<operand> h = scratch.views[0];
        gated_mix_backward(
            d, gated_mix_backward_arguments<T, operand, operand>{
                   mixed<T, operand>(k, r), dh, dr, dw, dgates.columns(output_gate * heads, heads), h});
        base.output().add_weight_gradients(d, g.attention.o_proj, h, dy);
      }
      base.attend_backward(d, seq, k.attention, const_view<T>(dw), dq, dk, dv);
      dmemory = dr;
    } else {
      base.output().add_weight_gradients(d, g.attention.o_proj, r, dy);
    }
    const detail::extra_projection<decltype(p.gates), decltype(g.gates), T> beside{gates(), p.gates, g.gates,
                                                                                   dgates};
    if constexpr (!std::is_same_v<operand, T>)
      if (base.joins_products()) {
        const auto scratch = scratch_matrices<operand>(d, x.rows, base.joined_columns(beside));
        const matrix_view<operand> all = scratch.views[0];
        const auto [of_q, of_k, of_v] = base.parts_of(all);
        cell_backward(d, seq, p, g, k, const_view<operand>(dmemory), dq, dk, dv, dgates, of_q, of_k);
        transform(d, of_v, math::identity{}, dv);
        return base.products_backward(d, p.attention, g.attention, x, all, dx, beside);
      }
    const matrix_view<operand> none;
    cell_backward(d, seq, p, g, k, const_view<operand>(dmemory), dq, dk, dv, dgates, none, none);
    base.project_backward(d, p.attention, g.attention, k.attention, x, dq, dk, dv, dx, beside);
  }
  /// @}

  /// Whether there is a window, and with it an output gate.
  bool has_window() const { return base.window > 0; }

  /// @{

  /// As `attention` has it.
  rotary rope() const { return base.rope(); }
  void take_angles() { base.take_angles(); }
  const attention& projections() const { return base; }
  bool counts_on() const { return true; }
  template <class T>
  rotary_tape<T>& angles_of(hybrid_attention_tape<T>& k) const {
    return k.attention.rotary;
  }
  template <class T>
  const attention_state<T>& past_of(const hybrid_attention_state<T>& s) const {
    return s.window;
  }
  /// @}

  /// The memory's sizes as `mlstm_forward` takes them.
  mlstm_shape cell() const {
    mlstm_shape s{base.heads, query_features().shape().size(), base.head_dim, chunk};
    s.epsilon = cell_epsilon, s.normaliser = mlstm_normaliser::sum;
    s.value_group = base.heads / base.kv_heads;
    return s;
  }

 private:
  static constexpr index input_gate = 0, forget_gate = 1, output_gate = 2;  ///< parts of the gates' rows
  index inner() const { return base.heads * base.head_dim; }
  index gate_count() const { return (has_window() ? 3 : 2) * base.heads; }
  linear<> gates() const { return {base.width, gate_count(), true, 0.0}; }
  softmax_features query_features() const { return {base.heads, base.heads, base.head_dim, features, both}; }
  softmax_features key_features() const { return {base.heads, base.kv_heads, base.head_dim, features, both}; }

  template <class T>
  matrix_view<const T> gate(const hybrid_attention_tape<T>& k, index which) const {
    return k.gates.columns(which * base.heads, base.heads);
  }
  /// `forward` with what the memory gives, and the mix, stored as H's, that in `r`.
  template <class T, class X, class H>
  void forward_through(auto& d, sequence_view seq, const auto& p, const auto& s,
                       const hybrid_attention_tape<T>& k, matrix_view<X> x, matrix_view<T> y,
                       const_view<T> skip, matrix_view<H> r) const {
    // All maps of x one after another: what a device makes of it for products serves them all.
    gates().forward(d, p.gates, x, k.gates);
    {
      using operand = operand_t<decltype(d), T>;
      const auto memory = cell_scratch<operand>(d, k);
      const auto [q, key, v] = of_cell(k, memory.views);
      base.project(d, seq, p.attention, s.window, k.attention, x, v);
      write_features(d, p, k, q, key);
      mlstm_forward(d, mlstm_arguments<T, operand, H>{seq, cell(), q, key, v, gate(k, input_gate),
                                                      gate(k, forget_gate), r, s.cell, k.chunk_states});
    }
    if (!has_window()) {
      base.rope().advance(d, seq, s.window.position);
      return base.output().forward(d, p.attention.o_proj, r, y, skip);
    }
    base.attend(d, seq, s.window, k.attention);
    const auto memory = scratch_matrices<H>(d, x.rows, inner());
    gated_mix_forward(d, mixed<T, H>(k, r), memory.views[0]);
    base.output().forward(d, p.attention.o_proj, memory.views[0], y, skip);
  }
  /// Through the memory by `dmemory`, the gradient of the tape's r: dq, dk and dv, added to where there is a window,
  /// and the columns of dgates that are its gates'. Where they have data, `of_q` and `of_k` get dq and dk rotated back,
  /// in their place.
  template <class T, class Operand>
  void cell_backward(auto& d, sequence_view seq, const auto& p, const auto& g,
                     const hybrid_attention_tape<T>& k, matrix_view<const Operand> dmemory, matrix_view<T> dq,
                     matrix_view<T> dk, matrix_view<T> dv, matrix_view<T> dgates, matrix_view<Operand> of_q,
                     matrix_view<Operand> of_k) const {
    const index wide = query_features().width_out(), heads = base.heads;
    const T beta = has_window() ? T(1) : T(0);
    const auto memory = cell_scratch<Operand>(d, k);
    const auto [q, key, v] = of_cell(k, memory.views);
    const auto above = scratch_matrices<Operand>(d, dq.rows, wide, wide);
    const auto [dq_features, dk_features] = above.views;
    if (!k.q_phi.data) {
      write_features(d, p, k, q, key);
      if constexpr (!std::is_same_v<Operand, T>) transform(d, v, math::identity{}, k.attention.v);
    }
    mlstm_backward(
        d, mlstm_backward_arguments<T, Operand, Operand, Operand>{
               seq, cell(), q, key, v, gate(k, input_gate), gate(k, forget_gate),
               detail::stored_as<Operand>(k.r), dmemory, k.chunk_states, dq_features, dk_features, dv,
               dgates.columns(input_gate * heads, heads), dgates.columns(forget_gate * heads, heads), beta});
    std::array maps{query_features().gradients(p.q_features, g.q_features, const_view<T>(k.attention.q), q,
                                               const_view<Operand>(dq_features), dq, beta),
                    key_features().gradients(p.k_features, g.k_features, const_view<T>(k.attention.k), key,
                                             const_view<Operand>(dk_features), dk, beta)};
    if (of_q.data) {
      const auto& angles = k.attention.rotary;
      maps[0].turned = of_q, maps[1].turned = of_k;
      for (auto& map : maps) map.angles = {angles.cosines, angles.sines, T(-1)};
    }
    feature_map_backward(d, maps);
  }
  /// phi of the tape's queries and keys, [rows, heads * features of both signs].
  template <class D, class T, class Operand>
  void write_features(D& d, const auto& p, const hybrid_attention_tape<T>& k, matrix_view<Operand> q,
                      matrix_view<Operand> key) const {
    feature_map_forward(d, std::array{query_features().arguments(p.q_features, k.attention.q, q),
                                      key_features().arguments(p.k_features, k.attention.k, key)});
  }
  /// Scratch for what the memory reads, as far as the tape has none.
  template <class Operand, class T>
  auto cell_scratch(auto& d, const hybrid_attention_tape<T>& k) const {
    const bool kept = k.q_phi.data;
    const index wide = kept ? 0 : query_features().width_out();
    return scratch_matrices<Operand>(d, k.gates.rows, wide, wide,
                                     kept || std::is_same_v<Operand, T> ? 0 : k.attention.v.cols);
  }
  /// What it reads: features of queries and keys, and values, on the tape or in `cell_scratch`.
  template <class T, class Operand>
  static std::array<matrix_view<Operand>, 3> of_cell(const hybrid_attention_tape<T>& k,
                                                     const std::array<matrix_view<Operand>, 3>& scratch) {
    if (k.q_phi.data)
      return {detail::stored_as<Operand>(k.q_phi), detail::stored_as<Operand>(k.k_phi),
              detail::stored_as<Operand>(k.values)};
    if constexpr (std::is_same_v<Operand, T>)
      return {scratch[0], scratch[1], k.attention.v};
    else
      return scratch;
  }
  template <class T, class R>
  gated_mix_arguments<T, R> mixed(const hybrid_attention_tape<T>& k, matrix_view<const R> r) const {
    return {base.heads, gate(k, output_gate), r, k.attention.y};
  }
};

}  // namespace distil_xlstm
