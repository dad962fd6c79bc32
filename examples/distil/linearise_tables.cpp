#include "linearise_tables.hpp"

#include <cmath>
#include <limits>
#include <utility>

namespace program {

using dx::io::json;

namespace {

std::string cell(const json& value) {
  return value.is_number() ? short_number(value.get<double>()) : std::string("–");
}
report_table results_table(const linearise_findings& found) {
  report_table t{
      "Results",
      "KL(teacher || model) in nats a token and perplexity on the held-out text, by window; the share of "
      "needle cases found; the memory of a text in MiB, by its tokens.",
      {""},
      {}};
  for (const dx::index w : found.windows)
    t.columns.push_back("KL " + std::to_string(w)), t.columns.push_back("ppl " + std::to_string(w));
  for (const dx::index n : found.needles) t.columns.push_back("needle " + std::to_string(n));
  for (const char* n : {"512", "8192", "65536"}) t.columns.push_back("MiB at " + std::string(n));
  for (const auto& [key, name] : {std::pair("teacher", "Teacher"),
                                  {"untrained_windows", "Windows, untrained"},
                                  {"trained_windows", "Windows, trained"},
                                  {"student", "Student"}}) {
    if (!found.results.contains(key)) continue;
    const json& r = found.results.at(key);
    std::vector<std::string> row{name};
    for (const dx::index w : found.windows) {
      const json& at = r.at("windows").at(std::to_string(w));
      row.push_back(cell(at.value("kl", json()))), row.push_back(cell(at.at("ppl")));
    }
    for (const dx::index n : found.needles)
      row.push_back(cell(r.at("needle").at(std::to_string(n)).at("number")));
    for (const char* n : {"512", "8192", "65536"})
      row.push_back(short_number(r.at("text_bytes").at(n).get<double>() / 1048576));
    t.rows.push_back(std::move(row));
  }
  return t;
}
report_table kept_table(const json& kept) {
  report_table t{
      "Layers that keep their attention",
      "One after another, the layer that lowers the cost most: the needle's negative log-likelihood at 512 "
      "tokens, and --keep-kl times KL, all others having a window.",
      {"Layer", "cost with it", "the next best layer", "cost with that"},
      {}};
  for (const json& k : kept) {
    const auto layer = k.at("layer").get<std::size_t>();
    std::size_t next = 0;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < k.at("costs").size(); ++i) {
      const double c = k.at("costs")[i].get<double>();
      if (i != layer && c > 0 && c < least) least = c, next = i;
    }
    t.rows.push_back({std::to_string(layer), cell(k.at("cost")),
                      std::isfinite(least) ? std::to_string(next) : "–",
                      std::isfinite(least) ? short_number(least) : "–"});
  }
  return t;
}
report_table layers_table(const dx::linearised_config& c, const std::vector<double>& errors) {
  report_table t{"Layers after alignment",
                 "The mean distance from what the teacher's attention gives, in its mean length.",
                 {"Layer", "mixer", "error"},
                 {}};
  for (std::size_t i = 0; i < errors.size(); ++i)
    t.rows.push_back({std::to_string(i), std::string(dx::name_of(c.mixers[i])),
                      c.mixers[i] == dx::mixer_kind::attention ? "–" : short_number(errors[i])});
  return t;
}

}  // namespace

std::vector<report_table> linearise_tables(const linearise_findings& found) {
  std::vector<report_table> out;
  if (!found.results.empty()) out.push_back(results_table(found));
  if (!found.kept.empty()) out.push_back(kept_table(found.kept));
  if (!found.layer_errors.empty()) out.push_back(layers_table(found.config, found.layer_errors));
  return out;
}

std::string mixers_text(const dx::linearised_config& c) {
  std::string text;
  for (const auto kind :
       {dx::mixer_kind::hybrid, dx::mixer_kind::memory, dx::mixer_kind::window, dx::mixer_kind::attention})
    if (const dx::index n = c.count(kind); n > 0)
      text += (text.empty() ? "" : ", ") + std::to_string(n) + " " + std::string(dx::name_of(kind));
  return text;
}

}  // namespace program
