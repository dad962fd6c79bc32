// The same source compiled for two machines: PART is the function's name.
#include "part.hpp"

#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/memory.hpp>

namespace dx = distil_xlstm;
using cpu = dx::device::cpu;

// What both objects have to agree about.
static_assert(alignof(dx::device::pack<float>) == 64 && alignof(dx::device::pack<double>) == 64);

std::vector<float> PART() {
  cpu device(2);
  constexpr dx::index width = 24, batch = 2, time = 20;
  const dx::residual block{dx::sequential{dx::layer_norm<>{width},
                                          dx::mlstm{.width = width, .heads = 2, .inner = 32},
                                          dx::slstm{.width = width, .heads = 2}}};
  using B = std::remove_const_t<decltype(block)>;
  dx::weight_memory<B, float, cpu> weights(device, block), gradients(device, block);
  dx::rng random(1);
  for (dx::index i = 0; i < weights.size(); ++i) weights.data()[i] = 0.2f * static_cast<float>(random.normal());
  const dx::state_memory<B, float, cpu> state(device, block, batch);
  const dx::tape_memory<B, float, cpu> tape(device, block, batch, time, false);
  const dx::sequence_view seq{batch, time};
  std::vector<float> room(4 * batch * time * width, 0.5f);
  const auto matrix = [&](dx::index i) {
    return dx::matrix_view<float>(room.data() + i * batch * time * width, batch * time, width);
  };
  const dx::matrix_view<const float> x = matrix(0), dy = matrix(2);
  block.forward(device, seq, weights.views(), state.views(), tape.views(), x, matrix(1));
  block.backward(device, seq, weights.views(), gradients.views(), tape.views(), x, dy, matrix(3));
  return {gradients.data(), gradients.data() + gradients.size()};
}
