#pragma once

#include <array>
#include <type_traits>
#include <vector>

#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/rotary.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/math/numeric.hpp>
#include <distil_xlstm/op/attention/op.hpp>
#include <distil_xlstm/op/attention/reach.hpp>

namespace distil_xlstm {

namespace detail {

/// Puts each token's key and value where its document's memory has them, which begins anew with a document.
template <class T>
struct cache_rows {
  using scalar = T;
  sequence_view seq;
  attention_shape shape;
  matrix_view<const T> k, v;
  batched_state<T> keys, values, position;
  /// How many tokens of a sequence are looked at: all, or as many as a ring holds, which are the last `window`, and
  /// before them the first of the last document.
  DISTIL_XLSTM_HD index each() const {
    const index held = shape.window + shape.sinks;
    return shape.window > 0 && held < seq.time ? held : seq.time;
  }
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const index b = r / each(), i = r % each(), start = seq.document_start(b, seq.time - 1);
    const bool first = each() < seq.time && i < shape.sinks;
    const index t = first ? i + (start > 0 ? start : 0) : i + seq.time - each();
    if (t < start || (first && t + shape.window >= seq.time)) return;
    const index place = position_of(seq, position, b, t);
    // Of a ring's tokens, those that a later one of the call does not take the place of.
    if (shape.window > 0 && place >= shape.sinks && t + shape.window < seq.time) return;
    const index row = b * seq.time + t, at = shape.slot(place) * k.cols + c;
    math::store<V>(keys.of(b) + at, math::load<V>(k.row(row) + c));
    math::store<V>(values.of(b) + at, math::load<V>(v.row(row) + c));
  }
};

/// A further map of the x that `attention` projects, and the gradient dy of what it gives.
template <class P, class G, class T>
struct extra_projection {
  linear<> map;
  const P& weights;
  const G& gradients;
  matrix_view<const T> dy;
  /// Columns for its dy where products read 16 bytes of bfloat16 at a time.
  index padded_columns() const { return (dy.cols + 7) / 8 * 8; }
};
/// An operand of `transform`: a matrix, and zeros beyond its rows and columns.
template <class T>
struct zero_padded {
  matrix_view<const T> x;
  template <class V>
  DISTIL_XLSTM_HD V load(const element& e) const {
    const auto at = [&](index i) {
      return e.row < x.rows && e.column + i < x.cols ? x.row(e.row)[e.column + i] : T(0);
    };
    return math::lanes<V>(at);
  }
};

}  // namespace detail

/// Weights of `attention`.
template <class Matrix, class Pointer>
struct attention_params {
  /// @{

  /// Weights [heads * head_dim, width] of q, [kv_heads * head_dim, width] of k and v, [width, heads * head_dim] of o;
  /// biases as the block says.
  linear_params<Matrix, Pointer> q_proj, k_proj, v_proj, o_proj;
  /// @}

  /// @{

  /// Weights [head_dim], or null: no `head_norms`.
  norm_params<Pointer> q_norm{}, k_norm{};
  /// @}
};
/// Tape of a norm of the heads, a head a row.
template <class T>
struct head_norm_tape {
  matrix_view<T> x;   ///< [rows * heads, head_dim]: what it reads; over a transient tape, what it writes, too
  norm_tape<T> norm;  ///< its statistics
};
/// The keys (rotated) and values of the document so far, in the rows that `attention_shape::slot` says. A capacity
/// of 0 keeps nothing.
template <class T>
struct attention_state {
  /// @{

  /// [capacity, kv_heads * head_dim]
  batched_state<T> keys, values;
  /// @}
  batched_state<T> position;  ///< [1]: tokens of the document so far
  index capacity = 0;         ///< rows of keys and of values
};
/// Tape of `attention`.
template <class T>
struct attention_tape {
  /// @{

  /// [rows, heads * head_dim] of q, [rows, kv_heads * head_dim] of k and v; q and k normed and rotated.
  matrix_view<T> q, k, v;
  /// @}
  rotary_tape<T> rotary;  ///< the angles of the call's tokens, its own or given (`own_angles`)
  /// @{

