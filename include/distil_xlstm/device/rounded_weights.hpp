#pragma once

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

/// A model's weights as products take them (`operand_t`), rounded once a step and in one pass, where else each
/// product rounds its matrix, forward and again backward, to the same bits. (A hybrid layer joins the weights of q, k
/// and v with its gates' on the way back, and rounds those itself.) Nothing on a device that holds no such copies.
template <class T, class D>
class rounded_weights {
  static constexpr bool held = requires(D & device, const T* weights, const operand_t<D, T>* copy) {
    device.hold_rounded(weights, index{}, copy);
  };
  struct nothing {};

 public:
  /// Memory for n weights.
  rounded_weights(D& device, index n) : copy_(device, held ? n : 0) {}

  /// The copy <- all weights.
  void round(D& device, const T* weights) const {
    if constexpr (held)
      transform(device, matrix_view<operand_t<D, T>>(copy_.data(), 1, copy_.size()), math::identity{},
                matrix_view<const T>(weights, 1, copy_.size()));
  }
  /// While the result lives, products read the copy. Since the device was asked to `round` these weights nothing has
  /// written them, and nothing may; what says to the device what it writes is refused, a kernel that does not is not
  /// seen.
  [[nodiscard]] auto hold(D& device, const T* weights) const {
    if constexpr (held)
      return device.hold_rounded(weights, copy_.size(), copy_.data());
    else
      return nothing{};
  }

 private:
  buffer<operand_t<D, T>, D> copy_;
};

}  // namespace distil_xlstm
