#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/distil/calibrate_gates.hpp>
#include <distil_xlstm/distil/linearised_rates.hpp>
#include <distil_xlstm/distil/mixer_trainer.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/loss/kl.hpp>
#include <distil_xlstm/model/load_linearised.hpp>
#include <distil_xlstm/testing/on_host.hpp>

#include "tensor_error.hpp"

namespace distil_xlstm::testing {

/// The configuration of a folder of tests/golden/make_linearised.py.
inline linearised_config golden_linearised_config(const std::filesystem::path& folder) {
  return distil_xlstm::detail::linearised_files(folder).config;
}

/// The logits of a linearised transformer, and with `w` the gradients of sum(w * logits), as training takes them.
template <class T, class D>
struct trained_linearised {
  D& device;
  linearised_model<T, D> model;
  typename linearised_model<T, D>::weights_type gradients;

  trained_linearised(D& d, linearised_model<T, D> m)
      : device(d), model(std::move(m)), gradients(d, model.trained()) {}

  /// `start` and `ids` are the host's.
  std::vector<T> run(sequence_view seq, const std::int32_t* ids, const std::vector<T>& w = {}) {
    const index rows = seq.rows(), n = model.width(), v = model.vocabulary();
    device_copy<std::int32_t, D> placed_ids, placed_start;
    ids = placed_ids.put(device, ids, rows), seq.start = placed_start.put(device, seq.start, rows);
    const auto state = model.make_state(device, seq.batch);
    const auto tape = model.make_tape(device, seq.batch, seq.time, false);
    buffer<T, D> memory(device, 4 * rows * n + 2 * rows * v);
    const matrix_view<T> x(memory.data(), rows, n), hidden(x.data + x.size(), rows, n),
        dhidden(hidden.data + x.size(), rows, n), dx(dhidden.data + x.size(), rows, n),
        logits(dx.data + x.size(), rows, v), dlogits(logits.data + rows * v, rows, v);
    model.forward(device, seq, ids, state, tape, x, hidden);
    const auto heads = model.heads(gradients, {});
    gemm(device, hidden, transposed(heads.student), logits);
    if (!w.empty()) {
      to_device(device, dlogits.data, w);
      gemm(device, dlogits, heads.student, dhidden);
      gemm(device, transposed(dlogits), hidden, heads.gradient, T(1));
      model.backward(device, seq, ids, gradients, tape, matrix_view<const T>(x), matrix_view<const T>(dhidden),
                     dx);
    }
    return on_host(device, static_cast<const T*>(logits.data), logits.size());
  }
};

/// A folder of tests/golden/make_linearised.py in the scalar T against the reference in float64: `logits` and
/// `grad.NAME`. Throws `error` where the file has no gradient of a tensor, or of one too many.
template <class T, class D>
tensor_errors linearised_errors(D& device, const std::filesystem::path& folder) {
  const io::safetensors_file expected(folder / "expected.safetensors");
  trained_linearised<T, D> m(device, load_linearised<T>(device, folder));
  const auto ids = expected.at("ids").template values<std::int32_t>(),
             start = expected.at("start").template values<std::int32_t>();
  const auto& shape = expected.at("ids").shape;
  tensor_errors out;
  const auto compare = [&](const std::string& name, const std::vector<T>& got) {
    out.push_back({name, relative_error(got, expected.at(name).template values<double>())});
  };
  compare("logits",
          m.run({shape[0], shape[1], start.data()}, ids.data(), expected.at("W").template values<T>()));
  for (const auto& e : m.model.names())
    compare("grad." + e.name, on_host(device, static_cast<const T*>(m.gradients.data() + e.offset), e.size));
  require(out.size() + 3 == expected.tensors().size(), folder.string(), ": ", out.size(), " tensors of ",
          expected.tensors().size());
  return out;
}

/// Eight steps of each stage in the scalar T against the reference in float64 (linearise/ of
/// tests/golden/make_linearised.py): `STAGE step N KEY`, `STAGE final NAME`, `reach N`.
template <class T, class D>
tensor_errors linearise_errors(D& device, const std::filesystem::path& folder) {
  const io::json file = io::read_json_file(folder / "steps.json"), all = file.at("options");
  const io::safetensors_file expected(folder / "expected.safetensors");
  const auto teacher = load_llama<T>(device, folder / "teacher");
  const io::token_file text(folder / "tokens.safetensors");
  const token_windows cut(text, all.at("length").get<index>());
  tensor_errors out;
  const auto number = [&](const std::string& name, double got, const io::json& want) {
    const double value = want.get<double>();
    out.push_back({name, relative_error(&got, &value, 1)});
  };
  for (const std::string stage : {"align", "distil"}) {
    const io::json& o = all.at(stage);
    auto student = load_linearised<T>(device, folder / "student");
    const linearised_config& c = student.config();
    training_options options;
    options.batch = all.at("batch").get<index>(), options.length = cut.length();
    options.total_steps = all.at("steps").get<index>(), options.order = window_order::sequential;
    options.lr = {o.at("lr").get<double>()}, options.lr.after = schedule::annealing::constant;
    options.optimiser = {all.at("beta1").get<double>(), all.at("beta2").get<double>(),
                         all.at("epsilon").get<double>(), o.at("weight_decay").get<double>()};
    options.clip = all.at("clip").get<double>();
    if (stage == "align")
      options.rate_of = alignment_rates{&c, o.at("bias").get<double>(), o.at("projections").get<double>()};
    else
      options.rate_of = distillation_rates{o.at("new").get<double>()};
    const auto run = [&](auto&& trainer, const char* key) {
      for (const auto& want : file.at(stage)) {
        const auto m = trainer.step();
        const std::string step = stage + " step " + std::to_string(m.step) + " ";
        number(step + key, m[key], want.at(key));
        number(step + "grad_norm", m.grad_norm, want.at("grad_norm"));
        if constexpr (requires { trainer.layer_errors(); }) {
          std::size_t next = 0;
          for (std::size_t i = 0; i < c.mixers.size(); ++i)
            if (c.mixers[i] != mixer_kind::attention)
              number(step + "layer " + std::to_string(i), trainer.layer_errors()[i],
                     want.at("errors").at(next++));
        }
      }
    };
    if (stage == "align") {
      run(mixer_trainer(device, student, cut, teacher, options), "alignment");
    } else {
      live_teacher source(teacher);
      run(trainer(device, student, cut, source, loss::kl(1.0), options), "kl");
    }
    for (const auto& e : student.names()) {
      auto got = on_host(device, static_cast<const T*>(student.weights().data() + e.offset), e.size);
      auto want = expected.at(stage + "." + e.name).template values<double>();
      // A shift of all input gates cancels: its gradient is rounding.
      if (e.name.ends_with("gates.bias"))
        got.erase(got.begin(), got.begin() + c.heads), want.erase(want.begin(), want.begin() + c.heads);
      out.push_back({stage + " final " + e.name, relative_error(got, want)});
    }
  }
  const linearised_config c = distil_xlstm::detail::linearised_files(folder / "student").config;
  const auto reach = attention_reach_of(device, teacher, cut, c.window, c.sinks, cut.count());
  for (std::size_t i = 0; i < reach.size(); ++i) {
    std::vector<double> got;
    for (const auto& head : reach[i]) got.push_back(head.mass), got.push_back(head.distance);
    out.push_back({"reach " + std::to_string(i),
                   relative_error(got, expected.at("reach." + std::to_string(i)).template values<double>())});
  }
  return out;
}

}  // namespace distil_xlstm::testing
