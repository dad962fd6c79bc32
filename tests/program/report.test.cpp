#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "distil/report.hpp"

namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Every tag that is opened is closed, in order.
void check_nesting(const std::string& html) {
  std::vector<std::string> open;
  for (auto at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const auto end = html.find('>', at);
    BOOST_REQUIRE(end != std::string::npos);
    auto name = html.substr(at + 1, html.find_first_of(" >\n", at) - at - 1);
    if (name[0] == '!' || name == "meta" || html[end - 1] == '/') continue;
    if (name[0] != '/') {
      open.push_back(name);
      // Script and style hold no tags.
      if (name == "script" || name == "style") at = html.find("</" + name, at) - 1;
      continue;
    }
    BOOST_REQUIRE(!open.empty());
    BOOST_TEST("/" + open.back() == name);
    open.pop_back();
  }
  BOOST_TEST(open.empty());
}

program::report_data example(int steps) {
  program::report_data run;
  run.title = "A <run> & \"more\"";
  run.figures = {{"tokens <seen>", "1 & 2"}};
  run.configuration = {{"teacher", "<script>alert('x')</script>"}, {"batch", "32"}};
  run.held_out = {900.0, 44.8, std::nullopt, std::nullopt};
  run.prompt = "Once <b>";
  run.sample = " upon \xff\x01 a time</blockquote>";
  run.records.push_back({{"step", 0}, {"held_out_ppl", 900.0}, {"teacher_ppl", 25.1}, {"unigram_ppl", 777.0}});
  for (int s = 1; s <= steps; ++s) {
    const double t = static_cast<double>(s) / steps;
    run.records.push_back({{"step", s},
                           {"epoch", t},
                           {"tokens", s * 512},
                           {"tokens_per_second", 1000.0 + s % 7},
                           {"ce", 3 + 5 * std::exp(-5 * t)},
                           {"kl", std::exp(-t)},
                           {"alignment", 1 - t / 2},
                           {"total", 2 + std::exp(-t)},
                           {"grad_norm", s == steps / 2 ? 500.0 : 1.0},
                           {"lr", 1e-3 * t},
                           {"alpha", 0.8},
                           {"beta", 0.1},
                           {"temperature", 2 - t}});
    if (s == steps / 3) run.records.back()["ce"] = std::nan("");
  }
  run.records.push_back({{"step", steps}, {"held_out_ppl", 44.8}});
  return run;
}

}  // namespace

