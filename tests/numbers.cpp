// Prints the table of tests/README.md: every comparison, the worst error found and the error allowed.
//
//   build/release/bin/numbers            the table
//   build/release/bin/numbers all        every tensor besides
#include <cstdio>
#include <functional>
#include <iostream>

#include <distil_xlstm/block/attention.hpp>
#include <distil_xlstm/block/causal_conv1d.hpp>
#include <distil_xlstm/block/feed_forward.hpp>
#include <distil_xlstm/block/headwise_linear.hpp>
#include <distil_xlstm/block/hybrid_attention.hpp>
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/block/swiglu.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "comparison/forms.hpp"
#include "comparison/golden_cells.hpp"
#include "comparison/linearised.hpp"
#include "comparison/stability.hpp"
#include "comparison/steps.hpp"
#include "comparison/student.hpp"
#include "comparison/teacher.hpp"

namespace {

namespace dx = distil_xlstm;
using namespace dx::testing;
namespace fs = std::filesystem;
using f64 = tolerance<double>;
using f32 = tolerance<float>;

struct table {
  bool all = false, ok = true;
  dx::device::cpu cpu{2};

  void head() const {
    std::cout
        << "| check | compared with | float64 | allowed | float32 | allowed |\n|---|---|---|---|---|---|\n";
  }
  /// Errors that do not exist in a scalar are empty.
  void row(const std::string& check, const std::string& with, const tensor_errors& in_double, double limit,
           const tensor_errors& in_float = {}, double float_limit = 0) {
    if (all)
      for (const auto* errors : {&in_double, &in_float})
        for (const auto& e : *errors)
          std::cerr << check << ", " << (errors == &in_double ? "float64" : "float32") << ", " << e.name << ": "
                    << e.error << '\n';
    std::cout << "| " << check << " | " << with << " | " << cell(in_double) << " | "
              << (in_double.empty() ? "" : number(limit)) << " | " << cell(in_float) << " | "
              << (in_float.empty() ? "" : number(float_limit)) << " |\n"
              << std::flush;
    ok = ok && (in_double.empty() || worst(in_double).error <= limit) &&
         (in_float.empty() || worst(in_float).error <= float_limit);
  }

