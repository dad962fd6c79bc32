#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/mlstm/cuda/gradients.cuh>
#include <distil_xlstm/op/mlstm/cuda/step.cuh>

// The chunkwise form of mLSTM as products of tiles. op/mlstm/op.hpp has the mathematics.
//
// Forward: gates; padded copies of k and v in the products' type, unless they can be read as they are; the walk over
// the chunks, a tile of C a block; S D and r of each chunk, and the copy of its q; h. Backward: dU and dS of each
// chunk; the walk back; dq, dk, dv of each chunk; the gates' gradients.
namespace distil_xlstm::device {

namespace detail {

/// Arrays side by side in one piece of memory; of none, how much they need.
class mlstm_slab {
 public:
  explicit mlstm_slab(void* memory = nullptr)
      : at_((reinterpret_cast<std::uintptr_t>(memory) + align - 1) / align * align) {}
  template <class X>
  X* take(index n) {
    const std::uintptr_t p = at_ + used_;
    used_ += (static_cast<std::uintptr_t>(n) * sizeof(X) + align - 1) / align * align;
    return reinterpret_cast<X*>(p);
  }
  index bytes() const { return static_cast<index>(used_ + align); }

 private:
  static constexpr std::uintptr_t align = 256;
  std::uintptr_t at_, used_ = 0;
};

/// Both directions with products of kind P, tiles of N columns, and q, k, v stored as From.
///
/// The tape has a fixed size. First goes the m that enters, then what is worth most of: the chunks' states, S D
/// and r, the copies of q, k, v where they are of another type, what the gates make of each position. Backward makes
/// again what found no room, from the state that entered where need be.
template <class P, int N, class From>
class mlstm_products {
 public:
  using number = typename P::number;

  mlstm_products(cuda_base& device, sequence_view seq, const mlstm_shape& shape)
      : device_(device), seq_(seq), shape_(shape) {
    const auto padded = [](index n) { return static_cast<int>((n + N - 1) / N * N); };
    z_ = {seq.batch * shape.heads,
          shape.heads,
          seq.time,
          (seq.time + mlstm_chunk - 1) / mlstm_chunk,
          static_cast<int>(shape.query),
          static_cast<int>(shape.value),
          padded(shape.query),
          padded(shape.value),
          static_cast<float>(distil_xlstm::detail::mlstm_query_scale<double>(shape)),
          static_cast<float>(shape.epsilon),
          shape.normaliser};
    const index all =
        z_.tasks * shape.kept_size(seq.time, sizeof(From) < sizeof(float)) * static_cast<index>(sizeof(float));
    mlstm_slab dry;
    mlstm_memory<number> m;
    const index head = z_.tasks * static_cast<index>(sizeof(float));
    const auto fits = [&](index start) { return start + dry.bytes() <= all; };
    take_states(dry, m);
    keep_.states = fits(head);
    start_ = keep_.states ? head : z_.tasks * (shape.query * shape.value + shape.query + 1) * 4;
    if (!keep_.states) dry = mlstm_slab();
    mlstm_slab before = dry;
    take_scores(dry, m);
    keep_.scores = fits(start_);
    if (!keep_.scores) dry = before;
    before = dry;
    own_inputs copies;
    if (!as_products) take_inputs(dry, copies);
    keep_.inputs = !as_products && fits(start_);
    if (!keep_.inputs) dry = before;
    mlstm_rows rows{};
    take_rows(dry, rows);
    keep_.rows = fits(start_);
  }

