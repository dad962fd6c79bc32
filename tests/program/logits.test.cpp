#include <boost/test/unit_test.hpp>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/write_token_file.hpp>

#include "../model/write_gguf.hpp"
#include "material.hpp"
#include "scores.hpp"

// `distil logits` on the models of golden/.
namespace distil_xlstm::program {
namespace {

std::vector<fs::path> folders(const std::string& kind, std::size_t least) {
  std::vector<fs::path> out;
  for (const auto& f : fs::directory_iterator(golden(kind)))
    if (fs::exists(f.path() / "expected.safetensors")) out.push_back(f.path());
  std::sort(out.begin(), out.end());
  BOOST_REQUIRE(out.size() >= least);
  return out;
}

/// Every tensor of expected.safetensors that `distil logits` writes, too.
void compare_logits(const fs::path& model, const std::string& precision, double limit) {
  const temporary_folder folder;
  const auto out = folder / "out.safetensors";
  done(arguments("logits --precision", precision, "--model", model, "--ids", model / "expected.safetensors",
                 "--out", out));
  const io::safetensors_file got(out), expected(model / "expected.safetensors");
  const auto shape = expected.at("ids").shape;
  index hidden = 0;
  for (const auto& t : got.tensors()) {
    BOOST_TEST(t.type == (precision == "fp64" ? "F64" : "F32"));
    BOOST_TEST((t.shape.size() == 3 && t.shape[0] == shape[0] && t.shape[1] == shape[1]));
    hidden += t.name.starts_with("hidden.");
    const auto* want = expected.find(t.name);
    BOOST_TEST_CONTEXT(model.filename().string() << " " << t.name << " " << precision) {
      if (want) BOOST_TEST(apart(t.values<double>(), want->values<double>()) <= limit);
      if (t.name == "logits" || t.name == "last_hidden") BOOST_TEST((want || t.name == "last_hidden"));
    }
  }
  const auto c = io::read_json_file(model / "config.json");
  const auto depth = c.contains("xlstm_cfg")    ? c["xlstm_cfg"]["num_blocks"]
                     : c.contains("num_blocks") ? c["num_blocks"]
                                                : c["num_hidden_layers"];
  BOOST_TEST(hidden == depth.get<index>() + 1);
  BOOST_TEST(std::ssize(got.tensors()) == hidden + 2);
}

}  // namespace

BOOST_AUTO_TEST_CASE(logits_of_the_golden_students) {
  for (const auto& f : folders("student", 20)) {
    compare_logits(f, "fp64", 1e-10);
    compare_logits(f, "fp32", 1e-5);
  }
}

BOOST_AUTO_TEST_CASE(logits_of_the_golden_teachers) {
  for (const auto& f : folders("teacher", 5)) {
    compare_logits(f, "fp64", 1e-10);
    compare_logits(f, "fp32", 1e-5);
  }
}

BOOST_AUTO_TEST_CASE(a_large_xlstm_is_read) {
  for (const auto& f : folders("large", 3)) {
    compare_logits(f, "fp64", 1e-10);
    compare_logits(f, "fp32", 1e-5);
  }
  const temporary_folder folder;
  const auto model = golden("large/caps"), tokens = folder / "tokens.safetensors";
  const io::safetensors_file expected(model / "expected.safetensors");
  auto ids = expected.at("ids").values<std::int32_t>();
  ids.resize(static_cast<std::size_t>(expected.at("ids").shape[1]));
  const index start[] = {0};
  io::write_token_file(tokens, ids, start, 24);
  const auto [nll, scored] = score(model, ids, 8);
  const auto arg = arguments("--precision fp64 --window 8 --model", model, "--tokens", tokens);
  const json got = evaluate(arg);
  BOOST_TEST(got["scored"].get<index>() == scored);
  BOOST_TEST(close(got["nll"].get<double>(), nll, 1e-10));
  BOOST_TEST(!close(evaluate(arguments(arg, "--carry"))["nll"].get<double>(), nll, 1e-4));
  BOOST_TEST(done(arguments("inspect", model)).find("logits capped at 2") != std::string::npos);
  refused(arguments("train --steps 1 --teacher", model, "--tokens", tokens, "--out", folder / "out"), 1,
          {"config.json", "model_type 'xlstm' is not supported"});
}

BOOST_AUTO_TEST_CASE(a_gguf_file_is_a_model) {
  const auto& m = material::get();
  const auto file = m.folder / "model.gguf";
  const auto words = tiny_tokenizer();
  testing::write_gguf(m.teacher, file, false, &words);
  BOOST_TEST(done(arguments("tokenize --ids --tokenizer", file), {.input = "the rain"}) ==
             done(arguments("tokenize --ids --tokenizer", m.teacher), {.input = "the rain"}));
  const auto a = evaluate(arguments("--precision fp64 --model", file, "--tokens", m.held_out)),
             b = evaluate(arguments("--precision fp64 --model", m.teacher, "--tokens", m.held_out));
  BOOST_TEST(close(a["ppl"].get<double>(), b["ppl"].get<double>(), 1e-12));
  const auto generate = arguments("generate --tokens 12 --prompt river --model");
  BOOST_TEST(done(arguments(generate, file)) == done(arguments(generate, m.teacher)));
  const auto train = [&](const fs::path& teacher, const fs::path& out) {
    done(arguments("train --blocks 2 --batch 2 --length 16 --steps 2 --teacher", teacher, "--tokens", m.tokens,
                   "--out", out));
    return metrics(out).steps.back();
  };
  const auto c = train(file, m.folder / "from a file"), d = train(m.teacher, m.folder / "from a folder");
  BOOST_TEST(close(number(c, "total"), number(d, "total"), 1e-6));
  BOOST_TEST(fs::exists(m.folder / "from a file/student/tokenizer.json"));
}

}  // namespace distil_xlstm::program
