#pragma once

#include <filesystem>

#include <distil_xlstm/device/cpu_attention.hpp>
#include <distil_xlstm/device/cpu_mlstm.hpp>
#include <distil_xlstm/device/cpu_slstm.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/llama.hpp>
#include <distil_xlstm/model/xlstm.hpp>

#include "tensor_error.hpp"

namespace distil_xlstm::testing {

/// Eight training steps in the scalar T against the reference in float64 (tests/golden/make_steps.py): `step N
/// KEY` of the losses and the gradient norm, `decays NAME` (0 or infinity), and `final NAME` of the weights.
template <class T>
tensor_errors step_errors(device::cpu& cpu, const std::filesystem::path& folder) {
  const io::json file = io::read_json_file((folder / "steps.json").string());
  const io::json& o = file.at("options");
  const auto number = [&](const char* key) { return o.at(key).template get<double>(); };
  const auto count = [&](const char* key) { return o.at(key).template get<index>(); };

  const auto teacher = llama<T, device::cpu>::load(cpu, folder / "teacher");
  auto student = xlstm<T, device::cpu>::load(cpu, folder / "student");
  const io::token_file text(folder / "tokens.safetensors");
  training_options options;
  options.batch = count("batch"), options.length = count("length"), options.total_steps = count("steps");
  options.order = window_order::sequential;
  loss::distillation objective;
  objective.alpha = number("alpha"), objective.beta = number("beta");
  objective.temperature = number("temperature");
  options.lr = {number("lr")}, options.lr.after = schedule::annealing::constant;
  options.optimiser = {number("lr"), number("beta1"), number("beta2"), number("epsilon"),
                       number("weight_decay")};
  options.clip = number("clip");
  const windows cut(text, options.length);
  const auto plan =
      alignment_plan::make(loss::alignment::average, teacher.config().layers, student.config().blocks);
  live_teacher source(teacher, plan);
  trainer run(cpu, student, cut, source, plan, objective, options);

  tensor_errors out;
  const io::json& decayed = file.at("decayed");
  for (const auto& e : student.names()) {
    const bool listed = std::find(decayed.begin(), decayed.end(), e.name) != decayed.end();
    out.push_back({"decays " + e.name, decays(e.name) == listed ? 0 : INFINITY});
  }
  for (const auto& expected : file.at("steps")) {
    const auto m = run.step();
    const auto near = [&](const char* key, double value) {
      const double want = expected.at(key).template get<double>();
      out.push_back({"step " + std::to_string(m.step) + " " + key, relative_error(&value, &want, 1)});
    };
    for (const char* key : {"ce", "kl", "alignment"}) near(key, m[key]);
    near("total", m.total), near("grad_norm", m.grad_norm);
  }
  const io::safetensors_file expected(folder / "expected.safetensors");
  for (const auto& e : student.names()) {
    const auto want = expected.at("final." + e.name).template values<double>();
    out.push_back(
        {"final " + e.name, relative_error(student.weights().data() + e.offset, want.data(), e.size)});
  }
  return out;
}

}  // namespace distil_xlstm::testing
