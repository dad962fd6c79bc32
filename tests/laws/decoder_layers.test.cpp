#include <cmath>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/model/llama.hpp>
#include <distil_xlstm/model/memory.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "check.hpp"

// The laws of Block, for the layers of a transformer and of what it becomes with a recurrent memory.
namespace distil_xlstm {
namespace {

/// softmax_features is a part of other blocks: this makes it one of its own.
struct features_block : softmax_features {
  template <class L>
  no_state state(L&) const {
    return {};
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    return l.matrix("phi", seq.rows(), width_out());
  }
  template <class D, class P, class S, class K, class T>
  void forward(D& d, sequence_view, const P& p, const S&, const K& k, matrix_view<const T> x,
               matrix_view<T> y) const {
    softmax_features::forward(d, p, x, k);
    transform(d, y, math::identity{}, k);
  }
  template <class D, class P, class G, class K, class T>
  void backward(D& d, sequence_view, const P& p, const G& g, const K& k, matrix_view<const T> x,
                matrix_view<const T> dy, matrix_view<T> dx) const {
    softmax_features::backward(d, p, g, x, k, dy, dx);
  }
};

attention heads_of(index heads, index kv_heads, index window, index sinks, index capacity = 0) {
  return {.width = 10,
          .heads = heads,
          .kv_heads = kv_heads,
          .head_dim = 6,
          .theta = 100,
          .bias = true,
          .capacity = capacity,
          .window = window,
          .sinks = sinks};
}
hybrid_attention hybrid(index heads, index kv_heads, index window, index sinks, index features = 6) {
  return {.base = heads_of(heads, kv_heads, window, sinks), .features = features, .chunk = 3};
}

/// What two calls give in the second, over a tape that a backward may follow or a transient one.
template <class B>
std::vector<double> second_of_two(const B& block, bool transient) {
  device::basic_cpu<fp64> d(1);
  const sequence_view seq{2, 6, nullptr};
  layout<double> size;
  block.params(size);
  std::vector<double> weights(static_cast<std::size_t>(size.size())),
      x(static_cast<std::size_t>(seq.rows() * block.width_in())), y(x.size());
  rng random(1);
  for (auto* m : {&weights, &x})
    for (double& e : *m) e = 0.5 * random.normal();
  layout<double> over(weights.data());
  const auto p = block.params(over);
  state_memory<B, double, device::basic_cpu<fp64>> state(d, block, seq.batch);
  const auto tape = make_scratch<double>(d, [&](auto& l) {
    l.transient(transient);
    return block.tape(l, seq);
  });
  for (int call = 0; call < 2; ++call)
    block.forward(d, seq, p, state.views(), tape.views,
                  matrix_view<const double>(x.data(), seq.rows(), block.width_in()),
                  matrix_view<double>(y.data(), seq.rows(), block.width_in()));
  return y;
}

}  // namespace

BOOST_AUTO_TEST_CASE(feature_maps) {
  check("three heads", features_block{{3, 3, 4, 5}});
  check("heads that share an input", features_block{{6, 2, 4, 4}});
  check("one sign", features_block{{4, 2, 3, 9, false}});
  check("one head", features_block{{1, 1, 20, 17}}, {.samples = 12});
}
BOOST_AUTO_TEST_CASE(hybrids) {
  check("a window and sinks", hybrid(4, 2, 3, 1));
  check("without a window", hybrid(4, 2, 0, 0));
  check("a window alone, heads apart", hybrid(2, 2, 2, 0));
  hybrid_attention one = hybrid(3, 1, 4, 2, 9);
  one.both = false, one.chunk = 64, one.cell_epsilon = 1e-2;
  check("one sign, one key head, an epsilon", one);
  one.base.head_norms = true, one.base.output_bias = true;
  check("norms of the heads, a bias of the output", one);
  one.base.rotates = false;
  check("without positions", one, {.samples = 8});
  check("a longer text", hybrid(2, 1, 5, 2), {.time = 50, .samples = 5});
}
BOOST_AUTO_TEST_CASE(layers) {
  const testing::block_options few{.samples = 6};
  const decoder_layer plain{heads_of(4, 2, 0, 0, 14), 7}, window{heads_of(4, 2, 3, 1), 7};
  const hybrid_decoder_layer both{hybrid(4, 2, 3, 1), 7}, memory{hybrid(4, 2, 0, 0), 7};
  check("attention", plain, few);
  check("hybrid", both, few);
  hybrid_decoder_layer normed = both;
  normed.mixer.base.head_norms = true, normed.mixer.base.rotates = false;
  check("hybrid, heads with norms and without positions", normed, few);
  for (const any_decoder_layer& layer : {any_decoder_layer(plain), any_decoder_layer(window),
                                         any_decoder_layer(both), any_decoder_layer(memory)})
    check("chosen when the program runs", layer, few);
  stack<any_decoder_layer, dynamic, named<"norm", rms_norm<>>, "layers"> all;
  all.blocks.blocks = {both, plain, window, memory};
  check("a stack of all", all, {.samples = 3});
}
/// Layers share their angles over a tape that a backward may follow, and these do not over a transient one: attention
/// that counts from the call's first token, mixers that count on, one of them slower, one without positions.
BOOST_AUTO_TEST_CASE(angles_that_layers_share) {
  const decoder_layer plain{heads_of(4, 2, 0, 0), 7};
  decoder_layer slow{heads_of(4, 2, 3, 0), 7}, still = slow;
  slow.mixer.theta = 1000, still.mixer.rotates = false;
  const hybrid_decoder_layer both{hybrid(4, 2, 3, 1), 7}, memory{hybrid(4, 2, 0, 0), 7};
  stack<any_decoder_layer, dynamic, named<"norm", rms_norm<>>, "layers"> all;
  all.blocks.blocks = {still, plain, both, slow, plain, memory};
  const auto kept = second_of_two(all, false), transient = second_of_two(all, true);
  for (std::size_t i = 0; i < kept.size(); ++i)
    BOOST_TEST(std::abs(kept[i] - transient[i]) <= testing::tolerance<double>::forms * 10);
}

}  // namespace distil_xlstm