  /// Without data unless there are `head_norms`.
  head_norm_tape<T> q_norm, k_norm;
  /// @}
  matrix_view<T> y;  ///< [rows, heads * head_dim]: what the output projection reads
  /// The state before the call, where a backward may follow. Of capacity 0 if the block has neither a capacity of its
  /// own nor a window: forward then refuses a state, of which backward would know nothing.
  attention_state<T> past;
  bool before_backward = false;  ///< a backward may follow
};

/// Causal grouped-query attention with rotary positions, as in Llama and Qwen2: q = x Wqᵀ (+ bq), k and v
/// likewise, y = softmax(q kᵀ / sqrt(head_dim)) v of each head, then Woᵀ (+ bo). It sees no other document. Where
/// `head_norms` says so, q <- w q / sqrt(mean(q²) + eps) of each head before it is rotated, w [head_dim] for all of
/// them, and k with a w of its own, as in Qwen3.
///
/// `capacity` is how many tokens of a document the state can hold; who calls forward sees to it that there is
/// room (`state_memory::advance`). With capacity 0 there is no state: a document that began before the call
/// counts from the call's first token, which is how windows of a text are trained and scored.
///
/// With a `window` a token sees the last `window` tokens, itself among them, and its document's first `sinks`; a
/// window that holds all of a text changes nothing. The state then has one size for any text, window + sinks keys
/// and values in a ring, and there always is one. Its position is a number of the block's kind: a float counts to
/// 2^24 tokens of a document.
struct attention {
  /// @{

