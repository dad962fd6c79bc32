#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include <distil_xlstm/block/sequential.hpp>

namespace distil_xlstm {

/// Looks at nothing: the default of taps.
struct no_taps {
  /// Takes a block's number, and its output or the gradient of that.
  template <class M>
  void operator()(index, const M&) const {}
};

namespace detail {
/// Outputs of X that are in memory when a tap sees one, its own and those before it: as many as its `kept_outputs`, or
/// one.
template <class X>
inline constexpr index kept_outputs_of = [] {
  if constexpr (requires { X::kept_outputs; })
    return X::kept_outputs;
  else
    return index{1};
}();
}  // namespace detail

/// One block type N times (`dynamic`: as often as the program says), each its own value: depth stays out of the
/// instantiation. Weights, state and tape are vectors, an element a block; block i's tensors are called i.<...>.
///
/// Block outputs are taps: `forward` shows each to `on_output(i, y_i)`, `backward` lets `add_gradient(i, dy_i)` add
/// to the gradient of each but the last before it goes on. Both see [rows, width_out].
template <index N, class Inner>
struct repeat {
  static_assert(N == dynamic || N > 0, "distil_xlstm::repeat: the count must be positive, or dynamic");
  static_assert(
      Block<Inner>,
      "distil_xlstm::repeat<N, Inner>: Inner is no block; give it params, state, tape, forward, backward, "
      "width_in and width_out, as block/block.hpp says");
  static_assert(N == 1 || detail::static_widths_fit<Inner, Inner>,
                "distil_xlstm::repeat: a block that follows itself needs a width_out that is its width_in");
  /// An array of N blocks, or (`dynamic`) a vector.
  using storage =
      std::conditional_t<N == dynamic, std::vector<Inner>, std::array<Inner, std::size_t(N < 0 ? 0 : N)>>;
  storage blocks{};  ///< first to last
  /// Outputs that are in memory when `on_output` sees one: its own and those of the blocks before it.
  static constexpr index kept_outputs = 4;

  /// Number of blocks.
  index count() const { return static_cast<index>(blocks.size()); }

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  auto width_in() const { return blocks.front().width_in(); }
  auto width_out() const { return blocks.back().width_out(); }

  template <class L>
  auto params(L& l) const {
    require(count() > 0, "repeat: no blocks");
    for (index i = 1; i < count(); ++i) {
      const index out = at(i - 1).width_out(), in = at(i).width_in();
      require(out == in, "repeat: block ", i - 1, " gives width ", out, ", block ", i, " takes ", in);
    }
    return many(l, [&](index i) { return at(i).params(l); });
  }
  template <class L>
  auto state(L& l) const {
    return many(l, [&](index i) { return at(i).state(l); });
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    using T = typename L::scalar;
    using entry = slot<tape_t<Inner, T>, T>;
    // No backward will look: members share their memory, outputs take turns in a few buffers.
    std::array<matrix_view<T>, kept_outputs> outputs;
    if (l.transient())
      for (index i = 0; i < std::min(count(), kept_outputs); ++i)
        outputs[static_cast<std::size_t>(i)] = l.matrix("out", seq.rows(), width_out());
    std::vector<tape_t<Inner, T>> before;
    return many(l, [&](index i) {
      const index mark = l.mark();
      entry s{tape_of(l, seq, i, before), {}};
      if (l.transient()) {
        l.rewind(mark);
        s.out = outputs[static_cast<std::size_t>(i % kept_outputs)];
      } else {
        s.out = l.matrix("out", seq.rows(), width_out());
      }
      return s;
    });
  }
  template <class T, class Taps = no_taps>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y, Taps&& on_output = {}) const {
    for (index i = 0; i < count(); ++i) {
      const auto j = static_cast<std::size_t>(i);
      const matrix_view<T> out = i + 1 == count() ? y : k[j].out;
      at(i).forward(d, seq, p[j], s[j], k[j].inner, x, out);
      on_output(i, const_view<T>(out));
      x = out;
    }
  }
  /// @}

  /// As the concept `Block` says. The last block's gradient is `dy`, the caller's own: what is to be added to it has
  /// been.
  template <class T, class Taps = no_taps>
  void backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, const_view<T> x,
                const_view<T> dy, matrix_view<T> dx, Taps&& add_gradient = {}) const {
    const index width = count() > 1 ? index(width_out()) : 0;
    const auto memory = scratch_matrices<T>(d, x.rows, width, width);
    for (index i = count() - 1; i >= 0; --i) {
      const auto j = static_cast<std::size_t>(i);
      const const_view<T> in = i > 0 ? const_view<T>(k[j - 1].out) : x;
      const matrix_view<T> din = i > 0 ? memory.views[j % 2] : dx;
      at(i).backward(d, seq, p[j], g[j], k[j].inner, in, dy, din);
      if (i > 0) add_gradient(i - 1, din);
      dy = din;
    }
  }

 private:
  const Inner& at(index i) const { return blocks[static_cast<std::size_t>(i)]; }
  /// Block i's tape; layers of a decoder may share the angles of one `before`.
  template <class L, class K>
  K tape_of(L& l, sequence_view seq, index i, std::vector<K>& before) const {
    if constexpr (detail::has_angles<Inner>) {
      decltype(at(i).angles_for(at(i), before[0])) angles = nullptr;
      for (index j = 0; j < i && !angles; ++j)
        angles = at(j).angles_for(at(i), before[static_cast<std::size_t>(j)]);
      return before.emplace_back(at(i).tape(l, seq, angles));
    } else {
      return at(i).tape(l, seq);
    }
  }
  template <class L, class F>
  auto many(L& l, F f) const {
    using R = decltype(f(0));
    std::vector<R> r;
    r.reserve(blocks.size());
    for (index i = 0; i < count(); ++i) r.push_back(l.scope(std::to_string(i), [&] { return f(i); }));
    return r;
  }
};

/// n equal blocks. Throws `error` where n is below 0.
template <class Inner>
repeat<dynamic, Inner> repeated(index n, Inner block) {
  require(n >= 0, "repeat: ", n, " blocks are not possible");
  return {std::vector<Inner>(static_cast<std::size_t>(n), block)};
}

}  // namespace distil_xlstm
