#include <boost/test/unit_test.hpp>

#include <cmath>
#include <optional>

#include <distil_xlstm/io/json.hpp>

#include "material.hpp"

namespace distil_xlstm::program {
namespace {

using io::json;

/// A run that takes long enough to be stopped on its way: 24 steps, a checkpoint every 5, a look at the
/// held-out text after each, so that a step's second line may be missing, too.
constexpr int whole_run = 24;
std::vector<std::string> long_run(const fs::path& out) {
  const auto& m = material::get();
  return arguments(
      "train --blocks 3 --batch 8 --length 64 --lr 0.01 --beta 0.1 --checkpoint-every 5 --evaluate-every 1 "
      "--alpha 0.7:0.3 --temperature 2:1 --schedule cosine --steps",
      std::to_string(whole_run), "--teacher", m.teacher, "--tokens", m.tokens, "--held-out", m.held_out,
      "--out", out);
}
std::vector<std::string> short_run(const fs::path& out, const std::string& steps = "3") {
  const auto& m = material::get();
  return arguments("train --blocks 2 --batch 2 --length 16 --steps", steps, "--teacher", m.teacher, "--tokens",
                   m.tokens, "--out", out);
}

/// The run that nobody stopped.
const fs::path& uninterrupted() {
  static const temporary_folder folder;
  static const fs::path made = [] {
    const fs::path out = folder / "uninterrupted";
    done(long_run(out));
    return out;
  }();
  return made;
}

/// Bit for bit the same records, every step once, and the same student.
void same_run(const fs::path& got, const fs::path& want) {
  const metrics a(got), b(want);
  BOOST_TEST(a.steps.size() == b.steps.size());
  for (std::size_t i = 0; i < std::min(a.steps.size(), b.steps.size()); ++i) {
    BOOST_TEST(a.steps[i].at("step").get<std::size_t>() == i + 1);
    BOOST_TEST(a.steps[i] == b.steps[i]);
  }
  BOOST_TEST(a.held_out == b.held_out, boost::test_tools::per_element());
  BOOST_TEST((content(got / "student/model.safetensors") == content(want / "student/model.safetensors")));
}

std::size_t lines_of(const fs::path& run) {
  std::error_code none;
  if (!fs::exists(run / "metrics.jsonl", none)) return 0;
  const auto text = content(run / "metrics.jsonl");
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

/// Starts the long run and sends a signal once `when()` holds; how it ended.
template <class When>
outcome stopped(const fs::path& out, int signal, const When& when) {
  process p(long_run(out));
  p.wait_while([&] { return !when(); });
  p.signal(signal);
  return p.wait();
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_run_writes_what_is_promised) {
  const fs::path& run = uninterrupted();
  std::size_t events = 0;
  for (const auto& f : fs::directory_iterator(run)) {
    events += f.path().filename().string().starts_with("events.out.tfevents.");
    BOOST_TEST((f.path().string().find(".tmp-") == std::string::npos));
  }
  BOOST_TEST(events == 1u);
  BOOST_TEST(checkpoints_of(run) == (std::vector{20, 24}), boost::test_tools::per_element());
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "distil_xlstm.json"})
    BOOST_TEST_CONTEXT(name) BOOST_TEST(fs::exists(run / "student" / name));
  const auto html = content(run / "report.html");
  BOOST_TEST(html.starts_with("<!"));
  BOOST_TEST((html.find("</html>") != std::string::npos));

