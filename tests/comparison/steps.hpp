#pragma once

#include <filesystem>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>

#include "mirrored.hpp"
#include "tensor_error.hpp"

namespace distil_xlstm::testing {

/// The options of make_steps.py's runs: a number is constant, a pair is what the Delta rule of the authors'
/// code anneals, `warmup` says that the learning rate is Hugging Face's.
inline std::pair<training_options, loss::distillation> golden_options(const io::json& o) {
  const auto number = [&](const char* key) { return o.at(key).get<double>(); };
  const auto count = [&](const char* key, index otherwise = 0) { return o.value(key, otherwise); };
  const auto weight = [&](const char* key) -> schedule::any<double> {
    if (!o.at(key).is_array()) return number(key);
    return schedule::delta<double>{
        o.at(key)[0].get<double>(),    o.at(key)[1].get<double>(),   number("delta"),
        schedule::decrement::relative, schedule::counter::per_epoch, schedule::update::code};
  };
  training_options options;
  options.batch = count("batch"), options.length = count("length"), options.total_steps = count("steps");
  options.accumulate = count("accumulate", 1), options.restart_epochs = count("restart_epochs");
  options.order = window_order::sequential;
  options.lr = {number("lr"), 0.0, count("warmup")};
  if (o.contains("warmup"))
    options.lr.zero_start = true;
  else
    options.lr.after = schedule::annealing::constant;
  options.optimiser = {number("beta1"), number("beta2"), number("epsilon"), number("weight_decay")};
  options.clip = number("clip");
  return {options, {weight("alpha"), weight("beta"), weight("temperature"), loss::alignment::average}};
}

/// The gradient norm of step 7 or later: six steps after which float has few digits of it.
inline bool last_norm(const std::string& name) {
  return name.ends_with("grad_norm") && std::stoi(name.substr(5)) > 6;
}

/// A run in the scalar T against the reference in float64 (tests/golden/make_steps.py): `step N KEY` of what
/// its log holds, `decays NAME` (0 or infinity), and `final NAME` of the weights where the folder has them.
template <class T, class D>
tensor_errors step_errors(D& device, const std::filesystem::path& log) {
  const auto folder = log.parent_path();
  const io::json file = io::read_json_file(log.string());
  const auto [options, objective] = golden_options(file.at("options"));
  const auto teacher = load_llama<T>(device, folder / "teacher");
  auto student = load_xlstm<T>(device, folder / "student");
  const io::token_file text(folder / "tokens.safetensors");
  const token_windows cut(text, options.length);
  live_teacher source(teacher);
  trainer run(device, student, cut, source, objective, options);

  tensor_errors out;
  const io::json& decayed = file.at("decayed");
  for (const auto& e : student.names()) {
    const bool listed = std::find(decayed.begin(), decayed.end(), e.name) != decayed.end();
    out.push_back({"decays " + e.name, (e.decay == weight_decay::yes) == listed ? 0 : INFINITY});
  }
  for (const auto& expected : file.at("steps")) {
    const auto weights = objective.at_step(run.clock());
    const auto m = run.step();
    for (const auto& [key, value] : {std::pair<const char*, double>{"ce", m["ce"]},
                                     {"kl", m["kl"]},
                                     {"alignment", m["alignment"]},
                                     {"total", m.total},
                                     {"grad_norm", m.grad_norm},
                                     {"lr", m.lr},
                                     {"alpha", weights.alpha},
                                     {"temperature", weights.temperature}}) {
      if (!expected.contains(key)) continue;
      const double want = expected.at(key).template get<double>();
      out.push_back({"step " + std::to_string(m.step) + " " + key, relative_error(&value, &want, 1)});
    }
  }
  if (log.stem() != "steps") return out;
  const io::safetensors_file expected(folder / "expected.safetensors");
  for (const auto& e : student.names()) {
    const auto want = expected.at("final." + e.name).template values<double>();
    out.push_back({"final " + e.name,
                   relative_error(on_host(device, student.weights().data() + e.offset, e.size), want)});
  }
  return out;
}

}  // namespace distil_xlstm::testing