  template <class H>
  void forward(const mlstm_arguments<float, From, H>& a) {
    auto kept = a.chunk_states ? keep_ : keeps{};
    const bool in_place = reads_in_place(a);
    own_inputs copies;
    mlstm_rows rows{};
    mlstm_memory<number> m{};
    const auto arrange = [&](mlstm_slab& s) {
      if (!kept.rows) take_rows(s, rows);
      if (!kept.states) take_states(s, m);
      if (!kept.scores) take_scores(s, m);
      if (!kept.inputs && !in_place) take_inputs(s, copies);
    };
    const auto memory = room_for(arrange);
    place(arrange, memory);
    if (a.chunk_states) take_chunk_states(a.chunk_states, m, copies, rows);
    gates(a.i, a.f, a.state.m.data, a.state.m.stride, a.state.m.data, a.chunk_states, rows);
    bind(a, in_place, copies, m);
    if (!in_place) copy(a, copies, as_products ? 3 : 2);
    const mlstm_state_view state = view(a.state);
    if (a.chunk_states && !keep_.states)
      launch(device_, "mlstm: keeping the state",
             {dim3(grid_size(shape_.query * shape_.value, 1024, 64), blocks(z_.tasks)), 256},
             mlstm_keep_state_kernel<256>, z_, state, first_state(a.chunk_states));
    walk<false>("mlstm: states",
                {m.k, m.v, rows.left, nullptr, rows.decay, state, state, rows.empty, m.states, m.n});
    scores<!as_products>(rows, m, copies_of(a, copies).of[2]);
    const index chunks = z_.tasks * z_.chunks;
    with_columns(chunks * (z_.value / N), [&]<int Columns>() {
      using tile = product_tile<P, 4, Columns>;
      launch(device_, "mlstm: outputs", {blocks(chunks * (z_.value / Columns)), tile::threads, tile::bytes},
             mlstm_outputs_kernel<P, Columns, H>, z_, m, rows, output(a.h, z_.dv));
    });
  }

  template <class S, class H>
  void backward(const mlstm_backward_arguments<float, From, S, H>& a) {
    float* tape = const_cast<float*>(a.chunk_states);
    const bool in_place = reads_in_place(a);
    own_inputs copies;
    number *ds = nullptr, *dc = nullptr;
    float *dn = nullptr, *q_dq = nullptr, *k_dk = nullptr;
    double* inner = nullptr;
    mlstm_rows rows{};
    mlstm_memory<number> m{};
    mlstm_row_gradients<number> of_rows{};
    const index positions = z_.tasks * z_.padded();
    const auto arrange = [&](mlstm_slab& s) {
      if (!keep_.rows) take_rows(s, rows);
      if (!keep_.states) take_states(s, m);
      if (!keep_.scores) take_scores(s, m);
      if (!keep_.inputs && !in_place) take_inputs(s, copies);
      of_rows.du = s.take<number>(positions * z_.value);
      of_rows.dr = s.take<float>(positions);
      of_rows.dmu = s.take<float>(positions);
      dc = s.take<number>(z_.tasks * z_.chunks * z_.query * z_.value);
      dn = s.take<float>(z_.tasks * z_.chunks * z_.query);
      ds = s.take<number>(positions * mlstm_chunk);
      q_dq = s.take<float>(positions * (z_.query / N));
      k_dk = s.take<float>(positions * (z_.query / N));
      if (a.dstate) inner = s.take<double>(z_.tasks);
    };
    const auto memory = room_for(arrange);
    place(arrange, memory);
    take_chunk_states(tape, m, copies, rows);
    if (!keep_.rows) gates(a.i, a.f, a.chunk_states, shape_.heads, nullptr, nullptr, rows);
    if (!keep_.inputs && !in_place) copy(a, copies, 3);
    bind(a, in_place, copies, m);
    if (!keep_.states)
      walk<false>("mlstm: states again", {m.k, m.v, rows.left, nullptr, rows.decay, first_state(tape),
                                          mlstm_state_view{}, rows.empty, m.states, m.n});
    if (!keep_.scores) scores<false>(rows, m, {});

    const mlstm_operand<number> du = packed(of_rows.du, z_.value);
    launch(
        device_, "mlstm: gradients of rows and scores",
        {blocks(z_.tasks * z_.chunks), 256, product_tile<P, 4, mlstm_chunk>::bytes},
        mlstm_score_gradients_kernel<P, S, H>, z_,
        mlstm_row_inputs<S, H>{a.h, a.dh, m.r, z_.dv == z_.value && is_vectorised(a.h) && is_vectorised(a.dh)},
        m.v, rows, of_rows, ds);
    mlstm_state_view dstate;
    if (a.dstate) {
      const index size = shape_.query * (shape_.value + 1);
      dstate = {
          a.dstate, shape_.heads * size, size, a.dstate + shape_.query * shape_.value, shape_.heads * size,
          size};
      launch(device_, "mlstm: the last state's gradient", {blocks(z_.tasks), 256}, mlstm_inner_kernel<256>, z_,
             dstate, view(a.last), inner);
    }
    walk<true>("mlstm: gradients of states",
               {m.q, du, rows.past, of_rows.dr, rows.decay, dstate, dstate, nullptr, dc, dn});
    const index parts = input_gradients<S>(a, {m,
                                               rows,
                                               of_rows,
                                               ds,
                                               dc,
                                               dn,
                                               output(a.dq, z_.dq),
                                               output(a.dk, z_.dq),
                                               {},
                                               q_dq,
                                               k_dk,
                                               a.dstate == nullptr});
    const bool first_is_free = shape_.empty_m == -std::numeric_limits<double>::infinity();
    with_mlstm_gate_threads(z_.chunks, [&]<int Threads>() {
      launch(device_, "mlstm: gradients of gates", {blocks(z_.tasks), Threads},
             mlstm_gate_gradients_kernel<Threads>,
             mlstm_gate_gradients{seq_, shape_.heads, z_.padded(), rows, a.f, q_dq, k_dk, parts, of_rows.dmu,
                                  inner, first_is_free, a.di, a.df});
    });
  }

