#include <boost/test/unit_test.hpp>

#include <distil_xlstm/block/attention.hpp>
#include <distil_xlstm/block/causal_conv1d.hpp>
#include <distil_xlstm/block/feed_forward.hpp>
#include <distil_xlstm/block/headwise_linear.hpp>
#include <distil_xlstm/block/mixed.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/repeat.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/swiglu.hpp>

#include "check.hpp"

// The laws of Block, for every block but the recurrent cells (cells.test.cpp).
namespace distil_xlstm {
namespace {

/// headwise_linear is a part of other blocks: this makes it one of its own.
struct headwise_block : headwise_linear {
  template <class L>
  no_state state(L&) const {
    return {};
  }
  template <class L>
  no_state tape(L&, sequence_view) const {
    return {};
  }
  template <class D, class P, class S, class K, class T>
  void forward(D& d, sequence_view, const P& p, const S&, const K&, matrix_view<const T> x,
               matrix_view<T> y) const {
    headwise_linear::forward(d, p, x, y);
  }
  template <class D, class P, class G, class K, class T>
  void backward(D& d, sequence_view, const P& p, const G& g, const K&, matrix_view<const T> x,
                matrix_view<const T> dy, matrix_view<T> dx) const {
    headwise_linear::backward(d, p, g, x, dy, dx);
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(maps) {
  check("linear", linear<>{12, 20, true});
  check("linear without bias", linear<5, 3>{});
  check("one by one", linear<>{1, 1, true});
  check("one head", headwise_block{{1, 5, true}});
  check("three heads", headwise_block{{3, 4, true}});
  check("heads of one", headwise_block{{7, 1}});
  check("wide heads", headwise_block{{2, 65}}, {.samples = 12});
}
BOOST_AUTO_TEST_CASE(norms) {
  check("layer_norm", layer_norm<>{24});
  check("layer_norm of two heads", layer_norm<>{24, 2});
  check("layer_norm of three heads", layer_norm<>{24, 3});
  check("layer_norm of static width", layer_norm<9>{{}, 3});
  check("plain_layer_norm", plain_layer_norm<>{20});
  check("rms_norm", rms_norm<>{24});
  check("rms_norm of three heads", rms_norm<>{27, 3});
}
BOOST_AUTO_TEST_CASE(convolutions) {
  check("window of 4", causal_conv1d{10, 4});
  check("window of 2", causal_conv1d{3, 2});
  check("window of 3, fixed", basic_causal_conv1d<17, 3>{});
  check("window beyond the text", causal_conv1d{17, 9});
}
BOOST_AUTO_TEST_CASE(feed_forwards) {
  for (const auto act : {activation::gelu, activation::selu, activation::silu, activation::relu_squared})
    check("feed_forward", feed_forward{8, 24, act});
  check("feed_forward with bias", feed_forward{5, 7, activation::sigmoid, true});
  check("swiglu", swiglu{10, 17});
}
BOOST_AUTO_TEST_CASE(attentions) {
  check("rotary", rotary{24, 8, 100.0});
  attention grouped{
      .width = 12, .heads = 4, .kv_heads = 2, .head_dim = 6, .bias = true, .output_bias = true, .capacity = 14};
  check("grouped attention", grouped);
  grouped.capacity = 80;
  check("a longer text", grouped, {.time = 40, .samples = 6});
  grouped.heads = 3, grouped.kv_heads = 3, grouped.bias = false;
  check("three heads", grouped);
  grouped.heads = grouped.kv_heads = 1, grouped.output_bias = false;
  check("one head", grouped);
  attention normed{.width = 12,
                   .heads = 4,
                   .kv_heads = 2,
                   .head_dim = 6,
                   .output_bias = true,
                   .capacity = 14,
                   .head_norms = true};
  check("norms of the heads", normed);
  normed.head_dim = 10, normed.bias = true;
  check("norms of wider heads", normed);
  normed.rotates = false;
  check("without positions", normed);
  normed.head_norms = normed.bias = false;  // a bias of such keys would change nothing
  check("without positions or norms", normed);
}
BOOST_AUTO_TEST_CASE(windows) {
  attention near{.width = 12,
                 .heads = 4,
                 .kv_heads = 2,
                 .head_dim = 6,
                 .theta = 100,
                 .bias = true,
                 .window = 3,
                 .sinks = 2};
  check("a window of 3 and two sinks", near);
  near.window = 2, near.sinks = 0;
  check("a window of 2", near, {.time = 9});
  near.window = 1;
  check("a window of 1", near);
  near.sinks = 5;
  check("more sinks than the window holds", near, {.time = 8});
  near.window = 11, near.sinks = 4;
  check("a longer text", near, {.time = 80, .samples = 4});
  near.window = 300;
  check("a window beyond the text", near);
}
BOOST_AUTO_TEST_CASE(compositions) {
  const linear<> narrow{6, 4, true}, wide{4, 6, true};
  check("residual", residual{sequential{narrow, wide}});
  check("sequential", sequential{narrow, causal_conv1d{4, 3}, wide, rms_norm<>{6}});
  check("one in sequence", sequential{causal_conv1d{4, 3}});
  check("sequential of sequential", sequential{sequential{narrow, wide}, sequential{narrow}});
  check("named", named<"conv", causal_conv1d>{{4, 3}});
  using layer = residual<sequential<rms_norm<>, causal_conv1d>>;
  const layer one{sequential{rms_norm<>{4}, causal_conv1d{4, 3}}};
  check("repeat", repeat<3, layer>{{one, one, one}});
  check("repeated", repeated(2, one));
  using either = mixed<causal_conv1d, residual<linear<>>>;
  const either conv = causal_conv1d{4, 3}, map = residual{linear<>{4, 4}};
  check("mixed", conv);
  check("mixed, the other", map);
  check("repeat of mixed", repeat<dynamic, either>{{conv, map, conv}});
}
BOOST_AUTO_TEST_CASE(widths_that_do_not_fit_are_named_when_a_block_is_bound) {
  const auto says = [](const auto& block, const char* text) {
    layout<float> measure;
    BOOST_CHECK_EXCEPTION(block.params(measure), error,
                          [&](const error& e) { return e.what() == std::string(text); });
  };
  const linear<> narrow{6, 4}, same{6, 6};
  says(residual{narrow}, "residual: the inner block maps width 6 to 4");
  says(sequential{same, narrow, same}, "sequential: block 1 gives width 4, block 2 takes 6");
  says(repeat<dynamic, linear<>>{{same, narrow, same}}, "repeat: block 1 gives width 4, block 2 takes 6");
  says(repeat<dynamic, linear<>>{}, "repeat: no blocks");
  says(layer_norm<>{8, 3}, "norm: 3 groups do not divide the width 8");
}

}  // namespace distil_xlstm
