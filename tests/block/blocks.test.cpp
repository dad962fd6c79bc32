#define BOOST_TEST_MODULE blocks
#include <boost/test/unit_test.hpp>

#include <distil_xlstm/block/feed_forward.hpp>
#include <distil_xlstm/block/mixed.hpp>
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/repeat.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/device/cpu_mlstm.hpp>
#include <distil_xlstm/device/cpu_slstm.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>

namespace distil_xlstm {
namespace {

device::cpu& cpu() {
  static device::cpu device(2);
  return device;
}

/// Two sequences of 11 tokens; a document begins inside the first, one at the very start of the second.
struct documents {
  std::vector<std::int32_t> start;
  sequence_view view;
  explicit documents(index time = 11) {
    start.assign(static_cast<std::size_t>(2 * time), -1);
    for (index t = time / 2; t < time; ++t)
      start[static_cast<std::size_t>(t)] = static_cast<std::int32_t>(time / 2);
    for (index t = 0; t < time; ++t) start[static_cast<std::size_t>(time + t)] = 0;
    view = {2, time, start.data()};
  }
};

/// A state that a random prefix leaves behind.
template <class H>
void start_from_a_past(H& h) {
  rng random(77);
  std::vector<double> keep(h.x.data(), h.x.data() + h.x.size());
  const auto seq = h.seq;
  h.seq.start = nullptr;
  for (index i = 0; i < h.x.size(); ++i) h.x.data()[i] = random.normal();
  h.reset();
  h.forward();
  h.initial_state.assign(h.states.data(), h.states.data() + h.states.size());
  std::copy(keep.begin(), keep.end(), h.x.data());
  h.seq = seq;
}

template <class B>
void check(B block, double limit = 1e-7) {
  for (bool past : {false, true})
    for (bool boundaries : {false, true}) {
      documents docs;
      if (!boundaries) docs.view.start = nullptr;
      testing::harness<B, double, device::cpu> h(block, cpu(), docs.view);
      if (past) start_from_a_past(h);
      const auto report = testing::check_gradients(h);
      BOOST_TEST_CONTEXT("past " << past << ", documents " << boundaries << ", worst tensor "
                                 << report.worst_tensor)
      BOOST_TEST(report.worst_error <= limit);
    }
}

using slstm_block =
    sequential<residual<sequential<named<"xlstm_norm", layer_norm<>>, named<"xlstm", slstm>>>,
               residual<sequential<named<"ffn_norm", layer_norm<>>, named<"ffn", feed_forward>>>>;
using mlstm_block = residual<sequential<named<"xlstm_norm", layer_norm<>>, named<"xlstm", mlstm>>>;
using stack = repeat<dynamic, mixed<slstm_block, mlstm_block>>;

slstm_block make_slstm(index width, index heads) {
  return slstm_block{
      {sequential{named<"xlstm_norm", layer_norm<>>{{width}}, named<"xlstm", slstm>{{width, heads}}}},
      {sequential{named<"ffn_norm", layer_norm<>>{{width}},
                  named<"ffn", feed_forward>{{width, 2 * width, activation::gelu}}}}};
}
mlstm_block make_mlstm(index width, index heads, index chunk = 4) {
  return {sequential{named<"xlstm_norm", layer_norm<>>{{width}},
                     named<"xlstm", mlstm>{
                         {.width = width, .heads = heads, .inner = 2 * width, .bias = true, .chunk = chunk}}}};
}

}  // namespace

BOOST_AUTO_TEST_CASE(gradients_of_the_small_blocks) {
  check(linear<>{12, 20, true});
  check(layer_norm<>{24, 3});
  check(rms_norm<>{24});
  check(feed_forward{8, 24, activation::selu});
  check(feed_forward{8, 24, activation::relu_squared, true});
}
BOOST_AUTO_TEST_CASE(gradients_of_slstm) {
  check(slstm{12, 3});
  check(slstm{20, 1, 0});
  check(slstm{36, 2, 2});
}
BOOST_AUTO_TEST_CASE(gradients_of_mlstm) {
  check(mlstm{.width = 8, .heads = 2, .inner = 16, .chunk = 4});
  check(
      mlstm{.width = 8, .heads = 1, .inner = 24, .conv_window = 2, .qkv_block = 8, .bias = true, .chunk = 64});
  check(mlstm{.width = 8, .heads = 4, .inner = 16, .chunk = 3, .empty_m = 0});
}
BOOST_AUTO_TEST_CASE(gradients_of_a_stack) {
  check(stack{{make_slstm(8, 2), make_mlstm(8, 2), make_slstm(8, 2), make_mlstm(8, 4)}});
}

}  // namespace distil_xlstm