  const metrics m(run);
  const auto& set = material::get();
  const io::token_file tokens(set.tokens), held_out(set.held_out);
  const index windows = (tokens.size() - 1) / 64, epoch = windows / 8;
  BOOST_REQUIRE(m.steps.size() == whole_run);
  for (std::size_t i = 0; i < m.steps.size(); ++i) {
    const auto& r = m.steps[i];
    const auto step = static_cast<index>(i + 1);
    BOOST_TEST(r.at("step").get<index>() == step);
    BOOST_TEST(r.at("tokens").get<index>() == step * 8 * 64);
    BOOST_TEST(r.at("epoch").get<index>() == (step - 1) / epoch);
    for (const char* key :
         {"ce", "kl", "alignment", "total", "grad_norm", "lr", "alpha", "beta", "temperature"})
      BOOST_TEST_CONTEXT(key) BOOST_TEST(number(r, key) > 0);
    const double alpha = number(r, "alpha"), beta = number(r, "beta"), t = number(r, "temperature");
    BOOST_TEST(beta == 0.1);
    // The objective is what the parts make.
    const double total =
        alpha * t * t * number(r, "kl") + (1 - alpha - beta) * number(r, "ce") + beta * number(r, "alignment");
    BOOST_TEST(std::abs(total - number(r, "total")) <= 1e-5 * total);
  }
  BOOST_TEST(number(m.steps.front(), "alpha") == 0.7);
  BOOST_TEST(number(m.steps.front(), "temperature") == 2.0);
  BOOST_TEST(number(m.steps.back(), "alpha") < 0.32);
  BOOST_TEST(number(m.steps.back(), "total") < 0.8 * number(m.steps.front(), "total"));
  for (const auto& r : ::program::read_metrics(run / "metrics.jsonl"))
    if (r.contains("ce")) BOOST_TEST(number(r, "tokens_per_second") > 0);

  BOOST_REQUIRE(m.held_out.size() == whole_run + 1u);
  for (std::size_t i = 0; i < m.held_out.size(); ++i) {
    BOOST_TEST(m.held_out[i].at("step").get<std::size_t>() == i);
    BOOST_TEST(m.held_out[i].contains("teacher_ppl") == (i == 0));
    BOOST_TEST(m.held_out[i].contains("unigram_ppl") == (i == 0));
  }
  // The perplexities are those of `evaluate`.
  const auto ppl = [&](const fs::path& model) {
    return json::parse(
               done(arguments("evaluate --json --window 64 --model", model, "--tokens", set.held_out)))["ppl"]
        .get<double>();
  };
  BOOST_TEST(std::abs(ppl(run / "student") / number(m.held_out.back(), "held_out_ppl") - 1) <= 1e-6);
  BOOST_TEST(std::abs(ppl(set.teacher) / number(m.held_out.front(), "teacher_ppl") - 1) <= 1e-6);
  BOOST_TEST(number(m.held_out.back(), "held_out_ppl") < number(m.held_out.front(), "held_out_ppl"));

