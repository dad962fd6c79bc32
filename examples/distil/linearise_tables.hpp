#pragma once

#include <string>
#include <vector>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/linearised.hpp>

#include "report.hpp"

namespace program {

/// What a run of `distil linearise` has found.
struct linearise_findings {
  const dx::linearised_config& config;
  const dx::io::json& results;              ///< results.json; empty: nothing was judged
  const dx::io::json& kept;                 ///< what each choice of attention cost; empty: nothing was chosen
  const std::vector<double>& layer_errors;  ///< after alignment; empty: not known
  std::vector<dx::index> windows, needles;  ///< that were judged
};

/// The tables of its report: of what is known.
std::vector<report_table> linearise_tables(const linearise_findings& found);

/// "25 hybrid, 5 attention"
std::string mixers_text(const dx::linearised_config& c);

}  // namespace program
