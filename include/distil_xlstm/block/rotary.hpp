#pragma once

#include <array>
#include <cmath>
#include <type_traits>

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/math/numeric.hpp>
#include <distil_xlstm/op/rotary/op.hpp>

namespace distil_xlstm {

/// What the frequencies of a rotary embedding are divided by, so that a model reads texts longer than those it was
/// first trained on.
///
/// - `linear`: every frequency f by `factor`
/// - `llama3`: by `factor` where a pair turns fewer than `low` times over the `original` context, by 1 where it turns
///   more than `high` times, and between by 1 / ((1 - s) / factor + s), s = (turns - low) / (high - low),
///   turns = original f / 2 pi (Llama 3.1)
struct rope_scaling {
  /// Ways to scale.
  enum class kind { none, linear, llama3 };
  kind type = kind::none;  ///< with `none`, nothing else is read
  double factor = 1;       ///< the largest divisor
  /// low_freq_factor; read by `llama3` alone.
  double low = 1, high = 4;  ///< high_freq_factor; read by `llama3` alone
  double original = 8192;    ///< original_max_position_embeddings, in tokens; read by `llama3` alone

  /// Member by member.
  friend bool operator==(const rope_scaling&, const rope_scaling&) = default;
  /// What a frequency, in radians a token, is divided by.
  DISTIL_XLSTM_HD double divisor(double frequency) const {
    if (type == kind::none) return 1;
    if (type == kind::linear) return factor;
    constexpr double two_pi = 6.283185307179586476925;
    const double s = (original * frequency / two_pi - low) / (high - low);
    return s <= 0 ? factor : s >= 1 ? 1 : 1 / ((1 - s) / factor + s);
  }
};

namespace detail {

/// frequency[i] = theta^(-2i / head_dim), divided as the scaling says
struct rotary_frequencies {
  double theta;
  rope_scaling scaling;
  index half;
  double* frequency;
  DISTIL_XLSTM_HD void operator()(index i) const {
    using std::pow;
    const double f = pow(theta, -static_cast<double>(i) / static_cast<double>(half));
    frequency[i] = f / scaling.divisor(f);
  }
};

/// The place of token t in its document: counted from its start, or on from the carried position.
template <class T>
DISTIL_XLSTM_HD index position_of(sequence_view seq, batched_state<T> carried, index b, index t) {
  const index start = seq.document_start(b, t);
  if (start >= 0) return t - start;
  return t + (carried.data ? static_cast<index>(*carried.of(b)) : 0);
}

/// cos and sin of each row's angles, in double.
template <class T>
struct rotary_table {
  using scalar = T;
  sequence_view seq;
  batched_state<T> carried;
  const double* frequency;
  matrix_view<T> cosines, sines;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    using std::cos;
    using std::sin;
    const auto position = static_cast<double>(position_of(seq, carried, r / seq.time, r % seq.time));
    for (index i = c; i < c + math::width_of<V>; ++i) {
      cosines.row(r)[i] = static_cast<T>(cos(position * frequency[i]));
      sines.row(r)[i] = static_cast<T>(sin(position * frequency[i]));
    }
  }
  DISTIL_XLSTM_HD void operator()(index r) const {
    for (index c = 0; c < cosines.cols; ++c) operator()<T>(r, c);
  }
};

/// Where the next call goes on.
template <class T>
struct advance_position {
  sequence_view seq;
  batched_state<T> position;
  DISTIL_XLSTM_HD void operator()(index b) const {
    *position.of(b) = static_cast<T>(position_of(seq, position, b, seq.time - 1) + 1);
  }
};

}  // namespace detail

/// State of `rotary`.
template <class T>
struct rotary_state {
  batched_state<T> position;  ///< [1]: tokens of the document so far
};
/// Tape of `rotary`.
template <class T>
struct rotary_tape {
  /// @{

  /// [rows, head_dim / 2], of each token's angles.
  matrix_view<T> cosines, sines;
  /// @}
};

/// Rotary position embedding in the half-rotated form of Hugging Face and NeoX: the pair (i, i + head_dim / 2) of
/// each head rotates by position * theta^(-2i / head_dim), divided as `scaling` says. Positions begin anew with each
/// document. Angles, cosines and sines are computed in double. (Su et al. 2021, arXiv 2104.09864.)
struct rotary {
  /// Width of x and of y, all heads.
  index width = 0, head_dim = 0;  ///< width of one head, even
  double theta = 10000;           ///< base of the frequencies
  rope_scaling scaling{};         ///< of the frequencies

  /// @name What every block has
  /// @{

  /// As the concept `Block` says; there are no weights.
  constexpr index width_in() const { return width; }
  constexpr index width_out() const { return width; }

