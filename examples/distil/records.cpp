#include "records.hpp"

#include <algorithm>
#include <iostream>
#include <string_view>

#include "processes.hpp"
#include "report.hpp"

namespace program {
namespace {

std::string printed(const char* format, double x) {
  char text[48];
  std::snprintf(text, sizeof text, format, x);
  return text;
}

}  // namespace

run_records::run_records(const fs::path& folder, dx::index step, bool fresh) {
  if (!leads()) return;
  log_.emplace(folder / "metrics.jsonl"), board_.emplace(folder, step + 1);
  log_->truncate_after(fresh ? -1 : step);
  for (const auto& r : read_metrics(log_->path())) {
    const auto number = [&r](const char* key) { return r.contains(key) && r.at(key).is_number(); };
    if (number("total")) reached(r.at("total").get<double>());
    if (number("held_out_ppl")) reached_held_out(r.at("held_out_ppl").get<double>());
  }
}

void run_records::held_out_before(const dx::text_score& student, const std::optional<dx::text_score>& teacher,
                                  const dx::text_score& unigram) {
  record line{{"step", 0}, {"held_out_ppl", student.perplexity()}};
  if (!log_) return;
  if (teacher) line["teacher_ppl"] = teacher->perplexity();
  line["unigram_ppl"] = unigram.perplexity();
  line["held_out_scored"] = student.scored;
  log_->append(line);
  say("held-out perplexity before training " + short_number(student.perplexity()) +
      (teacher ? ", teacher " + short_number(teacher->perplexity()) : "") + ", unigram " +
      short_number(unigram.perplexity()));
}

void run_records::held_out(dx::index step, const dx::text_score& student) {
  if (!log_) return;
  step += steps_before_;
  log_->append({{"step", step}, {"held_out_ppl", student.perplexity()}, {"held_out_scored", student.scored}});
  board_->scalar(step, "held_out/perplexity", student.perplexity());
  reached_held_out(student.perplexity());
  say("step " + std::to_string(step) + ": held-out perplexity " + short_number(student.perplexity()));
}

void run_records::step(const dx::step_metrics& m, const named_values& schedules, dx::index tokens,
                       double rate) {
  if (!log_) return;
  record line{{"step", m.step + steps_before_}};
  if (!stage_.empty()) line["stage"] = stage_;
  line["epoch"] = m.epoch, line["tokens"] = tokens + tokens_before_;
  if (m.empty) {  // no loss, no speed
    line["lr"] = m.lr, line["empty"] = true;
    log_->append(line);
    return;
  }
  line["tokens_per_second"] = significant(rate, 4);
  reached(m.total);
  named_values board;
  for (const auto& [name, value] : m.terms()) {
    line[std::string(name)] = value;
    board.emplace_back("loss/" + std::string(name), value);
  }
  line["total"] = m.total, line["grad_norm"] = m.grad_norm, line["lr"] = m.lr;
  board.insert(board.end(), {{"loss/total", m.total},
                             {"optimiser/grad_norm", m.grad_norm},
                             {"optimiser/lr", m.lr},
                             {"speed/tokens_per_second", rate}});
  for (const auto& [name, value] : schedules) {
    line[name] = value;
    board.emplace_back("schedule/" + name, value);
  }
  if (m.skipped) line["skipped"] = true;
  log_->append(line);
  const std::vector<std::pair<std::string_view, double>> scalars(board.begin(), board.end());
  board_->scalars(m.step + steps_before_, scalars);
}

void run_records::progress(const dx::step_metrics& m, const named_values& schedules, double rate, double left,
                           dx::index total) {
  if (!log_ || !on_terminal()) return;
  std::cerr << "\r\033[K" << (stage_.empty() ? "" : stage_ + " ") << "step " << m.step << "/" << total
            << " epoch " << m.epoch << "  " << printed("%.0f", rate) << " tok/s  left " << clock_text(left)
            << " ";
  for (const auto& [name, value] : m.terms()) std::cerr << " " << name << printed(" %.3f", value);
  std::cerr << printed(" total %.3f", m.total) << printed("  |g| %.2f", m.grad_norm)
            << printed("  lr %.2e ", m.lr);
  for (const auto& [name, value] : schedules) std::cerr << " " << name << printed(" %.2f", value);
  std::cerr << std::flush;
  line_open_ = true;
}

void run_records::diverged(dx::index step, const std::string& how) {
  if (log_) log_->append({{"step", step + steps_before_}, {"diverged", how}});
}

void run_records::say(const std::string& text) {
  end_progress();
  if (on_terminal()) std::cerr << text << "\n";
}

void run_records::end_progress() {
  if (std::exchange(line_open_, false)) std::cerr << "\n";
}

void write_run_report(const fs::path& folder, const report_texts& texts) {
  if (!leads()) return;
  report_data d;
  d.title = texts.title, d.subtitle = texts.subtitle, d.prompt = texts.prompt, d.sample = texts.sample;
  d.tables = texts.tables;
  d.records = read_metrics(folder / "metrics.jsonl");
  long last = 0;
  for (const auto& r : d.records) {
    if (r.contains("step")) last = std::max(last, r["step"].get<long>());
    if (!r.contains("held_out_ppl") || !r["held_out_ppl"].is_number()) continue;
    const double ppl = r["held_out_ppl"].get<double>();
    if (!d.held_out.student_before) d.held_out.student_before = ppl;
    d.held_out.student_after = ppl;
  }
  d.figures = {{"tokens seen", grouped(texts.tokens_seen)}, {"steps", grouped(last)}};
  dx::io::json run = dx::io::read_json_file(folder / "run.json");
  run.erase("student"), run.erase("calibration");
  const dx::io::json flat = run.flatten();
  for (const auto& [pointer, value] : flat.items()) {
    std::string name = pointer.substr(1);
    std::replace(name.begin(), name.end(), '/', ' ');
    if (!value.is_null() && value != "")
      d.configuration.emplace_back(name, value.is_string() ? value.get<std::string>() : value.dump());
  }
  write_report(folder / "report.html", d);
}

}  // namespace program