  const json about = io::read_json_file(run / "student/distil_xlstm.json");
  for (const char* key : {"teacher", "tokens_sha256", "objective", "tokens_seen", "optimiser"})
    BOOST_TEST_CONTEXT(key) BOOST_TEST(about.contains(key));
  BOOST_TEST(about["tokens_seen"].get<index>() == whole_run * 8 * 64);
  BOOST_TEST(about["tokens_sha256"].get<std::string>() == tokens.data_sha256());
  // The student says something from its folder alone.
  BOOST_TEST(done(arguments("generate --tokens 5 --prompt rain --model", run / "student")).ends_with("\n"));
}

BOOST_AUTO_TEST_CASE(run_json_makes_the_run_again) {
  const temporary_folder folder;
  const json r = io::read_json_file(uninterrupted() / "run.json");
  const auto& command = r["command"];
  const auto &objective = r["objective"], &optimiser = r["optimiser"], &student = r["student"];
  const auto shown = [](const json& x) { return x.is_string() ? x.get<std::string>() : x.dump(); };
  auto given = arguments("train --out", folder / "again");
  const auto add = [&](const std::string& option, const json& value) {
    if (const auto text = shown(value); !text.empty()) given.insert(given.end(), {"--" + option, text});
  };
  std::string shape;
  for (const char* key : {"alpha", "beta", "temperature"}) {
    const auto& s = objective[key];
    add(key, s["from"].dump() + ":" + s["to"].dump());
    if (s["shape"] != "constant") shape = s["shape"].get<std::string>();
  }
  add("schedule", shape);
  add("alignment", objective["alignment"]);
  for (const char* key : {"lr", "warmup", "clip"})
    if (optimiser[key].get<double>() >= 0) add(key, optimiser[key]);
  add("lr-schedule", optimiser["lr_schedule"]), add("weight-decay", optimiser["weight_decay"]);
  for (const char* key : {"method", "precision", "seed", "order", "batch", "length", "accumulate"})
    add(key, r[key]);
  add("steps", r["total_steps"]);
  for (const char* key : {"teacher", "cache", "tokens", "init", "architecture"}) add(key, command[key]);
  add("held-out", command["held_out"]), add("evaluate-every", command["evaluate_every"]);
  add("blocks", student["num_blocks"]), add("heads", student["mlstm_block"]["mlstm"]["num_heads"]);
  std::string at;
  for (const auto& b : student["slstm_at"]) at += (at.empty() ? "" : ",") + b.dump();
  add("slstm-at", at.empty() ? "none" : at);
  done(given);
  same_run(folder / "again", uninterrupted());
}

BOOST_AUTO_TEST_CASE(a_killed_run_goes_on_as_if_nothing_had_happened) {
  const temporary_folder folder;
  const auto resume = [&](const fs::path& out) {
    const outcome o = run(arguments(long_run(out), "--resume"));
    BOOST_TEST(o.status == 0);
    BOOST_TEST(o.err == "");
    BOOST_TEST((o.out.find(": 24 steps, 12,288 tokens, total ") != o.out.npos), o.out);
    BOOST_TEST((o.out.find(", held-out perplexity ") != o.out.npos), o.out);
    BOOST_TEST(o.out.find('\n') == o.out.size() - 1);
    same_run(out, uninterrupted());
  };
  int landed = 0;  // on a busy machine a run may be through before it is killed
  for (const std::size_t lines : {0, 1, 2, 9, 24, 33}) {
    const auto out = folder / std::to_string(lines);
    const outcome o = stopped(out, SIGKILL, [&] { return fs::exists(out) && lines_of(out) >= lines; });
    landed += o.status == -SIGKILL;
    BOOST_TEST_CONTEXT("killed after " << lines << " lines") resume(out);
  }
  BOOST_TEST(landed >= 3);
  // While a checkpoint is being written, and twice in one run.
  const auto out = folder / "writing";
  const auto writing = [&] {
    std::error_code none;
    return lines_of(out) >= 22 && fs::exists(out / "checkpoints/writing", none);
  };
  stopped(out, SIGKILL, writing);
  {
    process again(arguments(long_run(out), "--resume"));
    again.wait_while([&] { return lines_of(out) < 36; });
    again.signal(SIGKILL);
    again.wait();
  }
  resume(out);
  // What is finished stays what it is.
  resume(out);
}

BOOST_AUTO_TEST_CASE(a_signal_writes_a_checkpoint) {
  const temporary_folder folder;
  struct stop {
    int signal, status;
    std::size_t lines;
  };
  for (const auto& [signal, status, lines] :
       {stop{SIGINT, 130, 16}, stop{SIGTERM, 143, 9}, stop{SIGTERM, 143, 0}}) {
    const auto out = folder / (std::to_string(status) + " " + std::to_string(lines));
    const outcome o =
        stopped(out, signal, [&, n = lines] { return fs::exists(out / ".lock") && lines_of(out) >= n; });
    BOOST_TEST(o.status == status);
    BOOST_TEST(o.out == "");
    const metrics m(out);
    BOOST_REQUIRE(!m.steps.empty());
    const auto last = m.steps.back().at("step").get<int>();
    BOOST_TEST(last < whole_run);
    BOOST_REQUIRE(!checkpoints_of(out).empty());
    BOOST_TEST(checkpoints_of(out).back() == last);
    BOOST_TEST(o.err ==
               "distil: stopped by a signal at step " + std::to_string(last) + ", checkpoint written\n");
    done(arguments(long_run(out), "--resume"));
    same_run(out, uninterrupted());
  }
}

BOOST_AUTO_TEST_CASE(a_torn_checkpoint_gives_way_to_the_one_before) {
  const temporary_folder folder;
  for (const std::string torn : {"state.safetensors", "manifest.json"}) {
    const auto out = folder / torn;
    fs::copy(uninterrupted(), out, fs::copy_options::recursive);
    const auto file = out / "checkpoints/step-00000024" / torn;
    fs::resize_file(file, fs::file_size(file) / 2);
    fs::remove_all(out / "student");
    const outcome o = run(arguments(long_run(out), "--resume"));
    BOOST_TEST(o.status == 0);
    BOOST_TEST(o.err.starts_with("distil: warning: "));
    BOOST_TEST((o.err.find(file.string()) != std::string::npos));
    BOOST_TEST(o.err.find('\n') == o.err.size() - 1);
    same_run(out, uninterrupted());
  }
  const auto out = folder / "both";
  fs::copy(uninterrupted(), out, fs::copy_options::recursive);
  for (const char* step : {"step-00000020", "step-00000024"})
    fs::resize_file(out / "checkpoints" / step / "state.safetensors", 1000);
  const outcome o = run(arguments(long_run(out), "--resume"));
  BOOST_TEST(o.status == 1);
  BOOST_TEST((o.err.find("step-00000020") != std::string::npos));
}

BOOST_AUTO_TEST_CASE(another_run_is_refused) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto out = folder / "run", other = folder / "other";
  done(short_run(out));
  const auto before = content(out / "metrics.jsonl");
  refused(short_run(out), 1, {"checkpoints", "--resume"});
  make_teacher("qwen2_tied", other);
  const auto resumed = [&](const std::string& more) { return arguments(short_run(out), "--resume", more); };
  for (const auto& [more, named] :
       std::vector<std::pair<std::string, std::string>>{{"--alpha 0.4", "objective"},
                                                        {"--beta 0.1", "objective"},
                                                        {"--temperature 2", "objective"},
                                                        {"--lr 0.5", "optimiser"},
                                                        {"--warmup 2", "optimiser"},
                                                        {"--clip 0.5", "optimiser"},
                                                        {"--seed 7", "seed"},
                                                        {"--order sequential", "order"},
                                                        {"--precision fp64", "precision"},
                                                        {"--accumulate 2", "accumulate"},
                                                        {"--heads 2", "student"},
                                                        {"--slstm-at none", "student"},
                                                        {"--method code --accumulate 1", "method"}})
    refused(resumed(more), 1, {"checkpoints", "another", named});
  refused(arguments(short_run(out, "5"), "--resume"), 1, {"checkpoints", "3 steps", "5"});
  refused(arguments("train --resume --blocks 2 --batch 2 --length 16 --steps 3 --teacher", other, "--tokens",
                    m.tokens, "--out", out),
          1, {"another teacher"});
  refused(arguments("train --resume --blocks 2 --batch 2 --length 16 --steps 3 --teacher", m.teacher,
                    "--tokens", m.held_out, "--out", out),
          1, {"another tokens_sha256"});
  BOOST_TEST(content(out / "metrics.jsonl") == before);
  done(resumed(""));
  BOOST_TEST(content(out / "metrics.jsonl") == before);
  // Without a checkpoint, --resume begins.
  done(arguments(short_run(folder / "new"), "--resume"));
  same_run(folder / "new", out);
}

