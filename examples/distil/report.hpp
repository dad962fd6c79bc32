#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/io/json.hpp>

#include "common.hpp"
#include "metrics_log.hpp"

namespace program {

/// Perplexities on the held-out text; what is not known is left out of the table.
struct held_out_table {
  std::optional<double> student_before;
  std::optional<double> student_after;
  std::optional<double> teacher;
  std::optional<double> unigram;
};

/// A table of the report, cells as text.
struct report_table {
  std::string title, note;
  std::vector<std::string> columns;  ///< the first is of the rows' names
  std::vector<std::vector<std::string>> rows;
};

/// Everything the report of a run shows. All text is escaped by the writer.
struct report_data {
  using entries = std::vector<std::pair<std::string, std::string>>;

  std::string title;
  std::string subtitle;     ///< one line below the title; may be empty
  entries figures;          ///< a few headline numbers: {"tokens seen", "56.2 M"}, {"time", "5 min 0 s"}
  held_out_table held_out;  ///< teacher and unigram default to those of the records
  std::string prompt;       ///< what the sample continues; may be empty
  std::string sample;       ///< text by the trained student, without the prompt; empty: no sample
  std::vector<report_table> tables = {};  ///< of the results
  entries configuration;                  ///< the run's options, in order
  std::vector<record> records;            ///< of metrics.jsonl
};

/// The report as one HTML page that needs nothing else: headline numbers, held-out perplexities, the curves of
/// the run (cross-entropy, KL, objective, gradient norm, held-out perplexity, alignment, other terms, schedules,
/// learning rate, speed; those that were logged), a sample and the configuration. The page is report.html.
std::string report_html(const report_data& run);

/// Writes `report_html(run)` to `path`, atomically.
void write_report(const fs::path& path, const report_data& run);

namespace detail {

/// Text for HTML, attribute values included. Bytes that are no UTF-8 and control characters become U+FFFD.
std::string escape_html(std::string_view text);

/// Puts values into a template: {{name}} is a member's text, escaped; {{#name}}...{{/name}} is there once for each
/// element of a list, once for what is neither false nor empty, else not; {{^name}}...{{/name}} is there where
/// that is not. A name is looked for in the innermost element first.
std::string filled(std::string_view page, const dx::io::json& values);

/// A number for people: about `digits` significant digits; 12,300 and 4.5e-4 at the ends.
std::string readable(double x, int digits = 3);

/// Ticks `distance` apart on an axis up to `top`: 12k and 3M for 12,000 and 3,000,000, no decimals without
/// need.
std::string tick_label(double x, double distance, double top);

struct point {
  double x = 0, y = 0;
  bool after_gap = false;  ///< a value before this one was null: the line is interrupted
};

inline constexpr std::size_t most_points = 600, smooth_above = 200;

/// Centred moving mean over about 2 % of the run (of the logarithms where the axis is logarithmic).
std::vector<point> smoothed(const std::vector<point>& raw, bool log_axis);

/// At most `most_points`: of each stretch the lowest and the highest, so that no spike is lost.
std::vector<point> thinned(const std::vector<point>& all);

}  // namespace detail
}  // namespace program
