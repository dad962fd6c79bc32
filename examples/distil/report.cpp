#include "report.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>

#include <distil_xlstm/io/atomic_file.hpp>

#include "report_page.hpp"

namespace program {

using dx::index;
using dx::io::json;

namespace detail {
namespace {

std::string fixed(double x, int decimals) {
  if (!(std::abs(x) < 1e100)) return "0";
  char text[160];
  return {text, std::to_chars(text, text + sizeof text, x, std::chars_format::fixed, decimals).ptr};
}

bool holds(const json& value) {
  return !(value.is_null() || value == false || (value.is_array() && value.empty()) || value == "");
}

/// The innermost value of a name; null where there is none.
const json& named(const std::vector<const json*>& scopes, const std::string& name) {
  static const json none;
  for (auto s = scopes.rbegin(); s != scopes.rend(); ++s)
    if ((*s)->is_object() && (*s)->contains(name)) return (*s)->at(name);
  return none;
}

void fill(std::string& out, std::string_view page, std::vector<const json*>& scopes) {
  for (std::size_t open; (open = page.find("{{")) != page.npos;) {
    out += page.substr(0, open);
    const auto close = page.find("}}", open);
    dx::require(close != page.npos, "template: {{ is not closed");
    std::string name(page.substr(open + 2, close - open - 2));
    page.remove_prefix(close + 2);
    if (name[0] != '#' && name[0] != '^') {
      const json& value = named(scopes, name);
      out += escape_html(value.is_string() ? value.get<std::string>() : value.is_null() ? "" : value.dump());
      continue;
    }
    const bool inverted = name[0] == '^';
    name.erase(0, 1);
    const std::string end = "{{/" + name + "}}";
    const auto at = page.find(end);
    dx::require(at != page.npos, "template: ", end, " is missing");
    const auto inside = page.substr(0, at);
    page.remove_prefix(at + end.size());
    const json& value = named(scopes, name);
    if (inverted || !value.is_array()) {
      if (holds(value) != inverted) fill(out, inside, scopes);
      continue;
    }
    for (const json& element : value) {
      scopes.push_back(&element);
      fill(out, inside, scopes);
      scopes.pop_back();
    }
  }
  out += page;
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const std::size_t n = c < 0x80                ? 1
                          : c >= 0xc2 && c < 0xe0 ? 2
                          : c >= 0xe0 && c < 0xf0 ? 3
                          : c >= 0xf0 && c < 0xf5 ? 4
                                                  : 0;
    bool good = n > 0 && i + n <= text.size() && (c >= 0x20 || c == '\n' || c == '\t') && c != 0x7f;
    for (std::size_t k = 1; good && k < n; ++k) good = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
    if (good && n > 2) {  // overlong forms, surrogates, above U+10FFFF
      const auto second = static_cast<unsigned char>(text[i + 1]);
      good = !(c == 0xe0 && second < 0xa0) && !(c == 0xed && second >= 0xa0) && !(c == 0xf0 && second < 0x90) &&
             !(c == 0xf4 && second >= 0x90);
    }
    if (!good) {
      out += "\xef\xbf\xbd";
      ++i;
      continue;
    }
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out.append(text.substr(i, n));
    }
    i += n;
  }
  return out;
}

std::string filled(std::string_view page, const json& values) {
  std::string out;
  std::vector<const json*> scopes = {&values};
  fill(out, page, scopes);
  return out;
}

std::string readable(double x, int digits) {
  const double size = std::abs(x);
  if (size == 0) return "0";
  if (size >= 1e15 || size < 1e-3) {
    char text[64];
    std::string s(
        text,
        std::to_chars(text, text + sizeof text, significant(x, digits), std::chars_format::scientific).ptr);
    const auto e = s.find('e');
    const auto exponent = std::atoi(s.c_str() + e + 1);
    return s.substr(0, e) + "e" + std::to_string(exponent);
  }
  const int before = static_cast<int>(std::floor(std::log10(size))) + 1;
  if (before >= digits) return grouped(static_cast<std::int64_t>(std::llround(x)));
  return fixed(x, digits - before);
}

std::string tick_label(double x, double distance, double top) {
  if (x == 0) return "0";
  if (top >= 1e6) return tick_label(x / 1e6, distance / 1e6, 1) + "M";
  if (top >= 1e4) return tick_label(x / 1e3, distance / 1e3, 1) + "k";
  if (distance < 1e-3) return readable(significant(x, 2), significant(x, 1) == significant(x, 2) ? 1 : 2);
  int decimals = 0;
  for (double d = distance; decimals < 4 && std::abs(d - std::round(d)) > 1e-6; d *= 10) ++decimals;
  return fixed(x, decimals);
}

std::vector<point> smoothed(const std::vector<point>& raw, bool log_axis) {
  const auto n = std::ssize(raw), reach = std::max<dx::index>(2, n / 100);
  std::vector<double> sum(raw.size() + 1);
  for (dx::index i = 0; i < n; ++i) {
    const auto k = static_cast<std::size_t>(i);
    sum[k + 1] = sum[k] + (log_axis ? std::log(raw[k].y) : raw[k].y);
  }
  auto out = raw;
  for (dx::index i = 0; i < n; ++i) {
    // At the start, where curves are steep, the window shrinks on both sides alike; at the end only on one.
    const dx::index before = std::min(reach, i), after = std::min(before, n - 1 - i);
    const double mean =
        (sum[static_cast<std::size_t>(i + after + 1)] - sum[static_cast<std::size_t>(i - before)]) /
        static_cast<double>(before + 1 + after);
    out[static_cast<std::size_t>(i)].y = log_axis ? std::exp(mean) : mean;
  }
  return out;
}

std::vector<point> thinned(const std::vector<point>& all) {
  if (all.size() <= most_points) return all;
  std::vector<point> out;
  const std::size_t stretches = most_points / 2;
  for (std::size_t s = 0; s < stretches; ++s) {
    const auto first = all.begin() + static_cast<dx::index>(all.size() * s / stretches);
    const auto last = all.begin() + static_cast<dx::index>(all.size() * (s + 1) / stretches);
    auto [low, high] =
        std::minmax_element(first, last, [](const point& a, const point& b) { return a.y < b.y; });
    if (high < low) std::swap(low, high);
    const auto before = out.size();
    out.push_back(*low);
    if (high != low) out.push_back(*high);
    out[before].after_gap = std::any_of(first, last, [](const point& p) { return p.after_gap; });
  }
  return out;
}

namespace {

struct curve {
  std::string name,
      symbol;  ///< beside the line's end, and where there is little room; both empty if it is the only one
  std::vector<point> points;
};

struct chart {
  std::string title, unit;
  std::vector<curve> curves;
  bool log_axis = false, from_zero = false;
  bool measured = true;  ///< noisy, so that a long curve is smoothed; a schedule is drawn as it is
  std::vector<std::pair<std::string, double>> references = {};
};

curve curve_of(const std::vector<record>& records, const std::string& name, std::string shown,
               std::string symbol, bool log_axis) {
  curve c{std::move(shown), std::move(symbol), {}};
  bool gap = false;
  for (const auto& r : records) {
    const auto step = r.find("step"), value = r.find(name);
    if (step == r.end() || !step->is_number() || value == r.end()) continue;
    const bool good =
        value->is_number() && std::isfinite(value->get<double>()) && (!log_axis || value->get<double>() > 0);
    if (good) c.points.push_back({step->get<double>(), value->get<double>(), gap && !c.points.empty()});
    gap = !good;
  }
  std::stable_sort(c.points.begin(), c.points.end(), [](const point& a, const point& b) { return a.x < b.x; });
  return c;
}

/// The nice number (1, 2, 2.5 or 5 times a power of ten) at or above x.
double nice(double x) {
  const double power = std::pow(10, std::floor(std::log10(x)));
  for (const double m : {1.0, 2.0, 2.5, 5.0})
    if (x <= m * power * (1 + 1e-9)) return m * power;
  return 10 * power;
}

struct axis {
  double low = 0, high = 1;
  bool log = false;
  std::vector<std::pair<double, std::string>> ticks;

