#include <boost/test/unit_test.hpp>

#include <distil_xlstm/model/xlstm.hpp>
#include <distil_xlstm/model/xlstm_7b.hpp>

#include "check.hpp"

// The laws of Block, for sLSTM, mLSTM and the layers that a student stacks.
namespace distil_xlstm {
namespace {

named<"xlstm_norm", layer_norm<>> norm_of(index width) { return {{extent<>(width)}}; }
bare_slstm_block bare_slstm(index width, index heads) {
  return {sequential{norm_of(width), named<"xlstm", slstm>{{width, heads}}}};
}
slstm_block with_feed_forward(index width, index heads) {
  return slstm_block{{bare_slstm(width, heads)},
                     {{sequential{named<"ffn_norm", layer_norm<>>{{extent<>(width)}},
                                  named<"ffn", feed_forward>{{width, 2 * width, activation::gelu}}}}}};
}
mlstm_block with_mlstm(index width, index heads, index chunk = 4) {
  return {sequential{norm_of(width),
                     named<"xlstm", mlstm>{
                         {.width = width, .heads = heads, .inner = 2 * width, .bias = true, .chunk = chunk}}}};
}

}  // namespace

BOOST_AUTO_TEST_CASE(slstms) {
  check("three heads", slstm{12, 3});
  check("one head, no convolution", slstm{20, 1, 0});
  check("window of 2", slstm{36, 2, 2}, {.samples = 12});
  check("heads of one", slstm{5, 5});
  check("static sizes", basic_slstm<12, 3, 4>{});
}
BOOST_AUTO_TEST_CASE(mlstms) {
  check("two heads, chunks of 4", mlstm{.width = 8, .heads = 2, .inner = 16, .chunk = 4});
  check("one head, one chunk",
        mlstm{.width = 8, .heads = 1, .inner = 24, .conv_window = 2, .qkv_block = 8, .bias = true});
  check("three heads, an empty m of 0", mlstm{.width = 8, .heads = 3, .inner = 12, .chunk = 3, .empty_m = 0});
  check("heads of one", mlstm{.width = 4, .heads = 3, .inner = 3, .qkv_block = 1, .chunk = 2});
  check("static sizes", basic_mlstm<8, 3, 12, 4>{.chunk = 4});
}
BOOST_AUTO_TEST_CASE(large_mlstms) {
  check("two heads, chunks of 4", mlstm_v2{.width = 8, .heads = 2, .query = 6, .value = 10, .chunk = 4});
  check("one head, one chunk", mlstm_v2{.width = 5, .query = 3, .value = 7, .gate_cap = 1.5});
  check("heads of one query, no cap",
        mlstm_v2{.width = 4, .heads = 3, .query = 3, .value = 6, .gate_cap = 0, .chunk = 2});
  check("wide values", mlstm_v2{.width = 6, .query = 8, .value = 36, .norm_epsilon = 1e-2, .chunk = 3},
        {.samples = 12});
}
BOOST_AUTO_TEST_CASE(layers) {
  const testing::block_options few{.samples = 6};
  check("bare sLSTM", bare_slstm(6, 3), few);
  check("sLSTM", with_feed_forward(6, 1), few);
  check("mLSTM", with_mlstm(6, 3), few);
  for (const xlstm_layer& layer :
       {xlstm_layer(with_mlstm(8, 2)), xlstm_layer(with_feed_forward(8, 2)), xlstm_layer(bare_slstm(8, 2))})
    check("a layer chosen at run time", layer, few);
}
BOOST_AUTO_TEST_CASE(stacks) {
  xlstm_stack stack;
  stack.blocks.blocks = {with_feed_forward(8, 2), with_mlstm(8, 2), bare_slstm(8, 4), with_mlstm(8, 1)};
  check("stack", stack, {.samples = 4});
  stack.post_blocks_norm = false;
  check("stack without a norm", stack, {.samples = 2});
  const xlstm_7b_config large{
      .width = 8, .blocks = 2, .heads = 2, .feed_forward_multiple = 4, .norm_epsilon = 1e-3};
  check("stack of xLSTM-7B", large.stack(), {.samples = 4});
}

}  // namespace distil_xlstm
