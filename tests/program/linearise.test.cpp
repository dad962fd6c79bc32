#include <boost/test/unit_test.hpp>

#include <csignal>
#include <map>
#include <set>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_linearised.hpp>

#include "material.hpp"

// `distil linearise` from outside.
namespace distil_xlstm::program {
namespace {

using io::json;
using ::program::read_metrics;

/// Three stages of a few steps each: 6 of alignment, 6 end to end, 4 of longer windows.
std::vector<std::string> short_run(const fs::path& out, const std::string& more = "") {
  const auto& m = material::get();
  return arguments(
      "linearise --mixers hybrid,attention --window 6 --sinks 2 --batch 4 --length 16 --align-tokens 384 "
      "--distil-tokens 384 --long-tokens 256 --long-length 32 --lr 0.002 --lr-new 0.01 --long-lr 0.001 "
      "--checkpoint-every 2 --evaluate-every 3 --windows 16,64 --needle 256 --cases 3 --teacher",
      m.teacher, "--tokens", m.tokens, "--held-out", m.held_out, "--out", out, more);
}
json results(const fs::path& out) { return io::read_json_file(out / "results.json"); }

/// A run's records, without what a clock says.
std::vector<::program::record> records_of(const fs::path& out) {
  auto all = read_metrics(out / "metrics.jsonl");
  for (auto& r : all) r.erase("tokens_per_second");
  return all;
}
const fs::path& whole_run() {
  static const fs::path out = [] {
    const fs::path made = material::get().folder / "linearised";
    const outcome o = run(short_run(made));
    BOOST_REQUIRE_MESSAGE(o.status == 0, o.err);
    BOOST_TEST(o.out.find("16 steps, 1,024 tokens, total ") != std::string::npos);
    return made;
  }();
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(stages_one_after_another) {
  const fs::path out = whole_run();
  std::vector<std::string> stages;
  index step = 0, tokens = 0;
  double first_error = 0, last_error = 0, first_kl = 0, last_kl = 0;
  for (const auto& r : read_metrics(out / "metrics.jsonl")) {
    if (!r.contains("stage")) continue;
    BOOST_TEST(r.at("step").get<index>() == ++step);
    tokens = r.at("tokens").get<index>();
    BOOST_TEST(tokens == step * 64);
    const auto name = r.at("stage").get<std::string>();
    if (stages.empty() || stages.back() != name) stages.push_back(name);
    BOOST_TEST((name == "align") != r.contains("kl"));
    if (name == "align") {
      last_error = r.at("alignment").get<double>();
      if (step == 1) first_error = last_error;

    } else {
      last_kl = r.at("kl").get<double>();
      if (first_kl == 0) first_kl = last_kl;
    }
  }
  BOOST_TEST(stages == (std::vector<std::string>{"align", "distil", "long"}), boost::test_tools::per_element());
  BOOST_TEST(step == 16);
  BOOST_TEST(last_error < first_error);
  BOOST_TEST((first_kl > 0 && last_kl > 0));

  const json r = results(out);
  for (const char* who : {"teacher", "untrained_windows", "student"}) BOOST_TEST_CONTEXT(who) {
      for (const char* w : {"16", "64"}) {
        BOOST_TEST(r.at(who).at("windows").at(w).at("ppl").get<double>() > 1);
        BOOST_TEST((who == std::string("teacher")) == !r.at(who).at("windows").at(w).contains("kl"));
      }
      BOOST_TEST(r.at(who).at("needle").at("256").contains("number"));
    }
  BOOST_TEST(r.at("kept") == json::array({1}));
  // A text's memory: a transformer's grows, and so do layers that keep attention.
  const auto bytes = [&](const char* who, const char* n) {
    return r.at(who).at("text_bytes").at(n).get<index>();
  };
  BOOST_TEST(bytes("teacher", "65536") > 100 * bytes("teacher", "512"));
  BOOST_TEST(bytes("student", "65536") < bytes("teacher", "65536"));
  const std::string page = content(out / "report.html");
  for (const char* text : {"Results", "Windows, untrained", "Layers after alignment", "1 hybrid, 1 attention"})
    BOOST_TEST_CONTEXT(text) BOOST_TEST((page.find(text) != std::string::npos));
  const json about = io::read_json_file(out / "run.json");
  BOOST_TEST(about.at("stage") == "long");
  BOOST_TEST(about.at("student").at("mixers") == json::array({"hybrid", "attention"}));
}

BOOST_AUTO_TEST_CASE(training_pays) {
  const auto& m = material::get();
  const fs::path out = m.folder / "trained";
  const outcome o =
      run(arguments("linearise --mixer hybrid --window 4 --sinks 1 --batch 4 --length 32 "
                    "--align-tokens 12800 --distil-tokens 25600 --lr 0.001 --lr-new 0.005 --windows 32 "
                    "--needle none --log-every 50 --checkpoint-every 1000 --teacher",
                    m.teacher, "--tokens", m.tokens, "--held-out", m.held_out, "--out", out));
  BOOST_REQUIRE_MESSAGE(o.status == 0, o.err);
  const json r = results(out);
  const auto kl = [&](const char* who) { return r.at(who).at("windows").at("32").at("kl").get<double>(); };
  BOOST_TEST(kl("student") < 0.7 * kl("untrained_windows"));
  BOOST_TEST_MESSAGE(kl("student") << " of " << kl("untrained_windows"));
}

BOOST_AUTO_TEST_CASE(every_subcommand_takes_the_student) {
  const auto& m = material::get();
  const fs::path student = whole_run() / "student";
  device::cpu cpu(1);
  const auto loaded = load_linearised<double>(cpu, student);
  BOOST_TEST(loaded.config().window == 6);
  BOOST_TEST(loaded.config().count(mixer_kind::hybrid) == 1);

  const json scored = json::parse(done(arguments("evaluate --json --window 16,64 --model", student, "--teacher",
                                                 m.teacher, "--tokens", m.held_out)));
  for (const char* w : {"16", "64"})
    for (const char* what : {"ppl", "kl"}) {
      const double here = scored.at("windows").at(w).at(what).get<double>(),
                   there = results(whole_run()).at("student").at("windows").at(w).at(what).get<double>();
      BOOST_TEST(here == there, boost::test_tools::tolerance(1e-9));
    }
  BOOST_TEST(!done(arguments("generate --prompt river --tokens 5 --temperature 0 --model", student)).empty());
  const std::string listed = done(arguments("inspect", student));
  BOOST_TEST(listed.find("feature_q.weight") != std::string::npos);
  const fs::path sampled = m.folder / "sampled.safetensors";
  done(arguments("sample --tokens 60 --length 20 --batch 9 --model", student, "--out", sampled));
  BOOST_TEST(io::token_file(sampled).size() >= 60);
}

BOOST_AUTO_TEST_CASE(a_killed_run_goes_on_as_if_nothing_had_happened) {
  const auto& m = material::get();
  const auto want = content(whole_run() / "student/model.safetensors");
  const auto records = records_of(whole_run());
  int landed = 0, number = 0;
  for (const int signal : {SIGKILL, SIGTERM})
    for (const std::size_t lines : {1, 5, 9, 14, 17}) {  // within each stage, and before and after
      const fs::path out = m.folder / ("killed " + std::to_string(number++));
      process one(short_run(out));
      one.wait_while([&] {
        std::error_code none;
        return !fs::exists(out / "metrics.jsonl", none) || read_metrics(out / "metrics.jsonl").size() < lines;
      });
      landed += one.running();
      one.signal(signal);
      const outcome o = one.wait();
      BOOST_TEST((o.status == 0 || o.status == -SIGKILL || o.status == 128 + SIGTERM || o.status == -SIGTERM),
                 "status " << o.status << " " << o.err);
      const outcome again = run(short_run(out, "--resume"));
      BOOST_TEST_CONTEXT("signal " << signal << " after " << lines << " lines\n" << again.err) {
        BOOST_TEST(again.status == 0);
        BOOST_TEST(again.err == "");
        BOOST_TEST((content(out / "student/model.safetensors") == want));
        BOOST_TEST((records_of(out) == records));
        BOOST_TEST((results(out) == results(whole_run())));
      }
      fs::remove_all(out);
    }
  BOOST_TEST(landed > 3);
}

BOOST_AUTO_TEST_CASE(a_run_is_not_another) {
  const fs::path out = whole_run();
  refused(short_run(out), 1, {"a run is there already; give --resume"});
  for (const auto& [more, key] : std::map<std::string, std::string>{{"--seed 7", "another seed"},
                                                                    {"--window 5", "another asked"},
                                                                    {"--order sequential", "another order"}}) {
    auto asked = short_run(out, "--resume " + more);
    // The later of two is refused by the parser: the first goes.
    const auto option = more.substr(0, more.find(' '));
    for (std::size_t i = 0; i + 2 < asked.size(); ++i)
      if (asked[i] == option) {
        asked.erase(asked.begin() + static_cast<std::ptrdiff_t>(i),
                    asked.begin() + static_cast<std::ptrdiff_t>(i) + 2);
        break;
      }
    refused(asked, 1, {key});
  }
}

BOOST_AUTO_TEST_CASE(layers_are_found_and_controls_trained) {
  const auto& m = material::get();
  const fs::path out = m.folder / "found";
  const outcome o =
      run(arguments("linearise --keep-attention 1 --keep-kl 0.5 --mixer mlstm --window 6 --sinks 2 "
                    "--batch 4 --length 16 --align-tokens 64 --distil-tokens 64 --windows 16 --needle 256 "
                    "--cases 2 --control --teacher",
                    m.teacher, "--tokens", m.tokens, "--held-out", m.held_out, "--out", out));
  BOOST_REQUIRE_MESSAGE(o.status == 0, o.err);
  const json about = io::read_json_file(out / "run.json");
  BOOST_REQUIRE(about.at("kept").size() == 1u);
  const auto kept = about.at("kept")[0].at("layer").get<std::size_t>();
  const json& costs = about.at("kept")[0].at("costs");
  BOOST_TEST(costs.size() == 2u);
  BOOST_TEST(costs.at(kept).get<double>() <= costs.at(1 - kept).get<double>());
  json mixers = {"mlstm", "mlstm"};
  mixers[kept] = "attention";
  BOOST_TEST(about.at("student").at("mixers") == mixers);
  const json r = results(out);
  BOOST_TEST(r.contains("trained_windows"));
  const json control = io::read_json_file(out / "control/student/config.json");
  mixers[1 - kept] = "window";
  BOOST_TEST(control.at("mixers") == mixers);
  const std::string page = content(out / "report.html");
  for (const char* text : {"Layers that keep their attention", "Windows, trained"})
    BOOST_TEST_CONTEXT(text) BOOST_TEST((page.find(text) != std::string::npos));
}

BOOST_AUTO_TEST_CASE(families_of_teachers) {
  // Biases and untied heads.
  const auto& m = material::get();
  for (const char* name : {"qwen2_rope_theta", "llama_bf16", "qwen3", "smollm3", "mistral"}) {
    const fs::path teacher = m.folder / name, out = m.folder / (std::string(name) + " linearised");
    make_teacher(name, teacher);
    const auto layers = io::read_json_file(teacher / "config.json").at("num_hidden_layers").get<index>();
    std::string mixers;
    for (index i = 0; i < layers; ++i)
      mixers += (i ? "," : "") +
                std::string(std::array{"hybrid", "mlstm", "window"}[static_cast<std::size_t>(i % 3)]);
    const outcome o =
        run(arguments("linearise --mixers", mixers,
                      "--window 5 --sinks 1 --batch 2 --length 12 --align-tokens 48 --distil-tokens 48 "
                      "--needle none --precision fp64 --teacher",
                      teacher, "--tokens", m.tokens, "--out", out));
    BOOST_REQUIRE_MESSAGE(o.status == 0, name << ": " << o.err);
    device::cpu cpu(1);
    const auto student = load_linearised<double>(cpu, out / "student");
    BOOST_TEST(student.config().model_type == io::read_json_file(teacher / "config.json").at("model_type"));
  }
}

BOOST_AUTO_TEST_CASE(what_is_not_possible_is_refused) {
  const auto& m = material::get();
  const fs::path out = m.folder / "never linearised";
  const auto asked = [&](const std::string& more) {
    return arguments("linearise --teacher", m.teacher, "--tokens", m.tokens, "--out", out, more);
  };
  for (const auto& [more, says] : std::vector<std::pair<std::string, std::string>>{
           {"", "--align-tokens and --distil-tokens are needed, or --minutes"},
           {"--minutes 0", "--minutes: must be above 0"},
           {"--align-tokens 0", "nothing would be trained"},
           {"--minutes 1 --window 0", "--window: 0 is not possible"},
           {"--minutes 1 --sinks 65", "--sinks: 65 are more than the window's 64"},
           {"--minutes 1 --mixer mamba", "--mixer: mixer 'mamba' is not known"},
           {"--minutes 1 --mixer attention", "--mixer: attention is what is to be replaced"},
           {"--minutes 1 --mixers 0,31", "--mixers: there is no layer 31: the teacher has 2, from 0 on"},
           {"--minutes 1 --mixers hybrid", "--mixers: 1 are named, the teacher has 2 layers"},
           {"--minutes 1 --mixers hybrid,mamba", "--mixers: mixer 'mamba' is not known"},
           {"--minutes 1 --lr-new 0", "--lr-new: must be above 0"},
           {"--minutes 1 --keep-attention -1", "--keep-attention: must not be negative"},
           {"--minutes 1 --needle 40", "--needle: "}})
    refused(asked(more), 2, {says});
  refused(asked("--align-tokens 64 --keep-attention 3"), 1, {"of 2 layers 3 cannot keep their attention"});
  refused(asked("--align-tokens 64 --distil-tokens 64 --mixers 0,1"), 1,
          {"every layer keeps its attention: there is nothing to align"});
}

}  // namespace distil_xlstm::program
