#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include <csignal>
#include <map>

#include <distil_xlstm/io/json.hpp>

#include "launched.hpp"
#include "material.hpp"

// Several processes, started by an MPI launcher, evaluate, write a cache and draw texts as one does: the same numbers
// and files, bit for bit.
namespace distil_xlstm::program {
namespace {

constexpr const char* exact = "--precision fp64 --threads 1";

/// What several processes wrote where they were through, and nobody but rank 0 said anything.
outcome done_by(int processes, const std::vector<std::string>& given, const surroundings& where = {}) {
  const outcome o = run(given, as(processes, where));
  BOOST_TEST(o.status == 0, o.err);
  return o;
}

/// Every file of a folder.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& f : fs::directory_iterator(folder)) out[f.path().filename().string()] = content(f.path());
  return out;
}

fs::path write_requests(const fs::path& to) {
  std::string lines;
  for (int d = 0; d < 23; ++d) {
    const io::json line = {
        {"doc_id", d},
        {"idx", 0},
        {"label", " x"},
        {"request",
         {{"context", some_text(static_cast<std::size_t>(1 + d % 7), static_cast<std::uint64_t>(d))},
          {"continuation", d == 11 ? ""
                           : d % 2 ? " the river"
                                   : " rain."}}}};
    lines += line.dump() + "\n";
  }
  write_file(to, lines);
  return to;
}

std::vector<std::string> sampling(const fs::path& out, const std::string& more = "") {
  return arguments("sample --length 40 --seed 3", exact, contains(more, "--tokens") ? "" : "--tokens 1500",
                   more, "--model", material::get().teacher, "--out", out);
}

}  // namespace

