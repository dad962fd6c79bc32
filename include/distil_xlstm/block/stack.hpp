#pragma once

#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/repeat.hpp>

namespace distil_xlstm {

/// Weights of `stack`.
template <class Layers, class Norm>
struct stack_params {
  Layers blocks;          ///< an element a layer
  Norm post_blocks_norm;  ///< [width_out], or null: no norm
};
/// Tape of `stack`.
template <class Layers, class T>
struct stack_tape {
  Layers blocks;                  ///< an element a layer, a `slot`
  norm_tape<T> post_blocks_norm;  ///< of the norm, if there is one
  matrix_view<T> before_norm;     ///< [rows, width_out]: the last layer's output, if there is a norm
  matrix_view<T> input;           ///< [rows, width_in], of a transient tape: where the stack's input may lie
};

namespace detail {
/// An error of the compiler: what `stack{layer}` is deduced with.
template <class Given>
struct bare_layer {
  static_assert(
      sizeof(Given) == 0,
      "distil_xlstm::stack{layer}: a stack repeats its layer; write stack{repeated(n, layer)}, and of a bare "
      "cell a layer of stack{repeated(n, residual{sequential{layer_norm<>{width}, cell}})}");
};
}  // namespace detail

/// `stack{repeated(n, layer)}`: N layers (`dynamic`: as many as the program says) one after another, then a norm unless
/// it is switched off: what lies between the embedding and the head of a language model. Each layer's output is a tap,
/// as in `repeat`. NX-AI/xlstm's xLSTMBlockStack is one of mLSTM and sLSTM blocks. `Norm` is a named norm, the layers
/// are called `Name`.0, `Name`.1, ...
template <class Layer, index N = dynamic, class Norm = named<"post_blocks_norm", layer_norm<>>,
          fixed_string Name = "blocks">
struct stack {
  static_assert(
      Block<Layer>,
      "distil_xlstm::stack<Layer, N>: Layer is no block; give it params, state, tape, forward, backward, "
      "width_in and width_out, as block/block.hpp says");
  repeat<N, Layer> blocks;               ///< the layers
  bool post_blocks_norm = true;          ///< whether there is a norm behind them
  double norm_epsilon = Norm{}.epsilon;  ///< of this norm
  /// Outputs that are in memory when `on_output` sees one: its own and those of the layers before it.
  static constexpr index kept_outputs = repeat<N, Layer>::kept_outputs;

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  auto width_in() const { return blocks.width_in(); }
  auto width_out() const { return blocks.width_out(); }
  /// Number of layers.
  index count() const { return blocks.count(); }

  template <class L>
  auto params(L& l) const {
    stack_params<params_t<decltype(blocks), L>, norm_params<typename L::pointer>> p;
    p.blocks = l.scope(Name.view(), [&] { return blocks.params(l); });
    if (post_blocks_norm) p.post_blocks_norm = l.scope(Norm::name, [&] { return norm().params(l); });
    return p;
  }
  template <class L>
  auto state(L& l) const {
    return l.scope(Name.view(), [&] { return blocks.state(l); });
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    using T = typename L::scalar;
    stack_tape<tape_t<decltype(blocks), T>, T> k{};
    // Before the blocks: a transient tape gives their memory back.
    if (post_blocks_norm) k.post_blocks_norm = norm().tape(l, seq);
    if (!l.transient()) {
      if (post_blocks_norm) k.before_norm = l.matrix("before_norm", seq.rows(), width_out());
    } else if (count() == 1) {
      k.input = l.matrix("input", seq.rows(), width_in());
    }
    k.blocks = l.scope(Name.view(), [&] { return blocks.tape(l, seq); });
    if (l.transient()) {
      // The first block reads what the second, if there is one, writes over.
      if (count() > 1) k.input = k.blocks[1].out;
      k.before_norm = k.blocks.back().out;
    }
    return k;
  }
  template <class T, class Taps = no_taps>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y, Taps&& on_output = {}) const {
    const matrix_view<T> out = post_blocks_norm ? k.before_norm : y;
    blocks.forward(d, seq, p.blocks, s, k.blocks, x, out, on_output);
    if (post_blocks_norm) norm().forward(d, p.post_blocks_norm, k.post_blocks_norm, out, y);
  }
  /// As the concept `Block` says; `add_gradient(i, dy_i)` is called for every layer, last to first, before the norm.
  template <class T, class Taps = no_taps>
  void backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, const_view<T> x,
                const_view<T> dy, matrix_view<T> dx, Taps&& add_gradient = {}) const {
    const auto memory = scratch_matrices<T>(d, dy.rows, dy.cols);
    const matrix_view<T> dbefore = memory.views[0];
    if (post_blocks_norm)
      norm().backward(d, p.post_blocks_norm, g.post_blocks_norm, k.post_blocks_norm, k.before_norm, dy,
                      dbefore);
    else
      d.copy(dbefore.data, dy.data, dy.size() * static_cast<index>(sizeof(T)));
    add_gradient(count() - 1, dbefore);
    blocks.backward(d, seq, p.blocks, g.blocks, k.blocks, x, dbefore, dx, add_gradient);
  }
  /// @}

  /// Output of layer i [rows, width_out], before the norm, after a forward to y whose backward follows: a tap.
  template <class T>
  matrix_view<T> output(const auto& k, matrix_view<T> y, index i) const {
    if (i + 1 < count()) return k.blocks[static_cast<std::size_t>(i)].out;
    return post_blocks_norm ? k.before_norm : y;
  }

  /// Where the input may lie that a forward over a transient tape reads.
  template <class K>
  auto input(const K& k) const {
    return k.input;
  }

 private:
  Norm norm() const {
    Norm n{};
    n.width = extent<>(width_out());
    n.epsilon = norm_epsilon;
    return n;
  }
};
/// `stack{repeated(n, layer)}`, and whether a norm follows.
template <index N, Block Layer>
stack(repeat<N, Layer>, bool = true) -> stack<Layer, N>;
/// An error of the compiler: a layer that is not repeated.
template <class Given>
stack(Given, bool = true) -> stack<detail::bare_layer<Given>>;

}  // namespace distil_xlstm