  double place(double v) const {
    return log ? (std::log(v) - std::log(low)) / (std::log(high) - std::log(low)) : (v - low) / (high - low);
  }
};

axis linear_axis(double low, double high, int ticks, bool snap) {
  if (!(high > low)) {
    const double pad = high != 0 ? std::abs(high) * 0.1 : 1;
    low = low < 0 || low - pad >= 0 ? low - pad : 0, high += pad;
  }
  const double d = nice((high - low) / ticks);
  axis a;
  a.low = snap ? std::floor(low / d + 1e-9) * d : low;
  a.high = snap ? std::ceil(high / d - 1e-9) * d : high;
  for (double k = std::ceil(a.low / d - 1e-9); k * d <= a.high + 1e-9 * d; ++k) {
    const double v = k * d;
    a.ticks.emplace_back(
        v, tick_label(std::abs(v) < 1e-9 * d ? 0 : v, d, std::max(std::abs(a.low), std::abs(a.high))));
  }
  return a;
}

axis log_axis(double low, double high) {
  if (high < low * 2) {
    const double middle = std::sqrt(low * high);
    low = std::min(low, middle / 1.5), high = std::max(high, middle * 1.5);
  }
  axis a;
  a.log = true;
  const double reach = std::log10(high / low);
  // 1, 2, 5 while they are few; whole decades, then every few decades, beyond.
  const std::vector<double> digits = reach < 2.5 ? std::vector<double>{1, 2, 5} : std::vector<double>{1};
  const int every = std::max(1, static_cast<int>(std::ceil(reach / 6)));
  a.low = low / std::pow(high / low, 0.03), a.high = high * std::pow(high / low, 0.03);
  for (int e = static_cast<int>(std::floor(std::log10(a.low))); std::pow(10, e) <= a.high; ++e)
    for (const double m : digits) {
      const double v = m * std::pow(10, e);
      if (v < a.low || v > a.high || e % every != 0) continue;
      a.ticks.emplace_back(v, v < 1e-3 ? readable(v, 1) : tick_label(v, v, v < 1e3 ? v : std::max(v, 1e4)));
    }
  return a;
}

struct frame {
  double left = 44, right = 358, top = 12, bottom = 174, width = 370, height = 212;
};

std::string path_of(const std::vector<point>& points, const axis& x, const axis& y, const frame& f) {
  std::string d;
  for (std::size_t i = 0; i < points.size(); ++i) {
    d += i == 0 || points[i].after_gap ? 'M' : 'L';
    d += fixed(f.left + x.place(points[i].x) * (f.right - f.left), 1) + " " +
         fixed(f.bottom - y.place(points[i].y) * (f.bottom - f.top), 1);
  }
  return d;
}

/// Moves labels apart, at least `gap`, keeping their order and staying in [low, high].
void spread(std::vector<double*> at, double gap, double low, double high) {
  std::sort(at.begin(), at.end(), [](const double* a, const double* b) { return *a < *b; });
  double floor = low;
  for (double* y : at) *y = std::max(*y, floor), floor = *y + gap;
  double ceiling = high;
  for (auto i = at.rbegin(); i != at.rend(); ++i) **i = std::min(**i, ceiling), ceiling = **i - gap;
}

/// A chart as the page shows it.
json drawn(const chart& c, double first_step, double last_step) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const auto& k : c.curves)
    for (const auto& p : k.points) low = std::min(low, p.y), high = std::max(high, p.y);
  for (const auto& r : c.references) low = std::min(low, r.second), high = std::max(high, r.second);
  if (c.from_zero) low = std::min(low, 0.0), high = std::max(high, 0.0);
  frame f;
  const bool named = !c.curves.front().name.empty();
  std::size_t longest = 0;
  for (const auto& k : c.curves) longest = std::max(longest, k.name.size());
  if (named || !c.references.empty()) f.right -= std::max(84.0, 22 + 6.0 * static_cast<double>(longest));
  const axis y = c.log_axis ? log_axis(low, high) : linear_axis(low, high, 4, true);
  const axis x = linear_axis(first_step, std::max(last_step, first_step + 1), 5, false);
  const auto at_x = [&](double v) { return f.left + x.place(v) * (f.right - f.left); };
  const auto at_y = [&](double v) { return f.bottom - y.place(v) * (f.bottom - f.top); };

