#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/model/llama.hpp>
#include <distil_xlstm/model/tensor_files.hpp>

namespace distil_xlstm {

/// Writes a transformer of this shape with random weights into a folder that is there, as Hugging Face stores
/// it: a teacher for tests and benchmarks. Matrices [n, k] have the deviation 1 / sqrt(k), biases 1; norms'
/// weights are 1 with the deviation 0.2. The head is the embedding; biases and norms of heads are those of the
/// family, biases of all projections where it can have them and `qkv_bias` asks for them. Where there are more than a
/// million numbers they repeat, since billions take long to draw. Throws `error` where the shape or the disk does not
/// allow it.
void write_random_llama(const std::filesystem::path& folder, llama_config c, dtype stored, std::uint64_t seed);

}  // namespace distil_xlstm

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/random_llama.ipp>
#endif