 private:
  /// Inputs that are stored as the products take them need not be copied, nor kept.
  static constexpr bool as_products = std::is_same_v<From, number>;

  static unsigned blocks(index n) { return static_cast<unsigned>(n); }
  struct keeps {
    bool states = false, scores = false, inputs = false, rows = false;
  };
  struct own_inputs {
    number *q = nullptr, *k = nullptr, *v = nullptr;  ///< [tasks, padded time, query or value]; of v each once
  };

  /// Scratch memory for what `arrange` takes of a slab.
  template <class F>
  scratch_lease<char, cuda_memory> room_for(const F& arrange) {
    mlstm_slab dry;
    arrange(dry);
    return device_.template scratch<char>(dry.bytes());
  }
  template <class F>
  static void place(const F& arrange, const scratch_lease<char, cuda_memory>& memory) {
    mlstm_slab slab(memory.data());
    arrange(slab);
  }
  void take_rows(mlstm_slab& s, mlstm_rows& r) const {
    const index n = z_.tasks * z_.padded();
    for (float** x : {&r.row, &r.row_rest, &r.column, &r.column_rest, &r.mu, &r.past, &r.left})
      *x = s.take<float>(n);
    r.first = s.take<int>(n), r.marks = s.take<int>(n);
    r.decay = s.take<float>(z_.tasks * z_.chunks), r.empty = s.take<int>(z_.tasks);
  }
  void take_states(mlstm_slab& s, mlstm_memory<number>& m) const {
    m.states = s.take<number>(z_.tasks * z_.chunks * z_.query * z_.value);
    m.n = s.take<float>(z_.tasks * z_.chunks * z_.query);
  }
  void take_scores(mlstm_slab& s, mlstm_memory<number>& m) const {
    m.gated = s.take<number>(z_.tasks * z_.padded() * mlstm_chunk);
    m.r = s.take<float>(z_.tasks * z_.padded());
  }
  void take_inputs(mlstm_slab& s, own_inputs& to) const {
    to.q = s.take<number>(z_.tasks * z_.padded() * z_.query);
    to.k = s.take<number>(z_.tasks * z_.padded() * z_.query);
    to.v = s.take<number>(z_.tasks / shape_.value_group * z_.padded() * z_.value);
  }
  void take_chunk_states(float* tape, mlstm_memory<number>& m, own_inputs& copies, mlstm_rows& rows) const {
    mlstm_slab s(reinterpret_cast<char*>(tape) + start_);
    if (keep_.states) take_states(s, m);
    if (keep_.scores) take_scores(s, m);
    if (keep_.inputs) take_inputs(s, copies);
    if (keep_.rows) take_rows(s, rows);
  }
  /// Whether the kernels can read q, k and v where they lie: of the products' type, whole chunks, whole tiles, every
  /// row of a head at 16 bytes.
  template <class A>
  bool reads_in_place(const A& a) const {
    return as_products && z_.time == z_.padded() && z_.dq == z_.query && z_.dv == z_.value &&
           is_vectorised(a.q) && is_vectorised(a.k) && is_vectorised(a.v);
  }
  /// Of the first `many` of k, v and q.
  template <class A>
  void copy(const A& a, const own_inputs& to, unsigned many) const {
    launch(device_, "mlstm: copies", {dim3(blocks(z_.tasks * z_.chunks), many), 256},
           mlstm_copy_kernel<number, From>, z_, copies_of(a, to));
  }
  template <class A>
  mlstm_copies<number, From> copies_of(const A& a, const own_inputs& to) const {
    const auto of = [](matrix_view<const From> x, int head, int padded, unsigned group, number* own) {
      return mlstm_copy<number, From>{x, head, padded, group, own, head == padded && is_vectorised(x)};
    };
    return {{of(a.k, z_.dq, z_.query, 1, to.k), of(a.v, z_.dv, z_.value, value_group(), to.v),
             of(a.q, z_.dq, z_.query, 1, to.q)}};
  }
  /// Says where the kernels find q, k and v.
  template <class A>
  void bind(const A& a, bool in_place, const own_inputs& copies, mlstm_memory<number>& m) const {
    m.q = packed(copies.q, z_.query), m.k = packed(copies.k, z_.query);
    m.v = packed(copies.v, z_.value, value_group());
    if constexpr (as_products)
      if (in_place) m.q = given(a.q, z_.dq), m.k = given(a.k, z_.dq), m.v = given(a.v, z_.dv, value_group());
  }
  /// An array [tasks / group, padded time, width].
  mlstm_operand<number> packed(const number* data, int width, unsigned group = 1) const {
    const index head = z_.padded() * width;
    return {data, z_.heads / group * head, head, width, group};
  }
  mlstm_operand<number> given(matrix_view<const number> x, int head, unsigned group = 1) const {
    return {x.data, z_.time * x.stride, head, static_cast<int>(x.stride), group};
  }
  unsigned value_group() const { return static_cast<unsigned>(shape_.value_group); }
  mlstm_state_view view(const mlstm_state<float>& s) const {
    return {s.c.data, s.c.stride, shape_.query * shape_.value, s.n.data, s.n.stride, shape_.query};
  }
  /// Of the tape, where it holds the state that entered: behind m.
  mlstm_state_view first_state(float* tape) const {
    const index size = shape_.query * shape_.value;
    float *c = tape + z_.tasks, *n = c + z_.tasks * size;
    return {c, shape_.heads * size, size, n, shape_.heads * shape_.query, shape_.query};
  }
  template <class S>
  static mlstm_output_rows<S> output(matrix_view<S> x, int head) {
    return {x, head, is_vectorised(x, head)};
  }