  json y_ticks = json::array(), x_ticks = json::array(), curves = json::array(), data = json::array(),
       references = json::array(), shown_labels = json::array();
  for (const auto& [v, label] : y.ticks)
    y_ticks.push_back({{"at", fixed(at_y(v), 1)},
                       {"label_x", fixed(f.left - 7, 1)},
                       {"label_y", fixed(at_y(v) + 4, 1)},
                       {"label", label}});
  for (const auto& [v, label] : x.ticks) x_ticks.push_back({{"at", fixed(at_x(v), 1)}, {"label", label}});

  struct label {
    double at;
    std::string text;
    int colour;
  };
  std::vector<label> labels;
  std::string last_values;
  for (std::size_t i = 0; i < c.curves.size(); ++i) {
    const auto& k = c.curves[i];
    const auto colour = static_cast<int>(i % 5);
    const bool smooth = k.points.size() > smooth_above && c.measured;
    const auto line = smooth ? smoothed(k.points, c.log_axis) : k.points;
    json one = {{"colour", colour},
                {"raw", smooth ? path_of(thinned(k.points), x, y, f) : ""},
                {"line", path_of(thinned(line), x, y, f)},
                {"dots", json::array()}};
    if (k.points.size() == 1 || (k.points.size() <= 40 && c.measured))
      for (const auto& p : k.points)
        one["dots"].push_back({{"x", fixed(at_x(p.x), 1)}, {"y", fixed(at_y(p.y), 1)}});
    curves.push_back(std::move(one));
    const double highest =
        std::max_element(k.points.begin(), k.points.end(), [](const point& a, const point& b) {
          return std::abs(a.y) < std::abs(b.y);
        })->y;
    // A schedule that ends at zero up to rounding ends at zero.
    const double last = std::abs(line.back().y) < 1e-9 * std::abs(highest) ? 0 : line.back().y;
    last_values += (i ? ", " : "") + (named ? k.symbol + " " : std::string()) + readable(last);
    if (named || !c.references.empty())
      labels.push_back({at_y(line.back().y), named ? k.name : "student " + readable(last), colour});

    json steps = json::array(), values = json::array();
    for (const auto& p : thinned(k.points))
      steps.push_back(std::llround(p.x)), values.push_back(significant(p.y, 5));
    data.push_back({{"n", k.symbol}, {"x", std::move(steps)}, {"y", std::move(values)}});
  }
  for (const auto& [name, value] : c.references) {
    references.push_back({{"at", fixed(at_y(value), 1)}});
    labels.push_back({at_y(value), name + " " + readable(value), -1});
  }
  std::vector<double*> at;
  for (auto& l : labels) at.push_back(&l.at);
  spread(at, 15, f.top, f.bottom);
  for (const auto& l : labels)
    shown_labels.push_back({{"dot_x", named ? fixed(f.right + 10, 1) : ""},
                            {"colour", l.colour},
                            {"at", fixed(l.at, 1)},
                            {"label_x", fixed(f.right + (named ? 17 : 8), 1)},
                            {"label_y", fixed(l.at + 4, 1)},
                            {"kind", l.colour >= 0 ? "end" : ""},
                            {"text", l.text}});
  const json plot = {std::llround(x.low), std::llround(x.high), std::llround(f.left), std::llround(f.right)};
  return {{"title", c.title},
          {"unit", c.unit + (c.log_axis ? (c.unit.empty() ? "log axis" : ", log axis") : "")},
          {"last", last_values},
          {"width", f.width},
          {"height", f.height},
          {"plot", plot.dump()},
          {"data", data.dump()},
          {"left", f.left},
          {"right", f.right},
          {"top", f.top},
          {"bottom", f.bottom},
          {"tick_y", f.bottom + 4},
          {"tick_label_y", f.bottom + 17},
          {"title_y", f.bottom + 34},
          {"middle", (f.left + f.right) / 2},
          {"y_ticks", std::move(y_ticks)},
          {"x_ticks", std::move(x_ticks)},
          {"curves", std::move(curves)},
          {"references", std::move(references)},
          {"labels", std::move(shown_labels)}};
}

