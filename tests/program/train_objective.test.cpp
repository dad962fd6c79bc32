#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include <distil_xlstm/io/json.hpp>

#include "material.hpp"

// `distil train --objective`: its terms against a direct evaluation, against the methods' own objective, and again.
namespace distil_xlstm::program {
namespace {

using io::json;
using numbers = std::vector<double>;

constexpr index batch = 2, length = 16, rows = batch * length;

/// A run in double over the first windows of the text.
std::vector<std::string> short_run(const fs::path& out, const std::string& more, int steps = 2) {
  const auto& m = material::get();
  return arguments("train --precision fp64 --order sequential --batch 2 --length 16 --log-every 1 --steps",
                   std::to_string(steps), more, "--teacher", m.teacher, "--tokens", m.tokens, "--out", out);
}
std::vector<std::string> with_objective(std::vector<std::string> run, const std::string& objective) {
  run.insert(run.end(), {"--objective", objective});
  return run;
}

/// What the student that the runs begin with, and the teacher, say of the first step's windows.
struct first_step {
  std::vector<std::int32_t> ids, targets;
  logits_of student, teacher;

  first_step() : first_step(io::token_file(material::get().tokens)) {}
  static const first_step& get() {
    static const first_step one;
    return one;
  }

  numbers softmax(const logits_of& of, index r, double T) const {
    const double* x = of.numbers.data() + r * of.vocabulary;
    const double highest = *std::max_element(x, x + of.vocabulary);
    numbers p;
    for (index v = 0; v < of.vocabulary; ++v) p.push_back(std::exp((x[v] - highest) / T));
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& y : p) y /= sum;
    return p;
  }
  /// The mean over rows of f(the teacher's probabilities, the student's).
  double mean(double T, const std::function<double(const numbers&, const numbers&)>& f) const {
    double sum = 0;
    for (index r = 0; r < rows; ++r) sum += f(softmax(teacher, r, T), softmax(student, r, T));
    return sum / static_cast<double>(rows);
  }
  double ce() const {
    double sum = 0;
    for (index r = 0; r < rows; ++r)
      sum -= std::log(softmax(student, r, 1)[static_cast<std::size_t>(targets[static_cast<std::size_t>(r)])]);
    return sum / static_cast<double>(rows);
  }

  /// Pairs of hidden states: the student's, and what it is compared with.
  using pairs = std::vector<std::pair<numbers, numbers>>;
  pairs average() const {
    numbers mean = teacher.hidden.at("hidden.1");
    const auto& last = teacher.hidden.at("last_hidden");
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] = (mean[i] + last[i]) / 2;
    return {{student.hidden.at("last_hidden"), mean}};
  }
  pairs ratio() const {
    return {{student.hidden.at("hidden.1"), teacher.hidden.at("hidden.1")},
            {student.hidden.at("hidden.2"), teacher.hidden.at("last_hidden")}};
  }

 private:
  explicit first_step(const io::token_file& text)
      : ids(part(text, 0)),
        targets(part(text, 1)),
        student(material::get().student(), ids, batch, "fp64"),
        teacher(material::get().teacher, ids, batch, "fp64") {
    BOOST_REQUIRE((text.documents().size() < 2 || text.documents()[1] > rows));
  }
  static std::vector<std::int32_t> part(const io::token_file& text, index first) {
    std::vector<std::int32_t> out(static_cast<std::size_t>(rows));
    text.copy(first, rows, out.data());
    return out;
  }
};

double kl(const numbers& p, const numbers& q) {
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += p[i] * std::log(p[i] / q[i]);
  return sum;
}
numbers mixture(double x, const numbers& p, const numbers& q) {
  numbers m;
  for (std::size_t i = 0; i < p.size(); ++i) m.push_back(x * p[i] + (1 - x) * q[i]);
  return m;
}
/// p and q over the k largest of p, with the rest as one class more, or without it.
double top_k(std::size_t k, bool one_class, const numbers& p, const numbers& q) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return p[a] > p[b]; });
  numbers a, b;
  for (std::size_t i = 0; i < k; ++i) a.push_back(p[order[i]]), b.push_back(q[order[i]]);
  const double in_a = std::accumulate(a.begin(), a.end(), 0.0), in_b = std::accumulate(b.begin(), b.end(), 0.0);
  if (one_class) return a.push_back(1 - in_a), b.push_back(1 - in_b), kl(a, b);
  for (double& x : a) x /= in_a;
  for (double& x : b) x /= in_b;
  return kl(a, b);
}

