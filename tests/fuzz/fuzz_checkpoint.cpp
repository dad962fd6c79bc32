// Any bytes as one file of a checkpoint (the first byte says which), a good one as the other: restored, or
// refused with `error`; and then nothing of the trainer has changed.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/loss/expression.hpp>
#include <distil_xlstm/model/model.hpp>

namespace {

namespace dx = distil_xlstm;
namespace fs = std::filesystem;
using cpu = dx::device::cpu;
using student_type = dx::model<dx::linear<4, 4>, float, cpu>;

struct world {
  fs::path folder = fs::path(fs::exists("/dev/shm") ? "/dev/shm" : "/tmp") /
                    ("distil_xlstm-fuzz-checkpoint-" + std::to_string(::getpid()));
  cpu device{1};
  float ends[5 * 4] = {};
  dx::token_text text{{0, 1, 2, 3, 4, 0, 1, 2, 3}};
  dx::token_windows windows{text, 4};
  student_type student{device, dx::linear<4, 4>{}, matrix(), matrix(), nullptr};
  using objective = decltype(dx::loss::cross_entropy());
  dx::trainer<student_type, objective> run{
      device, student, windows, dx::no_teacher{}, objective{}, {.batch = 1, .length = 4, .total_steps = 9}};
  dx::checkpoints store{folder};

  dx::frozen_matrix matrix() const { return {ends, dx::dtype::f32, 5, 4}; }
  world() { store.save(run, {{"seed", 1}}); }
  ~world() { fs::remove_all(folder); }
  std::vector<float> weights() const {
    return {student.weights().data(), student.weights().data() + student.weights().size()};
  }
};

void put(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }
std::string get(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static world w;
  static const fs::path at = w.store.folder_of(0);
  static const std::string good[] = {get(at / "manifest.json"), get(at / "state.safetensors")};
  static const char* const names[] = {"manifest.json", "state.safetensors"};
  if (size == 0) return 0;
  const int which = data[0] & 1;
  put(at / names[which], {reinterpret_cast<const char*>(data) + 1, size - 1});
  const auto before = w.weights();
  const auto step = w.run.step_count();
  try {
    (void)w.store.restore(w.run, [](const std::string&) {});
    (void)w.store.newest_run();
  } catch (const dx::error&) {
    if (w.weights() != before || w.run.step_count() != step) std::abort();
  }
  put(at / names[which], good[which]);
  return 0;
}
