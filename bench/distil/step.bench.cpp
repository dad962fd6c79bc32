#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/xlstm.hpp>

#include "../distillation_step.hpp"
#include "../random_decoder.hpp"

// A whole distillation step with a live teacher, and where its time goes; and the student's decoding. The
// teacher is the file that DISTIL_XLSTM_TEACHER names, or the one that examples/quickstart.sh fetches.

namespace distil_xlstm {
namespace {

template <Precision P>
using cpu = device::basic_cpu<P>;
namespace fs = std::filesystem;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
fs::path teacher_path() {
  const char* given = std::getenv("DISTIL_XLSTM_TEACHER");
  return given ? given : "build/quickstart/SmolLM2-135M-Instruct.Q4_1.gguf";
}

template <Precision P>
void step(benchmark::State& state, P) {
  if (!fs::exists(teacher_path())) {
    state.SkipWithError(("no teacher at " + teacher_path().string()).c_str());
    return;
  }
  const index batch = state.range(0), length = state.range(1);
  cpu<P> device;
  const auto teacher = load_llama<float>(device, teacher_path());
  distillation_step training(device, teacher, batch, length);
  auto& run = training.run;
  run.timer(now);
  const step_times before = run.times();
  double steps = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(run.step().total);
    ++steps;
  }
  const step_times& t = run.times();
  const double tokens = static_cast<double>(batch * length);
  state.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsIterationInvariantRate);
  const auto part = [&](const char* name, double seconds) { state.counters[name] = 1e3 * seconds / steps; };
  part("teacher_ms", t.teacher - before.teacher), part("forward_ms", t.forward - before.forward);
  part("objective_ms", t.objective - before.objective), part("backward_ms", t.backward - before.backward);
  part("optimiser_ms", t.optimiser - before.optimiser);
}

/// One token at a time, head and choice included.
template <Precision P>
void decode(benchmark::State& state, P) {
  cpu<P> device;
  const random_decoder<cpu<P>> model(device);
  decoder texts(device, model.student, {.capacity = 1});
  const std::int32_t first = 1;
  texts.join(std::span(&first, 1), {.temperature = 0});
  for (auto _ : state) texts.step([](auto, std::int32_t) { return true; });
  state.counters["tokens/s"] = benchmark::Counter(1, benchmark::Counter::kIsIterationInvariantRate);
}

/// Texts of 32 to 256 tokens after prompts of 8 to 64, each in the place of one that is over; only tokens that
/// were drawn count.
template <Precision P>
void decode_ragged(benchmark::State& state, P) {
  cpu<P> device;
  const random_decoder<cpu<P>> model(device);
  using batch_type = decoder<xlstm<float, cpu<P>>>;
  batch_type batch(device, model.student, {.capacity = state.range(0)});
  rng random(6);
  const auto between = [&](index low, index high) {
    return low + static_cast<index>(random.below(static_cast<std::uint64_t>(high - low + 1)));
  };
  std::map<typename batch_type::handle, index> left;
  std::vector<std::int32_t> prompt;
  const auto join = [&](index length) {
    prompt.resize(static_cast<std::size_t>(between(8, 64)));
    for (auto& id : prompt) id = static_cast<std::int32_t>(between(0, model.vocabulary - 1));
    left[batch.join(prompt, {.temperature = 0})] = length;
  };
  while (batch.free() > 0) join(between(1, 256));
  double tokens = 0;
  const auto step = [&] {
    tokens += static_cast<double>(batch.step([&](auto text, std::int32_t) {
      if (--left.at(text) > 0) return true;
      left.erase(text);
      batch.leave(text);
      join(between(32, 256));
      return false;
    }));
  };
  while (tokens == 0 || batch.texts() < batch.places()) step();
  for (int i = 0; i < 5; ++i) step();
  tokens = 0;
  for (auto _ : state) step();
  state.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
}

BENCHMARK_CAPTURE(step, fp32, fp32())
    ->Args({4, 512})
    ->Args({8, 128})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(step, bf16, bf16_mixed())
    ->Args({4, 512})
    ->Args({8, 128})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode, fp32, fp32())->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode, bf16, bf16_mixed())->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode_ragged, fp32, fp32())->Arg(8)->Arg(64)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode_ragged, bf16, bf16_mixed())
    ->Arg(8)
    ->Arg(64)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace distil_xlstm

BENCHMARK_MAIN();
