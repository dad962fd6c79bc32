#include <boost/test/unit_test.hpp>

#include <cmath>

#include <distil_xlstm/io/write_token_file.hpp>

#include "../model/write_gguf.hpp"
#include "material.hpp"

// What goes wrong while a student is trained: it is said in a line that names it, in time, and what there is stays.
namespace distil_xlstm::program {
namespace {

std::vector<std::string> small_run(const fs::path& out, const fs::path& tokens = material::get().tokens,
                                   const std::string& shape = "--blocks 2 --batch 1") {
  return arguments("train --length 16", shape, "--teacher", material::get().teacher, "--tokens", tokens,
                   "--out", out);
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A token file of `n` tokens whose documents start where it is said.
void write_tokens(const fs::path& path, index n, const std::vector<std::int64_t>& documents) {
  rng random(3);
  std::vector<std::int32_t> ids;
  for (index i = 0; i < n; ++i) ids.push_back(static_cast<std::int32_t>(random.below(80)));
  io::write_token_file(path, ids, documents, 82);
}
/// Documents of one token from `first` to before `last`, within 400 tokens.
std::vector<std::int64_t> single_tokens(std::int64_t first, std::int64_t last) {
  std::vector<std::int64_t> starts;
  if (first > 0) starts.push_back(0);
  for (auto i = first; i < last; ++i) starts.push_back(i);
  return starts;
}

/// A model whose tensor has one number that is not finite.
void spoil(const fs::path& folder, const std::string& name, float with) {
  auto tensors = read_tensors(folder / "model.safetensors");
  find(tensors, name).values[7] = with;
  write_tensors(folder / "model.safetensors", tensors);
}

}  // namespace

BOOST_AUTO_TEST_CASE(accumulated_parts_are_one_batch) {
  const temporary_folder folder;
  // Parts with many targets, two, none: windows of 16.
  auto documents = single_tokens(33, 64);
  for (const std::int64_t start : {70, 71, 90}) documents.push_back(start);
  write_tokens(folder / "tokens.safetensors", 160, documents);
  const auto step = [&](const std::string& how, const std::string& objective) {
    const auto out = folder / ("run" + how + objective);
    done(arguments(small_run(out, folder / "tokens.safetensors", how), "--init", material::get().student(),
                   "--order sequential --steps 2 --precision fp64 --lr 1e-3", objective));
    return metrics(out).steps;
  };
  for (const std::string objective :
       {"--alpha 0 --beta 1 --alignment mse", "--alpha 0 --beta 1 --alignment cosine",
        "--alpha 0 --beta 1 --alignment paper", "--alpha 0.5", "--alpha 0.3 --beta 0.3 --alignment mse"}) {
    const auto whole = step("--batch 4", objective), split = step("--batch 1 --accumulate 4", objective),
               halves = step("--batch 2 --accumulate 2", objective);
    for (const auto* other : {&split, &halves})
      for (std::size_t i = 0; i < 2; ++i)
        for (const char* key : {"total", "grad_norm", "ce", "kl", "alignment"})
          if (whole[i].contains(key)) BOOST_TEST_CONTEXT(objective << " " << key << " " << i)
    BOOST_TEST(std::abs(number((*other)[i], key) - number(whole[i], key)) <=
               1e-12 * std::abs(number(whole[i], key)));
  }
}

BOOST_AUTO_TEST_CASE(steps_with_nothing_to_score_are_passed_over_and_counted) {
  const temporary_folder folder;
  const auto tokens = folder / "middle.safetensors", out = folder / "run", again = folder / "again";
  write_tokens(tokens, 400, single_tokens(96, 145));  // windows 6, 7, 8 of 16 tokens
  const auto whole = arguments(small_run(out, tokens),
                               "--epochs 1 --order sequential --alpha 0.8:0.2 "
                               "--schedule linear --checkpoint-every 7");
  const outcome o = run(whole);
  BOOST_TEST(o.status == 0);
  BOOST_TEST(contains(o.out, "24 steps, 384 tokens, total "), o.out);
  BOOST_TEST(contains(o.out, ", 3 steps with nothing to score\n"), o.out);
  const metrics m(out);
  BOOST_REQUIRE(m.steps.size() == 24u);
  for (std::size_t i = 0; i < 24; ++i) {
    const bool empty = i >= 6 && i <= 8;
    BOOST_TEST(m.steps[i].contains("empty") == empty);
    BOOST_TEST(m.steps[i].contains("ce") == !empty);
    if (empty) continue;
    const double alpha = number(m.steps[i], "alpha");
    BOOST_TEST(std::abs(alpha - (0.8 - 0.6 * static_cast<double>(i) / 24)) <= 0.6 / 24);
  }
  // Stopped among them, and gone on.
  auto parts = arguments(small_run(again, tokens),
                         "--epochs 1 --order sequential --alpha 0.8:0.2 "
                         "--schedule linear --checkpoint-every 7");
  done(parts);
  fs::remove_all(again / "checkpoints/step-00000024"), fs::remove_all(again / "student");
  const outcome resumed = run(arguments(parts, "--resume"));
  BOOST_TEST(resumed.status == 0);
  BOOST_TEST(resumed.err == "");
  BOOST_TEST((metrics(again).steps == m.steps));
  BOOST_TEST((content(again / "student/model.safetensors") == content(out / "student/model.safetensors")));
  // The speed of --minutes is that of a step with something to score.
  write_tokens(folder / "first.safetensors", 400, single_tokens(0, 40));
  done(arguments(small_run(folder / "timed", folder / "first.safetensors"),
                 "--order sequential --minutes 0.002"));
  // Nothing at all, in the text or in what is held out: refused before the first step.
  write_tokens(folder / "none.safetensors", 400, single_tokens(0, 400));
  refused(arguments(small_run(folder / "none", folder / "none.safetensors"), "--steps 3"), 1,
          {"nothing to score"});
  refused(arguments(small_run(folder / "held out"), "--steps 3 --held-out", folder / "none.safetensors"), 1,
          {"none.safetensors", "nothing to score"});
  BOOST_TEST(!fs::exists(folder / "none/metrics.jsonl"));
  // Steps that end before the first with a target.
  refused(arguments(small_run(folder / "short", folder / "first.safetensors"), "--order sequential --steps 2"),
          1, {"none of 2 steps had a token to score"});
}

BOOST_AUTO_TEST_CASE(divergence_is_named_and_the_report_written) {
  const temporary_folder folder;
  int number_of = 0;
  for (const std::string how :
       {"--steps 2 --lr 1e30", "--steps 1 --lr 1e30", "--steps 2 --lr 1e38 --weight-decay 100",
        "--steps 14 --lr 1e30", "--steps 2 --lr 1e30 --precision bf16", "--steps 3 --lr 1e300 --precision fp64",
        "--steps 2 --lr 1e30 --checkpoint-every 1"}) {
    const auto out = folder / std::to_string(number_of++);
    const outcome o = run(arguments(small_run(out), how, "--warmup 0"));
    BOOST_TEST_CONTEXT(how << "\n" << o.err) {
      BOOST_TEST(o.status == 1);
      BOOST_TEST(contains(o.err, "diverged at step "));
      BOOST_TEST((contains(o.err, "loss") || contains(o.err, "gradient norm") || contains(o.err, "weights")));
      BOOST_TEST(o.err.find('\n') == o.err.size() - 1);
      BOOST_TEST(contains(o.err, "the checkpoint of step "));
      BOOST_TEST(content(out / "report.html").ends_with("</html>\n"));
      BOOST_TEST(metrics(out).steps.back().contains("diverged"));
      BOOST_TEST(!fs::exists(out / "student"));
      BOOST_REQUIRE(!checkpoints_of(out).empty());
      BOOST_TEST(checkpoints_of(out).front() == 0);
      // It is the same run, and says the same.
      const outcome again = run(arguments(small_run(out), how, "--warmup 0 --resume"));
      BOOST_TEST(again.status == 1);
      BOOST_TEST(contains(again.err, "diverged at step "));
    }
  }
}

BOOST_AUTO_TEST_CASE(weights_that_are_not_finite_are_named_everywhere) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto teacher = folder / "teacher", student = folder / "student", ids = folder / "ids.safetensors";
  const std::int32_t id[] = {5, 6, 7};
  io::safetensors_writer in;
  in.add("ids", dtype::i32, {1, 3}, id);
  in.write(ids);
  const auto everywhere = [&](const fs::path& model, const std::string& name, bool is_teacher) {
    const std::vector<std::string> said = {name, "not finite"};
    refused(arguments("generate --prompt a --tokens 2 --model", model), 1, said);
    refused(arguments("evaluate --text", m.other_text, "--model", model), 1, said);
    refused(arguments("logits --ids", ids, "--out", folder / "out.safetensors", "--model", model), 1, said);
    const outcome o = run(arguments("inspect", model));
    BOOST_TEST(o.status == 1);
    BOOST_TEST(contains(o.err, name), o.err);
    BOOST_TEST(contains(o.out, "numbers that are not finite"));
    if (is_teacher) {
      refused(arguments("cache --length 8 --tokens", m.tokens, "--out", folder / "cache", "--teacher", model),
              1, said);
      refused(arguments("train --steps 1 --tokens", m.tokens, "--out", folder / "run", "--teacher", model), 1,
              said);
    } else {
      refused(arguments(small_run(folder / "run", m.tokens, "--batch 1"), "--steps 1 --init", model), 1, said);
    }
  };
  for (const float with : {NAN, INFINITY})
    for (const std::string name :
         {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"}) {
      fs::remove_all(teacher);
      make_teacher("llama_rope_parameters", teacher);
      spoil(teacher, name, with);
      everywhere(teacher, name, true);
    }
  for (const std::string name : {"token_embedding.weight", "xlstm_block_stack.post_blocks_norm.weight"}) {
    fs::remove_all(student);
    fs::copy(m.student(), student, fs::copy_options::recursive);
    spoil(student, name, -INFINITY);
    BOOST_TEST_CONTEXT(name) everywhere(student, name, false);
  }
  // A GGUF file, under its own names.
  fs::remove_all(teacher);
  make_teacher("llama_rope_parameters", teacher);
  spoil(teacher, "model.layers.0.self_attn.q_proj.weight", NAN);
  const auto words = tiny_tokenizer();
  testing::write_gguf(teacher, folder / "model.gguf", false, &words);
  everywhere(folder / "model.gguf", "blk.0.attn_q.weight", true);
}

BOOST_AUTO_TEST_CASE(blocks_are_named_once_and_are_there) {
  const temporary_folder folder;
  const auto train = arguments(small_run(folder / "run"), "--steps 1");
  for (const char* list : {"2", "0,2", "1,2000"})
    refused(arguments(train, "--slstm-at", list), 1, {"slstm_at"});
  for (const char* list : {"0,0", "1,0,1", "-1", "0,-1", "", ",", "0,", ",0", "0,,1", "all,0", "0 1", "0x1",
                           "1.0", "99999999999999999999", "none,1"}) {
    auto given = train;
    given.insert(given.end(), {"--slstm-at", list});
    BOOST_TEST_CONTEXT("'" << list << "'") refused(given, 2, {"--slstm-at"});
  }
  done(arguments(train, "--slstm-at 1,0"));
  done(arguments("generate --prompt a --tokens 2 --model", folder / "run/student"));
}

BOOST_AUTO_TEST_CASE(budgets_are_numbers_of_steps) {
  const temporary_folder folder;
  const auto train = small_run(folder / "run");
  for (const std::string budget :
       {"--steps 0", "--steps -3", "--steps 99999999999", "--steps 9223372036854775807", "--steps inf",
        "--minutes inf", "--minutes nan", "--minutes 0", "--minutes -1", "--minutes 1e300", "--epochs 0",
        "--epochs -1", "--epochs inf", "--epochs nan", "--epochs 1e300", "--steps 1 --epochs 1"})
    refused(arguments(train, budget), 2, {budget.substr(0, budget.find(' '))});
  for (const std::string more : {"--heads 99999999999", "--accumulate 9223372036854775807", "--clip inf",
                                 "--clip nan", "--weight-decay nan"})
    refused(arguments(train, "--steps 1", more), 2, {more.substr(0, more.find(' '))});
  BOOST_TEST(!fs::exists(folder / "run/metrics.jsonl"));
}

BOOST_AUTO_TEST_CASE(what_a_run_needs_is_looked_at_before_it_goes_on) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto out = folder / "run", teacher = folder / "teacher", tokens = folder / "tokens.safetensors",
             init = folder / "init";
  fs::copy(m.teacher, teacher, fs::copy_options::recursive);
  fs::copy(m.student(), init, fs::copy_options::recursive);
  fs::copy_file(m.tokens, tokens);
  const auto with = [&](const fs::path& t, const fs::path& x, const fs::path& i) {
    return arguments("train --batch 2 --length 16 --steps 4 --checkpoint-every 2 --teacher", t, "--tokens", x,
                     "--init", i, "--out", out);
  };
  done(with(teacher, tokens, init));
  const auto student = content(out / "student/model.safetensors"), log = content(out / "metrics.jsonl");
  const auto went_on = [&](const std::vector<std::string>& given, const std::vector<std::string>& said) {
    const outcome o = run(arguments(given, "--resume"));
    BOOST_TEST(o.status == 0, o.err);
    for (const auto& part : said) BOOST_TEST(contains(o.err, part), o.err);
    BOOST_TEST((content(out / "student/model.safetensors") == student));
  };
  const auto last = out / "checkpoints/step-00000004";
  // The last checkpoint is lost; run.json too; the log too.
  fs::remove_all(last);
  went_on(with(teacher, tokens, init), {"resumes at step 2 of 4"});
  fs::remove_all(last), fs::rename(out / "run.json", folder / "moved.json");
  went_on(with(teacher, tokens, init), {"warning", "run.json", "resumes at step 2 of 4"});
  BOOST_TEST(fs::exists(out / "report.html"));
  BOOST_TEST((content(out / "run.json") == content(folder / "moved.json")));
  fs::remove_all(last), fs::remove(out / "metrics.jsonl");
  went_on(with(teacher, tokens, init), {"warning", "metrics.jsonl", "resumes at step 2 of 4"});
  // The same things under other names.
  for (const char* name : {"teacher", "init"})
    fs::rename(folder / name, folder / (name + std::string(" moved")));
  fs::rename(tokens, folder / "moved.safetensors");
  const auto moved = with(folder / "teacher moved", folder / "moved.safetensors", folder / "init moved");
  fs::remove_all(last);
  went_on(moved, {"resumes at step 2 of 4"});
  // Others under the same names.
  const auto before = content(out / "metrics.jsonl");
  fs::rename(folder / "teacher moved", folder / "kept");
  make_teacher("llama_rope_parameters", folder / "teacher moved");
  auto tensors = read_tensors(folder / "teacher moved/model.safetensors");
  tensors[0].values[0] += 1;
  write_tensors(folder / "teacher moved/model.safetensors", tensors);
  refused(arguments(moved, "--resume"), 1, {"checkpoints", "another teacher"});
  fs::remove_all(folder / "teacher moved"), fs::rename(folder / "kept", folder / "teacher moved");
  tensors = read_tensors(folder / "init moved/model.safetensors");
  tensors.back().values[0] += 1;
  write_tensors(folder / "init moved/model.safetensors", tensors);
  refused(arguments(moved, "--resume"), 1, {"checkpoints", "another init_sha256"});
  refused(arguments(with(folder / "teacher moved", m.held_out, m.student()), "--resume"), 1,
          {"checkpoints", "another tokens_sha256"});
  BOOST_TEST((content(out / "metrics.jsonl") == before));
  BOOST_TEST(!log.empty());
  // No checkpoint at all.
  fs::remove_all(out / "checkpoints");
  went_on(with(folder / "teacher moved", folder / "moved.safetensors", m.student()),
          {"no checkpoint is there", "begins at step 0"});
}

BOOST_AUTO_TEST_CASE(texts_beyond_the_teachers_positions_are_said) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto said = [](const std::vector<std::string>& given, bool yes) {
    const outcome o = run(given);
    BOOST_TEST(o.status == 0, o.err);
    BOOST_TEST(contains(o.err, "max_position_embeddings") == yes, o.err);
    BOOST_TEST(std::count(o.err.begin(), o.err.end(), '\n') <= 2, o.err);
  };
  const auto context = io::read_json_file(m.teacher / "config.json").at("max_position_embeddings").get<index>();
  const auto at = std::to_string(context), beyond = std::to_string(context + 1);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(context + 1), 5);
  for (const bool past : {false, true}) {
    const auto& n = past ? beyond : at;
    const auto name = [&](const char* what) { return folder / (what + n); };
    said(arguments("cache --length", n, "--teacher", m.teacher, "--tokens", m.tokens, "--out", name("cache")),
         past);
    said(arguments("train --blocks 2 --batch 1 --steps 1 --length", n, "--teacher", m.teacher, "--tokens",
                   m.tokens, "--out", name("run")),
         past);
    said(arguments("evaluate --window", n, "--model", m.teacher, "--tokens", m.tokens), past);
    said(arguments("generate --prompt a --model", m.teacher, "--tokens", std::to_string(context - !past)),
         past);
    io::safetensors_writer in;
    in.add("ids", dtype::i32, {1, context + past}, ids.data());
    in.write(name("ids"));
    said(arguments("logits --model", m.teacher, "--ids", name("ids"), "--out", name("logits")), past);
  }
  // A recurrent student has no such end.
  said(arguments("evaluate --window", beyond, "--model", m.student(), "--tokens", m.tokens), false);
}

