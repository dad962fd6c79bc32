#include "choose_mixers.hpp"

#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/distil/choose_attention.hpp>
#include <distil_xlstm/distil/needle.hpp>
#include <distil_xlstm/distil/score_divergence.hpp>

#include "command.hpp"
#include "processes.hpp"

namespace program {
namespace {

using kinds = std::vector<dx::mixer_kind>;

/// "hybrid,attention,...": one a layer; or the layers that keep attention, "18,8,23", the others having --mixer.
kinds listed(const linearise_options& o, dx::index layers) {
  if (o.mixers.find_first_not_of("0123456789,") == o.mixers.npos) {
    kinds out(static_cast<std::size_t>(layers), dx::mixer_named(o.mixer));
    for (const dx::index layer : numbers_of("mixers", o.mixers, "layers such as 18,8,23")) {
      dx::require(layer < layers, "there is no layer ", layer, ": the teacher has ", layers, ", from 0 on");
      out[static_cast<std::size_t>(layer)] = dx::mixer_kind::attention;
    }
    return out;
  }
  std::vector<std::string> names;
  std::istringstream in(o.mixers + ",");
  for (std::string name; std::getline(in, name, ',');) names.push_back(name);
  dx::require(std::ssize(names) == layers, names.size(), " are named, the teacher has ", layers, " layers");
  kinds out;
  for (const auto& name : names) out.push_back(dx::mixer_named(name));
  return out;
}

/// The layers that keep their attention, each as it was chosen.
std::vector<dx::kept_attention> found(engine& machine, dx::linearised_config c, const linearise_options& o,
                                      std::span<const dx::continuation> needles, const dx::io::token_file& text,
                                      dx::index window) {
  if (o.keep_attention <= 0 || !leads()) return {};
  const auto model = machine.load_windowed(o.teacher, c);
  const auto teacher = o.keep_kl > 0 ? machine.load(o.teacher) : nullptr;
  if (teacher) teacher->keep(text);
  const bool shown = on_terminal();
  dx::index tried = 0;
  auto kept = dx::choose_attention(std::ssize(c.mixers), o.keep_attention, [&](const auto& mixers) {
    if (shown) std::cerr << "\r\033[Klooking for the layers that recall: " << ++tried << " tried" << std::flush;
    c.mixers = mixers;
    model->mixers(c);
    double cost = dx::score_needle(model->score(needles, [](dx::index, dx::index) {})).nll;
    if (teacher) cost += o.keep_kl * model->score(text, window, *teacher).mean_kl();
    return cost;
  });
  if (shown) std::cerr << "\r\033[K";
  return kept;
}

}  // namespace

mixer_choice choose_mixers(engine& machine, const teacher_facts& facts, const linearise_options& o,
                           std::span<const dx::continuation> needles, const dx::io::token_file& text,
                           dx::index window) {
  mixer_choice out;
  dx::linearised_config& c = out.config;
  c.window = o.window, c.sinks = o.sinks, c.features = facts.head_dim;
  if (!o.mixers.empty()) {
    c.mixers = of_option("mixers", [&] { return listed(o, facts.layers); });
    return out;
  }
  c.mixers.assign(static_cast<std::size_t>(facts.layers), dx::mixer_kind::window);
  const auto kept = found(machine, c, o, needles, text, window);
  c.mixers.assign(c.mixers.size(), of_option("mixer", [&] { return dx::mixer_named(o.mixer); }));
  for (const auto& k : kept) out.kept.push_back({{"layer", k.layer}, {"cost", k.cost}, {"costs", k.costs}});
  out.kept = dx::io::json::parse(dx::comm::from_root(processes(), out.kept.dump()));  // rank 0 has looked
  for (const auto& k : out.kept) c.mixers[k.at("layer").get<std::size_t>()] = dx::mixer_kind::attention;
  return out;
}

}  // namespace program