  void gates(matrix_view<const float> i, matrix_view<const float> f, const float* m, index m_stride,
             float* m_last, float* m_kept, const mlstm_rows& rows) const {
    with_mlstm_gate_threads(z_.chunks, [&]<int Threads>() {
      launch(device_, "mlstm: gates", {blocks(z_.tasks), Threads}, mlstm_gates_kernel<Threads>,
             mlstm_gates{seq_, shape_.heads, z_.chunks, i, f, m, m_stride, shape_.empty_m, z_.scale, m_last,
                         m_kept},
             rows);
    });
  }
  /// f.operator()<Columns>() with the columns of a product that a block makes: N; in bfloat16 256 of large heads,
  /// where the shared memory suffices, and where blocks of N columns, of which there would be `narrow`, would share
  /// multiprocessors. (288 in one block gained nothing.)
  template <class F>
  void with_columns(index narrow, const F& f) const {
    constexpr int wide = 256;
    if constexpr (std::is_same_v<P, bf16_products> && N == 128)
      if (z_.query % wide == 0 && z_.value % wide == 0 && narrow > device_.multiprocessors() &&
          device_.shared_bytes() - 4096 >= mlstm_chunk_gradients_memory<P, wide>::bytes)
        return f.template operator()<wide>();
    f.template operator()<N>();
  }
  template <bool Backwards>
  void walk(const char* what, const mlstm_walk<number>& w) const {
    const index down = z_.tasks * (z_.query / N);
    with_columns(down * (z_.value / N), [&]<int Columns>() {
      using tile = mlstm_state_tile<P, N, Columns>;
      launch(device_, what, {blocks(down * (z_.value / Columns)), tile::threads, tile::bytes},
             mlstm_walk_kernel<P, N, Columns, Backwards>, z_, w);
    });
  }
  /// If `Copies`, of q as it was given.
  template <bool Copies>
  void scores(const mlstm_rows& rows, const mlstm_memory<number>& m, const mlstm_copy<number, From>& q) const {
    launch(device_, "mlstm: scores",
           {blocks(z_.tasks * z_.chunks), 256, product_tile<P, 4, mlstm_chunk>::bytes},
           mlstm_scores_kernel<P, From, Copies>, z_, m, rows, q);
  }
  /// Returns how many parts q . dq and k . dk are left in.
  template <class S, class H>
  index input_gradients(const mlstm_backward_arguments<float, From, S, H>& a,
                        mlstm_chunk_gradients<number, S> g) const {
    constexpr const char* what = "mlstm: gradients of inputs";
    const index chunks = z_.tasks * z_.chunks;
    using whole = mlstm_whole_chunk<S>;
    if constexpr (std::is_same_v<P, bf16_products> && N == whole::value)
      if (whole::fits(z_)) {
        g.dv = output(a.dv, z_.dv), g.beta = a.beta;
        launch(device_, what, {blocks(2 * chunks + chunks / shape_.value_group), whole::threads, whole::bytes},
               mlstm_whole_chunk_gradients_kernel<P, S>, z_, g);
        return 1;
      }
    const auto tiles = [&](int columns) { return chunks * ((2 * z_.query + z_.value) / columns); };
    index parts = 0;
    distil_xlstm::detail::with_own_dv(device_, a, [&](const mlstm_backward_arguments<float, From, S, H>& own) {
      g.dv = output(own.dv, z_.dv);
      with_columns(tiles(N), [&]<int Columns>() {
        using memory = mlstm_chunk_gradients_memory<P, Columns>;
        parts = z_.query / Columns;
        launch(device_, what, {blocks(tiles(Columns)), memory::tile::threads, memory::bytes},
               mlstm_chunk_gradients_kernel<P, Columns, S>, z_, g);
      });
    });
    return parts;
  }