 private:
  static std::string number(double x) {
    char text[32];
    std::snprintf(text, sizeof text, x == 0 ? "%.0f" : "%.1e", x);
    return text;
  }
  static std::string cell(const tensor_errors& errors) {
    return errors.empty() ? "" : number(worst(errors).error);
  }
};

/// Those that `keep` wants.
tensor_errors only(const tensor_errors& errors, const std::function<bool(const std::string&)>& keep) {
  tensor_errors out;
  for (const auto& e : errors)
    if (keep(e.name)) out.push_back(e);
  return out;
}
auto holds(std::string part) {
  return [part](const std::string& name) { return name.find(part) != name.npos; };
}
auto lacks(std::string part) {
  return [part](const std::string& name) { return name.find(part) == name.npos; };
}
void add(tensor_errors& all, const std::string& prefix, const tensor_errors& more) {
  for (const auto& e : more) all.push_back({prefix + e.name, e.error});
}

void students(table& t, const fs::path& data) {
  tensor_errors logits[2], gradients[2], beyond;
  for (const auto& f : golden_models(data / "student")) {
    const std::string name = f.filename().string() + " ";
    const auto condition = conditions([&](auto& device) { return student_numbers<double>(device, f); });
    const auto a = student_errors<double>(t.cpu, f), b = student_errors<float>(t.cpu, f);
    add(logits[0], name, only(a, holds("logits"))), add(logits[1], name, only(b, holds("logits")));
    add(gradients[0], name, only(a, holds("grad.")));
    for (const auto& e : only(b, holds("grad."))) {
      const double c = condition.at(e.name);
      const bool well = f32::reference_gradient(c) == f32::reference_gradient(0);
      (well ? gradients[1] : beyond).push_back({name + e.name, well ? e.error : e.error / c});
      if (t.all) std::cerr << name << e.name << ", float32, condition: " << c << '\n';
    }
  }
  const std::string with = "xlstm 2.0.6, float64";
  t.row("students, logits", with, logits[0], f64::reference_forward, logits[1], f32::reference_forward);
  t.row("students, every gradient; float32: of a condition up to 5e-6", with, gradients[0],
        f64::reference_gradient(0), gradients[1], f32::reference_gradient(0));
  t.row("the others, by their condition", with, {}, 0, beyond, f32::reference_gradient(1));
}

void teachers(table& t, const fs::path& data) {
  tensor_errors a, b;
  for (const auto& f : golden_models(data / "teacher")) {
    add(a, f.filename().string() + " ", teacher_errors<double>(t.cpu, f));
    add(b, f.filename().string() + " ", teacher_errors<float>(t.cpu, f));
  }
  t.row("teachers, every layer's output and logits", "transformers, float64", a, f64::reference_forward, b,
        f32::reference_forward);
}

void linearised(table& t, const fs::path& data) {
  tensor_errors logits[2], gradients[2];
  for (const auto& f : golden_models(data / "linearised")) {
    const std::string name = f.filename().string() + " ";
    const auto a = linearised_errors<double>(t.cpu, f), b = linearised_errors<float>(t.cpu, f);
    add(logits[0], name, only(a, holds("logits"))), add(logits[1], name, only(b, holds("logits")));
    add(gradients[0], name, only(a, holds("grad."))), add(gradients[1], name, only(b, holds("grad.")));
  }
  const std::string with = "the formulas in torch, float64";
  t.row("linearised transformers, logits", with, logits[0], f64::reference_forward, logits[1],
        f32::reference_forward);
  t.row("linearised transformers, every gradient", with, gradients[0], f64::reference_gradient(0), gradients[1],
        f32::reference_gradient(0));
  const auto a = linearise_errors<double>(t.cpu, data / "linearise"),
             b = linearise_errors<float>(t.cpu, data / "linearise");
  const char* adamw = "the formulas and AdamW in torch, float64";
  const auto end = holds(" final ");
  const auto mixers = [](const std::string& n) {
    return n.starts_with("align step") || n.starts_with("reach");
  };
  const auto whole = [](const std::string& n) { return n.starts_with("distil step"); };
  t.row("eight steps of linearisation, KL and gradient norms", adamw, only(a, whole), f64::training_steps,
        only(b, whole), f32::training_steps);
  t.row("eight steps of its mixers, errors and gradient norms", adamw, only(a, mixers), f64::alignment_steps,
        only(b, mixers), f32::alignment_steps);
  t.row("the weights at the end of either", adamw, only(a, end), f64::trained_weights, only(b, end),
        f32::trained_weights);
}

void cells(table& t, const fs::path& data) {
  const auto file = data / "cells/cells.safetensors";
  tensor_errors a, b;
  for (const dx::index chunk : {1, 4, 64}) {
    add(a, "", cell_errors<double>(t.cpu, file, kernels::fused, chunk));
    add(b, "", cell_errors<float>(t.cpu, file, kernels::fused, chunk));
  }
  const std::string with = "the formulas in torch, float64";
  for (const std::string cell : {"mlstm", "slstm"})
    for (const bool extreme : {false, true}) {
      const auto here = [&](const tensor_errors& e) {
        return only(only(e, holds(cell + ".")), extreme ? std::function(holds("extreme")) : lacks("extreme"));
      };
      const std::string name = extreme ? "extreme" : "";
      t.row(cell + (extreme ? " cell, gates up to 64" : " cell, outputs, states, gradients"), with, here(a),
            f64::reference_cell(name), here(b), f32::reference_cell(name));
    }
}

void steps(table& t, const fs::path& data) {
  const auto run = [&]<class T>(T, const char* log) { return step_errors<T>(t.cpu, data / "steps" / log); };
  const auto a = run(0.0, "steps.json"), b = run(0.0f, "steps.json");
  const std::string with = "torch's AdamW, xlstm 2.0.6 and transformers, float64";
  t.row("eight training steps, losses and gradient norms", with, only(a, holds("step ")), f64::training_steps,
        only(b, holds("step ")), f32::training_steps);
  t.row("their weights at the end", with, only(a, holds("final ")), f64::trained_weights,
        only(b, holds("final ")), f32::trained_weights);
  const auto c = run(0.0, "code.json"), d = run(0.0f, "code.json");
  t.row("ten steps as the authors' code takes them", with,
        only(only(c, holds("step ")), std::not_fn(last_norm)), f64::training_steps,
        only(only(d, holds("step ")), std::not_fn(last_norm)), f32::training_steps);
  t.row("the gradient norms of the last four", with, only(c, last_norm), f64::last_norms, only(d, last_norm),
        f32::last_norms);
}

void forms(table& t) {
  tensor_errors m, s, chunks, parallel, leak;
  for (const auto& [time, head] :
       {std::pair<dx::index, dx::index>{1, 288}, {2, 96}, {63, 1}, {64, 144}, {65, 3}, {500, 48}}) {
    auto run = mlstm_run<double>::random(2, time, {2, head, head}, time / 2);
    const auto other = slstm_run<double>::random(2, time, 2, head, time / 2);
    add(m, "", form_errors(t.cpu, run)), add(s, "", form_errors(t.cpu, other));
    for (const dx::index chunk : {1, 17, 64}) add(chunks, "", chunk_errors(t.cpu, run, chunk));
    add(leak, "", leaks(t.cpu, run)), add(leak, "", leaks(t.cpu, other));
    run.empty_state();
    const auto h = parallel_form(run);
    run.forward(t.cpu);
    parallel.push_back({"h", relative_error(run.h, h)});
  }
  const auto form = [&](const std::string& name, const std::string& with, const tensor_errors& e,
                        const std::string& part) { t.row(name, with, only(e, holds(part)), f64::forms); };
  for (const auto& [name, e] : {std::pair<std::string, tensor_errors*>{"mLSTM", &m}, {"sLSTM", &s}}) {
    form(name + ", steps of one token", "the whole", *e, "steps");
    form(name + ", halves with carried state and gradient", "the whole", *e, "halves");
    form(name + ", the CPU's kernels", "the reference operations", *e, "reference");
  }
  t.row("mLSTM, chunks of 1, 17, 64, and gradients", "one chunk", chunks, f64::forms);
  t.row("mLSTM, the chunkwise form", "the parallel form, number by number", parallel, f64::forms);
  t.row("what crosses a document boundary", "nothing", leak, 0);
}

void stability(table& t) {
  const dx::index million = 1000000;
  tensor_errors m, s;
  for (const auto& gates : {extreme_gates, long_memories}) {
    for (const dx::index each : {1, 1000}) m.push_back({"h", mlstm_drift(t.cpu, million, each, gates).error()});
    s.push_back({"h", slstm_drift(t.cpu, million, 1000, gates).error()});
  }
  t.row("mLSTM, a million steps", "itself in float64", {}, 0, m, f32::a_million_steps);
  t.row("sLSTM, a million steps", "itself in float64", {}, 0, s, f32::a_million_steps);
}

void gradient_checks(table& t) {
  tensor_errors all;
  const auto check = [&](const std::string& name, const auto& block) {
    std::vector<std::int32_t> start(14, -1);
    for (std::size_t i = 3; i < 7; ++i) start[i] = 3;
    harness<std::decay_t<decltype(block)>, double, dx::device::cpu> h(block, t.cpu, {2, 7, start.data()});
    const auto g = check_gradients(h, 24);
    all.push_back({name + " " + g.worst_tensor, g.worst_error});
  };
  check("slstm", dx::slstm{12, 3});
  check("mlstm", dx::mlstm{.width = 8, .heads = 2, .inner = 16, .chunk = 4});
  check("layer_norm", dx::layer_norm<>{24, 3});
  check("rms_norm", dx::rms_norm<>{24});
  check("causal_conv1d", dx::causal_conv1d{10, 4});
  check("feed_forward", dx::feed_forward{8, 24, dx::activation::gelu});
  check("swiglu", dx::swiglu{10, 17});
  const dx::attention near{.width = 12, .heads = 4, .kv_heads = 2, .head_dim = 6, .window = 3, .sinks = 1};
  check("attention", dx::attention{.width = 12, .heads = 4, .kv_heads = 2, .head_dim = 6, .capacity = 14});
  check("attention over a window", near);
  check("hybrid attention", dx::hybrid_attention{near, 6});
  t.row("gradients of blocks", "central differences", all, f64::gradient_check);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const fs::path data = fs::path(DISTIL_XLSTM_TEST_DATA) / "golden";
    table t;
    t.all = argc > 1 && std::string(argv[1]) == "all";
    t.head();
    students(t, data), teachers(t, data), linearised(t, data), cells(t, data), steps(t, data);
    forms(t), stability(t), gradient_checks(t);
    return t.ok ? 0 : 1;
  } catch (const std::exception& e) {
    std::cerr << "numbers: " << e.what() << '\n';
    return 2;
  }
}