BOOST_AUTO_TEST_CASE(all_charts_are_there) {
  for (const int steps : {1, 2, 30, 200, 5000}) {
    const auto html = program::report_html(example(steps));
    check_nesting(html);
    BOOST_TEST(count(html, "<figure") == 9u);
    for (const char* title : {"Cross-entropy", "KL(teacher", "Total objective", "Gradient norm",
                              "Held-out perplexity", "Alignment", "Schedules", "Learning rate", "Speed",
                              ">alpha<", ">beta<", ">temperature<", ">teacher 25.1<", ">unigram 777<"})
      BOOST_TEST(has(html, title), title << " at " << steps);
    BOOST_TEST(!has(html, "nan"));
    BOOST_TEST(!has(html, "inf\""));
    BOOST_TEST(has(html, "× 1.78"));  // 44.8 / 25.1
    BOOST_TEST(count(html, "class=\"raw") ==
               (steps > 200 ? 6u : 0u));  // not held-out, learning rate, schedules
    BOOST_TEST(html.size() < 400'000u);
  }
}

/// The terms of an objective of one's own: a chart each, their weights together, their temperatures together.
BOOST_AUTO_TEST_CASE(terms_of_an_objective) {
  program::report_data run;
  run.title = "terms";
  for (int s = 1; s <= 30; ++s)
    run.records.push_back({{"step", s},
                           {"kl_1", 1.0 / s},
                           {"kl_2", 2.0 / s},
                           {"tvd", 0.5 / s},
                           {"skew_reverse_kl", 0.25 / s},
                           {"cosine", 0.1},
                           {"total", 3.0 / s},
                           {"kl_1_weight", 0.5},
                           {"kl_1_temperature", 1.0},
                           {"kl_2_weight", s / 30.0},
                           {"kl_2_temperature", 2.0 - s / 30.0},
                           {"tvd_weight", 1.0},
                           {"tvd_temperature", 4.0},
                           {"skew_reverse_kl_weight", 0.25},
                           {"skew_reverse_kl_temperature", 3.0},
                           {"cosine_weight", 0.1}});
  const auto html = program::report_html(run);
  check_nesting(html);
  BOOST_TEST(count(html, "<figure") == 8u);
  for (const char* title :
       {"Total objective", "<h3>kl_1<small>", "<h3>kl_2<small>", "<h3>tvd<small>", "<h3>skew_reverse_kl<small>",
        "<h3>cosine<small>", "Weights", "Temperatures", ">kl_1<", ">skew_reverse_kl<", "per token",
        "unweighted", "class=\"l s4\"", "kl_1 0.500, kl_2 1.00, tvd 1.00"})
    BOOST_TEST(has(html, title), title);
  BOOST_TEST(count(html, ">cosine</text>") == 1u);  // it has a weight and no temperature
  BOOST_TEST(!has(html, "Schedules"));
}

BOOST_AUTO_TEST_CASE(nothing_comes_from_elsewhere_and_text_is_escaped) {
  const auto html = program::report_html(example(10));
  for (const char* part : {"http:", "https:", "src=", "href=", "@import", "url("})
    BOOST_TEST(!has(html, part), part);
  BOOST_TEST(has(html, "<title>A &lt;run&gt; &amp; &quot;more&quot;</title>"));
  BOOST_TEST(has(html, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
  BOOST_TEST(has(html, "tokens &lt;seen&gt;"));
  BOOST_TEST(has(html, " upon \xef\xbf\xbd\xef\xbf\xbd a time&lt;/blockquote&gt;"));
  BOOST_TEST(count(html, "<script") == 1u);
}

BOOST_AUTO_TEST_CASE(escape_keeps_good_text) {
  using program::detail::escape_html;
  BOOST_TEST(escape_html("caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\n") ==
             "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\n");
  const std::string bad = "\xef\xbf\xbd";
  BOOST_TEST(escape_html("\xc0\xaf") == bad + bad);
  BOOST_TEST(escape_html("\xed\xa0\x80") == bad + bad + bad);
  BOOST_TEST(escape_html("a\xe2\x82") == "a" + bad + bad);
  BOOST_TEST(escape_html("\xf4\x90\x80\x80") == bad + bad + bad + bad);
}

BOOST_AUTO_TEST_CASE(empty_and_degenerate_runs) {
  program::report_data run;
  run.title = "empty";
  auto html = program::report_html(run);
  check_nesting(html);
  BOOST_TEST(has(html, "No step was logged."));
  BOOST_TEST(count(html, "<figure") == 0u);

  run.records = {{{"step", 1}, {"ce", nullptr}, {"grad_norm", 0.0}, {"lr", 0.0}, {"kl", -2.5}, {"other", "x"}},
                 {{"note", "no step"}}};
  run.held_out.teacher = std::nan("");
  html = program::report_html(run);
  check_nesting(html);
  BOOST_TEST(count(html, "<figure") == 2u);  // lr and kl; a norm of 0 has no place on a logarithmic axis
  BOOST_TEST(!has(html, "nan"));
}

BOOST_AUTO_TEST_CASE(thinning_keeps_spikes_and_gaps) {
  std::vector<program::detail::point> points;
  for (int i = 0; i < 100'000; ++i) points.push_back({double(i), i == 54'321 ? 99.0 : 1.0, i == 70'000});
  const auto thin = program::detail::thinned(points);
  BOOST_TEST(thin.size() <= program::detail::most_points);
  int spikes = 0, gaps = 0;
  for (const auto& p : thin) spikes += p.y == 99.0, gaps += p.after_gap;
  BOOST_TEST(spikes == 1);
  BOOST_TEST(gaps == 1);
}

BOOST_AUTO_TEST_CASE(smoothing_keeps_constants_and_the_start) {
  std::vector<program::detail::point> points;
  for (int i = 0; i < 1000; ++i) points.push_back({double(i), i == 0 ? 10.0 : 2.0});
  const auto linear = program::detail::smoothed(points, false), log = program::detail::smoothed(points, true);
  BOOST_TEST(linear.front().y == 10.0);
  BOOST_TEST(linear.back().y == 2.0, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(log[500].y == 2.0, boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_CASE(numbers_for_people) {
  using program::detail::readable;
  using program::detail::tick_label;
  BOOST_TEST(readable(44.81) == "44.8");
  BOOST_TEST(readable(1234567.0) == "1,234,567");
  BOOST_TEST(readable(0.00045) == "4.5e-4");
  BOOST_TEST(readable(-3.14159) == "-3.14");
  BOOST_TEST(readable(0) == "0");
  BOOST_TEST(tick_label(2.5, 2.5, 10) == "2.5");
  BOOST_TEST(tick_label(5, 2.5, 10) == "5.0");
  BOOST_TEST(tick_label(150000, 50000, 200000) == "150k");
  BOOST_TEST(tick_label(2500000, 500000, 3000000) == "2.5M");
  BOOST_TEST(tick_label(0.00075, 0.00025, 0.001) == "7.5e-4");
}

BOOST_AUTO_TEST_CASE(written_as_a_whole) {
  const auto path =
      std::filesystem::temp_directory_path() / ("report-test-" + std::to_string(::getpid()) + ".html");
  program::write_report(path, example(3));
  std::ifstream in(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  BOOST_TEST(text == program::report_html(example(3)));
  std::filesystem::remove(path);
}