std::optional<double> last_number(const std::vector<record>& records, const char* name) {
  for (auto r = records.rbegin(); r != records.rend(); ++r)
    if (const auto v = r->find(name); v != r->end() && v->is_number() && std::isfinite(v->get<double>()))
      return v->get<double>();
  return std::nullopt;
}

json held_out_rows(const held_out_table& t) {
  struct row {
    const char* name;
    std::optional<double> ppl;
    bool own;
  };
  const row rows[] = {{"Unigram frequencies", t.unigram, false},
                      {"Student before", t.student_before, false},
                      {"Student after", t.student_after, true},
                      {"Teacher", t.teacher, false}};
  const auto good = [](const std::optional<double>& ppl) { return ppl && *ppl > 0 && std::isfinite(*ppl); };
  double most = 0;
  for (const auto& r : rows)
    if (good(r.ppl)) most = std::max(most, std::log(*r.ppl));
  json out = json::array();
  for (const auto& r : rows) {
    if (!r.ppl) continue;
    const double nats = good(r.ppl) ? std::log(*r.ppl) : 0;
    out.push_back({{"own", r.own},
                   {"name", r.name},
                   {"perplexity", good(r.ppl) ? readable(*r.ppl) : "not finite"},
                   {"nats", good(r.ppl) ? fixed(nats, 3) : "–"},
                   {"ratio", good(r.ppl) && good(t.teacher) ? "× " + readable(*r.ppl / *t.teacher) : "–"},
                   {"percent", fixed(most > 0 ? 100 * std::max(0.0, nats) / most : 0, 1)}});
  }
  return out;
}

