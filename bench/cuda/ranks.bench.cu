// What the GPUs of this machine do together: a training step of one and of all, the same batch a GPU; what the sums of
// gradients take by themselves, behind backward and beside it; memory with each GPU's share of the optimiser's moments.
// One table, medians; bfloat16 products.
//
//   bench.cuda.ranks                         everything
//   bench.cuda.ranks links smollm2 linearised qwen qwen32   some of it
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <distil_xlstm/comm/nccl.cuh>
#include <distil_xlstm/comm/tcp.hpp>
#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/distil/linearised_rates.hpp>
#include <distil_xlstm/distil/token_text.hpp>
#include <distil_xlstm/loss/kl.hpp>
#include <distil_xlstm/model/load_linearised.hpp>
#include <distil_xlstm/model/load_llama.hpp>

#include "../distillation_step.hpp"
#include "../random_teacher.hpp"

namespace distil_xlstm {
namespace {

using D = device::basic_cuda<bf16_mixed>;

int gpus() {
  int n = 0;
  cudaGetDeviceCount(&n);
  return n;
}
double now() {
  using clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(clock::now().time_since_epoch()).count();
}
double median(std::vector<double> all) {
  std::sort(all.begin(), all.end());
  return all[all.size() / 2];
}
/// job(device, ranks) on each of `count` GPUs, a thread each.
void on_gpus(int count, const std::function<void(D&, comm::nccl&)>& job) {
  const auto [listening, port] = comm::tcp_session::listen_here();
  std::mutex mutex;
  std::string thrown;
  std::vector<std::thread> threads;
  for (int r = 0; r < count; ++r)
    threads.emplace_back([&, r, listening = listening, port = port] {
      comm::tcp_place place{.rank = r, .size = count, .port = port};
      if (r == 0) place.listening = listening;
      try {
        comm::tcp_session session(place);
        comm::tcp host(session);
        D device(r);
        comm::nccl ranks(host);
        job(device, ranks);
        ranks.barrier();
      } catch (const std::exception& e) {
        const std::scoped_lock lock(mutex);
        thrown += e.what();
      }
    });
  for (auto& t : threads) t.join();
  if (!thrown.empty()) fail(thrown);
}
/// Seconds of a call on all ranks, as rank 0 sees it.
template <class Call>
double seconds(D& d, comm::nccl& ranks, int repeats, const Call& call) {
  std::vector<double> times;
  for (int i = 0; i < repeats + 2; ++i) {
    d.wait(), ranks.barrier();
    const double begin = now();
    call();
    d.wait();
    if (i >= 2) times.push_back(now() - begin);
  }
  return median(times);
}

/// What the links between GPUs can do, and what sums make of it.
void links() {
  if (gpus() < 2) return;
  const index bytes = index{1} << 30;
  void *a = nullptr, *b = nullptr;
  cudaSetDevice(0), cudaDeviceEnablePeerAccess(1, 0), cudaMalloc(&a, static_cast<std::size_t>(bytes));
  cudaSetDevice(1), cudaDeviceEnablePeerAccess(0, 0), cudaMalloc(&b, static_cast<std::size_t>(bytes));
  std::vector<double> times;
  for (int i = 0; i < 8; ++i) {
    cudaDeviceSynchronize();
    const double begin = now();
    cudaMemcpyPeerAsync(b, 1, a, 0, static_cast<std::size_t>(bytes));
    cudaDeviceSynchronize();
    times.push_back(now() - begin);
  }
  cudaFree(b), cudaSetDevice(0), cudaFree(a);
  std::printf("| a copy from GPU to GPU, 1 GiB | %.2f ms | %.0f GB/s |\n", 1e3 * median(times),
              static_cast<double>(bytes) / median(times) / 1e9);
  for (const index n : {index{1} << 12, index{1} << 18, index{1} << 24, index{1} << 28, index{1} << 30})
    on_gpus(gpus(), [&](D& d, comm::nccl& ranks) {
      const buffer<float, D> p(d, n);
      const double s = seconds(d, ranks, 10, [&] { ranks.sum(d, p.data(), n); });
      const double moved = 8.0 * static_cast<double>(n) * (gpus() - 1) / gpus();  // each way, of each GPU
      if (ranks.rank() == 0)
        std::printf("| sum of %.3f MB over %d GPUs | %.3f ms | %.0f GB/s each way |\n",
                    4e-6 * static_cast<double>(n), gpus(), 1e3 * s, moved / s / 1e9);
    });
  std::fflush(stdout);
}

/// What a step takes.
struct taken {
  double step = 0;
  double gib = 0;
  index gradients = 0;
};
enum class sums { beside, behind, sharded };
training_options options_of(sums how) {
  training_options o;
  if (how == sums::behind) o.sum_bytes = index{1} << 50;
  o.shard_optimiser = how == sums::sharded;
  return o;
}
std::size_t free_memory() {
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  return free;
}

/// Which ways of summing are measured.
enum class ways { all, beside_alone };
/// One GPU, all, and all otherwise. `measure(device, ranks, batch, options)` makes a trainer and times its steps.
template <class Measure>
void compare(const char* name, index batch, ways which, const Measure& measure) {
  const auto on = [&](int count, sums how) {
    taken out;
    on_gpus(count, [&](D& d, comm::nccl& ranks) {
      const taken mine = measure(d, ranks, batch * count, options_of(how));
      if (ranks.rank() == 0) out = mine;
    });
    return out;
  };
  const auto say = [&](const char* what, int count, const taken& t, double alone) {
    std::printf("| %s, %ld x 512 a GPU, %s | %.2f ms | %.0f tokens/s%s |\n", name, static_cast<long>(batch),
                what, 1e3 * t.step, static_cast<double>(batch * 512 * count) / t.step,
                alone > 0 ? (", " + std::to_string(count * alone / t.step).substr(0, 5) + " x").c_str() : "");
    std::fflush(stdout);
  };
  const taken one = on(1, sums::beside);
  say("one", 1, one, 0);
  if (gpus() < 2) return;
  const taken beside = on(gpus(), sums::beside);
  say("all, gradients summed beside backward", gpus(), beside, one.step);
  if (which == ways::beside_alone) return;
  const taken behind = on(gpus(), sums::behind), sharded = on(gpus(), sums::sharded);
  say("all, behind it", gpus(), behind, one.step);
  say("all, moments sharded", gpus(), sharded, one.step);
  double sum = 0;
  on_gpus(gpus(), [&](D& d, comm::nccl& ranks) {
    const buffer<float, D> p(d, one.gradients);
    const double s = seconds(d, ranks, 10, [&] { ranks.sum(d, p.data(), one.gradients); });
    if (ranks.rank() == 0) sum = s;
  });
  const double bare = behind.step - one.step, left = beside.step - one.step;
  std::printf(
      "|   gradients, %.0f MB, summed alone | %.2f ms | a step is %.2f ms longer, beside backward %.2f |\n",
      4e-6 * static_cast<double>(one.gradients), 1e3 * sum, 1e3 * bare, 1e3 * left);
  std::printf("|   memory a GPU, moments whole, sharded | %.1f GiB | %.1f GiB |\n", beside.gib, sharded.gib);
  std::fflush(stdout);
}
/// `free_before`: of the card's memory before anything was made.
template <class Trainer>
taken steps_of(D& d, comm::nccl& ranks, Trainer& run, std::size_t free_before) {
  run.step(), run.step();
  return {seconds(d, ranks, 12, [&] { run.step(); }),
          static_cast<double>(free_before - free_memory()) / 1073741824.0, run.gradients().size()};
}

void paper_step(const char* name, const std::filesystem::path& folder, index a_gpu) {
  compare(name, a_gpu, ways::all, [&](D& d, comm::nccl& ranks, index batch, training_options options) {
    const std::size_t free_before = free_memory();
    const auto teacher = load_llama<float>(d, folder);
    distillation_step<std::remove_cvref_t<decltype(teacher)>, comm::nccl> training(d, teacher, batch, 512,
                                                                                   ranks, std::move(options));
    return steps_of(d, ranks, training.run, free_before);
  });
}
/// All weights free, no attention kept.
void linearised_step(const char* name, const std::filesystem::path& folder, index a_gpu,
                     ways which = ways::all) {
  compare(name, a_gpu, which, [&](D& d, comm::nccl& ranks, index batch, training_options options) {
    const std::size_t free_before = free_memory();
    const auto teacher = load_llama<float>(d, folder);
    linearised_config c;
    c.mixers.assign(static_cast<std::size_t>(teacher.config().layers), mixer_kind::hybrid);
    auto student = linearise<float>(d, folder, c, 1);
    rng random(2);
    token_text text;
    for (index i = 0; i <= 2 * batch * 512; ++i)
      text.ids.push_back(
          static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(teacher.vocabulary()))));
    const token_windows windows(text, 512);
    options.batch = batch, options.length = 512, options.total_steps = 1000,
    options.rate_of = distillation_rates{};
    live_teacher source(teacher);
    trainer distil(d, student, windows, source, loss::kl(1.0), options, ranks);
    return steps_of(d, ranks, distil, free_before);
  });
}

void table(const std::set<std::string>& asked) {
  const auto wanted = [&](const char* what) { return asked.empty() || asked.count(what) > 0; };
  std::printf("| %d GPUs, NCCL %s | | |\n|---|---|---|\n", gpus(),
              comm::nccl::version_text(comm::nccl::version()).c_str());
  if (wanted("links")) links();
  if (wanted("smollm2") || wanted("linearised")) {
    const random_teacher smollm2(smollm2_shape());
    if (wanted("smollm2")) paper_step("SmolLM2, paper's student", smollm2.folder, 64);
    if (wanted("linearised")) linearised_step("SmolLM2, linearised", smollm2.folder, 32);
  }
  if (wanted("qwen") || wanted("qwen32")) {
    const random_teacher qwen(qwen2_shape());
    if (wanted("qwen")) linearised_step("Qwen2.5-1.5B, linearised", qwen.folder, 8);
    if (wanted("qwen32")) linearised_step("Qwen2.5-1.5B, linearised", qwen.folder, 32, ways::beside_alone);
  }
}

}  // namespace
}  // namespace distil_xlstm

int main(int count, char** words) {
  try {
    distil_xlstm::table(std::set<std::string>(words + 1, words + count));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench: %s\n", e.what());
    return 1;
  }
}