  cuda_base& device_;
  sequence_view seq_;
  mlstm_shape shape_;
  mlstm_sizes z_;
  keeps keep_;
  index start_;  ///< bytes of the tape before its arrays
};

/// f.operator()<N>() with the tile that pads least.
template <class F>
void with_mlstm_tile(const mlstm_shape& shape, const F& f) {
  const auto padding = [&](index n) {
    const auto padded = [n](index x) { return (x + n - 1) / n * n; };
    return padded(shape.query) * padded(shape.value);
  };
  if (padding(128) <= padding(96) && padding(128) <= padding(64))
    f.template operator()<128>();
  else if (padding(96) <= padding(64))
    f.template operator()<96>();
  else
    f.template operator()<64>();
}

template <Precision P>
using mlstm_product_kind = std::conditional_t<multiplies_in_bf16<P, float>, bf16_products, float_products>;

}  // namespace detail

/// The mLSTM cell in chunks of 128; a single token that no backward follows is one step of the recurrent form.
/// Double takes the default.
template <Precision P, class T, class Operand, class H>
void mlstm_forward(basic_cuda<P>& device, const mlstm_arguments<T, Operand, H>& a) {
  if constexpr (std::is_same_v<T, float>) {
    if (a.seq.rows() == 0 || a.shape.heads == 0) return;
    if constexpr (std::is_same_v<H, T>)
      if (a.seq.time == 1 && !a.chunk_states) return detail::mlstm_step(device, a);
    detail::with_mlstm_tile(a.shape, [&]<int N>() {
      detail::mlstm_products<detail::mlstm_product_kind<P>, N, Operand>(device, a.seq, a.shape).forward(a);
    });
  } else {
    distil_xlstm::mlstm_forward<basic_cuda<P>, T>(device, a);
  }
}

/// Its gradient.
template <Precision P, class T, class Operand, class Gradient, class H>
void mlstm_backward(basic_cuda<P>& device, const mlstm_backward_arguments<T, Operand, Gradient, H>& a) {
  if constexpr (std::is_same_v<T, float>) {
    if (a.seq.rows() == 0 || a.shape.heads == 0) return;
    detail::with_mlstm_tile(a.shape, [&]<int N>() {
      detail::mlstm_products<detail::mlstm_product_kind<P>, N, Operand>(device, a.seq, a.shape).backward(a);
    });
  } else {
    distil_xlstm::mlstm_backward<basic_cuda<P>, T>(device, a);
  }
}

}  // namespace distil_xlstm::device
