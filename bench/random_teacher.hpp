#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>

#include <distil_xlstm/model/random_llama.hpp>

namespace distil_xlstm {

/// A folder with a random transformer, gone when the value is.
struct random_teacher {
  std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("distil_xlstm-bench-" + std::to_string(::getpid()));
  explicit random_teacher(const llama_config& shape) {
    std::filesystem::create_directories(folder);
    write_random_llama(folder, shape, dtype::bf16, 3);
  }
  random_teacher(const random_teacher&) = delete;
  random_teacher& operator=(const random_teacher&) = delete;
  ~random_teacher() { std::filesystem::remove_all(folder); }
};

/// Of SmolLM2-135M.
inline llama_config smollm2_shape() {
  return {.vocabulary = 49152,
          .width = 576,
          .layers = 30,
          .heads = 9,
          .kv_heads = 3,
          .head_dim = 64,
          .intermediate = 1536};
}
/// Of Qwen2.5-1.5B.
inline llama_config qwen2_shape() {
  return {.model_type = "qwen2",
          .vocabulary = 151936,
          .width = 1536,
          .layers = 28,
          .heads = 12,
          .kv_heads = 2,
          .head_dim = 128,
          .intermediate = 8960};
}

}  // namespace distil_xlstm
