// Any text as the model.safetensors.index.json of a folder of two shards: refused with `error`, or every tensor that it
// lists is found and read.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>

namespace {

namespace dx = distil_xlstm;
namespace fs = std::filesystem;

struct model_folder {
  fs::path path = fs::path(fs::exists("/dev/shm") ? "/dev/shm" : "/tmp") /
                  ("distil_xlstm-fuzz-folder-" + std::to_string(::getpid()));

  model_folder() {
    fs::create_directories(path);
    write("1.safetensors", {"embed", "layers.0.w"});
    write("2.safetensors", {"layers.1.w", "norm"});
    write("3.safetensors", {"norm"});  // which 2.safetensors has, too
  }
  ~model_folder() { fs::remove_all(path); }
  void write(const char* file, const std::vector<std::string>& names) const {
    const float numbers[2] = {1, 2};
    dx::io::safetensors_writer out;
    for (const auto& name : names) out.declare(name, dx::dtype::f32, {2});
    out.open(path / file);
    for (std::size_t i = 0; i < names.size(); ++i) out.append(numbers, 2);
    out.commit();
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const model_folder folder;
  std::ofstream(folder.path / "model.safetensors.index.json", std::ios::binary)
      << std::string(reinterpret_cast<const char*>(data), size);
  try {
    const dx::io::tensor_folder read(folder.path);
    for (const auto& [name, tensor] : read.tensors())
      if (tensor->values<float>() != std::vector<float>{1, 2}) std::abort();
  } catch (const dx::error&) {
  }
  return 0;
}