/// The terms of an objective of one's own, whose weights were logged, in their order.
std::vector<std::string> weighed_terms(const std::vector<record>& records) {
  constexpr std::string_view end = "_weight";
  std::vector<std::string> terms;
  for (const auto& r : records)
    for (const auto& [name, value] : r.items())
      if (name.size() > end.size() && name.ends_with(end))
        if (const auto term = name.substr(0, name.size() - end.size());
            std::find(terms.begin(), terms.end(), term) == terms.end())
          terms.push_back(term);
  return terms;
}

/// The charts of what was logged.
std::vector<chart> charts_of(const report_data& run, const held_out_table& held_out) {
  const auto one = [&](const std::string& name, const std::string& title, const char* unit, bool log_scale,
                       bool from_zero) {
    return chart{title, unit, {curve_of(run.records, name, "", "", log_scale)}, log_scale, from_zero, true};
  };
  std::vector<chart> charts{one("ce", "Cross-entropy", "nats per token", false, false),
                            one("kl", "KL(teacher ‖ student)", "nats per token", false, false),
                            one("total", "Total objective", "", false, false),
                            one("grad_norm", "Gradient norm", "before clipping", true, false),
                            one("held_out_ppl", "Held-out perplexity", "", true, false),
                            one("alignment", "Alignment", "unweighted", false, false)};
  for (const auto& [name, ppl] :
       {std::pair("teacher", held_out.teacher), std::pair("unigram", held_out.unigram)})
    if (ppl && *ppl > 0 && std::isfinite(*ppl)) charts[4].references.emplace_back(name, *ppl);
  chart weights{"Weights", "", {}, false, true, false},
      temperatures{"Temperatures", "", {}, false, true, false};
  for (const auto& term : weighed_terms(run.records)) {
    const bool hidden = term == "frobenius" || term == "cosine" || term == "mse";
    if (term != "ce" && term != "kl")
      charts.push_back(one(term, term,
                           hidden                    ? "unweighted"
                           : term.starts_with("tvd") ? "per token"
                                                     : "nats per token",
                           false, false));
    weights.curves.push_back(curve_of(run.records, term + "_weight", term, term, false));
    temperatures.curves.push_back(curve_of(run.records, term + "_temperature", term, term, false));
  }
  charts.push_back(
      {"Schedules",
       "",
       {curve_of(run.records, "alpha", "alpha", "α", false), curve_of(run.records, "beta", "beta", "β", false),
        curve_of(run.records, "temperature", "temperature", "T", false)},
       false,
       true,
       false});
  charts.push_back(std::move(weights)), charts.push_back(std::move(temperatures));
  charts.push_back({"Learning rate", "", {curve_of(run.records, "lr", "", "", false)}, false, true, false});
  charts.push_back(one("tokens_per_second", "Speed", "tokens per second", false, true));
  for (auto& c : charts) std::erase_if(c.curves, [](const curve& k) { return k.points.empty(); });
  std::erase_if(charts, [](const chart& c) { return c.curves.empty(); });
  return charts;
}

