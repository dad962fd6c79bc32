#pragma once

#include <cmath>

#include <distil_xlstm/block/causal_conv1d.hpp>
#include <distil_xlstm/block/headwise_linear.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/silu.hpp>
#include <distil_xlstm/op/mlstm/op.hpp>

namespace distil_xlstm {

namespace detail {

/// y = (norm(h) + skip a) SiLU(z)
template <class T>
struct mlstm_output {
  using scalar = T;
  norm_view<T> n;
  matrix_view<const T> h, a, z;
  const T *statistics, *skip;
  matrix_view<T> y;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const index row = n.row(r), column = n.column(r) + c;
    const V u = (math::load<V>(h.row(row) + column) - V(statistics[2 * r])) * V(statistics[2 * r + 1]);
    const V inner =
        n.template scale<V>(column) * u + math::load<V>(skip + column) * math::load<V>(a.row(row) + column);
    const V gate = math::load<V>(z.row(row) + column);
    math::store<V>(y.row(row) + column, inner * gate * math::sigmoid(gate));
  }
};

/// Its gradients by norm(h), a and z.
template <class T>
struct mlstm_output_backward {
  using scalar = T;
  norm_view<T> n;
  matrix_view<const T> h, a, z;
  const T *statistics, *skip;
  matrix_view<T> dy;  ///< in: dy; out: the gradient of norm(h)
  matrix_view<T> da, dz;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const index row = n.row(r), column = n.column(r) + c;
    const V u = (math::load<V>(h.row(row) + column) - V(statistics[2 * r])) * V(statistics[2 * r + 1]);
    const V s = math::load<V>(skip + column);
    const V inner = n.template scale<V>(column) * u + s * math::load<V>(a.row(row) + column);
    const auto gate = math::silu(math::load<V>(z.row(row) + column));
    T* p = dy.row(row) + column;
    const V g = math::load<V>(p), dn = g * gate.value;
    math::store<V>(p, dn);
    math::store<V>(da.row(row) + column, dn * s);
    math::store<V>(dz.row(row) + column, g * inner * gate.slope);
  }
};

/// What a row adds to the gradient of the skip.
template <class T>
struct skip_gradient {
  using scalar = T;
  matrix_view<const T> dn, a;
  template <class V>
  DISTIL_XLSTM_HD V operator()(index r, index c) const {
    return math::load<V>(dn.row(r) + c) * math::load<V>(a.row(r) + c);
  }
};

}  // namespace detail

template <class Matrix, class Pointer>
struct mlstm_params {
  linear_params<Matrix, Pointer> proj_up, proj_down;
  headwise_params<Pointer> q_proj, k_proj, v_proj;
  conv_params<Pointer> conv1d;
  linear_params<Matrix, Pointer> igate, fgate;
  norm_params<Pointer> outnorm;
  Pointer learnable_skip;
};
template <class T>
struct mlstm_layer_state {
  conv_state<T> conv;
  mlstm_state<T> cell;
};
template <class T>
struct mlstm_tape {
  matrix_view<T> up;  ///< [rows, 2 inner]: the cell's input, and z
  conv_tape<T> conv;
  matrix_view<T> u, a;  ///< convolution, and SiLU of it
  matrix_view<T> qkv;   ///< [rows, 3 inner]
  matrix_view<T> i, f, h;
  T* kept;
  norm_tape<T> norm;
  matrix_view<T> y;  ///< what the down projection reads
};

/// The mLSTM layer of NX-AI/xlstm (Family A): up projection into cell input and output gate z, convolution and
/// SiLU before q and k, gates from [q k v], the matrix memory, a norm per head, a learnable skip, down
/// projection.
///
/// Width, heads and inner width may be known to the compiler, which then refuses those that do not fit; `mlstm`
/// takes all when the program runs.
template <index Width = dynamic, index Heads = dynamic, index Inner = dynamic>
struct basic_mlstm {
  static_assert(
      Inner == dynamic || Heads == dynamic || (Heads > 0 && Inner % (Heads > 0 ? Heads : 1) == 0),
      "distil_xlstm::mlstm: the heads share the inner width equally; write an Inner that Heads divides");
  [[no_unique_address]] extent<Width> width{};
  [[no_unique_address]] extent<Heads> heads{1};
  [[no_unique_address]] extent<Inner> inner{};  ///< reference: round_up(proj_factor width, 64)
  index conv_window = 4;
  index qkv_block = 4;  ///< block size of the q, k, v maps
  bool bias = false;
  index chunk = 64;
  index block_count = 1;  ///< for the initial down projection
  double empty_m = -std::numeric_limits<double>::infinity();

