#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include <chrono>
#include <fstream>

#include <distil_xlstm/io/json.hpp>

#include "together.hpp"

// Several processes, started by an MPI launcher, train as one does; what goes wrong with one ends all.
namespace distil_xlstm::program {

BOOST_AUTO_TEST_CASE(processes_train_as_one) {
  const temporary_folder folder;
  const std::string steps = "--steps 5 --accumulate 2 --checkpoint-every 3";
  const auto one = folder / "one", last = fs::path("checkpoints/step-00000005");
  done(arguments(training(one, steps), "--held-out", material::get().held_out));
  for (const int n : {1, 2, 3}) {
    const auto out = folder / std::to_string(n), sharded = folder / ("sharded " + std::to_string(n));
    const outcome o = run(arguments(training(out, steps), "--held-out", material::get().held_out), as(n));
    BOOST_TEST(o.status == 0, o.err);
    BOOST_TEST(o.err == "");
    BOOST_TEST(std::count(o.out.begin(), o.out.end(), '\n') == 1, o.out);
    compare_steps(out, one), compare_weights(out / last, one / last);
    BOOST_TEST((checkpoints_of(out) == checkpoints_of(one)));
    BOOST_TEST(fs::exists(out / "student/model.safetensors"));
    BOOST_TEST(io::read_json_file(out / "run.json").at("command").at("processes") == n);
    if (n == 1) continue;
    done(training(sharded, steps + " --shard-optimiser"), as(n));
    BOOST_TEST(same_state(sharded / last, out / last));
  }
}

BOOST_AUTO_TEST_CASE(a_run_goes_on_with_the_same_number_bit_for_bit_and_with_another) {
  const temporary_folder folder;
  const std::string steps = "--steps 6 --checkpoint-every 3";
  const auto last = fs::path("checkpoints/step-00000006");
  const auto run_of = [&](const std::string& name) { return folder / name; };
  done(training(run_of("one"), steps));
  done(training(run_of("two"), steps), as(2));
  const auto go_on = [&](const std::string& from, const std::string& to, int n, const std::string& more = "") {
    fs::copy(run_of(from), run_of(to), fs::copy_options::recursive);
    fs::remove_all(run_of(to) / last), fs::remove_all(run_of(to) / "student");
    const outcome o = run(training(run_of(to), steps + " --resume " + more), as(n));
    BOOST_TEST(o.status == 0, o.err);
  };
  go_on("two", "again", 2);
  BOOST_TEST(same_state(run_of("again") / last, run_of("two") / last));
  BOOST_TEST((metrics(run_of("again")).steps == metrics(run_of("two")).steps));
  go_on("two", "sharded", 2, "--shard-optimiser");
  BOOST_TEST(same_state(run_of("sharded") / last, run_of("two") / last));
  go_on("sharded", "three", 3), go_on("one", "from one", 2, "--shard-optimiser");
  for (const char* name : {"three", "from one"}) {
    compare_weights(run_of(name) / last, run_of("one") / last);
    compare_steps(run_of(name), run_of("one"));
  }
}

BOOST_AUTO_TEST_CASE(the_stages_of_a_linearisation) {
  const temporary_folder folder;
  const auto given = [&](const fs::path& out, const std::string& more = "") {
    return arguments(
        "linearise --precision fp64 --threads 1 --batch 4 --length 16 --window 4 --sinks 2 --needle none "
        "--keep-attention 1 --align-tokens 256 --distil-tokens 256 --windows 16 --control",
        more, "--teacher", material::get().teacher, "--tokens", material::get().tokens, "--held-out",
        material::get().held_out, "--out", out);
  };
  done(given(folder / "one")), done(given(folder / "two", "--shard-optimiser"), as(2));
  for (const char* part : {"", "control"}) {
    compare_steps(folder / "two" / part, folder / "one" / part);
    compare_weights(folder / "two" / part / "checkpoints/distil/step-00000004",
                    folder / "one" / part / "checkpoints/distil/step-00000004");
  }
  const auto a = io::read_json_file(folder / "two/results.json"),
             b = io::read_json_file(folder / "one/results.json");
  for (const char* model : {"student", "trained_windows"}) {
    const double x = a.at(model).at("windows").at("16").at("kl").get<double>(),
                 y = b.at(model).at("windows").at("16").at("kl").get<double>();
    BOOST_TEST(std::abs(x - y) <= 1e-9 * y);
  }
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused_in_one_line) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto out = folder / "run", other_teacher = folder / "teacher",
             other_tokens = folder / "tokens.safetensors";
  refused_by(run(training(out, "--steps 2 --batch 5"), as(2)), 2, {"--batch", "5 windows", "2 processes"});
  refused_by(run(training(out, "--steps 2 --nonsense 5"), as(2)), 2, {"nonsense"});
  refused_by(run(arguments("inspect", m.teacher), as(2)), 1, {"inspect", "one process", "2 were started"});
  refused_by(run(training(out, "--steps 2"), {.environment = {{"WORLD_SIZE", "4"}}}), 1,
             {"WORLD_SIZE=4", "RANK is not set", "mpirun"});
  refused_by(
      run(training(out, "--steps 2"),
          {.environment = {{"OMPI_COMM_WORLD_SIZE", "1"}, {"PMI_SIZE", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}}}),
      1, {"SLURM_STEP_NUM_TASKS=2", "SLURM_PROCID is not set"});
  refused_by(run(training(out, "--steps 2 --shard-optimiser")), 2, {"--shard-optimiser", "one process"});
  BOOST_TEST(!fs::exists(out / "metrics.jsonl"));