double squares(const numbers& a, const numbers& b, std::size_t first, std::size_t n) {
  double sum = 0;
  for (std::size_t i = first; i < first + n; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}
/// The mean over `groups` of each pair of ||a - b||_F, / sqrt(numbers in all): one group is the whole batch.
double frobenius(const first_step::pairs& all, std::size_t groups) {
  double sum = 0;
  const std::size_t n = all[0].first.size();
  if (groups == 1) {
    for (const auto& [a, b] : all) sum += std::sqrt(squares(a, b, 0, n));
  } else {
    for (const auto& [a, b] : all)
      for (std::size_t g = 0; g < groups; ++g) sum += std::sqrt(squares(a, b, g * n / groups, n / groups));
  }
  const auto count = static_cast<double>(all.size());
  return sum / (count * static_cast<double>(groups)) / std::sqrt(static_cast<double>(n) * count);
}
double cosine(const first_step::pairs& all) {
  double sum = 0;
  const std::size_t d = all[0].first.size() / static_cast<std::size_t>(rows);
  for (const auto& [a, b] : all)
    for (std::size_t r = 0; r < a.size(); r += d) {
      double ab = 0, aa = 0, bb = 0;
      for (std::size_t i = r; i < r + d; ++i) ab += a[i] * b[i], aa += a[i] * a[i], bb += b[i] * b[i];
      sum += 1 - ab / std::sqrt(aa * bb);
    }
  return sum / static_cast<double>(rows) / static_cast<double>(all.size());
}

void check_equal(double got, double want) { BOOST_TEST(std::abs(got - want) <= 1e-10 * std::abs(want)); }

}  // namespace

BOOST_AUTO_TEST_CASE(every_term_trains_and_says_what_it_is) {
  const auto& f = first_step::get();
  struct weighed {
    std::string name;
    double weight, temperature, value;
  };
  const auto jsd = [&](double beta, double T) {
    return f.mean(T, [&](const auto& p, const auto& q) {
      const auto m = mixture(beta, p, q);
      return beta * kl(p, m) + (1 - beta) * kl(q, m);
    });
  };
  const auto top = [&](std::size_t k, bool one_class, double T) {
    return f.mean(T, [&](const auto& p, const auto& q) { return top_k(k, one_class, p, q); });
  };
  const double skewed = f.mean(1, [](const auto& p, const auto& q) { return kl(p, mixture(0.2, p, q)); });
  const double skewed_reverse =
      f.mean(3, [](const auto& p, const auto& q) { return kl(q, mixture(0.3, p, q)); });
  const double tvd = f.mean(2, [](const auto& p, const auto& q) {
    double sum = 0;
    for (std::size_t i = 0; i < p.size(); ++i) sum += std::abs(p[i] - q[i]) / 2;
    return sum;
  });
  const double reversed = f.mean(2, [](const auto& p, const auto& q) { return kl(q, p); });
  const std::vector<std::pair<std::string, std::vector<weighed>>> all = {
      {"0.5*kl(T=2) + 0.25*reverse_kl(2) + ce + 2*jsd(0.3, 1.5) + 0.1*frobenius(average)",
       {{"kl", 0.5, 2, f.mean(2, kl)},
        {"reverse_kl", 0.25, 2, reversed},
        {"ce", 1, 1, f.ce()},
        {"jsd", 2, 1.5, jsd(0.3, 1.5)},
        {"frobenius", 0.1, 1, frobenius(f.average(), 1)}}},
      {"skew_kl(0.2) + 0.5*skew_reverse_kl(a=0.3, T=3) + 0.3*tvd(2) + top_k_kl(5) + 0.2*frobenius(ratio)",
       {{"skew_kl", 1, 1, skewed},
        {"skew_reverse_kl", 0.5, 3, skewed_reverse},
        {"tvd", 0.3, 2, tvd},
        {"top_k_kl", 1, 1, top(5, true, 1)},
        {"frobenius", 0.2, 1, frobenius(f.ratio(), 1)}}},
      {"top_k_kl(7, tail=ignored, T=2) + 0*ce + 0.4*kl + 0.6*kl(4) + 0.3*cosine",
       {{"top_k_kl", 1, 2, top(7, false, 2)},
        {"ce", 0, 1, f.ce()},
        {"kl_1", 0.4, 1, f.mean(1, kl)},
        {"kl_2", 0.6, 4, f.mean(4, kl)},
        {"cosine", 0.3, 1, cosine(f.ratio())}}},
      {"ce + 0.5*mse", {{"ce", 1, 1, f.ce()}, {"mse", 0.5, 1, std::pow(frobenius(f.average(), 1), 2)}}},
      {"ce + 0.5*frobenius(paper)",
       {{"ce", 1, 1, f.ce()}, {"frobenius", 0.5, 1, frobenius(f.average(), batch)}}},
      {"frobenius(block_wise)", {{"frobenius", 1, 1, frobenius(f.ratio(), batch)}}}};
  const temporary_folder folder;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto& [objective, terms] = all[i];
    BOOST_TEST_CONTEXT(objective) {
      const auto out = folder / std::to_string(i);
      auto run = with_objective(short_run(out, "--lr 0.01"), objective);
      run.insert(run.end(), {"--init", material::get().student().string()});
      done(run);
      const metrics m(out);
      BOOST_REQUIRE(m.steps.size() == 2u);
      const auto& r = m.steps[0];
      double total = 0;
      for (const auto& t : terms) BOOST_TEST_CONTEXT(t.name) {
          check_equal(number(r, t.name.c_str()), t.value);
          BOOST_TEST(number(r, (t.name + "_weight").c_str()) == t.weight);
          if (r.contains(t.name + "_temperature"))
            BOOST_TEST(number(r, (t.name + "_temperature").c_str()) == t.temperature);
          else
            BOOST_TEST(t.temperature == 1);
          total += t.weight * t.temperature * t.temperature * t.value;
        }
      check_equal(number(r, "total"), total);
      BOOST_TEST(!r.contains("alpha"));
      BOOST_TEST(!r.contains("alignment"));
      BOOST_TEST(number(m.steps[1], "grad_norm") > 0);
      BOOST_TEST(!r.contains("skipped"));
      const auto page = content(out / "report.html");
      for (const auto& t : terms) BOOST_TEST((page.find(">" + t.name + "<") != std::string::npos));
      BOOST_TEST((page.find("Weights") != std::string::npos));
    }
  }
}

