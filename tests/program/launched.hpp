#pragma once

#include <sys/types.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "run.hpp"

// Several processes of `distil`.
namespace distil_xlstm::program {

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline surroundings as(int processes, surroundings where = {}) {
  const char* launcher = std::getenv("DISTIL_MPIRUN");
  BOOST_REQUIRE_MESSAGE(launcher && *launcher,
                        "the environment variable DISTIL_MPIRUN must say how MPI starts programs");
  where.launcher = arguments(launcher, "-n", std::to_string(processes));
  where.timeout = 240;
  return where;
}
/// The same with other arguments for the second of two processes.
inline outcome run_unlike(const std::vector<std::string>& first, const std::vector<std::string>& second) {
  auto given = first;
  for (const char* word : {":", "-n", "1", static_cast<const char*>(std::getenv("DISTIL"))})
    given.push_back(word);
  given.insert(given.end(), second.begin(), second.end());
  return run(given, as(1));
}
/// The lines on stderr that the program has written, not the launcher, but for warnings.
inline std::vector<std::string> said(const std::string& err) {
  std::vector<std::string> out;
  std::istringstream lines(err);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("distil: ") && !line.starts_with("distil: warning: ")) out.push_back(line);
  return out;
}

/// What several processes must refuse: with this status, nothing on stdout and one line of theirs on stderr that has
/// all `parts` in it.
inline void refused_by(const outcome& o, int status, const std::vector<std::string>& parts) {
  BOOST_TEST_CONTEXT(o.err) {
    BOOST_TEST(o.status == status);
    BOOST_TEST(o.out == "");
    const auto lines = said(o.err);
    BOOST_REQUIRE(lines.size() == 1u);
    for (const auto& part : parts) BOOST_TEST(contains(lines[0], part), part);
  }
}

/// The process that is this rank of the run that the environment variable DISTIL_TEST_RUN names.
inline pid_t process_of(const std::string& name, int rank) {
  const std::string r = std::to_string(rank);
  for (const auto& f : fs::directory_iterator("/proc")) {
    std::ifstream in(f.path() / "environ", std::ios::binary);
    std::string all(std::istreambuf_iterator<char>(in), {});
    all = std::string(1, '\0') + all + std::string(1, '\0');
    const auto holds = [&](const std::string& entry) {
      return contains(all, std::string(1, '\0') + entry + std::string(1, '\0'));
    };
    if (holds("DISTIL_TEST_RUN=" + name) &&
        (holds("RANK=" + r) || holds("OMPI_COMM_WORLD_RANK=" + r) || holds("PMI_RANK=" + r)))
      return static_cast<pid_t>(std::stol(f.path().filename().string()));
  }
  return 0;
}

}  // namespace distil_xlstm::program