json tables(const std::vector<report_table>& all) {
  json out = json::array();
  for (const auto& t : all) {
    json columns = json::array(), rows = json::array();
    for (std::size_t i = 0; i < t.columns.size(); ++i)
      columns.push_back({{"text", t.columns[i]}, {"kind", i > 0 ? "n" : ""}});
    for (const auto& row : t.rows) {
      json cells = json::array();
      for (std::size_t i = 1; i < row.size(); ++i) cells.push_back({{"text", row[i]}});
      rows.push_back({{"name", row.empty() ? "" : row.front()}, {"cells", std::move(cells)}});
    }
    out.push_back(
        {{"caption", t.title}, {"note", t.note}, {"columns", std::move(columns)}, {"rows", std::move(rows)}});
  }
  return out;
}

json pairs(const report_data::entries& entries) {
  json out = json::array();
  for (const auto& [name, value] : entries) out.push_back({{"name", name}, {"value", value}});
  return out;
}

}  // namespace
}  // namespace detail

std::string report_html(const report_data& run) {
  auto held_out = run.held_out;
  if (!held_out.teacher) held_out.teacher = detail::last_number(run.records, "teacher_ppl");
  if (!held_out.unigram) held_out.unigram = detail::last_number(run.records, "unigram_ppl");
  const auto charts = detail::charts_of(run, held_out);
  double first = std::numeric_limits<double>::infinity(), last = -first;
  bool smoothed = false;
  for (const auto& c : charts)
    for (const auto& k : c.curves) {
      first = std::min(first, k.points.front().x), last = std::max(last, k.points.back().x);
      smoothed = smoothed || (k.points.size() > detail::smooth_above && c.measured);
    }
  json drawn = json::array();
  for (const auto& c : charts) drawn.push_back(detail::drawn(c, first, last));
  json rows = detail::held_out_rows(held_out);
  return detail::filled(report_page, {{"title", run.title},
                                      {"subtitle", run.subtitle},
                                      {"has_figures", !run.figures.empty()},
                                      {"figures", detail::pairs(run.figures)},
                                      {"has_held_out", !rows.empty()},
                                      {"held_out", std::move(rows)},
                                      {"has_charts", !drawn.empty()},
                                      {"charts", std::move(drawn)},
                                      {"smoothed", smoothed},
                                      {"tables", detail::tables(run.tables)},
                                      {"prompt", run.prompt},
                                      {"sample", run.sample},
                                      {"has_configuration", !run.configuration.empty()},
                                      {"configuration", detail::pairs(run.configuration)}});
}

void write_report(const fs::path& path, const report_data& run) {
  dx::io::write_text_atomically(path, report_html(run));
}

}  // namespace program
