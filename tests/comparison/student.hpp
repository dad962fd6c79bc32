#pragma once

#include <filesystem>

#include <distil_xlstm/device/cpu_mlstm.hpp>
#include <distil_xlstm/device/cpu_slstm.hpp>
#include <distil_xlstm/model/xlstm.hpp>

#include "tensor_error.hpp"

namespace distil_xlstm::testing {

/// A student folder in the scalar T against the reference in float64 (tests/golden/make_students.py): `logits`,
/// and `grad.NAME` of every trained tensor. Throws `error` where the file has no gradient of one.
template <class T>
tensor_errors student_errors(device::cpu& cpu, const std::filesystem::path& folder) {
  const auto model = xlstm<T, device::cpu>::load(cpu, folder);
  const io::safetensors_file expected(folder / "expected.safetensors");
  const auto& info = expected.at("ids");
  const auto ids = info.template values<std::int32_t>();
  const sequence_view seq{info.shape[0], info.shape[1]};
  const index rows = seq.rows(), d = model.width(), v = model.vocabulary();
  auto state = model.make_state(cpu, seq.batch);
  auto tape = model.make_tape(cpu, seq.batch, seq.time, false);
  buffer<T, device::cpu> memory(cpu, 4 * rows * d + 2 * rows * v);
  const matrix_view<T> x(memory.data(), rows, d), hidden(x.data + rows * d, rows, d),
      dhidden(hidden.data + rows * d, rows, d), dx(dhidden.data + rows * d, rows, d),
      logits(dx.data + rows * d, rows, v), w(logits.data + rows * v, rows, v);
  tensor_errors out;
  const auto compare = [&](const std::string& name, const T* got, index n) {
    const auto want = expected.at(name).template values<double>();
    const bool fits = static_cast<index>(want.size()) == n;
    out.push_back({name, fits ? relative_error(got, want.data(), n) : INFINITY});
  };
  model.forward(cpu, seq, ids.data(), state, tape, x, hidden);
  gemm(cpu, matrix_view<const T>(hidden), transposed(model.head()), logits);
  compare("logits", logits.data, logits.size());
  expected.at("W").copy_to(w.data);
  typename xlstm<T, device::cpu>::weights_type gradients(cpu, model.stack());
  gemm(cpu, matrix_view<const T>(w), model.head(), dhidden);
  model.stack().backward(cpu, seq, model.weights().views(), gradients.views(), tape.views(),
                         matrix_view<const T>(x), matrix_view<const T>(dhidden), dx);
  for (const auto& e : model.names()) compare("grad." + e.name, gradients.data() + e.offset, e.size);
  return out;
}

}  // namespace distil_xlstm::testing
