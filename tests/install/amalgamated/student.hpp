#pragma once

#include <cstdint>
#include <vector>

#include <distil_xlstm_core.hpp>

namespace dx = distil_xlstm;

/// An mLSTM and an sLSTM, each beside a skip.
inline constexpr dx::index width = 16;
inline auto layers() {
  const auto layer = [](auto cell) { return dx::residual{dx::sequential{dx::layer_norm<>{width}, cell}}; };
  return dx::stack{
      dx::repeated(1, dx::sequential{layer(dx::mlstm{.width = width, .heads = 2, .inner = 2 * width}),
                                     layer(dx::slstm{.width = width, .heads = 2})})};
}
using student = dx::model<decltype(layers()), float, dx::device::cpu>;

/// In nats a token.
double nll(dx::device::cpu& device, const student& model, const std::vector<std::int32_t>& ids,
           const std::vector<std::int32_t>& next);