// What is asked for no longer, or had not been asked for, makes another run, whatever it is.
BOOST_AUTO_TEST_CASE(a_key_more_or_less_is_another_run) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto out = folder / "run";
  const auto given = arguments("train --batch 2 --length 16 --steps 3 --teacher", m.teacher, "--tokens",
                               m.tokens, "--out", out),
             begun = arguments(given, "--init", m.student());
  done(begun);
  const auto edit = [&](const auto& change) {
    for (const auto& step : fs::directory_iterator(out / "checkpoints")) {
      json manifest = io::read_json_file(step.path() / "manifest.json");
      change(manifest["run"]);
      write_file(step.path() / "manifest.json", manifest.dump());
    }
  };
  const std::string sha256 = io::read_json_file(out / "run.json").at("init_sha256").dump();
  refused(arguments(given, "--resume --blocks 2"), 1,
          {"checkpoints: the run there has another init_sha256: " + sha256 + ", this one asks for none\n"});
  refused(arguments(begun, "--resume --repeats 0.5"), 1,
          {"the run there has another repeats: none, this one asks for 0.5\n"});
  edit([](json& run) { run["of_before"] = {1, 2}; });
  refused(arguments(begun, "--resume"), 1,
          {"the run there has another of_before: [1,2], this one asks for none\n"});
  edit([](json& run) { run.erase("of_before"), run.erase("seed"); });
  refused(arguments(begun, "--resume"), 1, {"the run there has another seed: none, this one asks for 42\n"});
  // A text that is held out changes no step; the first checkpoints did not say what a student had begun as.
  edit([](json& run) { run["seed"] = 42; });
  done(arguments(begun, "--resume --held-out", m.held_out));
  edit([&](json& run) { run["held_out_sha256"] = io::token_file(m.held_out).data_sha256(); });
  done(arguments(begun, "--resume"));
  edit([](json& run) { run.erase("init_sha256"); });
  done(arguments(begun, "--resume"));
  edit([](json& run) { run = 3; });
  refused(arguments(begun, "--resume"), 1, {"what the run there is known by is no object\n"});
}

