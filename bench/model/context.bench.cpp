#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/load_linearised.hpp>
#include <distil_xlstm/op/logits/op.hpp>
#include <distil_xlstm/op/sampling/op.hpp>

// What a token costs at a length of text, and what its memory takes: a transformer (every layer keeps attention), the
// linearised one where five layers keep it, and where none does. The first argument is how many layers keep attention, the
// second the tokens read before. The text before is of random keys, values and sums, so that nobody waits for it to be
// read. The teacher is the file that DISTIL_XLSTM_TEACHER names, or the one that examples/quickstart.sh fetches.

namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;

/// Sequence 0 of `state` has read `tokens` tokens.
template <class State>
void pretend(State& state, index tokens) {
  auto numbers = state.save(0);
  rng random(3);
  for (const auto& e : state.names()) {
    const auto first = numbers.begin() + e.offset;
    if (e.name.ends_with("position"))
      std::fill_n(first, e.size, static_cast<float>(tokens));
    else
      std::generate_n(first, e.size, [&] { return static_cast<float>(random.uniform()); });
  }
  state.restore(0, numbers);
}

void decode(benchmark::State& state) {
  const char* given = std::getenv("DISTIL_XLSTM_TEACHER");
  const fs::path path = given ? given : "build/quickstart/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!fs::exists(path)) {
    state.SkipWithError(("no teacher at " + path.string()).c_str());
    return;
  }
  device::cpu device;
  linearised_config mixers;
  const index kept = state.range(0), tokens = state.range(1);
  // The layers of SmolLM2 that `distil linearise --keep-attention` finds, then the others.
  mixers.mixers.assign(30, kept == 30 ? mixer_kind::attention : mixer_kind::hybrid);
  const index found[] = {18, 8, 23, 7, 17};
  for (index i = 0; i < kept && kept <= 5; ++i)
    mixers.mixers[static_cast<std::size_t>(found[i])] = mixer_kind::attention;
  const auto model = linearise<float>(device, path, mixers, 1);
  constexpr index room = 4096;  // more than the steps that are measured
  auto memory = model.make_state(device, 1, tokens + room);
  pretend(memory, tokens);
  const buffer<float, device::cpu> rows(device, model.width() + model.vocabulary());
  const matrix_view<float> hidden(rows.data(), 1, model.width()),
      logits(rows.data() + model.width(), 1, model.vocabulary());
  std::int32_t id = 1;
  for (auto _ : state) {
    model.forward(device, {1, 1}, &id, memory, hidden);
    write_logits(device, matrix_view<const float>(hidden), model.head(), logits);
    choose_tokens(device, matrix_view<const float>(logits), nullptr, nullptr, &id);
  }
  // Of the memory that a place of `tokens` tokens takes; what is recurrent does not depend on it.
  layout<float> text;
  text.capacity(tokens);
  model.stack().state(text);
  state.counters["text_MiB"] = static_cast<double>(text.size()) * sizeof(float) / (1 << 20);
}

BENCHMARK(decode)
    ->ArgNames({"kept", "tokens"})
    ->ArgsProduct({{30, 5, 0}, {512, 8192, 65536}})
    ->Iterations(64)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace distil_xlstm

BENCHMARK_MAIN();