  constexpr auto width_in() const { return width; }
  constexpr auto width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(heads > 0 && inner % heads == 0, "mlstm: ", heads, " heads do not divide the inner width ", inner);
    require(qkv_block > 0 && inner % qkv_block == 0, "mlstm: q, k, v blocks of ", qkv_block,
            " do not divide the inner width ", inner);
    mlstm_params<typename L::matrix_type, typename L::pointer> p;
    p.learnable_skip = l.tensor("learnable_skip", {inner}, initial::ones());
    p.proj_up = l.scope("proj_up", [&] { return up().params(l); });
    p.q_proj = l.scope("q_proj", [&] { return qkv().params(l); });
    p.k_proj = l.scope("k_proj", [&] { return qkv().params(l); });
    p.v_proj = l.scope("v_proj", [&] { return qkv().params(l); });
    p.conv1d = l.scope("conv1d", [&] { return conv().params(l); });
    l.scope("mlstm_cell", [&] {
      p.igate =
          l.scope("igate", [&] { return gate_params(l, [](index, rng& r) { return 0.1 * r.normal(); }); });
      const index n = heads;
      p.fgate = l.scope("fgate", [&] {
        return gate_params(l, [n](index a, rng&) {
          return n > 1 ? 3.0 + 3.0 * static_cast<double>(a) / static_cast<double>(n - 1) : 3.0;
        });
      });
      p.outnorm = l.scope("outnorm", [&] { return outnorm().params(l); });
      return no_state{};
    });
    p.proj_down = l.scope("proj_down", [&] { return down().params(l); });
    return p;
  }
  template <class L>
  auto state(L& l) const {
    const index head = inner / heads;
    mlstm_layer_state<typename L::scalar> s;
    s.conv = l.scope("conv1d", [&] { return conv().state(l); });
    l.scope("mlstm_cell", [&] {
      s.cell.c = l.state("c", {heads, head, head});
      s.cell.n = l.state("n", {heads, head});
      s.cell.m = l.state("m", {heads}, initial::constant(empty_m));
      return no_state{};
    });
    return s;
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    using T = typename L::scalar;
    const index rows = seq.rows();
    mlstm_tape<T> k{};
    k.up = l.matrix("up", rows, 2 * inner);
    k.conv = conv().tape(l, seq);
    k.u = l.matrix("u", rows, inner);
    k.a = l.matrix("a", rows, inner);
    k.qkv = l.matrix("qkv", rows, 3 * inner);
    k.i = l.matrix("i", rows, heads);
    k.f = l.matrix("f", rows, heads);
    k.h = l.matrix("h", rows, inner);
    if (!l.transient()) k.kept = l.tensor("kept", {seq.batch, heads, shape().chunks(seq.time), shape().kept()});
    k.norm = outnorm().tape(l, seq);
    k.y = l.matrix("y", rows, inner);
    return k;
  }

  template <class D, class P, class S, class K, class T>
  void forward(D& d, sequence_view seq, const P& p, const S& s, const K& k, matrix_view<const T> x,
               matrix_view<T> y) const {
    const index rows = x.rows;
    up().forward(d, p.proj_up, x, k.up);
    const matrix_view<const T> in = k.up.columns(0, inner), z = k.up.columns(inner, inner);
    conv().forward(d, seq, p.conv1d, s.conv, k.conv, in, k.u);
    map(d, rows, inner, detail::silu_map<T>{k.u, k.a});
    const matrix_view<const T> a = k.a, kqkv = k.qkv;
    qkv().forward(d, p.q_proj, a, k.qkv.columns(0, inner));
    qkv().forward(d, p.k_proj, a, k.qkv.columns(inner, inner));
    qkv().forward(d, p.v_proj, in, k.qkv.columns(2 * inner, inner));
    gate().forward(d, p.igate, kqkv, k.i);
    gate().forward(d, p.fgate, kqkv, k.f);
    mlstm_forward(d, mlstm_arguments<T>{seq, shape(), kqkv.columns(0, inner), kqkv.columns(inner, inner),
                                        kqkv.columns(2 * inner, inner), k.i, k.f, k.h, s.cell, k.kept});
    norm_statistics(d, outnorm().template view<T>(p.outnorm.weight), matrix_view<const T>(k.h),
                    k.norm.statistics);
    map(d, rows * heads, inner / heads,
        detail::mlstm_output<T>{outnorm().template view<T>(p.outnorm.weight), k.h, a, z, k.norm.statistics,
                                p.learnable_skip, k.y});
    down().forward(d, p.proj_down, matrix_view<const T>(k.y), y);
  }

  template <class D, class P, class G, class K, class T>
  void backward(D& d, sequence_view seq, const P& p, const G& g, const K& k, matrix_view<const T> x,
                matrix_view<const T> dy, matrix_view<T> dx) const {
    const index rows = x.rows;
    auto memory = d.template scratch<T>(rows * (8 * inner + 2 * heads));
    T* at = memory.data();
    auto take = [&](index columns) {
      matrix_view<T> m(at, rows, columns);
      at += rows * columns;
      return m;
    };
    const auto dup = take(2 * inner), dn = take(inner), dqkv = take(3 * inner), da = take(inner),
               dh = take(inner);
    const auto dgates = take(2 * heads), di = dgates.columns(0, heads), df = dgates.columns(heads, heads);
    const matrix_view<const T> in = k.up.columns(0, inner), z = k.up.columns(inner, inner), a = k.a, h = k.h;
    const matrix_view<const T> kqkv = k.qkv;
    const auto norm = outnorm().template view<T>(p.outnorm.weight);

    down().backward(d, p.proj_down, g.proj_down, matrix_view<const T>(k.y), dy, dn);
    map(d, rows * heads, inner / heads,
        detail::mlstm_output_backward<T>{norm, h, a, z, k.norm.statistics, p.learnable_skip, dn, da,
                                         dup.columns(inner, inner)});
    add_column_sums(d, rows, inner, detail::skip_gradient<T>{dn, a}, g.learnable_skip);
    outnorm().backward(d, p.outnorm, g.outnorm, k.norm, h, matrix_view<const T>(dn), dh);
    mlstm_backward(d, mlstm_backward_arguments<T>{
                          seq, shape(), kqkv.columns(0, inner), kqkv.columns(inner, inner),
                          kqkv.columns(2 * inner, inner), k.i, k.f, h, dh, k.kept, dqkv.columns(0, inner),
                          dqkv.columns(inner, inner), dqkv.columns(2 * inner, inner), di, df});
    gates_backward(d, p, g, kqkv, matrix_view<const T>(dgates), dqkv);
    const matrix_view<const T> dqkv_in = dqkv;
    qkv().backward(d, p.q_proj, g.q_proj, a, dqkv_in.columns(0, inner), da, T(1));
    qkv().backward(d, p.k_proj, g.k_proj, a, dqkv_in.columns(inner, inner), da, T(1));
    qkv().backward(d, p.v_proj, g.v_proj, in, dqkv_in.columns(2 * inner, inner), dup.columns(0, inner));
    map(d, rows, inner, detail::silu_backward_map<T>{k.u, da});
    conv().backward(d, seq, p.conv1d, g.conv1d, k.conv, in, matrix_view<const T>(da), dup.columns(0, inner),
                    true);
    up().backward(d, p.proj_up, g.proj_up, x, matrix_view<const T>(dup), dx);
  }

  mlstm_shape shape() const { return {heads, inner / heads, inner / heads, chunk, empty_m, 1e-6}; }

 private:
  double small() const { return std::sqrt(2.0 / (5.0 * static_cast<double>(width))); }
  linear<> up() const { return {width, 2 * inner, bias, small()}; }
  linear<> down() const {
    return {inner, width, bias,
            2.0 / (static_cast<double>(block_count) * std::sqrt(static_cast<double>(width)))};
  }
  headwise_linear qkv() const { return {inner / qkv_block, qkv_block, bias, small()}; }
  causal_conv1d conv() const { return {inner, conv_window}; }
  linear<> gate() const { return {3 * inner, heads, true, 0.0}; }
  layer_norm<> outnorm() const { return {inner, heads, 1e-5}; }

  template <class L, class Init>
  auto gate_params(L& l, Init bias_init) const {
    linear_params<typename L::matrix_type, typename L::pointer> p;
    p.weight = l.matrix("weight", heads, 3 * inner, initial::zeros());
    p.bias = l.tensor("bias", {heads}, bias_init);
    return p;
  }
  /// dqkv += [di df] [Wi; Wf], and the gradients of both: one pass each over the wide matrices, which thin
  /// products only read.
  template <class D, class P, class G, class T>
  void gates_backward(D& d, const P& p, const G& g, matrix_view<const T> qkv_in, matrix_view<const T> dgates,
                      matrix_view<T> dqkv) const {
    const index each = heads * 3 * inner;
    auto memory = d.template scratch<T>(4 * each);
    const matrix_view<T> weights(memory.data(), 2 * heads, 3 * inner),
        gradients(memory.data() + 2 * each, 2 * heads, 3 * inner);
    d.copy(weights.data, p.igate.weight.data, each * static_cast<index>(sizeof(T)));
    d.copy(weights.data + each, p.fgate.weight.data, each * static_cast<index>(sizeof(T)));
    gemm(d, dgates, weights, dqkv, T(1));
    gemm(d, transposed(dgates), qkv_in, gradients);
    const auto add = [&](const auto& gate, index first) {
      map(d, heads, 3 * inner, detail::add_to<T>{gradients.slice(first, heads), gate.weight});
      add_column_sums(d, dgates.columns(first, heads), gate.bias);
    };
    add(g.igate, 0);
    add(g.fgate, heads);
  }
};
using mlstm = basic_mlstm<>;

}  // namespace distil_xlstm