BOOST_AUTO_TEST_CASE(one_run_writes_in_a_folder) {
  const temporary_folder folder;
  const auto out = folder / "run";
  process first(long_run(out));
  first.wait_while([&] { return lines_of(out) < 2; });
  refused(long_run(out), 1, {out.string(), "another run"});
  refused(arguments(long_run(out), "--resume"), 1, {out.string(), "another run"});
  BOOST_TEST(first.running());
  BOOST_TEST(first.wait().status == 0);
  same_run(out, uninterrupted());
}

BOOST_AUTO_TEST_CASE(a_full_disk_loses_no_checkpoint) {
  const temporary_folder folder;
  const auto out = folder / "run";
  stopped(out, SIGTERM, [&] { return lines_of(out) >= 26; });
  const auto before = checkpoints_of(out);
  BOOST_REQUIRE(!before.empty());
  // Room for the records, not for a checkpoint's tensors.
  refused(arguments(long_run(out), "--resume"), 1, {"state.safetensors", "File too large"},
          {.file_limit = 20000});
  BOOST_TEST(checkpoints_of(out) == before, boost::test_tools::per_element());
  // Nor for the records.
  refused(arguments(long_run(out), "--resume"), 1, {out.string(), "File too large"}, {.file_limit = 100});
  BOOST_TEST(checkpoints_of(out) == before, boost::test_tools::per_element());
  done(arguments(long_run(out), "--resume"));
  same_run(out, uninterrupted());
}

BOOST_AUTO_TEST_CASE(a_student_is_where_another_begins) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto init = [&](const fs::path& out, const std::string& more) {
    return arguments("train --batch 4 --length 16 --teacher", m.teacher, "--tokens", m.tokens, "--out", out,
                     "--init", m.student(), more);
  };
  // A learning rate that moves nothing gives the student back.
  done(init(folder / "same", "--steps 1 --lr 1e-30 --weight-decay 0"));
  const auto a = read_tensors(folder / "same" / "student/model.safetensors"),
             b = read_tensors(m.student() / "model.safetensors");
  BOOST_REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    BOOST_TEST(a[i].name == b[i].name);
    BOOST_TEST((a[i].values == b[i].values));
  }
  // The run that made it began worse than the one that goes on from it.
  done(init(folder / "on", "--steps 2 --lr 0.01"));
  const double first = number(metrics(m.student().parent_path()).steps.front(), "total");
  BOOST_TEST(number(metrics(folder / "on").steps.front(), "total") < 0.9 * first);
  refused(arguments("train --steps 1 --batch 2 --length 16 --teacher", m.teacher, "--tokens", m.tokens, "--out",
                    folder / "none", "--init", golden("student/base")),
          1, {"base", "width"});
}

