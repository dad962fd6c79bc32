#pragma once

#include <filesystem>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/load_llama.hpp>

#include "mirrored.hpp"
#include "tensor_error.hpp"

namespace distil_xlstm::testing {

/// A teacher folder in the scalar T against the reference in float64 (tests/golden/make_teachers.py):
/// `hidden.LAYER` from the embedding on, `last_hidden`, `logits`. `file`: the same model elsewhere.
template <class T, class D>
tensor_errors teacher_errors(D& device, const std::filesystem::path& folder,
                             const std::filesystem::path& file = {}) {
  const auto model = load_llama<T>(device, file.empty() ? folder : file);
  const io::safetensors_file expected(folder / "expected.safetensors");
  const auto& info = expected.at("ids");
  const auto ids = info.template values<std::int32_t>();
  const sequence_view seq{info.shape[0], info.shape[1]};
  const buffer<T, D> memory(device, seq.rows() * (model.width() + model.vocabulary()));
  const matrix_view<T> last(memory.data(), seq.rows(), model.width()),
      logits(memory.data() + last.size(), seq.rows(), model.vocabulary());
  tensor_errors out;
  const auto compare = [&](const std::string& name, matrix_view<const T> got) {
    out.push_back({name, relative_error(on_host(device, got.data, got.size()),
                                        expected.at(name).template values<double>())});
  };
  device_copy<std::int32_t, D> tokens;
  auto state = model.make_state(device, seq.batch);
  model.forward(device, seq, tokens.put(device, ids.data(), seq.rows()), state, last,
                [&](index layer, matrix_view<const T> h) { compare("hidden." + std::to_string(layer), h); });
  compare("last_hidden", last);
  gemm(device, matrix_view<const T>(last), transposed(model.head()), logits);
  compare("logits", logits);
  return out;
}

}  // namespace distil_xlstm::testing
