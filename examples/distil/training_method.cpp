#include "training_method.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <utility>

namespace program {
namespace {

volatile std::sig_atomic_t interrupted = 0;
extern "C" void on_signal(int signal) { interrupted = signal; }

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

method method_named(const std::string& name) {
  using dx::schedule::delta;
  method m;
  auto& o = m.options;
  if (name == "default") {
    o.batch = 8, o.length = 128;
    m.objective.alpha = 0.5, m.objective.beta = 0.0, m.objective.temperature = 1.0;
    m.objective.form = dx::loss::alignment::average;
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
  m.objective.alpha = alpha, m.objective.temperature = temperature, m.objective.beta = 0.1;
  m.objective.form = paper ? dx::loss::alignment::paper : dx::loss::alignment::average;
  o.restart_epochs = paper ? 0 : 2;
  o.lr = {2e-4}, o.lr.zero_start = true;
  o.optimiser = {.beta1 = 0.9, .beta2 = 0.999, .weight_decay = 0.0};
  m.warmup_ratio = 0.1;
  return m;
}

}  // namespace

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void catch_signals() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}
int caught_signal() { return interrupted; }

folder_lock::folder_lock(const fs::path& folder) {
  fs::create_directories(folder);
  const auto path = (folder / ".lock").string();
  file_ = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
  dx::require(file_ >= 0, path, ": cannot be created");
  dx::require(::flock(file_, LOCK_EX | LOCK_NB) == 0, folder.string(), ": another run is writing there");
}
folder_lock::~folder_lock() { ::close(file_); }

method resolved(const training_request& r) {
  method m = method_named(r.method);
  auto& o = m.options;
  if (r.batch > 0) o.batch = r.batch;
  if (r.length > 0) o.length = r.length;
  if (r.accumulate > 0) o.accumulate = r.accumulate;
  auto set = [&](dx::schedule::any<double>& s, const std::string& text, const char* option) {
    const std::string shape = r.schedule.empty() ? std::string(s.name()) : r.schedule;
    const auto [from, to] = text.empty() ? std::pair(s.from, s.to) : range_of(text, option);
    if (text.empty() && r.schedule.empty()) return;
    const auto old = s;
    const bool flat = from == to, ramp = !flat && shape == "constant";
    s = of_option("schedule", [&, first = from, last = to] {
      dx::schedule::any<double>::named(shape, first, last);  // a name that is not known is refused even if flat
      return dx::schedule::any<double>::named(flat ? "constant" : ramp ? "linear" : shape, first, last);
    });
    s.when = old.when, s.step = old.step;
  };
  set(m.objective.alpha, r.alpha, "alpha"), set(m.objective.beta, r.beta, "beta");
  set(m.objective.temperature, r.temperature, "temperature");
  const auto &alpha = m.objective.alpha, &beta = m.objective.beta, &temperature = m.objective.temperature;
  for (const auto& [a, b] : {std::pair(alpha.from, beta.from), std::pair(alpha.to, beta.to)})
    if (!(a >= 0 && b >= 0 && a + b <= 1))
      throw usage_error("--alpha, --beta: " + short_number(a) + " and " + short_number(b) +
                        " must not be negative, nor above 1 together");
  if (!(temperature.from > 0 && temperature.to > 0)) throw usage_error("--temperature: must be positive");
  if (!r.alignment.empty())
    m.objective.form = of_option("alignment", [&] { return dx::loss::alignment_named(r.alignment); });
  if (r.lr > 0) o.lr.peak = r.lr;
  if (!r.lr_schedule.empty())
    o.lr.after = of_option("lr-schedule", [&] { return dx::schedule::annealing_named(r.lr_schedule); });
  if (r.weight_decay >= 0) o.optimiser.weight_decay = r.weight_decay;
  if (r.clip >= 0) o.clip = r.clip;
  o.order = of_option("order", [&] { return dx::window_order_named(r.order); });
  o.seed = r.seed;
  return m;
}

dx::io::json schedule_json(const dx::schedule::any<double>& s) {
  return {{"shape", s.name()}, {"from", s.from}, {"to", s.to}, {"delta", s.step}};
}

std::string clock_text(double seconds) {
  const auto s = static_cast<long>(std::max(0.0, seconds));
  char text[48];
  if (s >= 3600)
    std::snprintf(text, sizeof text, "%ld h %02ld min", s / 3600, s / 60 % 60);
  else
    std::snprintf(text, sizeof text, "%ld min %02ld s", s / 60, s % 60);
  return text;
}

}  // namespace program
