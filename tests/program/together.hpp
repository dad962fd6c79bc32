#pragma once

#include <signal.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors.hpp>

#include "launched.hpp"
#include "material.hpp"

/// What tests of several processes share, whatever has started those.
namespace distil_xlstm::program {

inline constexpr double rounding = 1e-12;

/// Six windows a batch, which 2 and 3 divide.
inline std::vector<std::string> training(const fs::path& out, const std::string& more,
                                         const fs::path& tokens = material::get().tokens,
                                         const fs::path& teacher = material::get().teacher) {
  return arguments("train --precision fp64 --blocks 2 --length 16 --lr 0.01 --threads 1",
                   contains(more, "--batch") ? "" : "--batch 6", more, "--teacher", teacher, "--tokens", tokens,
                   "--out", out);
}

inline void compare_lines(const std::vector<::program::record>& got,
                          const std::vector<::program::record>& want) {
  BOOST_REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    BOOST_TEST(got[i].size() == want[i].size());
    for (const auto& [key, value] : want[i].items())
      if (value.is_number_float())
        BOOST_TEST(std::abs(number(got[i], key.c_str()) - value.get<double>()) <=
                       rounding * std::abs(value.get<double>()),
                   key << " of line " << i + 1);
      else
        BOOST_TEST((got[i].at(key) == value), key << " of line " << i + 1);
  }
}
inline void compare_steps(const fs::path& got, const fs::path& want) {
  const metrics a(got), b(want);
  compare_lines(a.steps, b.steps), compare_lines(a.held_out, b.held_out);
}
/// The last checkpoint: weights to rounding, and what is said about it.
inline void compare_weights(const fs::path& got, const fs::path& want) {
  const io::safetensors_file a(got / "state.safetensors"), b(want / "state.safetensors");
  BOOST_REQUIRE(a.tensors().size() == b.tensors().size());
  std::vector<double> x, y;
  for (const auto& t : b.tensors()) {
    if (!t.name.starts_with("weight.") || t.name.ends_with("gates.bias")) continue;  // whose shift cancels
    const auto mine = a.at(t.name).values<double>(), theirs = t.values<double>();
    x.insert(x.end(), mine.begin(), mine.end()), y.insert(y.end(), theirs.begin(), theirs.end());
  }
  BOOST_TEST(apart(x, y) <= rounding);
  BOOST_TEST((content(got / "manifest.json") == content(want / "manifest.json")));
}
inline bool same_state(const fs::path& a, const fs::path& b) {
  return content(a / "state.safetensors") == content(b / "state.safetensors");
}

inline std::size_t lines_of(const fs::path& file) {
  std::ifstream in(file);
  return static_cast<std::size_t>(std::count(std::istreambuf_iterator<char>(in), {}, '\n'));
}

/// Starts a run, sends `signal` to a rank when so many steps are logged, and waits for the end of all.
struct fault {
  outcome ended;
  double seconds;  ///< from the signal to the end
};
inline fault strike(const std::vector<std::string>& given, const fs::path& out, surroundings where, int rank,
                    int signal, std::size_t steps) {
  static int count = 0;
  const std::string name = std::to_string(::getpid()) + "-" + std::to_string(count++);
  where.environment["DISTIL_TEST_RUN"] = name;
  process p(given, where);
  p.wait_while([&] { return lines_of(out / "metrics.jsonl") < steps; });
  const pid_t pid = process_of(name, rank);
  BOOST_REQUIRE(pid > 0);
  using clock = std::chrono::steady_clock;
  const auto t0 = clock::now();
  BOOST_REQUIRE(::kill(pid, signal) == 0);
  const outcome o = p.wait();
  return {o, std::chrono::duration<double>(clock::now() - t0).count()};
}

/// What is seen where rank 1 of 2 was stopped after step 7 of a run that writes a checkpoint each third.
inline void check_silence(const fault& f, const fs::path& out) {
  BOOST_TEST_CONTEXT(f.ended.err) {
    BOOST_TEST(f.ended.status != 0);
    BOOST_TEST(f.seconds < 60);
    const auto lines = said(f.ended.err);
    BOOST_REQUIRE(lines.size() == 1u);
    BOOST_TEST(contains(lines[0], "rank 1 of 2 has given no sign of life for 3"), lines[0]);
    BOOST_TEST(contains(lines[0], "the last checkpoint stands"), lines[0]);
    BOOST_TEST(checkpoints_of(out).back() >= 6);
  }
}

}  // namespace distil_xlstm::program