BOOST_AUTO_TEST_CASE(names_that_are_not_utf8) {
  const auto& m = material::get();
  const temporary_folder folder;
  const fs::path teacher = folder / "t\xff\xe9", tokens = folder / "x\xfe.safetensors", out = folder / "o\xff";
  fs::copy(m.teacher, teacher, fs::copy_options::recursive);
  fs::copy_file(m.tokens, tokens);
  const auto train = arguments("train --blocks 2 --batch 1 --length 16 --steps 2 --held-out", tokens,
                               "--teacher", teacher, "--tokens", tokens, "--out", out);
  done(train);
  done(arguments(train, "--resume"));
  io::read_json_file(out / "run.json");
  done(arguments("cache --length 16 --teacher", teacher, "--tokens", tokens, "--out", folder / "c\xff"));
  done(arguments("generate --prompt a --tokens 2 --model", out / "student"));
  done(arguments("inspect", out / "student"));
  for (const char* option :
       {"--prompt", "--steps", "--slstm-at", "--alpha", "--method", "--architecture", "--order", "--alignment",
        "--schedule", "--lr-schedule", "--device", "--precision", "--threads"}) {
    auto given = small_run(folder / "none");
    if (option != std::string("--steps")) given.insert(given.end(), {"--steps", "1"});
    given.insert(given.end(), {option, "\xff\xfe"});
    BOOST_TEST_CONTEXT(option) refused(given, 2, {option});
  }
  refused({"train", "--\xff", "1"}, 2, {"train"});
  refused({"train", "surplus"}, 2, {"surplus"});
  auto asked = arguments("generate --tokens 2 --model", m.teacher);
  asked.insert(asked.end(), {"--prompt", "a\xff"});
  refused(asked, 1, {"--prompt", "UTF-8"});
}

}  // namespace distil_xlstm::program