  // The same command of two machines, whose files differ.
  fs::copy(m.teacher, other_teacher, fs::copy_options::recursive);
  auto tensors = read_tensors(other_teacher / "model.safetensors");
  tensors[0].values[0] += 1;
  write_tensors(other_teacher / "model.safetensors", tensors);
  done(arguments("tokenize --tokenizer", m.teacher, "--text", m.other_text, m.text, "--out", other_tokens));
  refused_by(run_unlike(training(out, "--steps 2"), training(out, "--steps 2", other_tokens)), 1,
             {"rank 1 of 2", "another tokens_sha256 than rank 0"});
  refused_by(run_unlike(training(out, "--steps 2"), training(out, "--steps 2", m.tokens, other_teacher)), 1,
             {"rank 1 of 2", "another teacher than rank 0"});
  refused_by(run_unlike(training(out, "--steps 2"), training(out, "--steps 2", folder / "none")), 1,
             {"rank 1 of 2", "none"});
  refused_by(run_unlike(training(out, "--steps 2"), training(out, "--steps 2 --checkpoint-every 7")), 1,
             {"rank 1 of 2", "another checkpoint-every"});
  BOOST_TEST(!fs::exists(out / "metrics.jsonl"));
}

BOOST_AUTO_TEST_CASE(what_one_throws_ends_all) {
  const temporary_folder folder;
  const auto out = folder / "run";
  // Rank 0 alone writes, and cannot.
  fs::create_directories(folder / "full"), write_file(folder / "full/checkpoints", "in the way");
  const outcome full = run(training(folder / "full", "--steps 3"), as(2));
  BOOST_TEST(full.status == 1);
  BOOST_REQUIRE_MESSAGE(said(full.err).size() == 1u, full.err);
  BOOST_TEST(contains(said(full.err)[0], "full/checkpoints"), full.err);
  // One is alone in what it finds, and the other works on.
  done(training(out, "--steps 4 --checkpoint-every 2"), as(2));
  fs::remove_all(out / "checkpoints/step-00000004");
  const outcome o = run_unlike(training(out, "--steps 4 --checkpoint-every 2 --resume"),
                               training(out, "--steps 5 --checkpoint-every 2 --resume"));
  BOOST_TEST(o.status != 0);
  BOOST_REQUIRE_MESSAGE(said(o.err).size() == 1u, o.err);
  BOOST_TEST(contains(said(o.err)[0], "rank 1 of 2: "), o.err);
  BOOST_TEST(contains(said(o.err)[0], "4 steps"), o.err);
  BOOST_TEST(checkpoints_of(out).front() == 2);
}

BOOST_AUTO_TEST_CASE(a_rank_that_is_killed_ends_all_and_the_run_goes_on) {
  const temporary_folder folder;
  const std::string steps = "--steps 60 --checkpoint-every 3";
  const auto last = fs::path("checkpoints/step-00000060"), whole = folder / "whole", out = folder / "run";
  done(training(whole, steps), as(3));
  bool begun = false;
  for (const auto& [rank, at] : {std::pair<int, std::size_t>{1, 4}, {2, 17}, {0, 30}, {1, 47}}) {
    const fault f = strike(training(out, steps + (begun ? " --resume" : "")), out, as(3), rank, SIGKILL, at);
    BOOST_TEST_CONTEXT("rank " << rank << " after " << at << " steps: " << f.ended.err << f.ended.out) {
      BOOST_TEST(f.ended.status != 0);
      BOOST_TEST(f.seconds < 60);
      // The launcher says it: Open MPI's which rank, MPICH's that there was one.
      BOOST_TEST((contains(f.ended.err, "process rank " + std::to_string(rank)) ||
                  contains(f.ended.out, "Killed (signal 9)")));
      BOOST_TEST(!checkpoints_of(out).empty());
      BOOST_TEST(!fs::exists(out / "student"));
    }
    begun = true;
  }
  const outcome o = run(training(out, steps + " --resume"), as(3));
  BOOST_TEST(o.status == 0, o.err);
  BOOST_TEST(same_state(out / last, whole / last));
  BOOST_TEST((metrics(out).steps == metrics(whole).steps));
  BOOST_TEST((content(out / "student/model.safetensors") == content(whole / "student/model.safetensors")));
}

BOOST_AUTO_TEST_CASE(a_rank_that_hangs_ends_all) {
  const temporary_folder folder;
  const auto out = folder / "run";
  check_silence(strike(training(out, "--steps 100000 --checkpoint-every 3"), out, as(2), 1, SIGSTOP, 7), out);
}

BOOST_AUTO_TEST_CASE(a_signal_to_one_stops_all_after_the_same_step) {
  const temporary_folder folder;
  const auto out = folder / "run";
  const fault f = strike(training(out, "--steps 100000 --checkpoint-every 1000"), out, as(2), 1, SIGTERM, 7);
  BOOST_TEST_CONTEXT(f.ended.err) {
    const auto lines = said(f.ended.err);
    BOOST_REQUIRE(lines.size() == 1u);
    BOOST_TEST(contains(lines[0], "stopped by a signal at step "), lines[0]);
    BOOST_TEST(checkpoints_of(out).back() >= 6);
  }
}

}  // namespace distil_xlstm::program
