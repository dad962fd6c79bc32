#pragma once

#include <filesystem>

#include <distil_xlstm/device/cpu_attention.hpp>
#include <distil_xlstm/model/llama.hpp>

#include "tensor_error.hpp"

namespace distil_xlstm::testing {

/// A teacher folder in the scalar T against the reference in float64 (tests/golden/make_teachers.py):
/// `hidden.LAYER` from the embedding on, `last_hidden`, `logits`.
template <class T>
tensor_errors teacher_errors(device::cpu& cpu, const std::filesystem::path& folder) {
  const auto model = llama<T, device::cpu>::load(cpu, folder);
  const io::safetensors_file expected(folder / "expected.safetensors");
  const auto& info = expected.at("ids");
  const auto ids = info.template values<std::int32_t>();
  const sequence_view seq{info.shape[0], info.shape[1]};
  std::vector<T> hidden(static_cast<std::size_t>(seq.rows() * model.width())),
      memory(static_cast<std::size_t>(seq.rows() * model.vocabulary()));
  const matrix_view<T> last(hidden.data(), seq.rows(), model.width()),
      logits(memory.data(), seq.rows(), model.vocabulary());
  tensor_errors out;
  const auto compare = [&](const std::string& name, matrix_view<const T> got) {
    const auto want = expected.at(name).template values<double>();
    const bool fits = static_cast<index>(want.size()) == got.size();
    out.push_back({name, fits ? relative_error(got.data, want.data(), got.size()) : INFINITY});
  };
  model.forward(cpu, seq, ids.data(), last,
                [&](index layer, matrix_view<const T> h) { compare("hidden." + std::to_string(layer), h); });
  compare("last_hidden", last);
  gemm(cpu, matrix_view<const T>(last), transposed(model.head()), logits);
  compare("logits", logits);
  return out;
}

}  // namespace distil_xlstm::testing
