#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/atomic_file.hpp>

#include "metrics_log.hpp"
#include "names.hpp"

namespace program {

/// Perplexities on the held-out text; what is not known is left out of the table.
struct held_out_table {
  std::optional<double> student_before;
  std::optional<double> student_after;
  std::optional<double> teacher;
  std::optional<double> unigram;
};

/// Everything the report of a run shows. All text is escaped by the writer.
struct report_data {
  using entries = std::vector<std::pair<std::string, std::string>>;

  std::string title;
  std::string subtitle;         ///< one line below the title; may be empty
  entries figures;              ///< a few headline numbers: {"tokens seen", "56.2 M"}, {"time", "5 min 0 s"}
  held_out_table held_out;      ///< teacher and unigram default to those of the records
  std::string prompt;           ///< what the sample continues; may be empty
  std::string sample;           ///< text by the trained student, without the prompt; empty: no sample
  entries configuration;        ///< the run's options, in order
  std::vector<record> records;  ///< of metrics.jsonl
};

namespace detail {

inline constexpr std::string_view report_css = R"css(
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#16191d;--ink2:#545b66;--ink3:#7d8591;--rule:#e3e6ea;
--axis:#aab1bb;--a:#2468c8;--b:#d9601a;--c:#0f8a62;--wash:#eef3fb}
@media(prefers-color-scheme:dark){:root{--page:#101317;--card:#181c22;--ink:#eceff3;--ink2:#a9b1bd;--ink3:#7e8794;
--rule:#2a3038;--axis:#58616d;--a:#6aa3f5;--b:#f08a4b;--c:#3fbf91;--wash:#1d2734}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1240px;margin:0 auto;padding:40px 24px 56px}
h1{font-size:28px;line-height:1.2;font-weight:650;letter-spacing:-.01em;margin:0}
h2{font-size:18px;font-weight:650;margin:40px 0 12px}
.sub{color:var(--ink2);margin:6px 0 0}.note{color:var(--ink3);font-size:13px;margin:10px 0 0}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px}
.tiles{display:flex;flex-wrap:wrap;margin:24px 0 0;padding:6px 4px}
.tile{flex:1 1 auto;padding:10px 18px;white-space:nowrap}.tile b{display:block;font-size:22px;font-weight:620;line-height:1.25}
.tile span{color:var(--ink2);font-size:13px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,360px),1fr));gap:14px}
figure{margin:0;padding:14px 14px 8px}figcaption{display:flex;justify-content:space-between;gap:10px;align-items:baseline}
figcaption h3{font-size:14.5px;font-weight:620;margin:0;min-width:0;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
figcaption small{color:var(--ink3);font-size:12px;font-weight:400;margin-left:5px}
output{font-size:12.5px;color:var(--ink2);font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap}
svg{display:block;width:100%;height:auto;touch-action:pan-y}
svg text{font-size:11px;fill:var(--ink3);font-variant-numeric:tabular-nums}
svg .end{fill:var(--ink)}
.g{stroke:var(--rule)}.x{stroke:var(--axis)}.l{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.raw{fill:none;stroke-width:1;opacity:.28;stroke-linejoin:round}.ref{stroke:var(--ink3);stroke-dasharray:5 4}
.s0{stroke:var(--a)}.s1{stroke:var(--b)}.s2{stroke:var(--c)}.d0{fill:var(--a)}.d1{fill:var(--b)}.d2{fill:var(--c)}
.dot{stroke:var(--card);stroke-width:1.5}.hair{stroke:var(--ink3);visibility:hidden}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:9px 16px;border-top:1px solid var(--rule)}
thead th{border:0;color:var(--ink2);font-size:13px;font-weight:500}tbody th{font-weight:500;white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.bar{width:38%;min-width:90px}td.bar i{display:block;height:10px;border-radius:0 4px 4px 0;background:var(--axis)}
tr.own td.bar i{background:var(--a)}tr.own th,tr.own td{font-weight:620}.scroll{overflow-x:auto}
blockquote{margin:0;padding:18px 22px;white-space:pre-wrap;overflow-wrap:anywhere;
font:16px/1.65 Georgia,"Times New Roman",serif}
blockquote b{background:var(--wash);border-radius:4px;padding:1px 4px;font-weight:600}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));margin:0;padding:8px 18px;column-gap:36px}
dl div{display:flex;justify-content:space-between;gap:18px;padding:5px 0;border-bottom:1px solid var(--rule)}
dt{color:var(--ink2)}dd{margin:0;text-align:right;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
@media print{body{background:#fff}.card{break-inside:avoid}}
)css";

/// Moving over one chart shows the nearest logged step there and, on all charts, the same moment.
inline constexpr std::string_view report_js = R"js(
const charts = [...document.querySelectorAll('svg[data-plot]')].map(svg => {
  const [x0, x1, left, right] = JSON.parse(svg.dataset.plot);
  return {svg, x0, x1, left, right, curves: JSON.parse(svg.dataset.curves), hair: svg.querySelector('.hair'),
          out: svg.closest('figure').querySelector('output'), rest: svg.closest('figure').querySelector('output').textContent};
});
const nearest = (steps, s) => {
  let a = 0, b = steps.length - 1;
  while (b - a > 1) { const m = (a + b) >> 1; steps[m] <= s ? a = m : b = m; }
  return Math.abs(steps[a] - s) <= Math.abs(steps[b] - s) ? a : b;
};
const show = step => charts.forEach(c => {
  const x = c.left + (step - c.x0) / (c.x1 - c.x0 || 1) * (c.right - c.left);
  c.hair.setAttribute('transform', `translate(${x},0)`);
  c.hair.style.visibility = 'visible';
  const at = c.curves.map(k => nearest(k.x, step));
  c.out.textContent = 'step ' + c.curves[0].x[at[0]].toLocaleString('en') + ' \u00b7 ' +
    c.curves.map((k, i) => (k.n ? k.n + ' ' : '') + k.y[at[i]].toLocaleString('en', {maximumSignificantDigits: 4})).join(', ');
});
const clear = () => charts.forEach(c => { c.hair.style.visibility = 'hidden'; c.out.textContent = c.rest; });
charts.forEach(c => {
  c.svg.addEventListener('pointermove', e => {
    const box = c.svg.getBoundingClientRect(), x = (e.clientX - box.left) / box.width * c.svg.viewBox.baseVal.width;
    show(c.x0 + Math.min(1, Math.max(0, (x - c.left) / (c.right - c.left))) * (c.x1 - c.x0));
  });
  c.svg.addEventListener('pointerleave', clear);
});
)js";

/// Text for HTML, attribute values included. Bytes that are no UTF-8 and control characters become U+FFFD.
inline std::string escape_html(std::string_view text) {
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

inline std::string fixed(double x, int decimals) {
  if (!(std::abs(x) < 1e100)) return "0";
  char text[160];
  return {text, std::to_chars(text, text + sizeof text, x, std::chars_format::fixed, decimals).ptr};
}

/// 1234567 as 1,234,567.
inline std::string grouped(std::int64_t n) {
  std::string s = std::to_string(n);
  for (auto i = std::ssize(s) - 3; i > (n < 0 ? 1 : 0); i -= 3) s.insert(static_cast<std::size_t>(i), ",");
  return s;
}

/// A number for people: about `digits` significant digits; 12,300 and 4.5e-4 at the ends.
inline std::string readable(double x, int digits = 3) {
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

/// Ticks `distance` apart on an axis up to `top`: 12k and 3M for 12,000 and 3,000,000, no decimals without
/// need.
inline std::string tick_label(double x, double distance, double top) {
  if (x == 0) return "0";
  if (top >= 1e6) return tick_label(x / 1e6, distance / 1e6, 1) + "M";
  if (top >= 1e4) return tick_label(x / 1e3, distance / 1e3, 1) + "k";
  if (distance < 1e-3) return readable(significant(x, 2), significant(x, 1) == significant(x, 2) ? 1 : 2);
  int decimals = 0;
  for (double d = distance; decimals < 4 && std::abs(d - std::round(d)) > 1e-6; d *= 10) ++decimals;
  return fixed(x, decimals);
}

struct point {
  double x = 0, y = 0;
  bool after_gap = false;  ///< a value before this one was null: the line is interrupted
};

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

inline constexpr std::size_t most_points = 600, smooth_above = 200;

inline curve curve_of(const std::vector<record>& records, const char* name, std::string shown,
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

/// Centred moving mean over about 2 % of the run (of the logarithms where the axis is logarithmic).
inline std::vector<point> smoothed(const std::vector<point>& raw, bool log_axis) {
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

/// At most `most_points`: of each stretch the lowest and the highest, so that no spike is lost.
inline std::vector<point> thinned(const std::vector<point>& all) {
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

/// The nice number (1, 2, 2.5 or 5 times a power of ten) at or above x.
inline double nice(double x) {
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

inline axis linear_axis(double low, double high, int ticks, bool snap) {
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

inline axis log_axis(double low, double high) {
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

inline std::string path_of(const std::vector<point>& points, const axis& x, const axis& y, const frame& f) {
  std::string d;
  for (std::size_t i = 0; i < points.size(); ++i) {
    d += i == 0 || points[i].after_gap ? 'M' : 'L';
    d += fixed(f.left + x.place(points[i].x) * (f.right - f.left), 1) + " " +
         fixed(f.bottom - y.place(points[i].y) * (f.bottom - f.top), 1);
  }
  return d;
}

inline std::string svg_line(const char* kind, double x0, double y0, double x1, double y1) {
  return std::string("<line class=\"") + kind + "\" x1=\"" + fixed(x0, 1) + "\" y1=\"" + fixed(y0, 1) +
         "\" x2=\"" + fixed(x1, 1) + "\" y2=\"" + fixed(y1, 1) + "\"/>";
}

inline std::string svg_text(double x, double y, const char* anchor, std::string_view text,
                            const char* kind = "") {
  return "<text x=\"" + fixed(x, 1) + "\" y=\"" + fixed(y, 1) + "\" text-anchor=\"" + anchor + "\" class=\"" +
         kind + "\">" + escape_html(text) + "</text>";
}

/// Moves labels apart, at least `gap`, keeping their order and staying in [low, high].
inline void spread(std::vector<double*> at, double gap, double low, double high) {
  std::sort(at.begin(), at.end(), [](const double* a, const double* b) { return *a < *b; });
  double floor = low;
  for (double* y : at) *y = std::max(*y, floor), floor = *y + gap;
  double ceiling = high;
  for (auto i = at.rbegin(); i != at.rend(); ++i) **i = std::min(**i, ceiling), ceiling = **i - gap;
}

inline std::string draw(const chart& c, double first_step, double last_step) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const auto& k : c.curves)
    for (const auto& p : k.points) low = std::min(low, p.y), high = std::max(high, p.y);
  for (const auto& r : c.references) low = std::min(low, r.second), high = std::max(high, r.second);
  if (c.from_zero) low = std::min(low, 0.0), high = std::max(high, 0.0);
  frame f;
  const bool named = !c.curves.front().name.empty();
  if (named || !c.references.empty()) f.right -= 84;
  const axis y = c.log_axis ? log_axis(low, high) : linear_axis(low, high, 4, true);
  axis x = linear_axis(first_step, std::max(last_step, first_step + 1), 5, false);

  std::string rest, data = "[", body;
  for (const auto& [v, label] : y.ticks) {
    const double at = f.bottom - y.place(v) * (f.bottom - f.top);
    body += svg_line("g", f.left, at, f.right, at) + svg_text(f.left - 7, at + 4, "end", label);
  }
  body += svg_line("x", f.left, f.bottom, f.right, f.bottom);
  for (const auto& [v, label] : x.ticks) {
    const double at = f.left + x.place(v) * (f.right - f.left);
    body += svg_line("x", at, f.bottom, at, f.bottom + 4) + svg_text(at, f.bottom + 17, "middle", label);
  }
  body += svg_text((f.left + f.right) / 2, f.bottom + 34, "middle", "step");

  struct label {
    double at;
    std::string text;
    int colour;
  };
  std::vector<label> labels;
  for (std::size_t i = 0; i < c.curves.size(); ++i) {
    const auto& k = c.curves[i];
    const auto colour = std::to_string(i % 3);
    const bool smooth = k.points.size() > smooth_above && c.measured;
    const auto line = smooth ? smoothed(k.points, c.log_axis) : k.points;
    if (smooth)
      body += "<path class=\"raw s" + colour + "\" d=\"" + path_of(thinned(k.points), x, y, f) + "\"/>";
    body += "<path class=\"l s" + colour + "\" d=\"" + path_of(thinned(line), x, y, f) + "\"/>";
    if (k.points.size() == 1 || (k.points.size() <= 40 && c.measured))
      for (const auto& p : k.points)
        body += "<circle class=\"dot d" + colour + "\" r=\"3.5\" cx=\"" +
                fixed(f.left + x.place(p.x) * (f.right - f.left), 1) + "\" cy=\"" +
                fixed(f.bottom - y.place(p.y) * (f.bottom - f.top), 1) + "\"/>";
    const double highest =
        std::max_element(k.points.begin(), k.points.end(), [](const point& a, const point& b) {
          return std::abs(a.y) < std::abs(b.y);
        })->y;
    // A schedule that ends at zero up to rounding ends at zero.
    const double last = std::abs(line.back().y) < 1e-9 * std::abs(highest) ? 0 : line.back().y;
    rest += (i ? ", " : "") + (named ? k.symbol + " " : std::string()) + readable(last);
    if (named || !c.references.empty())
      labels.push_back({f.bottom - y.place(line.back().y) * (f.bottom - f.top),
                        named ? k.name : "student " + readable(last), static_cast<int>(i % 3)});

    const auto shown = thinned(k.points);
    data += std::string(i ? "," : "") + "{\"n\":" + record(k.symbol).dump() + ",\"x\":[";
    for (std::size_t p = 0; p < shown.size(); ++p)
      data += (p ? "," : "") + record(std::llround(shown[p].x)).dump();
    data += "],\"y\":[";
    for (std::size_t p = 0; p < shown.size(); ++p)
      data += (p ? "," : "") + record(significant(shown[p].y, 5)).dump();
    data += "]}";
  }
  data += "]";
  for (const auto& [name, value] : c.references) {
    const double at = f.bottom - y.place(value) * (f.bottom - f.top);
    body += svg_line("ref", f.left, at, f.right, at);
    labels.push_back({at, name + " " + readable(value), -1});
  }
  std::vector<double*> at;
  for (auto& l : labels) at.push_back(&l.at);
  spread(at, 15, f.top, f.bottom);
  for (const auto& l : labels) {
    if (named)
      body += "<circle class=\"d" + std::to_string(l.colour) + "\" r=\"3.5\" cx=\"" + fixed(f.right + 10, 1) +
              "\" cy=\"" + fixed(l.at, 1) + "\"/>";
    body += svg_text(f.right + (named ? 17 : 8), l.at + 4, "start", l.text, l.colour >= 0 ? "end" : "");
  }
  body += "<line class=\"hair\" y1=\"" + fixed(f.top, 0) + "\" y2=\"" + fixed(f.bottom, 0) + "\"/>";

  const auto unit = c.unit + (c.log_axis ? (c.unit.empty() ? "log axis" : ", log axis") : "");
  return "<figure class=\"card\"><figcaption><h3>" + escape_html(c.title) + "<small>" + escape_html(unit) +
         "</small></h3><output>" + escape_html("last " + rest) + "</output></figcaption><svg viewBox=\"0 0 " +
         fixed(f.width, 0) + " " + fixed(f.height, 0) + "\" role=\"img\" aria-label=\"" +
         escape_html(c.title + " by step; last " + rest) + "\" data-plot=\"[" + fixed(x.low, 0) + "," +
         fixed(x.high, 0) + "," + fixed(f.left, 0) + "," + fixed(f.right, 0) + "]\" data-curves=\"" +
         escape_html(data) + "\">" + body + "</svg></figure>\n";
}

inline std::optional<double> last_number(const std::vector<record>& records, const char* name) {
  for (auto r = records.rbegin(); r != records.rend(); ++r)
    if (const auto v = r->find(name); v != r->end() && v->is_number() && std::isfinite(v->get<double>()))
      return v->get<double>();
  return std::nullopt;
}

inline std::string held_out_html(const held_out_table& t) {
  struct row {
    const char* name;
    std::optional<double> ppl;
    bool own;
  };
  const row rows[] = {{"Unigram frequencies", t.unigram, false},
                      {"Student before", t.student_before, false},
                      {"Student after", t.student_after, true},
                      {"Teacher", t.teacher, false}};
  double most = 0;
  for (const auto& r : rows)
    if (r.ppl && *r.ppl > 0 && std::isfinite(*r.ppl)) most = std::max(most, std::log(*r.ppl));
  std::string html;
  for (const auto& r : rows) {
    if (!r.ppl) continue;
    const bool good = *r.ppl > 0 && std::isfinite(*r.ppl);
    const double nats = good ? std::log(*r.ppl) : 0;
    html +=
        std::string("<tr") + (r.own ? " class=\"own\"" : "") + "><th scope=\"row\">" + r.name +
        "</th><td class=\"n\">" + (good ? readable(*r.ppl) : "not finite") + "</td><td class=\"n\">" +
        (good ? fixed(nats, 3) : "–") + "</td><td class=\"n\">" +
        (good && t.teacher && *t.teacher > 0 && std::isfinite(*t.teacher) ? "× " + readable(*r.ppl / *t.teacher)
                                                                          : "–") +
        "</td><td class=\"bar\"><i style=\"width:" + fixed(most > 0 ? 100 * std::max(0.0, nats) / most : 0, 1) +
        "%\"></i></td></tr>\n";
  }
  if (html.empty()) return html;
  return "<h2>Held-out text</h2>\n<div class=\"card scroll\"><table><thead><tr><th></th><th "
         "class=\"n\">perplexity</th>"
         "<th class=\"n\">nats per token</th><th class=\"n\">against the "
         "teacher</th><th></th></tr></thead><tbody>\n" +
         html + "</tbody></table></div>\n";
}

inline std::string curves_html(const report_data& run, const held_out_table& held_out) {
  const auto one = [&](const char* name, const char* title, const char* unit, bool log_scale, bool from_zero) {
    return chart{title, unit, {curve_of(run.records, name, "", "", log_scale)}, log_scale, from_zero, true};
  };
  std::vector<chart> charts{
      one("ce", "Cross-entropy", "nats per token", false, false),
      one("kl", "KL(teacher ‖ student)", "nats per token", false, false),
      one("total", "Total objective", "", false, false),
      one("grad_norm", "Gradient norm", "before clipping", true, false),
      one("held_out_ppl", "Held-out perplexity", "", true, false),
      one("alignment", "Alignment", "unweighted", false, false),
      {"Schedules",
       "",
       {curve_of(run.records, "alpha", "alpha", "α", false), curve_of(run.records, "beta", "beta", "β", false),
        curve_of(run.records, "temperature", "temperature", "T", false)},
       false,
       true,
       false},
      {"Learning rate", "", {curve_of(run.records, "lr", "", "", false)}, false, true, false},
      one("tokens_per_second", "Speed", "tokens per second", false, true)};
  for (const auto& [name, ppl] :
       {std::pair("teacher", held_out.teacher), std::pair("unigram", held_out.unigram)})
    if (ppl && *ppl > 0 && std::isfinite(*ppl)) charts[4].references.emplace_back(name, *ppl);

  double first = std::numeric_limits<double>::infinity(), last = -first;
  bool smooth = false;
  for (auto& c : charts) {
    std::erase_if(c.curves, [](const curve& k) { return k.points.empty(); });
    for (const auto& k : c.curves) {
      first = std::min(first, k.points.front().x), last = std::max(last, k.points.back().x);
      smooth = smooth || (k.points.size() > smooth_above && c.measured);
    }
  }
  std::string html;
  for (const auto& c : charts)
    if (!c.curves.empty()) html += draw(c, first, last);
  if (html.empty()) return "<h2>Training</h2>\n<p class=\"note\">No step was logged.</p>\n";
  return "<h2>Training</h2>\n<div class=\"grid\">\n" + html + "</div>\n" +
         (smooth ? "<p class=\"note\">Faint: every logged step. Strong: its moving mean over 2 % of the run "
                   "(geometric on a logarithmic axis). The number is where it ends. "
                   "A value that was not finite leaves a gap.</p>\n"
                 : "");
}
}  // namespace detail

/// The report as one HTML page that needs nothing else: headline numbers, held-out perplexities, the curves of
/// the run (cross-entropy, KL, objective, gradient norm, held-out perplexity, alignment, schedules, learning
/// rate, speed; those that were logged), a sample and the configuration.
inline std::string report_html(const report_data& run) {
  using detail::escape_html;
  auto held_out = run.held_out;
  if (!held_out.teacher) held_out.teacher = detail::last_number(run.records, "teacher_ppl");
  if (!held_out.unigram) held_out.unigram = detail::last_number(run.records, "unigram_ppl");

  std::string html =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>" +
      escape_html(run.title) + "</title>\n<style>";
  html.append(detail::report_css).append("</style></head><body><main>\n<h1>") +=
      escape_html(run.title) + "</h1>\n";
  if (!run.subtitle.empty()) html += "<p class=\"sub\">" + escape_html(run.subtitle) + "</p>\n";
  if (!run.figures.empty()) {
    html += "<div class=\"card tiles\">";
    for (const auto& [name, value] : run.figures)
      html +=
          "<div class=\"tile\"><b>" + escape_html(value) + "</b><span>" + escape_html(name) + "</span></div>";
    html += "</div>\n";
  }
  html += detail::held_out_html(held_out) + detail::curves_html(run, held_out);
  if (!run.sample.empty()) {
    html += "<h2>A sample of the student</h2>\n<blockquote class=\"card\">";
    if (!run.prompt.empty()) html += "<b>" + escape_html(run.prompt) + "</b>";
    html += escape_html(run.sample) + "</blockquote>\n";
  }
  if (!run.configuration.empty()) {
    html += "<h2>Configuration</h2>\n<dl class=\"card\">";
    for (const auto& [name, value] : run.configuration)
      html += "<div><dt>" + escape_html(name) + "</dt><dd>" + escape_html(value) + "</dd></div>\n";
    html += "</dl>\n";
  }
  html.append("</main><script>").append(detail::report_js).append("</script></body></html>\n");
  return html;
}

/// Writes `report_html(run)` to `path`, atomically.
inline void write_report(const fs::path& path, const report_data& run) {
  dx::io::write_text_atomically(path, report_html(run));
}

}  // namespace program
