#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include <benchmark/benchmark.h>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/load_language_model.hpp>
#include <distil_xlstm/model/quantise.hpp>

#include "../random_decoder.hpp"

// One text written token by token, its weights stored in several ways, and how near that is to reading them at the
// memory's speed: bytes of the matrices a token times tokens a second, beside what the same threads read in the same run.
// The teacher is the file that DISTIL_XLSTM_TEACHER names, or the one that examples/quickstart.sh fetches; the student, six
// blocks of random numbers of SmolLM2's width. 0 threads: as many as there are cores.

namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;

fs::path teacher_path() {
  const char* given = std::getenv("DISTIL_XLSTM_TEACHER");
  return given ? given : "build/quickstart/SmolLM2-135M-Instruct.Q4_1.gguf";
}

/// A folder that goes with the program.
struct temporary_folder {
  fs::path path = fs::temp_directory_path() / ("distil_xlstm_decode_" + std::to_string(::getpid()));
  temporary_folder() { fs::create_directories(path); }
  ~temporary_folder() {
    std::error_code none;
    fs::remove_all(path, none);
  }
};
const fs::path& folder() {
  static const temporary_folder made;
  return made.path;
}

/// How weights are stored; `file`: as the teacher's file has them.
enum as { f32, b16, q8, q4, file };
constexpr const char* names[] = {"F32", "BF16", "Q8_0", "Q4_0", "as in the file"};

/// A transformer's folder, its tensors as `type`.
void write_teacher(const fs::path& folder, dtype type) {
  fs::create_directories(folder);
  device::cpu device;
  detail::llama_files files(teacher_path());
  io::write_text_atomically(folder / "config.json", write_llama_config(files.config).dump());
  io::safetensors_writer out;
  const manifest all = tensors_of(files.config);
  for (const auto& e : all) out.declare(e.name, type, e.shape);
  out.open(folder / "model.safetensors");
  for (const auto& e : all) {
    const stored_tensor t = files.find(device, e.name, false);
    std::vector<float> x(static_cast<std::size_t>(e.size));
    unpack(t.dtype, t.data, e.size, x.data());
    out.append(x.data(), e.size);
  }
  out.commit();
}
/// The model as it is asked for.
fs::path stored(bool of_student, as type) {
  const fs::path made = folder() / ((of_student ? "student " : "teacher ") + std::string(names[type]));
  if (fs::exists(made)) return made;
  if (type == q8 || type == q4) {
    quantise(of_student ? stored(true, f32) : teacher_path(), type == q8 ? dtype::q8_0 : dtype::q4_0, made);
  } else if (of_student) {
    device::cpu device;
    const random_decoder<device::cpu> random(device);
    save_xlstm(device, random.student, made, type == f32 ? dtype::f32 : dtype::bf16);
  } else if (type == file) {
    return teacher_path();
  } else {
    write_teacher(made, type == f32 ? dtype::f32 : dtype::bf16);
  }
  return made;
}

/// Bytes a second that the threads of `device` read of so many, again and again, as decoding does its weights: where a
/// cache holds them it holds a model of this size, too.
double read_bandwidth(device::cpu& device, index bytes) {
  static std::vector<std::uint64_t> memory;
  memory.resize(static_cast<std::size_t>(bytes) / 8, 1);
  const index parts = 64, each = std::ssize(memory) / parts;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(parts));
  double best = 0;
  for (int round = 0; round < 12; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    parallel_for(device, parts, [&](index p) {
      std::uint64_t s[16] = {};
      const std::uint64_t* x = memory.data() + p * each;
      for (index i = 0; i + 16 <= each; i += 16)
        for (int l = 0; l < 16; ++l) s[l] += x[i + l];
      for (const auto one : s) sums[static_cast<std::size_t>(p)] += one;
    });
    benchmark::DoNotOptimize(sums.data());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(bytes) / took.count());
  }
  return best;
}

void decode(benchmark::State& state) {
  const bool of_student = state.range(0) == 1;
  const auto type = static_cast<as>(state.range(1));
  if (!of_student && !fs::exists(teacher_path())) {
    state.SkipWithError(("no teacher at " + teacher_path().string()).c_str());
    return;
  }
  const fs::path path = stored(of_student, type);
  device::cpu device(static_cast<int>(state.range(2)));
  const auto model = load_language_model<float>(device, path);
  index bytes = 0;  // the embedding is the head: all of it is read
  const io::tensor_folder files(path);
  for (const auto& [name, t] : files.tensors()) bytes += t->bytes;
  decoder texts(device, model, {.capacity = 1, .context = 1024});
  const std::int32_t first = 1;
  texts.join(std::span(&first, 1), {.temperature = 0});
  texts.step([](auto, std::int32_t) { return true; });  // maps the file
  const auto begin = std::chrono::steady_clock::now();
  for (auto _ : state) texts.step([](auto, std::int32_t) { return true; });
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  const double a_token = took.count() / static_cast<double>(state.iterations());
  state.SetLabel((of_student ? "student, " : "teacher, ") + std::string(names[type]));
  state.counters["tokens/s"] = 1 / a_token;
  state.counters["MB_a_token"] = static_cast<double>(bytes) / 1e6;
  state.counters["GB/s"] = static_cast<double>(bytes) / a_token / 1e9;
  state.counters["memory_GB/s"] = read_bandwidth(device, bytes) / 1e9;
}

BENCHMARK(decode)
    ->ArgNames({"student", "as", "threads"})
    ->ArgsProduct({{0}, {f32, b16, q8, q4, file}, {1, 0}})
    ->ArgsProduct({{1}, {f32, b16, q8, q4}, {1, 0}})
    ->Iterations(96)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace distil_xlstm

BENCHMARK_MAIN();
