#pragma once

#include <cstdint>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/model/xlstm.hpp>

namespace distil_xlstm {

/// A student of SmolLM2's width between a random embedding and head.
template <class D>
struct random_decoder {
  static constexpr index vocabulary = 49152, width = 576;
  buffer<bf16, D> memory;
  frozen_matrix matrix;
  xlstm<float, D> student;
  explicit random_decoder(D& device)
      : memory(device, vocabulary * width),
        matrix{memory.data(), dtype::bf16, vocabulary, width},
        student(device, xlstm_architecture("default", vocabulary, width, 30, 9, true), matrix, matrix,
                nullptr) {
    std::vector<bf16> numbers(static_cast<std::size_t>(memory.size()));
    rng random(1);
    for (auto& x : numbers) x = bf16(static_cast<float>(0.1 * random.normal()));
    device.upload(memory.data(), numbers.data(), memory.size() * 2);
    student.initialise(device, 1);
  }
};

}  // namespace distil_xlstm
