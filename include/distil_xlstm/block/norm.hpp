#pragma once

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/op/norm/op.hpp>

namespace distil_xlstm {

/// Weights of `norm`.
template <class Pointer>
struct norm_params {
  Pointer weight;  ///< [width]
};
/// Tape of `norm`.
template <class T>
struct norm_tape {
  T* statistics;  ///< [rows, groups, 2]: the mean, 0 of an RMSNorm, and 1 / sqrt(variance + eps)
};

/// How a norm divides and scales.
struct norm_kind {
  bool subtract_mean;    ///< LayerNorm; false: RMSNorm
  bool residual_weight;  ///< the scale is 1 + w, w stored from 0 (NX-AI/xlstm); false: w
};

/// y = scale (x - mean) / sqrt(variance + eps), over each of `groups` equal parts of a row; biased variance, no
/// bias. One group is the LayerNorm / RMSNorm of a row, several are NX-AI/xlstm's MultiHeadLayerNorm.
template <norm_kind Kind, index Width = dynamic>
struct norm {
  [[no_unique_address]] extent<Width> width{};  ///< of x and of y
  index groups = 1;                             ///< must divide `width`
  double epsilon = 1e-5;                        ///< eps, beside the variance
  bool for_products = false;                    ///< y and dx go into products: see `norm_view`
  /// @{ As `Block` says.
  static constexpr bool adds_to_dx = true, gives_operand = true;
  /// @}

  /// @name What every block has
  /// @{

  /// As the concept `Block` says; there is no state.
  constexpr auto width_in() const { return width; }
  constexpr auto width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(width > 0 && groups > 0 && width % groups == 0, "norm: ", groups,
            " groups do not divide the width ", index(width));
    return norm_params<typename L::pointer>{
        l.tensor("weight", {width}, initial::constant(Kind.residual_weight ? 0.0 : 1.0))};
  }
  template <class L>
  no_state state(L&) const {
    return {};
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    return norm_tape<typename L::scalar>{l.tensor("statistics", {seq.rows(), groups, 2})};
  }
  /// @}

  /// @{

  /// The same without what it does not read, for a block that it is a part of.
  template <class T, class Y>
  void forward(auto& d, const auto& p, const norm_tape<T>& k, const_view<T> x, matrix_view<Y> y,
               const_view<T> skip = {}) const {
    norm_forward(d, view<T>(p.weight), x, k.statistics, y, skip);
  }
  template <class T>
  void backward(auto& d, const auto& p, const auto& g, const auto& k, const_view<T> x, const_view<T> dy,
                matrix_view<T> dx, const_view<T> skip = {}) const {
    norm_backward(d, view<T>(p.weight), x, k.statistics, dy, g.weight, dx, skip);
  }
  /// @}

  /// @{

  /// As the concept `Block` says.
  template <class T, class Y>
  void forward(auto& d, sequence_view, const auto& p, const auto&, const norm_tape<T>& k, const_view<T> x,
               matrix_view<Y> y) const {
    forward(d, p, k, x, y);
  }
  template <class T>
  void backward(auto& d, sequence_view, const auto& p, const auto& g, const auto& k, const_view<T> x,
                const_view<T> dy, matrix_view<T> dx, const_view<T> skip = {}) const {
    backward(d, p, g, k, x, dy, dx, skip);
  }
  /// @}

  /// The norm as functors see it; for layers that fuse it with their own element-wise part.
  template <class T>
  norm_view<T> view(const T* weight) const {
    return {groups, width / groups, Kind.subtract_mean, Kind.residual_weight, static_cast<T>(epsilon),
            weight, for_products};
  }
};

/// LayerNorm with scale 1 + w and no bias, as NX-AI/xlstm stores it.
template <index Width = dynamic>
using layer_norm = norm<norm_kind{true, true}, Width>;
/// LayerNorm with a plain weight (xLSTM-7B's head norm).
template <index Width = dynamic>
using plain_layer_norm = norm<norm_kind{true, false}, Width>;
/// RMSNorm: y = w x / sqrt(mean(x²) + eps).
template <index Width = dynamic>
using rms_norm = norm<norm_kind{false, false}, Width>;

}  // namespace distil_xlstm
