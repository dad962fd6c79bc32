#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "../refused.hpp"
#include "../temporary_folder.hpp"
#include "distil/metrics_log.hpp"

namespace {

using distil_xlstm::refused;
using distil_xlstm::temporary_folder;

std::string content(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void put(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace

BOOST_AUTO_TEST_CASE(records_are_whole_lines_in_their_order) {
  const temporary_folder f;
  const auto path = f.path / "metrics.jsonl";
  {
    program::metrics_log log(path);
    log.append({{"step", 1}, {"ce", 0.1}, {"bad", std::nan("")}, {"device", "cpu \xff"}});
    // Written through: visible before the log is closed.
    BOOST_TEST(content(path) == "{\"step\":1,\"ce\":0.1,\"bad\":null,\"device\":\"cpu \xef\xbf\xbd\"}\n");
    log.sync();
    refused([&] { log.append(3); }, "metrics.jsonl: a record must be an object, not number");
  }
  program::metrics_log again(path);
  again.append({{"step", 2}, {"ce", std::numeric_limits<double>::infinity()}});
  const auto records = program::read_metrics(path);
  BOOST_REQUIRE(records.size() == 2u);
  BOOST_TEST(records[0]["ce"].get<double>() == 0.1);
  BOOST_TEST(records[1]["ce"].is_null());
  BOOST_TEST(records[0].begin().key() == "step");
}

BOOST_AUTO_TEST_CASE(numbers_read_back_as_they_were) {
  for (const double x : {0.1, 1.0 / 3, 3.4567891, 1e-30, 16777217.0, std::numeric_limits<double>::denorm_min()})
    BOOST_TEST(program::record::parse(program::record(x).dump()).get<double>() == x);
  BOOST_TEST(program::significant(187432.71, 4) == 187400.0);
  BOOST_TEST(program::significant(0.00123456, 3) == 0.00123);
  BOOST_TEST(program::significant(0, 3) == 0);
  BOOST_TEST(std::isnan(program::significant(std::nan(""), 3)));
}

BOOST_AUTO_TEST_CASE(a_resume_leaves_no_step_twice_and_none_missing) {
  const temporary_folder f;
  const auto path = f.path / "metrics.jsonl";
  {
    program::metrics_log log(path);
    log.append({{"note", "no step"}});
    for (int s = 0; s <= 7; ++s) log.append({{"step", s}, {"ce", s + 0.5}});
    log.append({{"step", 5}, {"held_out_ppl", 10.0}});
    log.append({{"step", 7}, {"held_out_ppl", 9.0}});
  }
  put(path, content(path) + "{\"step\":8,\"c");
  BOOST_TEST(program::read_metrics(path).size() == 11u);

  program::metrics_log log(path);
  log.truncate_after(5);
  for (int s = 6; s <= 9; ++s) log.append({{"step", s}, {"ce", s + 0.5}});
  std::vector<int> steps;
  for (const auto& r : program::read_metrics(path))
    if (r.contains("ce")) steps.push_back(r["step"].get<int>());
  BOOST_TEST(steps == (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  BOOST_TEST(program::read_metrics(path).size() == 12u);  // and the note, and the held-out line of step 5
  BOOST_TEST(std::distance(std::filesystem::directory_iterator(f.path), {}) == 1);

  const auto before = content(path);
  log.truncate_after(9);
  BOOST_TEST(content(path) == before);
  log.truncate_after(-1);
  BOOST_TEST(content(path) == "{\"note\":\"no step\"}\n");
}

BOOST_AUTO_TEST_CASE(torn_and_damaged_lines) {
  const temporary_folder f;
  const auto path = f.path / "metrics.jsonl";
  // Without its end, the last line is torn, even if it could be read.
  put(path, "{\"step\":1}\n{\"step\":2}");
  { program::metrics_log log(path); }
  BOOST_TEST(content(path) == "{\"step\":1}\n");
  put(path, "{\"step\":1");
  { program::metrics_log log(path); }
  BOOST_TEST(content(path).empty());
  // A last line of rubbish goes with the cut; in the middle it is an error.
  put(path, std::string("{\"step\":1}\n\0\0\0\n", 15));
  {
    program::metrics_log log(path);
    log.truncate_after(1);
  }
  BOOST_TEST(content(path) == "{\"step\":1}\n");
  put(path, "{\"step\":1}\nrubbish\n{\"step\":2}\n");
  refused([&] { program::read_metrics(path); }, "metrics.jsonl:2: not a JSON object");
  refused([&] { program::metrics_log(path).truncate_after(1); }, "metrics.jsonl:2: not a JSON object");
  put(path, "{\"step\":\"x\"}\n");
  refused([&] { program::metrics_log(path).truncate_after(1); }, "metrics.jsonl:1: step is not a number");
  refused([&] { program::read_metrics(f.path / "none.jsonl"); }, "none.jsonl: cannot be opened");
  refused([&] { program::metrics_log log(f.path / "no" / "m.jsonl"); }, "m.jsonl: cannot be opened");
}

BOOST_AUTO_TEST_CASE(a_full_disk_is_an_error) {
  if (!std::filesystem::exists("/dev/full")) return;
  refused(
      [] {
        program::metrics_log("/dev/full").append({{"step", 1}});
      },
      "/dev/full: cannot be written: No space left");
}
