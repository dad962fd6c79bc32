#include "measure.cuh"
#include "parts.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <cuda_profiler_api.h>

#include <distil_xlstm/distil/linearised_rates.hpp>
#include <distil_xlstm/distil/mixer_trainer.hpp>
#include <distil_xlstm/distil/token_text.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/loss/kl.hpp>
#include <distil_xlstm/model/load_linearised.hpp>
#include <distil_xlstm/model/load_llama.hpp>

#include "../../distillation_step.hpp"

namespace distil_xlstm::bench {
namespace {

/// Twelve steps, and what parts of them take. `free_before` is the card's memory before anything was made.
template <class Trainer>
void time_steps(const std::string& name, Trainer& run, std::size_t free_before, const char* peer) {
  std::size_t free_after = 0, total = 0;
  std::vector<double> steps;
  for (int i = 0; i < 12; ++i) {
    const double begin = now();
    run.step();
    steps.push_back(now() - begin);
  }
  std::sort(steps.begin(), steps.end());
  cudaMemGetInfo(&free_after, &total);
  const double seconds = steps[steps.size() / 2];
  const auto& o = run.options();
  std::printf("| step %s %ld x %ld | %.1f ms | %.0f tokens/s | %.1f GiB | %s |\n", name.c_str(),
              static_cast<long>(o.batch), static_cast<long>(o.length), 1e3 * seconds,
              static_cast<double>(o.batch * o.length) / seconds,
              static_cast<double>(free_before - free_after) / 1073741824.0, peer);
  cudaProfilerStart();  // ncu --profile-from-start off sees this step
  run.step();
  cudaProfilerStop();
  run.timer(now);
  for (int i = 0; i < 3; ++i) run.step();
  const step_times& t = run.times();
  std::printf(
      "|   of it, ms | teacher %.1f | forward %.1f | objective %.1f | backward %.1f | optimiser %.2f |\n",
      1e3 * t.teacher / 3, 1e3 * t.forward / 3, 1e3 * t.objective / 3, 1e3 * t.backward / 3,
      1e3 * t.optimiser / 3);
  std::fflush(stdout);
}

std::size_t free_memory() {
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  return free;
}

}  // namespace

template <Precision P>
void step(device::basic_cuda<P>& d, const char* name, const std::filesystem::path& teacher_folder, index batch,
          index length, const char* peer) {
  const std::size_t free_before = free_memory();
  const auto teacher = load_llama<float>(d, teacher_folder);
  distillation_step training(d, teacher, batch, length);
  time_steps(name, training.run, free_before, peer);
}
template <Precision P>
void linearised_steps(device::basic_cuda<P>& d, const std::filesystem::path& teacher_folder) {
  const std::size_t free_before = free_memory();
  const auto teacher = load_llama<float>(d, teacher_folder);
  linearised_config c;
  c.mixers.assign(static_cast<std::size_t>(teacher.config().layers), mixer_kind::hybrid);
  for (const std::size_t i : {18, 8, 23, 7, 17}) c.mixers[i] = mixer_kind::attention;
  auto student = linearise<float>(d, teacher_folder, c, 1);
  rng random(2);
  token_text text;
  for (index i = 0; i <= 64 * 512; ++i)
    text.ids.push_back(
        static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(teacher.vocabulary()))));
  const token_windows windows(text, 512);
  training_options o;
  o.batch = 32, o.length = 512, o.total_steps = 100;
  {
    o.rate_of = alignment_rates{&student.config()};
    mixer_trainer align(d, student, windows, teacher, o);
    time_steps("linearise, mixers,", align, free_before, "peer 113k tokens/s");
  }
  o.rate_of = distillation_rates{};
  live_teacher source(teacher);
  trainer distil(d, student, windows, source, loss::kl(1.0), o);
  time_steps("linearise, end to end,", distil, free_before, "peer 108k tokens/s, 28.6 GiB");
}

template void step(device::basic_cuda<fp32>&, const char*, const std::filesystem::path&, index, index,
                   const char*);
template void step(device::basic_cuda<bf16_mixed>&, const char*, const std::filesystem::path&, index, index,
                   const char*);
template void linearised_steps(device::basic_cuda<fp32>&, const std::filesystem::path&);
template void linearised_steps(device::basic_cuda<bf16_mixed>&, const std::filesystem::path&);

}  // namespace distil_xlstm::bench
