#pragma once

#include <type_traits>

#include <benchmark/benchmark.h>
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>

// A student whose sizes the compiler knows beside the same one whose sizes are told when it runs: forward and
// backward of a batch, and one token of one text.
namespace distil_xlstm::bench {

/// Twice an mLSTM and an sLSTM of `width` channels, 4 heads, a window of 4; `Width` is the width, or dynamic,
/// and then the others are, too.
template <index Width>
auto layers(index width) {
  constexpr bool fixed = Width != dynamic;
  constexpr index four = fixed ? 4 : dynamic, inner = fixed ? 2 * Width : dynamic;
  const auto layer = [width](auto cell) {
    return residual{sequential{layer_norm<Width>{extent<Width>(width)}, cell}};
  };
  basic_mlstm<Width, four, inner, four> m;
  m.width = extent<Width>(width), m.heads = extent<four>(4), m.inner = extent<inner>(2 * width);
  basic_slstm<Width, four, four> s;
  s.width = extent<Width>(width), s.heads = extent<four>(4);
  return stack{repeated(2, sequential{layer(m), layer(s)})};
}

template <class D, index Width>
void training(benchmark::State& state) {
  D device;
  const auto blocks = layers<Width>(state.range(0));
  testing::harness<std::remove_const_t<decltype(blocks)>, float, D> h(blocks, device, {4, 128}, 1, 0.05);
  for (auto _ : state) {
    h.reset();
    h.forward();
    h.backward();
    benchmark::DoNotOptimize(testing::on_host(device, h.dx).data());  // a GPU is waited for
  }
  state.SetItemsProcessed(state.iterations() * h.seq.rows());
}

template <class D, index Width>
void decoding(benchmark::State& state) {
  D device;
  const auto blocks = layers<Width>(state.range(0));
  const sequence_view one{1, 1};
  testing::harness<std::remove_const_t<decltype(blocks)>, float, D> h(blocks, device, one, 1, 0.05);
  const auto tape = make_scratch<float>(device, [&](layout<float>& l) {
    l.transient(true);
    return blocks.tape(l, one);
  });
  for (auto _ : state) {
    blocks.forward(device, one, h.p, h.s, tape.views, h.in(), h.out());
    benchmark::DoNotOptimize(testing::on_host(device, h.y).data());
  }
  state.SetItemsProcessed(state.iterations());
}

/// Tokens a second of each.
template <class D, index Width>
void compare() {
  const auto add = [](const char* name, auto* run) {
    benchmark::RegisterBenchmark(name, run)->Arg(Width)->UseRealTime();
  };
  add("training, dynamic", training<D, dynamic>);
  add("training, fixed", training<D, Width>);
  add("decoding, dynamic", decoding<D, dynamic>);
  add("decoding, fixed", decoding<D, Width>);
}

}  // namespace distil_xlstm::bench