/// The same steps, whether the method says it or --objective does.
BOOST_AUTO_TEST_CASE(an_objective_that_says_what_a_method_says) {
  const temporary_folder folder;
  struct both {
    std::string options, objective;
  };
  const std::vector<both> all = {
      {"--alpha 0.5 --beta 0.25 --temperature 2", "0.5*kl(T=2) + 0.25*ce + 0.25*frobenius(average)"},
      {"--alpha 0.7:0.3 --beta 0.1 --temperature 2:1 --schedule cosine --alignment ratio",
       "0.7:0.3:cosine*kl(T=2:1:cosine) + 0.2:0.6:cosine*ce + 0.1*frobenius(ratio)"},
      {"--alpha 0.4 --beta 0.2 --alignment cosine --accumulate 2", "0.4*kl + 0.4*ce + 0.2*cosine"}};
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto name = std::to_string(i);
    const std::string shape = "--blocks 2 --lr 0.01 ";
    const auto accumulate = all[i].options.find("--accumulate");
    const std::string more = accumulate == std::string::npos ? "" : all[i].options.substr(accumulate);
    done(short_run(folder / name, shape + all[i].options, 4));
    done(with_objective(short_run(folder / (name + " again"), shape + more, 4), all[i].objective));
    const metrics a(folder / name), b(folder / (name + " again"));
    BOOST_REQUIRE(a.steps.size() == 4u);
    BOOST_REQUIRE(b.steps.size() == 4u);
    BOOST_TEST_CONTEXT(all[i].objective)
    for (std::size_t s = 0; s < 4; ++s) {
      const auto& want = a.steps[s];
      const auto& got = b.steps[s];
      for (const char* key : {"total", "kl", "ce", "grad_norm", "lr"})
        BOOST_TEST(std::abs(number(got, key) - number(want, key)) <= 1e-12 * number(want, key));
      const char* alignment = got.contains("cosine") ? "cosine" : "frobenius";
      BOOST_TEST(std::abs(number(got, alignment) - number(want, "alignment")) <=
                 1e-12 * number(want, "alignment"));
      BOOST_TEST(number(got, "kl_weight") == number(want, "alpha"));
      BOOST_TEST(number(got, "kl_temperature") == number(want, "temperature"));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_run_goes_on_with_its_objective) {
  const temporary_folder folder;
  const auto out = folder / "run", whole = folder / "whole";
  const std::string objective = "0:0.5*kl(T=2:1:cosine)+0.5*ce + .1*frobenius";
  const std::string canonical = "0:0.5:linear*kl(T=2:1:cosine) + 0.5*ce + 0.1*frobenius(layers=average)";
  const auto run = [&](const fs::path& to, const std::string& sum) {
    return with_objective(short_run(to, "--blocks 2 --lr 0.01 --checkpoint-every 3", 6), sum);
  };
  // As if killed after its first checkpoint: what came later is taken away.
  done(run(whole, objective));
  fs::copy(whole, out, fs::copy_options::recursive);
  fs::remove_all(out / "checkpoints/step-00000006");
  fs::remove_all(out / "student");
  const json about = io::read_json_file(whole / "run.json");
  BOOST_TEST(about["objective"].get<std::string>() == canonical);
  BOOST_TEST(io::read_json_file(whole / "student/distil_xlstm.json")["objective"].get<std::string>() ==
             canonical);

  for (const auto& other : {"0:0.5*kl(T=2:1)+0.5*ce + .1*frobenius", "0:0.5*kl(T=2:1:cosine)+0.5*ce",
                            "0.5*ce + 0:0.5*kl(T=2:1:cosine) + .1*frobenius"})
    refused(arguments(run(out, other), "--resume"), 1, {"another objective", canonical, "asks for"});
  refused(arguments(short_run(out, "--blocks 2 --lr 0.01 --checkpoint-every 3", 6), "--resume"), 1,
          {"another objective", canonical, "alpha"});
  done(arguments(run(out, canonical), "--resume"));
  const metrics a(out), b(whole);
  BOOST_REQUIRE(a.steps.size() == 6u);
  for (std::size_t i = 0; i < 6; ++i) BOOST_TEST(a.steps[i] == b.steps[i]);
  BOOST_TEST((content(out / "student/model.safetensors") == content(whole / "student/model.safetensors")));

  // A divergence that no weight asks for at a step is not computed then, and not logged as 0.
  BOOST_TEST(!b.steps[0].contains("kl"));
  BOOST_TEST(number(b.steps[0], "kl_weight") == 0);
  BOOST_TEST(number(b.steps[1], "kl") > 0);
}

BOOST_AUTO_TEST_CASE(a_cache_serves_an_objective) {
  const auto& m = material::get();
  const temporary_folder folder;
  done(arguments("cache --length 16 --alignment ratio --blocks 2 --store fp32 --precision fp64 --teacher",
                 m.teacher, "--tokens", m.tokens, "--out", folder / "cache"));
  const auto run = [&](const fs::path& out, const std::string& objective) {
    auto given =
        arguments("train --blocks 2 --precision fp64 --order sequential --batch 2 --length 16 --steps 2",
                  "--cache", folder / "cache", "--tokens", m.tokens, "--heads 4 --out", out);
    return with_objective(given, objective);
  };
  const std::string objective = "tvd(2) + 0.1*cosine";
  done(run(folder / "cached", objective));
  done(with_objective(short_run(folder / "live", "--blocks 2 --heads 4"), objective));
  const metrics cached(folder / "cached"), live(folder / "live");
  for (const char* key : {"tvd", "cosine", "total"})
    BOOST_TEST(std::abs(number(cached.steps[1], key) / number(live.steps[1], key) - 1) < 1e-5);
  refused(run(folder / "other", "ce + frobenius(average)"), 1, {"alignment", "2 targets", "needs 1"});
}

BOOST_AUTO_TEST_CASE(what_an_objective_cannot_be_is_said) {
  const temporary_folder folder;
  const auto out = folder / "none";
  const auto wrong = [&](const std::string& objective, const std::vector<std::string>& parts) {
    refused(with_objective(short_run(out, ""), objective), 2, parts);
  };
  wrong("0.5*kll + ce",
        {"--objective: 'kll' is not a term (kl, reverse_kl, ce, jsd, skew_kl, skew_reverse_kl, tvd, "
         "top_k_kl, frobenius, cosine, mse are)"});
  wrong("kl + ce + tvd + jsd + reverse_kl", {"--objective", "at most 4 terms of logits", "reverse_kl"});
  wrong("ce + frobenius + mse", {"--objective", "one alignment", "mse"});
  wrong("ce + cosine(average)", {"--objective: cosine's layers is 'average' (ratio is known)"});
  wrong("ce + mse(ratio)", {"--objective: mse's layers is 'ratio' (average is known)"});
  wrong("", {"--objective: a term is missing"});
  for (const std::string option :
       {"--alpha 0.5", "--beta 0.1", "--temperature 2", "--schedule cosine", "--alignment ratio"})
    refused(with_objective(short_run(out, option), "ce"), 2,
            {option.substr(0, option.find(' ')) + ": has no effect with --objective"});
  refused(with_objective(short_run(out, "--blocks 3"), "ce + frobenius(ratio)"), 1,
          {"ratio", "3 blocks", "2 layers"});
  const std::string help = done(arguments("train --help"));
  for (const char* part : {"--objective EXPRESSION", "0.5*kl(T=2) + 0.4*ce + 0.1*frobenius(average)",
                           "skew_reverse_kl", "top_k_kl"})
    BOOST_TEST((help.find(part) != std::string::npos));
}

}  // namespace distil_xlstm::program
