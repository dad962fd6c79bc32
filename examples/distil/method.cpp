#include "method.hpp"

#include <cmath>
#include <string>
#include <utility>

#include "objective.hpp"
#include "processes.hpp"

namespace program {
namespace {

/// "0.8" or "0.8:0.5", from and to.
std::pair<double, double> range_of(const std::string& text, const char* option) {
  const auto colon = text.find(':');
  auto number = [&](const std::string& s) {
    try {
      std::size_t used = 0;
      const double x = std::stod(s, &used);
      if (used == s.size() && std::isfinite(x)) return x;
    } catch (const std::exception&) {
    }
    throw usage_error(std::string("--") + option + ": '" + text + "' is neither a number nor two as 0.8:0.5");
  };
  const double from = number(text.substr(0, colon));
  return {from, colon == text.npos ? from : number(text.substr(colon + 1))};
}

using dx::loss::any_objective;
using dx::loss::distillation;

method method_named(const std::string& name) {
  using dx::schedule::delta;
  method m;
  auto& objective = m.objective.emplace<distillation>();
  auto& o = m.options;
  if (name == "default") {
    o.batch = 8, o.length = 128;
    objective.alpha = 0.5, objective.beta = 0.0, objective.temperature = 1.0;
    objective.form = dx::loss::alignment::average;
    o.lr = {3e-3}, o.lr.floor = 0.0;
    o.optimiser = {.beta1 = 0.9, .beta2 = 0.95, .weight_decay = 0.1};
    return m;
  }
  if (name != "paper" && name != "code")
    throw usage_error("--method: '" + name + "' is not known (default, paper, code are)");
  const bool paper = name == "paper";
  o.batch = 8, o.length = 512, o.accumulate = 4;
  delta<double> alpha{0.8, 0.5}, temperature{2.0, 1.0};
  for (auto* d : {&alpha, &temperature}) {
    d->step = 0.05;
    d->rule = paper ? dx::schedule::decrement::constant : dx::schedule::decrement::relative;
    d->when = paper ? dx::schedule::update::paper : dx::schedule::update::code;
  }
  objective.alpha = alpha, objective.temperature = temperature, objective.beta = 0.1;
  objective.form = paper ? dx::loss::alignment::paper : dx::loss::alignment::average;
  o.restart_epochs = paper ? 0 : 2;
  o.lr = {2e-4}, o.lr.zero_start = true;
  o.optimiser = {.beta1 = 0.9, .beta2 = 0.999, .weight_decay = 0.0};
  m.warmup_ratio = 0.1;
  return m;
}

}  // namespace

method resolved(const train_options& given) {
  method m = method_named(given.method);
  auto& o = m.options;
  if (given.batch > 0) o.batch = given.batch;
  if (given.length > 0) o.length = given.length;
  if (given.accumulate > 0) o.accumulate = given.accumulate;
  auto set = [&](dx::schedule::any<double>& s, const std::string& text, const char* option) {
    const std::string shape = given.schedule.empty() ? std::string(s.name()) : given.schedule;
    const auto [from, to] = text.empty() ? std::pair(s.from, s.to) : range_of(text, option);
    if (text.empty() && given.schedule.empty()) return;
    const auto old = s;
    const bool flat = from == to, ramp = !flat && shape == "constant";
    s = of_option("schedule", [&, first = from, last = to] {
      dx::schedule::any<double>::named(shape, first, last);  // a name that is not known is refused even if flat
      return dx::schedule::any<double>::named(flat ? "constant" : ramp ? "linear" : shape, first, last);
    });
    s.when = old.when, s.step = old.step;
  };
  auto& [alpha, beta, temperature, form] = std::get<distillation>(m.objective);
  set(alpha, given.alpha, "alpha"), set(beta, given.beta, "beta");
  set(temperature, given.temperature, "temperature");
  for (const auto& [a, b] : {std::pair(alpha.from, beta.from), std::pair(alpha.to, beta.to)})
    if (!(a >= 0 && b >= 0 && a + b <= 1))
      throw usage_error("--alpha, --beta: " + short_number(a) + " and " + short_number(b) +
                        " must not be negative, nor above 1 together");
  if (!(temperature.from > 0 && temperature.to > 0)) throw usage_error("--temperature: must be positive");
  if (!given.alignment.empty())
    form = of_option("alignment", [&] { return dx::loss::alignment_named(given.alignment); });
  // What weighs nothing has no effect.
  const auto zero = [](const dx::schedule::any<double>& x) { return x.from == 0 && x.to == 0; };
  const auto flat = [](const dx::schedule::any<double>& x) { return x.from == x.to; };
  if (!given.temperature.empty() && zero(alpha))
    throw usage_error("--temperature: has no effect with --alpha 0");
  const bool aligned = form != dx::loss::alignment::none;
  if (!given.alignment.empty() && aligned && zero(beta))
    throw usage_error("--alignment: has no effect with --beta 0");
  if (!given.schedule.empty() && flat(alpha) && flat(beta) && flat(temperature))
    throw usage_error("--schedule: has no effect: none of --alpha, --beta, --temperature goes FROM:TO");
  if (given.schedule == "constant" && !(flat(alpha) && flat(beta) && flat(temperature)))
    throw usage_error("--schedule constant: --alpha, --beta or --temperature goes FROM:TO");
  if (zero(beta)) form = dx::loss::alignment::none;
  if (given.objective) m.objective = of_option("objective", [&] { return parse_objective(*given.objective); });
  if (given.lr > 0) o.lr.peak = given.lr;
  if (!given.lr_schedule.empty())
    o.lr.after = of_option("lr-schedule", [&] { return dx::schedule::annealing_named(given.lr_schedule); });
  if (given.beta1 >= 0) o.optimiser.beta1 = given.beta1;
  if (given.beta2 >= 0) o.optimiser.beta2 = given.beta2;
  if (given.epsilon > 0) o.optimiser.epsilon = given.epsilon;
  if (given.weight_decay >= 0) o.optimiser.weight_decay = given.weight_decay;
  if (given.clip >= 0) o.clip = given.clip;
  o.order = of_option("order", [&] { return dx::window_order_named(given.order); });
  o.seed = given.seed;
  if (given.shard_optimiser && processes().size() == 1)
    throw usage_error("--shard-optimiser: has no effect: one process trains");
  o.shard_optimiser = given.shard_optimiser;
  return m;
}

named_values schedules_at(const training_objective& objective, const dx::schedule::clock& clock,
                          bool constants) {
  if (const auto* o = std::get_if<distillation>(&objective)) {
    const auto now = o->at_step(clock);
    return {{"alpha", now.alpha}, {"beta", now.beta}, {"temperature", now.temperature}};
  }
  named_values all;
  const auto add = [&](std::string_view term, const char* what, const dx::schedule::any<double>& s) {
    if (constants || s.shape != dx::schedule::shape::constant)
      all.emplace_back(std::string(term) + what, s.at(clock));
  };
  const auto& o = std::get<any_objective>(objective);
  for (std::size_t i = 0; i < o.count; ++i) {
    add(o.name(i), "_weight", o.logits[i].weight);
    if (o.logits[i].kind != dx::loss::logits_kind::ce) add(o.name(i), "_temperature", o.logits[i].temperature);
  }
  if (o.hidden.form != dx::loss::alignment::none) add(term_name_of(o.hidden.form), "_weight", o.hidden.weight);
  return all;
}

dx::io::json objective_json(const method& m) {
  if (const auto* chosen = std::get_if<any_objective>(&m.objective)) return text_of(*chosen);
  const auto schedule = [](const dx::schedule::any<double>& s) {
    return dx::io::json{{"shape", s.name()}, {"from", s.from}, {"to", s.to}, {"delta", s.step}};
  };
  const auto& o = std::get<distillation>(m.objective);
  return {{"alpha", schedule(o.alpha)},
          {"beta", schedule(o.beta)},
          {"temperature", schedule(o.temperature)},
          {"alignment", dx::loss::name_of(o.form)}};
}

dx::io::json optimiser_json(const method& m, const train_options& given) {
  const auto& o = m.options;
  dx::io::json json = {{"lr", o.lr.peak},
                       {"lr_schedule", o.lr.after == dx::schedule::annealing::cosine ? "cosine" : "constant"},
                       {"warmup", given.warmup},
                       {"beta1", o.optimiser.beta1},
                       {"beta2", o.optimiser.beta2},
                       {"weight_decay", o.optimiser.weight_decay},
                       {"clip", o.clip}};
  // Absent where it is the default, so that runs from before it was an option go on.
  if (o.optimiser.epsilon != dx::optim::adamw().epsilon) json["epsilon"] = o.optimiser.epsilon;
  return json;
}

}  // namespace program
