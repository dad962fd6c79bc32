#pragma once

#include <filesystem>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>

#include "condition.hpp"
#include "mirrored.hpp"
#include "tensor_error.hpp"

namespace distil_xlstm::testing {

/// `logits`, and `grad.NAME` of sum(W logits) for every trained tensor of a student folder.
template <class T, class D>
named_numbers<T> student_numbers(D& device, const std::filesystem::path& folder) {
  auto model = load_xlstm<T>(device, folder);
  shake(device, model.weights().data(), model.weights().size());
  const io::safetensors_file expected(folder / "expected.safetensors");
  const auto& info = expected.at("ids");
  const auto ids = info.template values<std::int32_t>();
  const sequence_view seq{info.shape[0], info.shape[1]};
  const index rows = seq.rows(), d = model.width(), v = model.vocabulary();
  auto state = model.make_state(device, seq.batch);
  auto tape = model.make_tape(device, seq.batch, seq.time, false);
  buffer<T, D> memory(device, 4 * rows * d + 2 * rows * v);
  const matrix_view<T> x(memory.data(), rows, d), hidden(x.data + rows * d, rows, d),
      dhidden(hidden.data + rows * d, rows, d), dx(dhidden.data + rows * d, rows, d),
      logits(dx.data + rows * d, rows, v), w(logits.data + rows * v, rows, v);
  named_numbers<T> out;
  device_copy<std::int32_t, D> tokens;
  model.forward(device, seq, tokens.put(device, ids.data(), rows), state, tape, x, hidden);
  gemm(device, matrix_view<const T>(hidden), transposed(model.head()), logits);
  out["logits"] = on_host(device, logits.data, logits.size());
  const auto wanted = expected.at("W").template values<T>();
  device.upload(w.data, wanted.data(), w.size() * static_cast<index>(sizeof(T)));
  typename xlstm<T, D>::weights_type gradients(device, model.stack());
  gemm(device, matrix_view<const T>(w), model.head(), dhidden);
  model.stack().backward(device, seq, model.weights().views(), gradients.views(), tape.views(),
                         matrix_view<const T>(x), matrix_view<const T>(dhidden), dx);
  for (const auto& e : model.names())
    out["grad." + e.name] = on_host(device, gradients.data() + e.offset, e.size);
  return out;
}

/// A student folder in the scalar T against the reference in float64 (tests/golden/make_students.py). Throws
/// `error` where the file has no gradient of a tensor.
template <class T, class D>
tensor_errors student_errors(D& device, const std::filesystem::path& folder) {
  const io::safetensors_file expected(folder / "expected.safetensors");
  tensor_errors out;
  for (const auto& [name, got] : student_numbers<T>(device, folder))
    out.push_back({name, relative_error(got, expected.at(name).template values<double>())});
  return out;
}

}  // namespace distil_xlstm::testing