BOOST_AUTO_TEST_CASE(methods) {
  const temporary_folder folder;
  const auto first = [&](const std::string& name) {
    const auto out = folder / name;
    done(arguments(short_run(out), "--accumulate 2 --method", name));
    BOOST_TEST(io::read_json_file(out / "run.json")["method"].get<std::string>() == name);
    const metrics m(out);
    BOOST_REQUIRE(m.steps.size() == 3u);
    for (const auto& r : m.steps) BOOST_TEST(std::isfinite(number(r, "total")));
    return m.steps[0];
  };
  for (const char* name : {"paper", "code"}) {
    const auto r = first(name);
    BOOST_TEST(number(r, "alpha") == 0.8);
    BOOST_TEST(number(r, "temperature") == 2.0);
    BOOST_TEST(number(r, "beta") == 0.1);
    BOOST_TEST(number(r, "alignment") > 0);
  }
  BOOST_TEST(number(first("default"), "temperature") == 1.0);
  for (const char* form : {"average", "ratio", "block_wise", "cosine", "mse", "paper", "none"})
    done(arguments(short_run(folder / (std::string("form ") + form), "2"), "--beta 0.2 --alignment", form));
  for (const char* shape : {"paper", "heuristic"})
    done(arguments("train --batch 2 --length 16 --steps 1 --architecture", shape, "--teacher",
                   material::get().teacher, "--tokens", material::get().tokens, "--out",
                   folder / (std::string("shape ") + shape)));
}

BOOST_AUTO_TEST_CASE(precisions) {
  const temporary_folder folder;
  const auto total = [&](const std::string& precision) {
    const auto out = folder / precision;
    done(arguments(short_run(out, "4"), "--beta 0.1 --precision", precision));
    std::vector<double> all;
    for (const auto& r : metrics(out).steps) all.push_back(number(r, "total"));
    BOOST_REQUIRE(all.size() == 4u);
    BOOST_TEST(done(arguments("inspect", out / "student/model.safetensors")).find("F32") != std::string::npos);
    return all;
  };
  const auto wide = total("fp64");
  BOOST_TEST(apart(total("fp32"), wide) <= 1e-5);
  BOOST_TEST(apart(total("bf16"), wide) <= 3e-2);
}

BOOST_AUTO_TEST_CASE(lengths_of_a_run) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto all = [&](const fs::path& out, const std::string& more) {
    done(arguments("train --blocks 1 --batch 4 --length 32 --teacher", m.teacher, "--tokens", m.tokens, "--out",
                   out, more));
    return io::read_json_file(out / "run.json")["total_steps"].get<index>();
  };
  const index epoch = (io::token_file(m.tokens).size() - 1) / 32 / 4;
  BOOST_TEST(all(folder / "epochs", "--epochs 1.5 --order sequential") ==
             std::llround(1.5 * static_cast<double>(epoch)));
  done(arguments(short_run(folder / "seldom", "7"), "--evaluate-every 3 --held-out", m.held_out));
  std::vector<int> looks;
  for (const auto& r : metrics(folder / "seldom").held_out) looks.push_back(r.at("step").get<int>());
  BOOST_TEST(looks == (std::vector{0, 3, 6, 7}), boost::test_tools::per_element());
  const auto timed = all(folder / "minutes", "--minutes 0.002 --log-every 3");
  BOOST_TEST(timed >= 1);
  const metrics log(folder / "minutes");
  BOOST_TEST(log.steps.back().at("step").get<index>() == timed);
  for (const auto& r : log.steps)
    BOOST_TEST((r.at("step").get<index>() % 3 == 0 || r.at("step").get<index>() == timed));
}

}  // namespace distil_xlstm::program