BOOST_AUTO_TEST_CASE(processes_evaluate_as_one) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto of = [&](const auto&... more) {
    return arguments("evaluate --json", exact, "--model", m.student(), more...);
  };
  const std::string text = content(m.other_text);
  const auto requests = write_requests(folder / "requests.jsonl");
  const std::pair<std::vector<std::string>, std::string> asked[] = {
      {of("--window 16,7 --needle 200,190 --cases 19 --tokens", m.tokens, "--teacher", m.teacher), ""},
      {of("--window 100000 --tokens", m.tokens), ""},
      {of("--window 8 --text -"), text},
      {of("--requests", requests), ""}};
  for (const auto& [given, input] : asked) {
    const outcome one = run(given, {.input = input});
    BOOST_REQUIRE_MESSAGE(one.status == 0, one.err);
    for (const int n : {1, 2, 3}) {
      const outcome o = done_by(n, given, {.input = input});
      BOOST_TEST(o.out == one.out);
      BOOST_TEST(o.err == one.err);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_cache_of_processes_is_that_of_one) {
  const auto& m = material::get();
  const temporary_folder folder;
  for (const char* more :
       {"--alignment average --batch 3", "--alignment block_wise --blocks 2 --store fp32 --batch 5",
        "--alignment none --batch 1000"}) {
    const auto given = [&](const fs::path& out) {
      return arguments("cache --length 16", exact, more, "--teacher", m.teacher, "--tokens", m.tokens, "--out",
                       out);
    };
    const fs::path one = folder / "one";
    fs::remove_all(one);
    done(given(one));
    for (const int n : {1, 2, 3}) {
      const fs::path out = folder / std::to_string(n);
      fs::remove_all(out);
      const outcome o = done_by(n, given(out));
      BOOST_TEST(o.out + o.err == "");
      BOOST_TEST_CONTEXT(n << " processes, " << more) BOOST_TEST((contents(out) == contents(one)));
    }
  }
}

BOOST_AUTO_TEST_CASE(processes_sample_the_file_of_one) {
  const temporary_folder folder;
  const std::string prompts = "In the rain\n7\n";
  const auto prompted = [&](const fs::path& out) { return arguments(sampling(out), "--prompts -"); };
  done(sampling(folder / "one")), done(prompted(folder / "prompted one"), {.input = prompts});
  for (const int n : {1, 2, 3}) {
    const auto out = folder / std::to_string(n), from = folder / ("prompted " + std::to_string(n));
    const outcome o = done_by(n, sampling(out));
    BOOST_TEST(o.out == "");
    BOOST_TEST(o.err.starts_with(out.string() + ": 1,5"), o.err);
    BOOST_TEST(std::count(o.err.begin(), o.err.end(), '\n') == 1, o.err);
    BOOST_TEST((content(out) == content(folder / "one")));
    done_by(n, prompted(from), {.input = prompts});
    BOOST_TEST((content(from) == content(folder / "prompted one")));
    BOOST_TEST(!fs::exists(out.string() + ".part"));
  }
}

BOOST_AUTO_TEST_CASE(a_sample_that_a_signal_has_stopped_goes_on_with_any_number) {
  const temporary_folder folder;
  const std::string amount = "--tokens 60000 --batch 9";
  done(sampling(folder / "one", amount));
  const fs::path out = folder / "out", parts = out.string() + ".part";
  const auto has_part = [&] {
    std::error_code none;
    for (const auto& f : fs::directory_iterator(parts, none))
      if (f.path().filename().string().starts_with("texts-")) return true;
    return false;
  };
  int stopped = 0;
  for (const int n : {2, 3}) {
    const std::string name = std::to_string(::getpid()) + "-sample-" + std::to_string(n);
    fs::remove(out);
    process p(sampling(out, amount), as(n, {.environment = {{"DISTIL_TEST_RUN", name}}}));
    p.wait_while([&] { return !has_part(); });
    if (const pid_t pid = process_of(name, 1)) ::kill(pid, SIGTERM);
    const outcome o = p.wait();
    if (o.status == 0) continue;  // it was through before
    ++stopped;
    const auto lines = said(o.err);
    BOOST_REQUIRE_MESSAGE(lines.size() == 1u, o.err);
    BOOST_TEST(lines[0].starts_with("distil: stopped by a signal; "), lines[0]);
    BOOST_TEST(!fs::exists(out));
    if (n == 2)
      done_by(3, sampling(out, amount));
    else
      done(sampling(out, amount));
    BOOST_TEST((content(out) == content(folder / "one")));
    BOOST_TEST(!fs::exists(parts));
  }
  BOOST_TEST(stopped >= 1);
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused_in_one_line) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto other = folder / "teacher", requests = folder / "requests",
             other_requests = folder / "other requests";
  fs::copy(m.teacher, other, fs::copy_options::recursive);
  auto tensors = read_tensors(other / "model.safetensors");
  tensors[0].values[0] += 1;
  write_tensors(other / "model.safetensors", tensors);
  write_requests(requests);
  write_file(other_requests, content(requests).substr(0, content(requests).find('\n') + 1));

  const auto evaluated = [&](const fs::path& model, const fs::path& tokens) {
    return arguments("evaluate", exact, "--model", model, "--tokens", tokens);
  };
  const auto asked = [&](const fs::path& from) {
    return arguments("evaluate", exact, "--model", m.teacher, "--requests", from);
  };
  const auto cached = [&](const fs::path& teacher, const fs::path& tokens) {
    return arguments("cache --length 16", exact, "--teacher", teacher, "--tokens", tokens, "--out",
                     folder / "cache");
  };
  const auto sampled = [&](const fs::path& model) {
    return arguments("sample --tokens 500", exact, "--model", model, "--out", folder / "sample");
  };
  const std::string second = "rank 1 of 2: another ";
  refused_by(run_unlike(evaluated(m.teacher, m.tokens), evaluated(m.teacher, m.held_out)), 1,
             {second + "tokens_sha256 than rank 0"});
  refused_by(run_unlike(evaluated(m.teacher, m.tokens), evaluated(other, m.tokens)), 1,
             {second + "model_sha256"});
  refused_by(run_unlike(evaluated(m.teacher, m.tokens), evaluated(m.teacher, folder / "none")), 1,
             {"rank 1 of 2: ", "none"});
  refused_by(run_unlike(asked(requests), asked(other_requests)), 1, {second + "requests_sha256"});
  refused_by(run_unlike(cached(m.teacher, m.tokens), cached(m.teacher, m.held_out)), 1,
             {second + "tokens_sha256 than rank 0"});
  refused_by(run_unlike(cached(m.teacher, m.tokens), cached(other, m.tokens)), 1, {second + "teacher_sha256"});
  refused_by(run_unlike(sampled(m.teacher), sampled(other)), 1, {second + "model_sha256"});
  BOOST_TEST(!fs::exists(folder / "cache"));
  BOOST_TEST(!fs::exists(folder / "sample.part"));

  refused_by(run(arguments("evaluate --carry --model", m.student(), "--tokens", m.tokens), as(2)), 2,
             {"--carry", "one process", "2 were started"});
  refused_by(run(arguments("cache --length 16 --out", folder / "sample", "--teacher", m.teacher, "--tokens",
                           folder / "none"),
                 as(2)),
             1, {"none"});
  for (const auto& given :
       {arguments("generate --prompt x --model", m.teacher), arguments("tokenize --text", m.text),
        arguments("logits --model", m.teacher), arguments("inspect", m.teacher)})
    refused_by(run(given, as(2)), 1, {given[0] + ": is done by one process, and 2 were started"});
}

}  // namespace distil_xlstm::program
