#include <boost/test/unit_test.hpp>

#include <distil_xlstm/block/attention.hpp>
#include <distil_xlstm/block/feed_forward.hpp>
#include <distil_xlstm/block/hybrid_attention.hpp>
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/mlstm_v2.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/repeat.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/block/swiglu.hpp>
#include <distil_xlstm/core/layout.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/memory.hpp>

#include "../refused.hpp"

namespace distil_xlstm {
namespace {

/// Its weights, its state and its tape say the same.
template <class B>
void refuses(const B& block, const std::string& part) {
  device::cpu cpu(1);
  refused([&] { weight_memory<B, float, device::cpu>(cpu, block); }, part);
  refused([&] { state_memory<B, float, device::cpu>(cpu, block, 1); }, part);
  refused([&] { tape_memory<B, float, device::cpu>(cpu, block, 1, 4, false); }, part);
}

}  // namespace

BOOST_AUTO_TEST_CASE(sizes_that_make_no_sense_are_named) {
  refuses(mlstm{.width = 8, .heads = 2}, "mlstm: a width of 8 and an inner width of 0");
  refuses(mlstm{.width = 8, .heads = 0, .inner = 16}, "mlstm: 0 heads");
  refuses(mlstm{.width = -8, .heads = 2, .inner = 16}, "mlstm: a width of -8");
  refuses(mlstm{.width = 8, .heads = 2, .inner = 16, .chunk = 0}, "mlstm: a chunk of 0 tokens");
  refuses(mlstm{.width = 8, .heads = 2, .inner = 16, .qkv_block = 0}, "mlstm: q, k, v blocks of 0");
  refuses(mlstm_v2{.width = 8, .heads = 2, .query = 8, .value = 8, .chunk = -1}, "mlstm_v2: a chunk of -1");
  refuses(slstm{.width = -4, .heads = 1}, "slstm: 1 heads do not divide the width -4");
  refuses(slstm{.width = 4, .heads = 0}, "slstm: 0 heads");
  refuses(slstm{.heads = 2}, "the width 0");
  refuses(slstm{.width = 4, .heads = 2, .conv_window = -1}, "causal_conv1d: a window of -1");
  refuses(linear<>{.in = 4, .out = -3}, "linear: a map of width 4 to -3");
  refuses(linear<>{.in = 0, .out = 3}, "linear: a map of width 0 to 3");
  refuses(layer_norm<>{-2}, "norm: 1 groups do not divide the width -2");
  refuses(layer_norm<>{.width = 4, .groups = 0}, "norm: 0 groups");
  refuses(feed_forward{.width = 4}, "feed_forward: a width of 4 and an inner width of 0");
  refuses(feed_forward{.width = 4, .inner = 64, .block_count = 0}, "feed_forward: block_count is 0");
  refuses(mlstm{.width = 8, .heads = 2, .inner = 16, .block_count = 0}, "mlstm: block_count is 0");
  refuses(mlstm_v2{.width = 8, .heads = 2, .query = 8, .value = 8, .block_count = -1},
          "mlstm_v2: block_count is -1");
  refuses(slstm{.width = 4, .heads = 2, .block_index = 1}, "slstm: block 1 of 1 blocks");
  refused([] { repeated(-1, linear<>{.in = 4, .out = 4}); }, "repeat: -1 blocks are not possible");
  refuses(swiglu{.width = 4, .inner = -1}, "swiglu: a width of 4 and an inner width of -1");
  refuses(attention{.width = 4, .head_dim = 0}, "attention: a width of 4 and heads of 0");
  hybrid_attention hybrid;
  hybrid.chunk = 0;
  refuses(hybrid, "hybrid_attention: a chunk of 0");
}

BOOST_AUTO_TEST_CASE(a_tensor_of_a_negative_extent_is_named) {
  manifest names;
  layout<float> l(nullptr, &names);
  refused([&] { l.scope("mine", [&] {
                  return l.tensor("gain", {3, -2});
                }); },
          "layout: tensor mine.gain cannot have an extent of -2");
}

}  // namespace distil_xlstm