  /// Width of x and of y; heads of q; heads of k and v, which divide those of q.
  index width = 0, heads = 1, kv_heads = 1;
  /// @}
  index head_dim = 0;                ///< need not be width / heads
  double theta = 10000;              ///< base of the rotary frequencies
  rope_scaling scaling{};            ///< of these frequencies
  bool bias = false;                 ///< of q, k and v
  bool output_bias = false;          ///< of o
  index capacity = 0;                ///< 0: what the layout of the state declares; with a window: not read
  double standard_deviation = 0.02;  ///< of the initial weights
  bool own_angles = true;            ///< false: whoever binds the tape gives it the call's angles
  bool rotates = true;               ///< false: q and k do not know their positions
  bool head_norms = false;           ///< an RMS norm of each head of q, and of k, before it is rotated
  double epsilon = 1e-6;             ///< of these norms
  /// How many of the last tokens a token sees, itself among them; 0: all.
  index window = 0, sinks = 0;  ///< and how many of its document's first tokens; 0 without a window
  /// @{ As `Block` says.
  static constexpr bool adds_to_y = true, takes_operand = true;
  /// @}

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  constexpr index width_in() const { return width; }
  constexpr index width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(width > 0 && head_dim > 0, "attention: a width of ", width, " and heads of ", head_dim,
            " are not possible");
    require(kv_heads > 0 && heads > 0 && heads % kv_heads == 0, "attention: ", kv_heads,
            " key heads do not divide the ", heads, " heads");
    require(window >= 0 && sinks >= 0 && (window > 0 || sinks == 0), "attention: ", sinks,
            " sinks beside a window of ", window, " tokens are not possible");
    rope().params(l);
    attention_params<typename L::matrix_type, typename L::pointer> p;
    p.q_proj = l.scope("q_proj", [&] { return query().params(l); });
    p.k_proj = l.scope("k_proj", [&] { return key().params(l); });
    p.v_proj = l.scope("v_proj", [&] { return key().params(l); });
    p.o_proj = l.scope("o_proj", [&] { return output().params(l); });
    if (head_norms) {
      p.q_norm = l.scope("q_norm", [&] { return head_norm().params(l); });
      p.k_norm = l.scope("k_norm", [&] { return head_norm().params(l); });
    }
    return p;
  }
  template <class L>
  auto state(L& l) const {
    attention_state<typename L::scalar> s;
    s.capacity = window > 0 ? window + sinks : capacity > 0 ? capacity : l.capacity();
    if (s.capacity == 0) return s;
    s.position = l.state("position", {1});
    if (window > 0) {
      s.keys = l.state("keys", {s.capacity, kv_width()});
      s.values = l.state("values", {s.capacity, kv_width()});
    } else {
      l.holds(s.capacity);
      s.keys = l.state("keys", {s.capacity, kv_width()}, nullptr);
      s.values = l.state("values", {s.capacity, kv_width()}, nullptr);
    }
    return s;
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    using T = typename L::scalar;
    attention_tape<T> k{};
    if (!l.transient() && joins_products()) {  // one product makes them
      const auto [q, key, v] = parts_of(l.matrix("qkv", seq.rows(), joined_columns()));
      k.q = q, k.k = key, k.v = v;
    } else {
      k.q = l.matrix("q", seq.rows(), heads * head_dim);
      k.k = l.matrix("k", seq.rows(), kv_width());
      k.v = l.matrix("v", seq.rows(), kv_width());
    }
    if (own_angles && rotates) k.rotary = rope().tape(l, seq);
    if (head_norms) {
      k.q_norm = head_norm_memory(l, "q_norm", seq, k.q);
      k.k_norm = head_norm_memory(l, "k_norm", seq, k.k);
    }
    k.y = l.matrix("y", seq.rows(), heads * head_dim);
    k.before_backward = !l.transient();
    if (const index held = window > 0 ? window + sinks : capacity; held > 0 && !l.transient()) {
      k.past.position = {l.tensor("past_length", {seq.batch}), 1};
      const index each = held * kv_width();
      k.past.keys = {l.tensor("past_keys", {seq.batch, each}), each};
      k.past.values = {l.tensor("past_values", {seq.batch, each}), each};
      k.past.capacity = held;
    }
    return k;
  }

  template <class T, class X = const T>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, matrix_view<X> x,
               matrix_view<T> y, const_view<T> skip = {}) const {
    project(d, seq, p, s, k, x);
    attend(d, seq, s, k);
    output().forward(d, p.o_proj, k.y, y, skip);
  }
  /// dy may be stored as the device's `operand_t` where there is no `output_bias`; no dx is made where it has no data.
  template <class T, class X = const T, class Dy = const T>
  void backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, matrix_view<X> x,
                matrix_view<Dy> dy, matrix_view<T> dx) const {
    const auto memory = scratch_matrices<T>(d, x.rows, k.q.cols, k.q.cols, kv_width(), kv_width());
    const auto [dout, dq, dk, dv] = memory.views;
    output().backward(d, p.o_proj, g.o_proj, k.y, dy, dout);
    attend_backward(d, seq, k, const_view<T>(dout), dq, dk, dv);
    project_backward(d, p, g, k, x, dq, dk, dv, dx);
  }

  /// @}

  // The parts, for a block that has another mixer beside.

  /// Writes q, k and v of the tape, q and k normed and rotated where the block does so; the state's position is read.
  /// `values`, of another type, gets v, too.
  template <class T, class X, class V = T>
  void project(auto& d, sequence_view seq, const auto& p, const attention_state<T>& s,
               const attention_tape<T>& k, matrix_view<X> x, matrix_view<V> values = {}) const {
    const auto weights = detail::joined(p.q_proj, p.k_proj, p.v_proj);
    if (const matrix_view<T> all = joined(k); all.data && weights.weight.data)
      linear<>{width, all.cols}.forward(d, weights, x, all);
    else
      linear<>::forward(d, std::array{p.q_proj, p.k_proj, p.v_proj}, x,
                        std::array{head_norms ? rows_of(k.q_norm.x, k.q) : k.q,
                                   head_norms ? rows_of(k.k_norm.x, k.k) : k.k, k.v});
    if (head_norms) {
      head_norm().forward(d, p.q_norm, k.q_norm.norm, const_view<T>(k.q_norm.x), heads_of(k.q));
      head_norm().forward(d, p.k_norm, k.k_norm.norm, const_view<T>(k.k_norm.x), heads_of(k.k));
    }
    constexpr bool also_v = !std::is_same_v<V, T>;
    if constexpr (also_v)
      if (!rotates) transform(d, values, math::identity{}, k.v);
    if (!rotates) return;
    if (own_angles) rope().tables(d, seq, s.position, k.rotary);
    if constexpr (also_v)
      rope().rotate_both(d, k.rotary, k.q, k.k, const_view<T>(k.v), values);
    else
      rope().rotate_both(d, k.rotary, k.q, k.k);
  }
  /// After `project`: writes the heads' results to the tape's y, and puts keys and values into the state, whose
  /// position it advances.
  template <class T>
  void attend(auto& d, sequence_view seq, const attention_state<T>& s, const attention_tape<T>& k) const {
    require(s.capacity == 0 || k.past.capacity > 0 || !k.before_backward, "attention: a state of ", s.capacity,
            " tokens before a backward needs a block of that capacity; this one has 0");
    if (s.capacity > 0 && k.past.capacity > 0) keep_past(d, seq, s, k.past);
    attention_forward(d, arguments(seq, s, k));
    if (s.capacity == 0) return;
    const detail::cache_rows<T> cache{seq, shape(), k.k, k.v, s.keys, s.values, s.position};
    map(d, seq.batch * cache.each(), kv_width(), cache);
    rope().advance(d, seq, s.position);
  }
  /// Overwrites dq, dk and dv, shaped as the tape's q, k and v, by dout, the gradient of the tape's y.
  template <class T>
  void attend_backward(auto& d, sequence_view seq, const attention_tape<T>& k, const_view<T> dout,
                       matrix_view<T> dq, matrix_view<T> dk, matrix_view<T> dv) const {
    attention_backward(d, attention_backward_arguments<T>{arguments(seq, k.past, k), dout, dq, dk, dv});
  }
  /// Overwrites dx with what dq, dk and dv give, uses these as scratch, and adds to the gradients g of projections and
  /// head norms. So for `further`, an `extra_projection` or none. No dx is made where it has no data.
  template <class T, class X, class... Further>
  void project_backward(auto& d, const auto& p, const auto& g, const attention_tape<T>& k, matrix_view<X> x,
                        matrix_view<T> dq, matrix_view<T> dk, matrix_view<T> dv, matrix_view<T> dx,
                        const Further&... further) const {
    static_assert(sizeof...(Further) <= 1);
    using operand = operand_t<decltype(d), T>;
    if constexpr (!std::is_same_v<operand, T>)
      if (joins_products()) {
        const auto memory = scratch_matrices<operand>(d, x.rows, joined_columns(further...));
        const matrix_view<operand> all = memory.views[0];
        rope().rotate_back(d, k.rotary, std::array{dq, dk, dv}, parts_of(all));
        return products_backward(d, p, g, x, all, dx, further...);
      }
    if (rotates) {
      rope().rotate_back(d, k.rotary, dq, dq);
      rope().rotate_back(d, k.rotary, dk, dk);
    }
    if (head_norms) {
      head_norm().backward(d, p.q_norm, g.q_norm, k.q_norm.norm, const_view<T>(k.q_norm.x),
                           const_view<T>(heads_of(dq)), heads_of(dq));
      head_norm().backward(d, p.k_norm, g.k_norm, k.k_norm.norm, const_view<T>(k.k_norm.x),
                           const_view<T>(heads_of(dk)), heads_of(dk));
    }
    each_backward(d, p, g, x, std::array{dq, dk, dv}, dx, further...);
  }
  /// @{ Whether q, k and v, or their gradients, which products alone read then, may be columns of one matrix; how many
  /// columns it has, with `further` ones behind; and those of q, k and v.
  bool joins_products() const { return rotates && !head_norms && !bias; }
  template <class... Further>
  index joined_columns(const Further&... further) const {
    return ((heads * head_dim + 2 * kv_width()) + ... + further.padded_columns());
  }
  template <class Operand>
  std::array<matrix_view<Operand>, 3> parts_of(matrix_view<Operand> all) const {
    const index queries = heads * head_dim, keys = kv_width();
    const auto part = [&](index first, index columns) {
      return all.data ? all.columns(first, columns)
                      : matrix_view<Operand>(nullptr, all.rows, columns, all.stride);
    };
    return {part(0, queries), part(queries, keys), part(queries + keys, keys)};
  }
  /// @}
  /// The rest of `project_backward` for a block that has rotated the gradients back itself, stored in `all` as the
  /// device's `operand_t`.
  template <class T, class X, class Operand, class... Further>
  void products_backward(auto& d, const auto& p, const auto& g, matrix_view<X> x, matrix_view<Operand> all,
                         matrix_view<T> dx, const Further&... further) const {
    // Where the weights allow it, one product reads all.
    const auto weights = detail::joined(p.q_proj, p.k_proj, p.v_proj),
               gradients = detail::joined(g.q_proj, g.k_proj, g.v_proj);
    if (!weights.weight.data || !gradients.weight.data)
      each_backward(d, p, g, x, parts_of(all), dx, further...);
    else if constexpr (sizeof...(Further) == 0)
      linear<>{width, all.cols}.backward(d, weights, gradients, x, all, dx);
    else
      backward_with(d, weights, gradients, matrix_view<const X>(x), all, dx, further...);
  }
  /// Whoever binds the tape gives it the angles, in `angles_of` it.
  void take_angles() { own_angles = false; }
  /// The tape's angles, without data until they are given.
  template <class T>
  rotary_tape<T>& angles_of(attention_tape<T>& k) const {
    return k.rotary;
  }
  /// The part of the state that knows the position.
  template <class T>
  const attention_state<T>& past_of(const attention_state<T>& s) const {
    return s;
  }
  /// What projects and rotates: of another mixer a part.
  const attention& projections() const { return *this; }
  /// Whether positions go on from a state whatever the layout's capacity.
  bool counts_on() const { return window > 0 || capacity > 0; }
  /// How far back each head would look without a window, in the call whose `project` left this tape and that had no
  /// past: `attention_reach`, with its errors.
  template <class T>
  std::vector<head_reach> reach(auto& d, sequence_view seq, const attention_tape<T>& k, index beyond,
                                index first_sinks, index from) const {
    attention_arguments<T> a = arguments(seq, attention_state<T>{}, k);
    a.shape.window = a.shape.sinks = 0;
    return attention_reach(d, a, beyond, first_sinks, from);
  }
  /// The output projection.
  linear<> output() const { return {heads * head_dim, width, output_bias, standard_deviation}; }
  /// The sizes as `attention_forward` takes them.
  attention_shape shape() const { return {heads, kv_heads, head_dim, window, sinks}; }
  /// The norm of one head, a head a row.
  rms_norm<> head_norm() const { return {head_dim, 1, epsilon}; }
  /// The rotary embedding of q; that of k rotates fewer heads by the same angles.
  rotary rope() const { return {heads * head_dim, head_dim, theta, scaling}; }

 private:
  /// Map by map, dy of q, k and v.
  template <class T, class X, class Dy, class... Further>
  void each_backward(auto& d, const auto& p, const auto& g, matrix_view<X> x,
                     const std::array<matrix_view<Dy>, 3>& dy, matrix_view<T> dx,
                     const Further&... further) const {
    query().backward(d, p.q_proj, g.q_proj, x, dy[0], dx);
    key().backward(d, p.k_proj, g.k_proj, x, dy[1], dx, T(1));
    key().backward(d, p.v_proj, g.v_proj, x, dy[2], dx, T(1));
    (further.map.backward(d, further.weights, further.gradients, x, further.dy, dx, T(1)), ...);
  }
  /// One product for dx and one for the gradients of weights, of the projections and a further map. `all`: the
  /// gradients of what the projections give, and the map's `padded_columns` beside them.
  template <class Operand, class T>
  void backward_with(auto& d, const auto& weights, const auto& gradients, auto x, matrix_view<Operand> all,
                     matrix_view<T> dx, const auto& further) const {
    const index own = weights.weight.rows, padded = all.cols - own;
    const matrix_view<const Operand> dy = all;
    transform(d, all.columns(own, padded), math::identity{}, detail::zero_padded<T>{further.dy});
    {
      const auto memory = scratch_matrices<T>(d, all.cols, width);
      const matrix_view<T> sums = memory.views[0];
      gemm(d, transposed(dy), x, sums, T(0));
      const auto add = [&](matrix_view<T> to, index first) {
        transform(d, to, math::plus{}, to, sums.slice(first, to.rows));
      };
      add(gradients.weight, 0), add(further.gradients.weight, own);
    }
    if (further.gradients.bias) add_column_sums(d, further.dy, further.gradients.bias);
    if (!dx.data) return;
    const auto memory = scratch_matrices<Operand>(d, all.cols, width);
    const matrix_view<Operand> w = memory.views[0];
    transform(d, w.slice(0, own), math::identity{}, weights.weight);
    transform(d, w.slice(own, padded), math::identity{}, detail::zero_padded<T>{further.weights.weight});
    gemm(d, dy, matrix_view<const Operand>(w), dx, T(0));  // last, as `linear` does
  }
  index kv_width() const { return kv_heads * head_dim; }
  linear<> query() const { return {width, heads * head_dim, bias, standard_deviation}; }
  linear<> key() const { return {width, kv_width(), bias, standard_deviation}; }

  /// q, k and v of the tape as one matrix, where they are; else without data.
  template <class T>
  matrix_view<T> joined(const attention_tape<T>& k) const {
    const matrix_view<T> all(k.q.data, k.q.rows, joined_columns(), k.q.stride);
    const auto parts = parts_of(all);
    const bool so = all.stride >= all.cols && k.k.data == parts[1].data && k.v.data == parts[2].data;
    return so ? all : matrix_view<T>();
  }
  /// A head a row, and the rows again.
  template <class T>
  matrix_view<T> heads_of(matrix_view<T> x) const {
    return {x.data, x.rows * x.cols / head_dim, head_dim};
  }
  template <class T>
  static matrix_view<T> rows_of(matrix_view<T> heads, matrix_view<T> like) {
    return {heads.data, like.rows, like.cols};
  }
  /// Where nobody looks back, a norm writes over what it reads.
  template <class L, class T>
  head_norm_tape<T> head_norm_memory(L& l, const char* name, sequence_view seq, matrix_view<T> normed) const {
    return l.scope(name, [&] {
      const sequence_view each{normed.cols / head_dim, seq.rows()};
      return head_norm_tape<T>{heads_of(l.transient() ? normed : l.matrix("x", normed.rows, normed.cols)),
                               head_norm().tape(l, each)};
    });
  }

  template <class T>
  attention_arguments<T> arguments(sequence_view seq, const attention_state<T>& past,
                                   const attention_tape<T>& k) const {
    attention_arguments<T> a{seq, shape(), k.q, k.k, k.v, {}, k.y};
    if (past.capacity > 0)
      a.past = {{past.keys.data, past.keys.stride},
                {past.values.data, past.values.stride},
                {past.position.data, past.position.stride}};
    return a;
  }
  template <class D, class T>
  void keep_past(D& d, sequence_view seq, const attention_state<T>& s, const attention_state<T>& past) const {
    const auto copy = [&](batched_state<T> to, batched_state<T> from, index n) {
      transform(d, matrix_view<T>(to.data, seq.batch, n, to.stride), math::identity{},
                matrix_view<const T>(from.data, seq.batch, n, from.stride));
    };
    copy(past.position, s.position, 1);
    copy(past.keys, s.keys, past.capacity * kv_width());
    copy(past.values, s.values, past.capacity * kv_width());
  }
};

}  // namespace distil_xlstm