  template <class L>
  no_state params(L&) const {
    require(head_dim > 0 && head_dim % 2 == 0 && width % head_dim == 0, "rotary: heads of ", head_dim,
            " must be even and divide the width ", width);
    return {};
  }
  template <class L>
  auto state(L& l) const {
    return rotary_state<typename L::scalar>{l.state("position", {1})};
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    return rotary_tape<typename L::scalar>{l.matrix("cosines", seq.rows(), head_dim / 2),
                                           l.matrix("sines", seq.rows(), head_dim / 2)};
  }
  template <class T>
  void forward(auto& d, sequence_view seq, const auto&, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y) const {
    tables(d, seq, s.position, k);
    rotate(d, k, x, y);
    advance(d, seq, s.position);
  }
  template <class T>
  void backward(auto& d, sequence_view, const auto&, const auto&, const auto& k, const_view<T>,
                const_view<T> dy, matrix_view<T> dx) const {
    rotate_back(d, k, dy, dx);
  }
  /// @}

  /// Whether another one rotates a head by the same angles.
  bool has_angles_of(const rotary& other) const {
    return head_dim == other.head_dim && theta == other.theta && scaling == other.scaling;
  }

  // The parts, for a block that rotates several matrices with one table.

  /// Writes the table of the call's tokens into k. A document that began before the call goes on from `carried`, the
  /// position of a state; where that has no data, it counts from the call's first token.
  template <class D, class T>
  void tables(D& d, sequence_view seq, batched_state<T> carried, const rotary_tape<T>& k) const {
    auto frequency = d.template scratch<double>(head_dim / 2);
    parallel_for(d, head_dim / 2, detail::rotary_frequencies{theta, scaling, head_dim / 2, frequency.data()});
    const detail::rotary_table<T> table{seq, carried, frequency.data(), k.cosines, k.sines};
    // A row's angles are enough for a worker of the host; a card wants more tasks than there are rows.
    if constexpr (D::host_memory)
      parallel_for(d, seq.rows(), table);
    else
      map(d, seq.rows(), head_dim / 2, table);
  }
  /// y = x rotated by the table, or back by `direction` -1. Any number of heads; y may be x, or stored as the device's
  /// `operand_t`.
  template <class T, class Y>
  void rotate(auto& d, const rotary_tape<T>& k, const_view<T> x, matrix_view<Y> y, T direction = 1) const {
    rotate_heads(d, angles(k, direction), rotary_heads<T, Y>{x, y});
  }
  /// x and z, of any numbers of heads, each in place, in one pass.
  template <class T>
  void rotate_both(auto& d, const rotary_tape<T>& k, matrix_view<T> x, matrix_view<T> z) const {
    rotate_heads(d, angles(k, T(1)), rotary_heads<T>{x, x}, rotary_heads<T>{z, z});
  }
  /// The same, and `copy` = w, as it is, which may be stored as the device's `operand_t`.
  template <class T, class Y>
  void rotate_both(auto& d, const rotary_tape<T>& k, matrix_view<T> x, matrix_view<T> z, const_view<T> w,
                   matrix_view<Y> copy) const {
    rotate_heads(d, angles(k, T(1)), rotary_heads<T>{x, x}, rotary_heads<T>{z, z},
                 rotary_heads<T, Y>{w, copy, false});
  }
  /// The gradient of `rotate`; dx may be dy, or stored as the device's `operand_t`.
  template <class T, class Dx>
  void rotate_back(auto& d, const rotary_tape<T>& k, const_view<T> dy, matrix_view<Dx> dx) const {
    rotate(d, k, dy, dx, T(-1));
  }
  /// That of `rotate_both`, in one pass, all stored as the device's `operand_t`.
  template <class T, class Y>
  void rotate_back(auto& d, const rotary_tape<T>& k, const std::array<matrix_view<T>, 3>& dy,
                   const std::array<matrix_view<Y>, 3>& dx) const {
    rotate_heads(d, angles(k, T(-1)), rotary_heads<T, Y>{dy[0], dx[0]}, rotary_heads<T, Y>{dy[1], dx[1]},
                 rotary_heads<T, Y>{dy[2], dx[2], false});
  }
  /// Moves the state's position to where the next call goes on. After `tables`, which read it.
  template <class T>
  void advance(auto& d, sequence_view seq, batched_state<T> position) const {
    parallel_for(d, seq.batch, detail::advance_position<T>{seq, position});
  }

 private:
  template <class T>
  static rotary_angles<T> angles(const rotary_tape<T>& k, T direction) {
    return {k.cosines, k.sines, direction};
  }
};

}  // namespace distil_xlstm
