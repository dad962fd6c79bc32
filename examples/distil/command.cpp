#include "command.hpp"

#include <algorithm>
#include <iostream>
#include <sstream>

#include "option_rules.hpp"

namespace program {
namespace {

/// A value as text, as conditions compare it: numbers without a fraction as such.
std::string text_of(const po::variable_value& v) {
  const auto& value = v.value();
  if (const auto* s = boost::any_cast<std::string>(&value)) return *s;
  if (const auto* p = boost::any_cast<fs::path>(&value)) return p->string();
  if (const auto* b = boost::any_cast<bool>(&value)) return *b ? "true" : "false";
  if (const auto* n = boost::any_cast<dx::index>(&value)) return std::to_string(*n);
  if (const auto* i = boost::any_cast<int>(&value)) return std::to_string(*i);
  if (const auto* x = boost::any_cast<double>(&value)) return short_number(*x);
  return {};
}
bool is_given(const po::variables_map& values, std::string_view option) {
  const auto at = values.find(std::string(option));
  return at != values.end() && !at->second.empty() && !at->second.defaulted();
}
std::string value_of(const po::variables_map& values, std::string_view option) {
  const auto at = values.find(std::string(option));
  return at == values.end() || at->second.empty() ? std::string() : text_of(at->second);
}
bool contains(const std::vector<std::string_view>& list, std::string_view x) {
  return std::find(list.begin(), list.end(), x) != list.end();
}

bool holds(const option_condition& c, const po::variables_map& values) {
  switch (c.what) {
    case option_condition::given: return is_given(values, c.option);
    case option_condition::not_given: return !is_given(values, c.option);
    case option_condition::is: return contains(c.values, value_of(values, c.option));
    case option_condition::is_not: return !contains(c.values, value_of(values, c.option));
  }
  return true;
}

/// "without --requests", "with --init", "with --device cuda"
std::string why_not(const option_rule& rule, const po::variables_map& values) {
  const auto& c = rule.any.front();
  if (c.what == option_condition::not_given) return "with --" + std::string(c.option);
  if (c.what == option_condition::given) {
    std::string text;
    for (const auto& x : rule.any) text += (text.empty() ? "without --" : " or --") + std::string(x.option);
    return text;
  }
  return "with --" + std::string(c.option) + " " + value_of(values, c.option);
}

}  // namespace

void require_effects(std::string_view command, const po::variables_map& values) {
  for (const auto& rule : option_rules()) {
    if (rule.command != command || rule.any.empty() || !is_given(values, rule.option)) continue;
    if (std::none_of(rule.any.begin(), rule.any.end(), [&](const auto& c) { return holds(c, values); }))
      throw usage_error("--" + std::string(rule.option) + ": has no effect " + why_not(rule, values));
  }
}

std::vector<dx::index> numbers_of(const char* option, const std::string& text, const char* what) {
  std::vector<dx::index> out;
  std::stringstream in(text + ",");
  for (std::string part; std::getline(in, part, ',');) {
    if (part.empty() || part.size() > 9 || part.find_first_not_of("0123456789") != part.npos)
      throw usage_error("--" + std::string(option) + ": '" + text + "' is not a list of " + what);
    out.push_back(std::stol(part));
    if (std::find(out.begin(), out.end() - 1, out.back()) != out.end() - 1)
      throw usage_error("--" + std::string(option) + ": " + part + " is named twice");
  }
  return out;
}

po::options_description machine_options(machine& where) {
  po::options_description d("Machine");
  d.add_options()  //
      ("device", po::value(&where.device)->default_value(where.device),
       "where it runs: cpu, cuda (a GPU)")  //
      ("precision", po::value(&where.precision)->default_value(where.precision),
       "fp32, bf16 (products of bf16, sums of fp32), fp64")  //
      ("threads", po::value(&where.threads)->default_value(0, ""),
       "worker threads of the CPU; default: as many as there are cores to use")  //
      ("gpus", po::value(&where.gpus)->value_name("N"),
       "so many GPUs of this machine share the work, a process each; --device is cuda")  //
      ("processes", po::value(&where.processes)->value_name("N"), "or so many processes on its CPU");
  return d;
}

void check(machine& where) {
  for (const auto& [option, n] : {std::pair{"--gpus", where.gpus}, {"--processes", where.processes}})
    if (n < 0 || n > 1024)
      throw usage_error(std::string(option) + ": " + std::to_string(n) + " are not possible");
  if (where.gpus > 0) where.device = "cuda";
  if (where.processes > 0 && where.device == "cuda")
    throw usage_error("--processes: are of the CPU; --gpus says how many GPUs work together");
#if !defined(DISTIL_WITH_CUDA)
  if (where.device == "cuda")
    throw usage_error(
        "--device cuda: this distil was built without CUDA: configure with -DDISTIL_XLSTM_CUDA=ON");
#endif
  if (where.device != "cpu" && where.device != "cuda")
    throw usage_error("--device: '" + where.device + "' is not known (cpu, cuda are)");
  if (where.precision != "fp32" && where.precision != "bf16" && where.precision != "fp64")
    throw usage_error("--precision: '" + where.precision + "' is not known (fp32, bf16, fp64 are)");
  if (where.threads < 0 || where.threads > 4096)
    throw usage_error("--threads: " + std::to_string(where.threads) + " is not possible");
}

bool parse(const arguments& given, const help_text& help, const po::options_description& options,
           po::variables_map& values, const char* positional) {
  po::options_description all;
  all.add(options);
  all.add_options()("help", "this text");
  const char* surplus = "belongs to no option";
  po::options_description parsed;
  parsed.add(all).add_options()(surplus, po::value<std::vector<std::string>>());
  po::positional_options_description places;
  places.add(positional ? positional : surplus, -1);
  using style = po::command_line_style::style_t;
  try {
    po::store(po::command_line_parser(given)
                  .options(parsed)
                  .positional(places)
                  .style(style::unix_style & ~style::allow_guessing & ~style::allow_short)
                  .run(),
              values);
    if (values.count("help")) {
      std::cout << help.usage << "\n" << all << "\nExamples:" << help.examples << std::flush;
      return false;
    }
    if (values.count(surplus))
      throw usage_error("'" + values[surplus].as<std::vector<std::string>>().front() + "' " + surplus);
    if (values.count("gpus") && !values["device"].defaulted() && values["device"].as<std::string>() != "cuda")
      throw usage_error("--gpus: has no effect with --device " + values["device"].as<std::string>());
    po::notify(values);
  } catch (const po::error& e) {
    throw usage_error(e.what());
  }
  return true;
}

}  // namespace program
