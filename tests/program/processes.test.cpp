#include <boost/test/unit_test.hpp>

#include <chrono>
#include <memory>
#include <thread>

#include <distil_xlstm/comm/tcp_session.hpp>

#include "together.hpp"

// Several processes without MPI: those that --processes starts, as --gpus does, and those of torchrun and its like.
namespace distil_xlstm::program {
namespace {

surroundings patient() { return {.timeout = 240}; }
std::vector<std::string> together(int n, std::vector<std::string> given) {
  return arguments(given, "--processes", std::to_string(n));
}

/// The same command line by each of `size` ranks, as a launcher's environment tells them which they are.
std::vector<outcome> launched(int size, const std::vector<std::string>& given,
                              std::map<std::string, std::string> more = {}) {
  const auto [socket, port] = comm::tcp_session::listen_here();
  ::close(socket);
  std::vector<std::unique_ptr<process>> all;
  for (int r = size - 1; r >= 0; --r) {  // rank 0 comes last
    auto where = patient();
    where.environment = {{"WORLD_SIZE", std::to_string(size)},
                         {"RANK", std::to_string(r)},
                         {"LOCAL_RANK", std::to_string(r)},
                         {"MASTER_ADDR", "localhost"},
                         {"MASTER_PORT", std::to_string(port)}};
    for (const auto& [key, value] : more) where.environment[key] = value;
    all.push_back(std::make_unique<process>(given, where));
  }
  std::vector<outcome> out;
  for (int r = 0; r < size; ++r) out.push_back(all[static_cast<std::size_t>(size - 1 - r)]->wait());
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(processes_train_as_one) {
  const temporary_folder folder;
  const std::string steps = "--steps 5 --accumulate 2 --checkpoint-every 3";
  const auto one = folder / "one", last = fs::path("checkpoints/step-00000005");
  done(training(one, steps));
  for (const int n : {2, 3}) {
    const auto out = folder / std::to_string(n);
    const outcome o = run(together(n, training(out, steps + " --shard-optimiser")), patient());
    BOOST_TEST(o.status == 0, o.err);
    BOOST_TEST(o.err == "");
    BOOST_TEST(std::count(o.out.begin(), o.out.end(), '\n') == 1, o.out);
    compare_steps(out, one), compare_weights(out / last, one / last);
    BOOST_TEST(io::read_json_file(out / "run.json").at("command").at("processes") == n);
  }
  // One batch a step: gradients are summed beside backward.
  const auto alone = folder / "alone", two = folder / "beside";
  done(training(alone, "--steps 5")), done(together(2, training(two, "--steps 5")), patient());
  compare_steps(two, alone), compare_weights(two / last, alone / last);
}

BOOST_AUTO_TEST_CASE(processes_of_another_launcher) {
  const temporary_folder folder;
  const auto one = folder / "one", last = fs::path("checkpoints/step-00000004"), out = folder / "run";
  done(training(one, "--steps 4"));
  const auto all = launched(3, training(out, "--steps 4"), {{"TORCHELASTIC_RUN_ID", "none"}});
  for (std::size_t r = 0; r < all.size(); ++r) {
    BOOST_TEST(all[r].status == 0, all[r].err);
    BOOST_TEST(all[r].err == "");
    BOOST_TEST((all[r].out == "") == (r > 0), all[r].out);
  }
  compare_steps(out, one), compare_weights(out / last, one / last);

  // One of them fails: it says so, once.
  write_file(folder / "in the way", "");
  const auto failed = launched(2, training(folder / "in the way" / "run", "--steps 4"));
  std::string err;
  for (const auto& o : failed) {
    BOOST_TEST(o.status == 1);
    err += o.err;
  }
  BOOST_TEST(said(err).size() == 1u, err);
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused_in_one_line) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto out = folder / "run";
  const auto with = [&](const std::string& more, std::map<std::string, std::string> environment = {}) {
    auto where = patient();
    where.environment = std::move(environment);
    return run(training(out, "--steps 2 " + more), where);
  };
  refused_by(with("--processes 4"), 2, {"--batch", "6 windows", "4 processes"});
  refused_by(with("--processes 0 --batch 0"), 2, {"--batch"});
  refused_by(with("--processes two"), 2, {"processes"});
  refused_by(with("--processes 2000"), 2, {"--processes: 2000 are not possible"});
  refused_by(with("--processes 2 --gpus 2"), 2, {"--gpus"});
  refused_by(with("--gpus 2 --device cpu"), 2, {"--gpus: has no effect with --device cpu"});
  refused_by(with("--processes 2 --device cuda"), 2, {"--processes: are of the CPU"});
  refused_by(with("--processes 2", {{"WORLD_SIZE", "2"}, {"RANK", "0"}}), 2, {"--processes", "WORLD_SIZE"});
  refused_by(with("", {{"WORLD_SIZE", "2"}, {"RANK", "1"}}), 1, {"WORLD_SIZE=2", "MASTER_ADDR is not set"});
  refused_by(with("", {{"WORLD_SIZE", "2"}, {"RANK", "x"}, {"MASTER_ADDR", "localhost"}}), 1, {"RANK=x"});
  refused_by(with("", {{"WORLD_SIZE", "2"}, {"RANK", "2"}, {"MASTER_ADDR", "localhost"}}), 1, {"rank 2 of 2"});
  refused_by(
      with("", {{"WORLD_SIZE", "2"}, {"RANK", "0"}, {"MASTER_ADDR", "localhost"}, {"MASTER_PORT", "99999"}}), 1,
      {"MASTER_PORT=99999"});
  refused_by(run(arguments("generate --processes 2 --model", m.teacher, "--prompt a"), patient()), 2,
             {"generate", "--processes", "one process"});
  BOOST_TEST(!fs::exists(out / "metrics.jsonl"));
}

BOOST_AUTO_TEST_CASE(a_process_that_is_killed_ends_all_and_the_run_goes_on) {
  const temporary_folder folder;
  const std::string steps = "--steps 60 --checkpoint-every 3";
  const auto last = fs::path("checkpoints/step-00000060"), whole = folder / "whole", out = folder / "run";
  done(together(3, training(whole, steps)), patient());
  bool begun = false;
  for (const auto& [rank, at] : {std::pair<int, std::size_t>{1, 4}, {2, 17}, {0, 30}}) {
    const fault f = strike(together(3, training(out, steps + (begun ? " --resume" : ""))), out, patient(), rank,
                           SIGKILL, at);
    BOOST_TEST_CONTEXT("rank " << rank << " after " << at << " steps: " << f.ended.err << f.ended.out) {
      BOOST_TEST(f.ended.status == 128 + SIGKILL);
      BOOST_TEST(f.seconds < 30);
      const auto lines = said(f.ended.err);
      BOOST_REQUIRE(lines.size() == 1u);
      BOOST_TEST(contains(lines[0], "rank " + std::to_string(rank) + " of 3 was ended by signal 9"));
      BOOST_TEST(contains(lines[0], "the last checkpoint stands"));
      BOOST_TEST(!checkpoints_of(out).empty());
      BOOST_TEST(!fs::exists(out / "student"));
    }
    begun = true;
  }
  const outcome o = run(together(3, training(out, steps + " --resume")), patient());
  BOOST_TEST(o.status == 0, o.err);
  BOOST_TEST(same_state(out / last, whole / last));
  BOOST_TEST((metrics(out).steps == metrics(whole).steps));
}

BOOST_AUTO_TEST_CASE(a_process_that_hangs_ends_all) {
  const temporary_folder folder;
  const auto out = folder / "run";
  check_silence(
      strike(together(2, training(out, "--steps 100000 --checkpoint-every 3")), out, patient(), 1, SIGSTOP, 7),
      out);
}

BOOST_AUTO_TEST_CASE(a_signal_to_the_launcher_stops_all_after_the_same_step) {
  const temporary_folder folder;
  const auto out = folder / "run";
  process p(together(2, training(out, "--steps 100000 --checkpoint-every 1000")), patient());
  p.wait_while([&] { return lines_of(out / "metrics.jsonl") < 7; });
  p.signal(SIGTERM);
  const outcome o = p.wait();
  const auto lines = said(o.err);
  BOOST_REQUIRE_MESSAGE(lines.size() == 1u, o.err);
  BOOST_TEST(contains(lines[0], "stopped by a signal at step "), lines[0]);
  BOOST_TEST(o.status == 128 + SIGTERM);
  BOOST_TEST(checkpoints_of(out).back() >= 6);
}

BOOST_AUTO_TEST_CASE(ranks_do_not_outlive_what_started_them) {
  const temporary_folder folder;
  const auto out = folder / "run";
  auto where = patient();
  const std::string name = std::to_string(::getpid()) + "-orphans";
  where.environment["DISTIL_TEST_RUN"] = name;
  process p(together(2, training(out, "--steps 100000 --checkpoint-every 1000")), where);
  p.wait_while([&] { return lines_of(out / "metrics.jsonl") < 7; });
  p.signal(SIGKILL);
  BOOST_TEST(p.wait().status == -SIGKILL);
  for (int i = 0; i < 6000 && (process_of(name, 0) || process_of(name, 1)); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  BOOST_TEST(process_of(name, 0) == 0);
  BOOST_TEST(process_of(name, 1) == 0);
  BOOST_TEST(checkpoints_of(out).back() >= 6);
}

// Of those who start distil: one that has children of its own, which distil inherits, and one that ignores how they end.
BOOST_AUTO_TEST_CASE(what_a_process_inherits_does_not_disturb_its_ranks) {
  const temporary_folder folder;
  auto where = patient();
  for (const auto& launcher : {std::vector<std::string>{"bash", "-c", "sleep 0.1 & exec \"$@\"", "bash"},
                               {"env", "--ignore-signal=CHLD"}}) {
    where.launcher = launcher;
    const outcome o = run(together(2, training(folder / launcher[0], "--steps 4")), where);
    BOOST_TEST(o.status == 0, o.err);
    BOOST_TEST(o.err == "");
    BOOST_TEST(metrics(folder / launcher[0]).steps.size() == 4u);
  }
}

}  // namespace distil_xlstm::program
