#define BOOST_TEST_MODULE contract
#include <boost/test/unit_test.hpp>

#include <zlib.h>

#include <cmath>
#include <span>
#include <tuple>

#include <distil_xlstm/distil/needle.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/stream_decoder.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/write_token_file.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>

#include "../model/write_gguf.hpp"
#include "material.hpp"

namespace distil_xlstm::program {
namespace {

using io::json;
using ids_type = std::vector<std::int32_t>;

const char* const subcommands[] = {"tokenize", "sample",   "cache",  "train",
                                   "generate", "evaluate", "logits", "inspect"};

const io::tokenizer& tokenizer() {
  static const io::tokenizer t(tiny_tokenizer());
  return t;
}
ids_type encode(const std::string& text) { return tokenizer().encode(text, false).ids; }

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

/// nll and tokens scored of a text in windows, from logits: a window's first token is context only.
std::pair<double, index> score(const fs::path& model, const ids_type& ids, index window) {
  double nll = 0;
  index scored = 0;
  const auto read = [&](std::span<const std::int32_t> part, index rows) {
    const index n = std::ssize(part) / rows;
    if (rows == 0 || n < 2) return;
    const logits_of l(model, {part.begin(), part.end()}, rows, "fp64");
    for (index b = 0; b < rows; ++b)
      for (index t = 0; t + 1 < n; ++t, ++scored)
        nll -= l.log_p(b, t, part[static_cast<std::size_t>(b * n + t + 1)]);
  };
  const std::span<const std::int32_t> all(ids);
  const auto whole = static_cast<std::size_t>(std::ssize(ids) / window * window);
  if (whole > 0) read(all.first(whole), std::ssize(ids) / window);
  if (whole < ids.size()) read(all.subspan(whole), 1);
  return {nll, scored};
}

json evaluate(const std::vector<std::string>& given) {
  return json::parse(done(arguments("evaluate --json", given)));
}
std::vector<std::string> keys(const json& object) {
  std::vector<std::string> out;
  for (const auto& [key, value] : object.items()) out.push_back(key);
  return out;
}
bool close(double a, double b, double limit) { return std::abs(a - b) <= limit * std::abs(b); }

}  // namespace

BOOST_AUTO_TEST_CASE(help_explains) {
  for (const std::string name : subcommands) {
    const outcome o = run({name, "--help"});
    BOOST_TEST(o.status == 0);
    BOOST_TEST(o.err == "");
    BOOST_TEST(o.out.starts_with("distil " + name));
    BOOST_TEST((o.out.find("--help") != std::string::npos));
    BOOST_TEST((done({"--help"}).find(name) != std::string::npos));
  }
  const std::string train = done({"train", "--help"});
  for (const char* option :
       {"teacher",    "cache",     "tokens",    "held-out",    "method", "architecture", "blocks",
        "heads",      "slstm-at",  "batch",     "length",      "steps",  "minutes",      "epochs",
        "out",        "resume",    "init",      "order",       "alpha",  "beta",         "temperature",
        "schedule",   "alignment", "lr",        "lr-schedule", "warmup", "weight-decay", "clip",
        "accumulate", "device",    "precision", "threads",     "seed",   "log-every",    "checkpoint-every"})
    BOOST_TEST_CONTEXT(option) BOOST_TEST((train.find("--" + std::string(option) + " ") != std::string::npos));
  BOOST_TEST(done({"--version"}).starts_with("distil "));
}

BOOST_AUTO_TEST_CASE(a_wrong_command_line_is_status_2) {
  const auto& m = material::get();
  refused({"distill"}, 2, {"'distill' is not a subcommand"});
  for (const std::string name : subcommands) {
    refused({name, "--nonsense", "1"}, 2, {name, "nonsense"});
    refused({name}, 2, {name, "missing"});
  }
  BOOST_TEST(run({}).status == 2);
  const auto train = arguments("train --teacher", m.teacher, "--tokens", m.tokens, "--out", m.folder / "none");
  refused(train, 2, {"--steps"});
  const auto all = arguments(train, "--steps 1");
  for (const auto& [option, value] :
       std::vector<std::pair<std::string, std::string>>{{"--device", "gpu"},
                                                        {"--precision", "fp8"},
                                                        {"--threads", "-1"},
                                                        {"--threads", "two"},
                                                        {"--slstm-at", "first"},
                                                        {"--slstm-at", "0,,1"},
                                                        {"--temperature", "0"},
                                                        {"--temperature", "-1"},
                                                        {"--alpha", "much"},
                                                        {"--alpha", "0.8:0.5:0.1"},
                                                        {"--alpha", "1.5"},
                                                        {"--beta", "-0.1"},
                                                        {"--schedule", "steep"},
                                                        {"--alignment", "loose"},
                                                        {"--order", "random"},
                                                        {"--method", "other"},
                                                        {"--architecture", "tall"},
                                                        {"--lr-schedule", "up"},
                                                        {"--lr", "0"},
                                                        {"--lr", "inf"},
                                                        {"--clip", "-1"},
                                                        {"--batch", "0"},
                                                        {"--length", "-4"},
                                                        {"--warmup", "-3"},
                                                        {"--blocks", "0"},
                                                        {"--accumulate", "0"},
                                                        {"--minutes", "1"},
                                                        {"--log-every", "0"},
                                                        {"--evaluate-every", "-1"},
                                                        {"--checkpoint-every", "0"}})
    refused(arguments(all, option, value), 2, {option});
  BOOST_TEST(!fs::exists(m.folder / "none" / "run.json"));
  // Without CUDA it is said how to get a program with it; with CUDA, what is missing where no GPU is there.
  const auto on_gpu = run(arguments("evaluate --device cuda --model", m.teacher, "--tokens", m.tokens));
  const std::string said = on_gpu.status == 2 ? "configure with -DDISTIL_XLSTM_CUDA=ON" : "cuda: device 0 of 0";
  if (on_gpu.status != 0) BOOST_TEST((on_gpu.err.find(said) != std::string::npos), on_gpu.err);
  const auto generate = arguments("generate --model", m.teacher, "--prompt a");
  refused(arguments(generate, "--temperature -1"), 2, {"temperature"});
  refused(arguments(generate, "--top-k -1"), 2, {"likeliest"});
  refused(arguments(generate, "--top-p 0"), 2, {"top-p"});
  refused(arguments(generate, "--tokens -1"), 2, {"--tokens"});
  refused(arguments(generate, "--prompts", m.text), 2, {"--prompt", "--prompts"});
  refused(arguments(generate, "--batch 0"), 2, {"--batch"});
  refused(arguments("generate --model", m.teacher), 2, {"--prompt"});
  const auto evaluate = arguments("evaluate --model", m.teacher);
  refused(evaluate, 2, {"--text"});
  refused(arguments(evaluate, "--text", m.text, "--tokens", m.tokens), 2, {"--text"});
  refused(arguments(evaluate, "--text", m.text, "--window 1"), 2, {"--window"});
  refused(arguments(evaluate, "--requests", m.text, "--limit 0"), 2, {"--limit"});
  const auto cache = arguments("cache --teacher", m.teacher, "--tokens", m.tokens, "--out", m.folder / "none");
  refused(cache, 2, {"--length"});
  refused(arguments(cache, "--length 8 --store fp8"), 2, {"--store"});
  refused(arguments(cache, "--length 8 --alignment loose"), 2, {"--alignment"});
}

BOOST_AUTO_TEST_CASE(texts_become_token_files) {
  const auto& m = material::get();
  // Each document between the tokens that begin and end it.
  ids_type want;
  std::vector<std::int64_t> documents;
  for (const auto& file : {m.text, m.other_text}) {
    documents.push_back(std::ssize(want));
    const auto ids = encode(content(file));
    want.push_back(0);
    want.insert(want.end(), ids.begin(), ids.end());
    want.push_back(0);
  }
  const auto ids_of = [](const fs::path& file) {
    const io::token_file tokens(file);
    ids_type ids(static_cast<std::size_t>(tokens.size()));
    tokens.copy(0, tokens.size(), ids.data());
    return ids;
  };
  const io::token_file tokens(m.tokens);
  BOOST_TEST(ids_of(m.tokens) == want, boost::test_tools::per_element());
  BOOST_TEST(tokens.documents() == documents, boost::test_tools::per_element());
  BOOST_TEST(tokens.vocab_size() == tokenizer().vocab_size());
  BOOST_TEST(tokens.tokenizer_sha256() == tokenizer().fingerprint());
  BOOST_TEST((tokens.end_token() == 0));

  const auto out = m.folder / "some.safetensors";
  for (const auto& [option, begin, end] : {std::tuple("--bare", 0, 0), {"--no-end", 1, 0}, {"", 1, 1}}) {
    auto one = encode(content(m.text));
    if (begin) one.insert(one.begin(), 0);
    if (end) one.push_back(0);
    const outcome o = run(arguments("tokenize", option, "--tokenizer", m.teacher / "tokenizer.json", "--text",
                                    m.text, "--out", out));
    BOOST_TEST(o.status == 0);
    BOOST_TEST(o.out == "");
    BOOST_TEST(ids_of(out) == one, boost::test_tools::per_element());
    BOOST_TEST((io::token_file(out).end_token() == (end ? 0 : -1)));
  }

  // Many documents in a file.
  const auto many = m.folder / "many.txt";
  const auto split = [&](const std::string& text, std::vector<std::string> more,
                         const std::vector<std::string>& parts, const std::string& said) {
    write_file(many, text);
    std::vector<std::string> given = arguments("tokenize --tokenizer", m.teacher, "--text", many, "--out", out);
    given.insert(given.end(), more.begin(), more.end());
    const outcome o = run(given);
    BOOST_TEST_CONTEXT(text << o.err) {
      BOOST_REQUIRE(o.status == 0);
      ids_type ids;
      std::vector<std::int64_t> starts;
      for (const auto& part : parts) {
        starts.push_back(std::ssize(ids));
        ids.push_back(0);
        const auto words = tokenizer().encode(part).ids;
        ids.insert(ids.end(), words.begin(), words.end());
        ids.push_back(0);
      }
      BOOST_TEST(ids_of(out) == ids, boost::test_tools::per_element());
      BOOST_TEST(io::token_file(out).documents() == starts, boost::test_tools::per_element());
      BOOST_TEST((o.err.find(said) != std::string::npos));
      BOOST_TEST((o.err.find("warning") != std::string::npos) == (said.find("warning") != std::string::npos));
    }
  };
  split("the rain<|endoftext|>a river\n<|endoftext|>\n", {"--separator", "<|endoftext|>"},
        {"the rain", "a river\n"}, "2 documents");
  split("the rain\r\n\r\na river\nsings\r\n\r\n\r\n\r\nlight\r\n", {"--separator", "\\n\\n"},
        {"the rain", "a river\nsings", "light\n"}, "1 empty document passed over");
  split("a\n\nb", {"--separator", "\n\n"}, {"a", "b"}, "2 documents");
  split("a\n---\nb\n---\n \n---\nc", {"--separator=\\n---\\r\\n"}, {"a", "b", "c"},
        "1 empty document passed over");
  split("the rain", {"--separator", "<|endoftext|>"}, {"the rain"}, "1 document\n");
  // Special tokens: plain text that is counted, or parsed; what ends a document by itself ends it once.
  write_file(many, "<|im_start|>a<|im_end|>");
  const outcome plain = run(arguments("tokenize --tokenizer", m.teacher, "--text", many, "--out", out));
  BOOST_TEST(
      (plain.err.find(many.string() + ": 2 special tokens are taken for plain text") != std::string::npos));
  BOOST_TEST(ids_of(out).size() > 5);
  split("<|im_start|>a<|im_end|>b", {"--special"}, {"<|im_start|>a<|im_end|>b"}, "1 document\n");
  write_file(many, "<|endoftext|>a<|endoftext|>");
  done(arguments("tokenize --special --tokenizer", m.teacher, "--text", many, "--out", out));
  BOOST_TEST(ids_of(out) == (ids_type{0, 3, 0}), boost::test_tools::per_element());
  const auto scored = [&](const char* more) {
    return json::parse(done(arguments("evaluate --json --model", m.teacher, "--text", many, more)))["tokens"]
        .get<int>();
  };
  write_file(many, "the <|im_end|> rain");
  BOOST_TEST(scored("--special") == std::ssize(tokenizer().encode("the <|im_end|> rain").ids));
  BOOST_TEST(scored("") == std::ssize(encode("the <|im_end|> rain")));

  write_file(many, " \n\n \n");
  const auto tokenize = arguments("tokenize --tokenizer", m.teacher, "--out", m.folder / "none");
  const outcome none = run(arguments(tokenize, "--text", many, "--separator=\\n\\n"));
  BOOST_TEST(none.status == 1);
  BOOST_TEST((none.err.find(many.string() + ": holds no document") != std::string::npos));
  refused(arguments(tokenize, "--text", many, "--separator=\\x"), 2, {"--separator", "'\\x'"});
  refused(arguments(tokenize, "--text", many, "--separator="), 2, {"separator"});
  for (const char* option : {"--separator=x", "--special", "--no-end", "--bare"})
    refused(arguments("tokenize --ids --tokenizer", m.teacher, option), 2,
            {option == std::string("--separator=x") ? "--separator" : option});
  refused(arguments("evaluate --special --model", m.teacher, "--tokens", m.tokens), 2, {"--special"});
  // A tokenizer that knows no end says so.
  const auto endless = m.folder / "endless";
  auto words = tiny_tokenizer();
  words.specials.clear(), words.eos = -1;
  for (std::size_t i = 0; i < 3; ++i) words.tokens[i] = "<" + std::to_string(i) + ">";
  fs::create_directories(endless);
  io::write_tokenizer(endless, words);
  write_file(many, "a");
  const outcome o = run(arguments("tokenize --tokenizer", endless, "--text", many, "--out", out));
  BOOST_TEST(o.status == 0);
  BOOST_TEST((o.err.find("names no end-of-text token") != std::string::npos));
  BOOST_TEST((io::token_file(out).end_token() == -1));
  BOOST_TEST(done(arguments("inspect", m.tokens)).find("each ends with the token 0") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(texts_are_the_same_however_they_were_written) {
  const auto& m = material::get();
  const temporary_folder folder;
  const std::string text = "The rain\nsings; a river\n", mark = "\xef\xbb\xbf";
  std::string crlf;
  for (const char c : text) crlf += c == '\n' ? "\r\n" : std::string(1, c);
  const auto file = folder / "text";
  const auto results = [&](const std::string& bytes) {
    write_file(file, bytes);
    std::vector<std::string> out;
    done(arguments("tokenize --tokenizer", m.teacher, "--text", file, "--out", folder / "tokens"));
    out.push_back(io::token_file(folder / "tokens").data_sha256());
    out.push_back(done(arguments("evaluate --json --model", m.teacher, "--text", file)));
    out.push_back(done(arguments("generate --tokens 4 --model", m.teacher, "--prompts", file)));
    out.push_back(done(arguments("generate --tokens 4 --model", m.teacher, "--prompts -"), {.input = bytes}));
    return out;
  };
  const auto want = results(text);
  for (const auto& bytes : {crlf, mark + text, mark + crlf})
    BOOST_TEST(results(bytes) == want, boost::test_tools::per_element());
  const outcome o = run(arguments("generate --tokens 1 --model", m.teacher, "--prompts", file));
  BOOST_TEST(o.err == "distil: " + file.string() + ": 2 line ends of CR and LF read as LF\n");
  // --ids takes its text as it is.
  BOOST_TEST(done(arguments("tokenize --ids --tokenizer", m.teacher), {.input = "a\nb"}) == "3 74 4\n");
  const outcome raw = run(arguments("tokenize --ids --tokenizer", m.teacher), {.input = "a\r\nb"});
  BOOST_TEST((raw.err.find("1 bytes have no token") != std::string::npos));

  using namespace std::string_literals;
  for (const auto& [bytes, part] : {std::pair{"\xff\xfe"s + "a\0"s, "UTF-16"},
                                    {"a\0b"s, "NUL"},
                                    {"\x1f\x8b"s, "gzip"},
                                    {"version https://git-lfs.github.com/spec/v1\n"s, "Git LFS pointer"}}) {
    write_file(file, bytes);
    refused(arguments("tokenize --tokenizer", m.teacher, "--text", file, "--out", folder / "out"), 1,
            {file.string(), part});
    refused(arguments("evaluate --model", m.teacher, "--text", file), 1, {file.string(), part});
    refused(arguments("generate --model", m.teacher, "--prompts", file), 1, {file.string(), part});
  }
}

BOOST_AUTO_TEST_CASE(a_student_of_short_documents_stops_by_itself) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto text = folder / "text";
  std::string lines;
  for (int i = 0; i < 120; ++i) lines += "the rain\n";
  write_file(text, lines);
  const auto written = [&](const std::string& option) {
    const auto tokens = folder / ("tokens" + option), out = folder / ("run" + option);
    done(arguments("tokenize --separator=\\n", option, "--tokenizer", m.teacher, "--text", text, "--out",
                   tokens));
    const outcome o = run(
        arguments("train --blocks 1 --batch 4 --length 32 --steps 150 --lr 0.02 --alpha 0 --beta 0 --teacher",
                  m.teacher, "--tokens", tokens, "--out", out));
    BOOST_REQUIRE_MESSAGE(o.status == 0, o.err);
    BOOST_TEST((o.err.find("does not learn to stop") != std::string::npos) == !option.empty());
    return done(arguments("generate --tokens 40 --prompt <|endoftext|>the --model", out / "student"));
  };
  BOOST_TEST(written("") == " rain\n");
  const auto endless = written("--no-end");
  BOOST_TEST(endless.starts_with(" rain"));
  BOOST_TEST(endless.size() > 20);
}

BOOST_AUTO_TEST_CASE(ids_and_back) {
  const auto& m = material::get();
  const std::string text = "The other singing, the rain\n";
  const auto ids = done(arguments("tokenize --ids --tokenizer", m.teacher), {.input = text});
  std::string want;
  for (const auto id : encode(text)) want += (want.empty() ? "" : " ") + std::to_string(id);
  BOOST_TEST(ids == want + "\n");
  BOOST_TEST(done(arguments("tokenize --decode --tokenizer", m.teacher), {.input = ids}) == text);
  BOOST_TEST(done(arguments("tokenize --ids --tokenizer", m.teacher), {.input = "a<|im_end|>"}) == "3 2\n");
  BOOST_TEST(done(arguments("tokenize --ids --tokenizer", m.teacher)) == "\n");
  const outcome o = run(arguments("tokenize --ids --tokenizer", m.teacher), {.input = "a\xc3\xa9"});
  BOOST_TEST(o.status == 0);
  BOOST_TEST(o.out == "3\n");
  BOOST_TEST(o.err.starts_with("distil: warning: stdin: 2 bytes"));
}

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

BOOST_AUTO_TEST_CASE(perplexity_is_that_of_the_logits) {
  const auto& m = material::get();
  const auto ids = encode(content(m.other_text));
  for (const fs::path& model : {m.teacher, m.student()})
    for (const index window : {7, 32, 10000}) {
      const auto [nll, scored] = score(model, ids, window);
      const auto arg = arguments("--window", std::to_string(window), "--model", model, "--text", m.other_text);
      const json wide = evaluate(arguments("--precision fp64", arg)), narrow = evaluate(arg);
      BOOST_TEST(keys(wide) == (std::vector<std::string>{"nll", "ppl", "scored", "tokens"}),
                 boost::test_tools::per_element());
      BOOST_TEST(wide["tokens"].get<index>() == std::ssize(ids));
      BOOST_TEST(wide["scored"].get<index>() == scored);
      BOOST_TEST(close(wide["nll"].get<double>(), nll, 1e-10));
      BOOST_TEST(close(wide["ppl"].get<double>(), std::exp(nll / static_cast<double>(scored)), 1e-10));
      BOOST_TEST(close(narrow["ppl"].get<double>(), wide["ppl"].get<double>(), 1e-6));
      const json rough = evaluate(arguments("--precision bf16", arg));
      BOOST_TEST(close(rough["ppl"].get<double>(), wide["ppl"].get<double>(), 0.05));
    }
  // A text in a token file of one document is the same text; without --json a person reads it.
  const auto bare = m.folder / "one.safetensors";
  done(arguments("tokenize --bare --tokenizer", m.teacher, "--text", m.other_text, "--out", bare));
  BOOST_TEST(evaluate(arguments("--model", m.teacher, "--tokens", bare)) ==
             evaluate(arguments("--model", m.teacher, "--text", m.other_text)));
  BOOST_TEST(done(arguments("evaluate --model", m.teacher, "--tokens", bare)).find("ppl ") !=
             std::string::npos);
}

BOOST_AUTO_TEST_CASE(documents_are_scored_apart) {
  const auto& m = material::get();
  const io::token_file tokens(m.tokens);
  double nll = 0;
  index scored = 0;
  for (std::size_t d = 0; d < 2; ++d) {
    const index from = tokens.documents()[d], to = d == 0 ? tokens.documents()[1] : tokens.size();
    ids_type ids(static_cast<std::size_t>(to - from));
    tokens.copy(from, to - from, ids.data());
    const auto [n, s] = score(m.student(), ids, 1 << 20);
    nll += n, scored += s;
  }
  const json got =
      evaluate(arguments("--precision fp64 --window 100000 --model", m.student(), "--tokens", m.tokens));
  BOOST_TEST(got["scored"].get<index>() == scored);
  BOOST_TEST(close(got["nll"].get<double>(), nll, 1e-10));
}

BOOST_AUTO_TEST_CASE(a_carried_state_is_that_of_the_whole_text) {
  const auto& m = material::get();
  const auto ids = encode(content(m.other_text));
  constexpr index window = 16;
  const logits_of l(m.student(), ids, 1, "fp64");
  double nll = 0;
  index scored = 0;
  for (index t = 0; t + 1 < std::ssize(ids); ++t)
    if ((t + 1) % window != 0) nll -= l.log_p(0, t, ids[static_cast<std::size_t>(t + 1)]), ++scored;
  const auto arg = arguments("--precision fp64 --window 16 --model", m.student(), "--text", m.other_text);
  const json carried = evaluate(arguments(arg, "--carry")), empty = evaluate(arg);
  BOOST_TEST(carried["scored"].get<index>() == scored);
  BOOST_TEST(empty["scored"].get<index>() == scored);
  BOOST_TEST(close(carried["nll"].get<double>(), nll, 1e-10));
  BOOST_TEST(!close(carried["nll"].get<double>(), empty["nll"].get<double>(), 1e-4));
  refused(arguments("evaluate --carry --model", m.teacher, "--text", m.text), 1, {"--carry", "transformer"});
}

BOOST_AUTO_TEST_CASE(several_windows_and_a_teacher) {
  const auto& m = material::get();
  const auto ids = encode(content(m.other_text));
  const auto arg = arguments("--precision fp64 --model", m.student(), "--text", m.other_text);
  const auto both = evaluate(arguments(arg, "--window 32,7 --teacher", m.teacher));
  BOOST_TEST(keys(both) == std::vector<std::string>{"windows"}, boost::test_tools::per_element());
  BOOST_TEST(keys(both["windows"]) == (std::vector<std::string>{"32", "7"}), boost::test_tools::per_element());
  for (const index window : {7, 32}) {
    double kl = 0;
    index scored = 0;
    for (index first = 0; first < std::ssize(ids); first += window) {
      const ids_type part(ids.begin() + first, ids.begin() + std::min(std::ssize(ids), first + window));
      const logits_of p(m.teacher, part, 1, "fp64"), q(m.student(), part, 1, "fp64");
      for (index t = 0; t + 1 < std::ssize(part); ++t, ++scored)
        for (index v = 0; v < p.vocabulary; ++v) {
          const auto id = static_cast<std::int32_t>(v);
          kl += std::exp(p.log_p(0, t, id)) * (p.log_p(0, t, id) - q.log_p(0, t, id));
        }
    }
    const auto one = arguments(arg, "--window", std::to_string(window));
    json plain = evaluate(one);
    const json judged = evaluate(arguments(one, "--teacher", m.teacher));
    BOOST_TEST(both["windows"][std::to_string(window)] == judged);
    BOOST_TEST(plain["scored"].get<index>() == scored);
    BOOST_TEST(close(judged["kl"].get<double>(), kl / static_cast<double>(scored), 1e-9));
    BOOST_TEST(kl > 0);
    // Everything else is what is said without a teacher.
    plain["kl"] = judged["kl"];
    BOOST_TEST(judged == plain);
  }
  // Of a teacher from itself; windows alone; a token file of two documents.
  for (const char* precision : {"fp32", "bf16", "fp64"}) {
    const json same = evaluate(arguments("--window 16 --precision", precision, "--model", m.teacher, "--tokens",
                                         m.tokens, "--teacher", m.teacher));
    BOOST_TEST(std::abs(same["kl"].get<double>()) < 1e-6);
  }
  const auto of_tokens = arguments("--model", m.student(), "--tokens", m.tokens);
  const json windows = evaluate(arguments(of_tokens, "--window 8,64"))["windows"];
  for (const char* window : {"8", "64"})
    BOOST_TEST(windows[window] == evaluate(arguments(of_tokens, "--window", window)));
  const std::string shown = done(arguments("evaluate --window 8,64 --teacher", m.teacher, of_tokens));
  BOOST_TEST(shown.starts_with("window      kl          nll         ppl         scored      tokens\n8 "));
  BOOST_TEST((shown.find("\n64 ") != std::string::npos));

  const auto refuse = arguments("evaluate --model", m.student(), "--text", m.other_text);
  for (const auto& [more, said] :
       std::vector<std::pair<std::string, std::string>>{{"--window 8,8", "--window: 8 is named twice"},
                                                        {"--window 8,,9", "--window: '8,,9' is not a list"},
                                                        {"--window 8,1", "--window: a window of 1"},
                                                        {"--window a", "--window: 'a' is not a list"},
                                                        {"--window -8", "--window: '-8' is not a list"}})
    refused(arguments(refuse, more), 2, {said});
  refused(arguments(refuse, "--carry --teacher", m.teacher), 2, {"--teacher: with --carry"});
  refused(arguments("evaluate --model", m.student(), "--requests", m.text, "--teacher", m.teacher), 2,
          {"--teacher: has no effect with --requests"});
  const fs::path capped = golden("large/caps"), other = m.folder / "other tokenizer";
  refused(arguments(refuse, "--teacher", capped), 1,
          {"--teacher: " + capped.string() + " has a vocabulary of 24", "of 96"});
  make_teacher("llama_rope_parameters", other);
  auto fewer = tiny_tokenizer();
  fewer.merges.pop_back();
  io::write_tokenizer(other, fewer);
  refused(arguments(refuse, "--teacher", other), 1,
          {"--teacher: " + other.string() + " has another tokenizer than " + m.student().string()});
  const auto few = m.folder / "few.safetensors";
  const index start[] = {0};
  io::write_token_file(few, ids_type{1, 2, 3, 4}, start, 24);
  refused(arguments("evaluate --model", capped, "--tokens", few, "--teacher", capped), 1,
          {"caps its logits at"});
}

BOOST_AUTO_TEST_CASE(needles_are_found_as_often_as_the_logits_say) {
  const auto& m = material::get();
  ids_type filler;
  const io::token_file tokens(m.tokens);
  for (index i = 0; i < tokens.size(); ++i)
    if (tokens[i] != 0) filler.push_back(tokens[i]);  // what begins and ends documents is no running text
  const auto text = tokenize_needle(tokenizer());
  const auto arg = arguments("--precision fp64 --cases 6 --seed 5 --filler", m.tokens, "--model");
  for (const fs::path& model : {m.teacher, m.student()}) {
    const json got = evaluate(arguments(arg, model, "--needle 256,200"));
    BOOST_TEST(keys(got) == std::vector<std::string>{"needle"}, boost::test_tools::per_element());
    BOOST_TEST(keys(got["needle"]) == (std::vector<std::string>{"200", "256"}),
               boost::test_tools::per_element());
    for (const index length : {200, 256}) {
      double number = 0, digit = 0, nll = 0;
      for (const auto& x : needle_cases(text, filler, length, 6, 5)) {
        const logits_of l(model, x.ids, 1, "fp64");
        bool all = true;
        for (index t = x.context; t < length; ++t) {
          const auto id = x.ids[static_cast<std::size_t>(t)];
          const bool likeliest = l.likeliest(0, t - 1) == id;
          all &= likeliest, digit += likeliest, nll -= l.log_p(0, t - 1, id);
        }
        number += all;
      }
      const json& s = got["needle"][std::to_string(length)];
      BOOST_TEST(keys(s) == (std::vector<std::string>{"digit", "nll", "number"}),
                 boost::test_tools::per_element());
      BOOST_TEST(s["number"].get<double>() == number / 6);
      BOOST_TEST(s["digit"].get<double>() == digit / 42);
      BOOST_TEST(close(s["nll"].get<double>(), nll / 42, 1e-10));
    }
  }
  // A seed repeats them, and they lie in the text that is scored unless another is given.
  const auto needle = arguments("--needle 200 --cases 3 --model", m.student());
  const auto of = [&](const std::vector<std::string>& more) { return evaluate(arguments(needle, more)); };
  const json first = of(arguments("--filler", m.tokens));
  BOOST_TEST(of(arguments("--seed 0 --filler", m.tokens)) == first);
  BOOST_TEST(of(arguments("--seed 1 --filler", m.tokens)) != first);
  BOOST_TEST(evaluate(arguments("--needle 200 --cases 4 --filler", m.tokens, "--model", m.student())) != first);
  const json beside = of(arguments("--window 16 --tokens", m.tokens));
  BOOST_TEST(beside["needle"] == first["needle"]);
  BOOST_TEST(keys(beside) == (std::vector<std::string>{"needle", "nll", "ppl", "scored", "tokens"}),
             boost::test_tools::per_element());
  json alone = evaluate(arguments("--window 16 --tokens", m.tokens, "--model", m.student()));
  alone["needle"] = first["needle"];
  BOOST_TEST(beside == alone);
  const json of_text = of(arguments("--text", m.other_text));
  BOOST_TEST(of_text["needle"] == of(arguments("--filler", m.held_out))["needle"]);
  BOOST_TEST(of(arguments("--filler", m.tokens, "--text", m.other_text))["needle"] == first["needle"]);
  const std::string shown = done(arguments("evaluate", needle, "--tokens", m.tokens));
  BOOST_TEST((shown.find("tokens      ") != std::string::npos));
  BOOST_TEST((shown.find("\nneedle      digit       nll         number\n200         ") != std::string::npos));

  const auto refuse = arguments("evaluate --model", m.student(), "--filler", m.held_out);
  const auto least = std::to_string(text.least_length());
  for (const auto& [more, said] : std::vector<std::pair<std::string, std::string>>{
           {"--needle 100", "--needle: a needle case of 100 tokens has no room"},
           {"--needle 100", least + " is the least"},
           {"--needle 200,0", least + " is the least"},
           {"--needle 100000", "tokens of filler, there are"},
           {"--needle 200,200", "--needle: 200 is named twice"},
           {"--needle 200,", "--needle: '200,' is not a list"},
           {"--needle long", "--needle: 'long' is not a list"},
           {"--needle=", "--needle"},
           {"--needle 200 --teacher=", "--teacher"},
           {"--needle 200 --cases 0", "--cases"},
           {"--needle 200 --window 16", "--window: has no effect without --text or --tokens"}})
    refused(arguments(refuse, more), 2, {said});
  refused(arguments("evaluate --needle 200 --model", m.student()), 2, {"--filler"});
  refused(arguments("evaluate --needle 200 --model", m.student(), "--requests", m.text), 2,
          {"--needle: --filler, --text or --tokens is needed"});
  refused(arguments("evaluate --needle 200 --model", m.student(), "--filler", m.folder / "none"), 1,
          {(m.folder / "none").string()});
  const auto wide = m.folder / "wide.safetensors";
  const index start[] = {0};
  io::write_token_file(wide, ids_type(400, 5), start, 97);
  refused(arguments("evaluate --needle 200 --model", m.student(), "--filler", wide), 1,
          {wide.string(), "vocabulary of 97"});
  refused(arguments("evaluate --needle 200 --filler", m.tokens, "--model", golden("large/caps")), 1,
          {"large/caps"});
}

BOOST_AUTO_TEST_CASE(cloze_requests) {
  const auto& m = material::get();
  // One that the model gets right is looked for: its own arg max after some context, read as that token again.
  std::vector<std::pair<std::string, std::string>> asked = {
      {"In winter the river", " sings"}, {"The other teacher", " thinks."}, {"small light under", " the rain"}};
  for (std::uint64_t seed = 1; asked.size() == 3 && seed < 50; ++seed) {
    const std::string context = some_text(5, seed) + "x";
    const auto ids = encode(context);
    const auto next = logits_of(m.teacher, ids, 1, "fp64").likeliest(0, std::ssize(ids) - 1);
    if (next >= tokenizer().vocab_size()) continue;
    auto both = ids;
    both.push_back(next);
    const std::string continuation(tokenizer().bytes(next));
    if (tokenizer().encode(context + continuation).ids == both) asked.emplace_back(context, continuation);
  }
  BOOST_REQUIRE(asked.size() == 4);

  double sum = 0;
  int right = 0;
  std::string lines;
  for (std::size_t d = 0; d < asked.size(); ++d) {
    const auto& [context, continuation] = asked[d];
    const auto ids = encode(context + continuation);
    const auto known = std::ssize(encode(context));
    const logits_of l(m.teacher, ids, 1, "fp64");
    bool all = true;
    for (index t = known; t < std::ssize(ids); ++t) {
      const auto id = ids[static_cast<std::size_t>(t)];
      sum += l.log_p(0, t - 1, id);
      all = all && l.likeliest(0, t - 1) == id;
    }
    right += all;
    lines += json{{"doc_id", d},
                  {"idx", 0},
                  {"label", continuation},
                  {"request", {{"context", context}, {"continuation", continuation}}}}
                 .dump() +
             "\n";
  }
  BOOST_TEST(right >= 1);
  const auto file = m.folder / "cloze.jsonl", packed = m.folder / "cloze.jsonl.gz";
  write_file(file, lines);
  const auto arg = arguments("--precision fp64 --model", m.teacher, "--requests");
  const json got = evaluate(arguments(arg, file));
  BOOST_TEST(
      keys(got) == (std::vector<std::string>{"acc", "acc_norm", "bad", "cut", "documents", "left_out", "ppl"}),
      boost::test_tools::per_element());
  BOOST_TEST(got["documents"] == 4);
  for (const char* key : {"bad", "cut", "left_out"}) BOOST_TEST(got[key] == 0);
  BOOST_TEST(got["acc"].get<double>() == right / 4.0);
  BOOST_TEST(got["acc_norm"].is_null());
  BOOST_TEST(close(got["ppl"].get<double>(), std::exp(-sum / 4), 1e-10));
  const auto gz = ::gzopen(packed.c_str(), "wb");
  ::gzwrite(gz, lines.data(), static_cast<unsigned>(lines.size()));
  ::gzclose(gz);
  BOOST_TEST(evaluate(arguments(arg, packed)) == got);
  BOOST_TEST(evaluate(arguments(arg, packed, "--limit 2"))["documents"] == 2);
}

BOOST_AUTO_TEST_CASE(multiple_choice_requests) {
  const auto& m = material::get();
  const std::vector<std::string> contexts = {"In winter", "The small teacher", "Under the light the rain",
                                             "A river"};
  const std::vector<std::string> choices = {" thinks under the other", " a", " 7 sings, 7",
                                            " the singing rain."};
  std::string lines;
  const auto add = [&](std::size_t id, std::size_t c, std::size_t i, std::size_t label) {
    lines += json{{"doc_id", id},
                  {"idx", i},
                  {"label", label},
                  {"request", {{"context", contexts[c]}, {"continuation", choices[i]}}}}
                 .dump() +
             "\n";
  };
  int right = 0, right_by_character = 0;
  for (std::size_t d = 0; d < contexts.size(); ++d) {
    std::vector<double> sums, by_character;
    for (const auto& choice : choices) {
      const auto ids = encode(contexts[d] + choice);
      const logits_of l(m.student(), ids, 1, "fp64");
      double sum = 0;
      for (index t = std::ssize(encode(contexts[d])); t < std::ssize(ids); ++t)
        sum += l.log_p(0, t - 1, ids[static_cast<std::size_t>(t)]);
      sums.push_back(sum), by_character.push_back(sum / static_cast<double>(choice.size() - 1));
    }
    const auto best = [](const std::vector<double>& x) {
      return std::max_element(x.begin(), x.end()) - x.begin();
    };
    // The label is the best, by turns that of the sums, that of the characters and neither.
    const auto label = static_cast<std::size_t>(d == 3  ? (best(sums) + 1) % 4
                                                : d % 2 ? best(by_character)
                                                        : best(sums));
    right += best(sums) == static_cast<std::ptrdiff_t>(label);
    right_by_character += best(by_character) == static_cast<std::ptrdiff_t>(label);
    for (std::size_t i = 0; i < choices.size(); ++i) add(d, d, i, label);
  }
  for (std::size_t i = 0; i < choices.size(); ++i) add(1000000, 0, i, 0);
  const auto file = m.folder / "choice.jsonl";
  write_file(file, lines);
  const json got = evaluate(arguments("--precision fp64 --model", m.student(), "--requests", file));
  BOOST_TEST(got["documents"] == 4);
  BOOST_TEST(got["acc"].get<double>() == right / 4.0);
  BOOST_TEST(got["acc_norm"].get<double>() == right_by_character / 4.0);
  BOOST_TEST(got["ppl"].is_null());
}

BOOST_AUTO_TEST_CASE(requests_are_scored_as_the_harness_does) {
  const auto& m = material::get();
  const temporary_folder folder;
  const fs::path file = folder / "requests.jsonl";
  const auto line = [](int id, const std::string& context, const std::string& continuation) {
    return json{{"doc_id", id},
                {"idx", 0},
                {"label", 0},
                {"request", {{"context", context}, {"continuation", continuation}}}}
               .dump() +
           "\n";
  };
  const auto arg = arguments("evaluate --json --precision fp64 --requests", file, "--model");
  const auto nats = [&](const fs::path& model, const std::string& lines) {
    write_file(file, lines);
    const json got = json::parse(done(arguments(arg, model)));
    return std::log(got["ppl"].get<double>()) * got["documents"].get<double>();
  };
  const auto expected = [&](const fs::path& model, const ids_type& ids, index context) {
    const logits_of l(model, ids, 1, "fp64");
    double nll = 0;
    for (index t = context; t < std::ssize(ids); ++t)
      nll -= l.log_p(0, t - 1, ids[static_cast<std::size_t>(t)]);
    return nll;
  };
  // A blank belongs to the continuation, on whichever side it is written, and all of it is scored.
  const auto rain = encode("In winter the river"), known = encode("In winter");
  const double whole = expected(m.teacher, rain, std::ssize(known));
  BOOST_TEST(close(nats(m.teacher, line(0, "In winter", " the river")), whole, 1e-10));
  BOOST_TEST(close(nats(m.teacher, line(0, "In winter ", "the river")), whole, 1e-10));
  BOOST_TEST(close(nats(m.teacher, line(0, "In winter \n", "the river")),
                   expected(m.teacher, encode("In winter \nthe river"), std::ssize(known)), 1e-10));
  // What merges into the context's last token is not scored, and the context is read as it stands.
  auto merged = encode("7 th");
  const index before = std::ssize(merged);
  const auto both = encode("7 the rain");
  merged.insert(merged.end(), both.begin() + before, both.end());
  BOOST_TEST(close(nats(m.teacher, line(0, "7 th", "e rain")), expected(m.teacher, merged, before), 1e-10));
  // An empty context is the token that begins a text.
  auto bare = encode("the rain");
  bare.insert(bare.begin(), 0);
  BOOST_TEST(close(nats(m.teacher, line(0, "", "the rain")), expected(m.teacher, bare, 1), 1e-10));

  // A transformer's context is cut on the left, a student's is as long as it is.
  const fs::path narrow = folder / "narrow";
  fs::copy(m.teacher, narrow);
  json config = io::read_json_file(narrow / "config.json");
  config["max_position_embeddings"] = 6;
  write_file(narrow / "config.json", config.dump());
  const std::string lines = line(0, "singing", " the river") + line(1, "a", "b");
  write_file(file, lines);
  const auto all = encode("singing the river");
  const ids_type last(all.end() - 7, all.end());
  const index scored = std::ssize(all) - std::ssize(encode("singing"));
  const outcome o = run(arguments(arg, narrow));
  BOOST_TEST(o.status == 0);
  BOOST_TEST(
      (o.err.find("1 of 2 requests are longer than the model's context of 6 tokens") != std::string::npos));
  const json cut = json::parse(o.out);
  BOOST_TEST(cut["cut"] == 1);
  BOOST_TEST(close(2 * std::log(cut["ppl"].get<double>()),
                   expected(m.teacher, last, 7 - scored) + expected(m.teacher, encode("ab"), 1), 1e-10));
  const std::string longer = line(0, some_text(200, 3), " the river");
  BOOST_TEST(nats(m.student(), longer) > 0);
  write_file(file, longer);
  BOOST_TEST(json::parse(done(arguments(arg, m.student())))["cut"] == 0);
  config["max_position_embeddings"] = 4;
  write_file(narrow / "config.json", config.dump());
  refused(arguments("evaluate --requests", file, "--model", narrow), 1,
          {file.string() + ": nothing to score", file.string() + ":1: document 0", "' the river' has 7 tokens",
           "context 4"});
}

BOOST_AUTO_TEST_CASE(one_bad_request_does_not_lose_the_others) {
  const auto& m = material::get();
  const temporary_folder folder;
  const fs::path file = folder / "requests.jsonl";
  const auto line = [](int id, const std::string& request) {
    return "{\"doc_id\": " + std::to_string(id) + ", \"idx\": 0, \"label\": \"x\", \"request\": " + request +
           "}\n";
  };
  const auto pair = [&](int id, const std::string& context, const std::string& continuation) {
    return line(id, json{{"context", context}, {"continuation", continuation}}.dump());
  };
  const auto arg = arguments("evaluate --json --model", m.teacher, "--requests", file);
  const std::string good = pair(0, "In winter", " the river"), other = pair(90, "A", " river");
  write_file(file, good + other);
  const json alone = json::parse(done(arg));
  for (const auto& [bad, why] : std::vector<std::pair<std::string, std::string>>{
           {pair(1, "a", ""), "document 1: empty continuation"},
           {pair(1, "th", "e"), "document 1: the continuation 'e' adds no token"},
           {line(1, "{\"context\": \"a\", \"continuation\": \"\xff\"}"), "not valid JSON"},
           {line(1, "{\"context\": \"a\", \"continuation\": \"\\ud800\"}"), "not valid JSON"},
           {line(1, "{\"context\": \"a\", \"continuation\": [1]}"), "continuation must be a string"},
           {line(1, "{\"context\": null, \"continuation\": \"a\"}"), "context must be a string"},
           {pair(1, "\u65e5", " a"), "the context"},
           {pair(1, "a", "\u65e5"), "adds no token"},
           {"{\"doc_id\": 1, \"idx\"\n", "not valid JSON"},
           {pair(0, "In", " winter"), "document 0: idx 0 is given again"}}) {
    write_file(file, good + bad + other);
    const outcome o = run(arg);
    BOOST_TEST_CONTEXT(bad << o.err) {
      BOOST_REQUIRE(o.status == 0);
      json got = json::parse(o.out);
      BOOST_TEST(got["bad"] == 1);
      BOOST_TEST((o.err.find(file.string() + ":2: ") != std::string::npos));
      BOOST_TEST((o.err.find(why) != std::string::npos));
      BOOST_TEST((o.err.find("1 bad request") != std::string::npos));
      got["bad"] = 0, got["left_out"] = 0;
      BOOST_TEST(got == alone);
    }
    if (bad.find("\"doc_id\": 0") != bad.npos) continue;
    write_file(file, bad);
    refused(arg, 1, {file.string() + ": nothing to score, 1 bad request: " + file.string() + ":1: ", why});
  }
}

BOOST_AUTO_TEST_CASE(greedy_text_is_the_arg_max) {
  const auto& m = material::get();
  const std::string prompt = "In the rain";
  for (const fs::path& model : {m.teacher, m.student()}) {
    auto ids = encode(prompt);
    io::stream_decoder decoder(tokenizer(), true);
    std::string want;
    for (int i = 0; i < 12; ++i) {
      const auto next = logits_of(model, ids, 1, "fp64").likeliest(0, std::ssize(ids) - 1);
      if (tokenizer().is_end_of_text(next)) break;
      want += decoder.put(next);
      ids.push_back(next);
    }
    const outcome o = run(
        {"generate", "--model", model.string(), "--prompt", prompt, "--tokens", "12", "--precision", "fp64"});
    BOOST_TEST(o.status == 0);
    BOOST_TEST(o.err == "");
    BOOST_TEST(o.out == want + decoder.finish() + "\n");
    BOOST_TEST(done({"generate", "--model", model.string(), "--prompt", prompt, "--tokens", "12", "--precision",
                     "fp64", "--temperature", "0"}) == o.out);
    BOOST_TEST(done({"generate", "--model", model.string(), "--prompt", prompt, "--tokens", "0"}) == "\n");
  }
}

BOOST_AUTO_TEST_CASE(a_seed_is_a_text) {
  const auto& m = material::get();
  for (const fs::path& model : {m.teacher, m.student()}) {
    const auto text = [&](const char* more) {
      return done(arguments("generate --tokens 40 --prompt rain --temperature 0.9 --model", model, more));
    };
    const std::string one = text("--seed 1");
    BOOST_TEST(text("--seed 1") == one);
    BOOST_TEST(text("--seed 2") != one);
    BOOST_TEST(text("--seed 1 --top-k 1") ==
               done(arguments("generate --tokens 40 --prompt rain --model", model)));
    BOOST_TEST(text("--seed 3 --top-k 5 --top-p 0.8") == text("--seed 3 --top-k 5 --top-p 0.8"));
  }
}

BOOST_AUTO_TEST_CASE(many_prompts_are_as_many_texts) {
  const auto& m = material::get();
  const temporary_folder folder;
  const fs::path file = folder / "prompts";
  const std::vector<std::string> prompts = {"In the rain", "r", "", "the river thinks: a small winter",
                                            "7;",          "In"};
  std::string lines;
  for (const auto& p : prompts) lines += p + "\n";
  write_file(file, lines);
  for (const fs::path& model : {m.teacher, m.student()})
    for (const char* how : {"", "--temperature 0.9", "--temperature 1.2 --top-k 9"}) {
      const auto text = [&](const std::string& more) {
        return done(arguments("generate --seed 5 --tokens 30 --precision fp64 --model", model, how, more,
                              "--prompts", file));
      };
      const std::string all = text("--batch 2");
      for (const char* batch : {"--batch 1", "--batch 6", "", "--batch 2 --threads 1"})
        BOOST_TEST(text(batch) == all);
      BOOST_TEST(
          done(arguments("generate --seed 5 --tokens 30 --precision fp64 --model", model, how, "--prompts -"),
               {.input = lines}) == all);
      std::istringstream in(all);
      std::string line;
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        BOOST_REQUIRE(std::getline(in, line));
        const auto got = io::json::parse(line);
        BOOST_TEST(got["line"].get<std::size_t>() == i + 1);
        BOOST_TEST(got["tokens"].get<int>() <= 30);
        auto one = arguments("generate --tokens 30 --precision fp64 --model", model, how, "--seed",
                             std::to_string(5 + i), "--prompt");
        one.push_back(prompts[i]);
        BOOST_TEST(done(one) == got["text"].get<std::string>() + "\n");
      }
      BOOST_TEST(!std::getline(in, line));
    }
  BOOST_TEST(done(arguments("generate --tokens 0 --model", m.student(), "--prompts", file))
                 .starts_with("{\"line\":1,\"text\":\"\",\"tokens\":0}\n"));
  refused(arguments("generate --model", m.student(), "--prompts", folder / "none"), 1, {"none"});
  write_file(file, "");
  refused(arguments("generate --model", m.student(), "--prompts", file), 1, {file.string(), "no prompt"});
  write_file(file, "rain\na\xff\n");
  refused(arguments("generate --model", m.student(), "--prompts", file), 1,
          {file.string(), "line 2", "byte 1"});
}

BOOST_AUTO_TEST_CASE(a_chat_needs_a_template) {
  const auto& m = material::get();
  refused(arguments("generate --chat --prompt rain --model", m.teacher), 1,
          {(m.teacher / "tokenizer.json").string(), "chat template"});
  const temporary_folder folder;
  const auto model = folder / "model";
  make_teacher("qwen2_tied", model);
  auto words = tiny_tokenizer();
  words.chat_template =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
      "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif "
      "%}";
  io::write_tokenizer(model, words);
  const auto text = [&](std::vector<std::string> more) {
    return done(arguments("generate --tokens 10 --temperature 1 --seed 4 --model", model, more));
  };
  BOOST_TEST(text({"--chat", "--prompt", "rain"}) ==
             text({"--prompt", "<|im_start|>user\nrain<|im_end|>\n<|im_start|>assistant\n"}));
  // One that is refused is named; without --chat it is not needed.
  words.chat_template = "{% for message in messages %}\n{{ message.content | wordwrap(9) }}{% endfor %}";
  io::write_tokenizer(model, words);
  refused(
      arguments("generate --chat --prompt rain --model", model), 1,
      {(model / "tokenizer.json").string(), "the chat template, line 2: the filter wordwrap is not supported"});
  done(arguments("generate --tokens 1 --prompt rain --model", model));
}

BOOST_AUTO_TEST_CASE(inspect_shows_every_kind_of_file) {
  const auto& m = material::get();
  const auto shows = [](const fs::path& path, const std::vector<std::string>& parts) {
    const std::string text = done(arguments("inspect", path));
    for (const auto& part : parts)
      BOOST_TEST_CONTEXT(path.string() << ": " << part) BOOST_TEST((text.find(part) != std::string::npos));
  };
  const auto gguf = m.folder / "inspected.gguf", cache = m.folder / "inspected";
  testing::write_gguf(m.teacher, gguf, true);
  done(arguments("cache --length 16 --teacher", m.teacher, "--tokens", m.tokens, "--out", cache));
  shows(gguf, {"general.architecture", "llama", "token_embd.weight", "Q8_0", "[96, 32]",
               "blk.1.ffn_down.weight", "a teacher of family llama: "});
  shows(m.teacher, {"\"hidden_size\": 32", "model.embed_tokens.weight", "[96, 32]", "F32"});
  shows(golden("teacher/llama_sharded_head_dim"), {"model-00001-of-00002", "model-00002-of-00002"});
  shows(golden("teacher/llama3_scaling"),
        {"a teacher of family llama: 2 layers, 4 heads of 16, 2 of keys; rotary "
         "base 100, llama3 scaling by 8 from 1 to 4 turns over 32 tokens"});
  shows(golden("teacher/llama_linear_scaling"), {"rotary base 10000, linear scaling by 2.5\n"});
  shows(golden("teacher/qwen3"), {"a teacher of family qwen3: ", "rotary base 1000000, norms of q and k\n"});
  shows(golden("teacher/smollm3"), {"a teacher of family smollm3: 4 layers", ", 1 layer without positions\n"});
  shows(golden("teacher/mistral_window"), {"a teacher of family mistral: ", ", a window of 4 tokens\n"});
  shows(golden("gguf/every_type.gguf"), {"cannot be loaded: ", "llama.embedding_length is missing"});
  shows(golden("teacher/llama_bf16") / "model.safetensors", {"BF16", "model.layers.2."});
  shows(m.tokens, {"vocab_size", "tokenizer_sha256", "U16", "a token file", "2 documents"});
  shows(m.student(),
        {"xlstm_cfg", "token_embedding.weight", "a student of 2 blocks", "trainable", "parameters"});
  shows(m.student().parent_path(), {"total_steps"});
  shows(m.student().parent_path() / "checkpoints/step-00000012", {"second_moment.", "\"step\": 12"});
  shows(cache, {"teacher_sha256", "last_hidden.safetensors", "BF16", "ends.safetensors"});
  shows(golden("student/base/expected.safetensors"), {"grad.", "F64"});
  shows(m.teacher / "tokenizer.json", {"added_tokens"});
  // The counts: the trainable numbers are those of run.json.
  const auto parameters = io::read_json_file(m.student().parent_path() / "run.json")["parameters"];
  std::string total = std::to_string(parameters["total"].get<index>());
  total.insert(total.size() - 3, ",");
  shows(m.student(), {"of " + total + " parameters"});
  BOOST_TEST(done(arguments("inspect --path", m.tokens)) == done(arguments("inspect", m.tokens)));
}

BOOST_AUTO_TEST_CASE(a_cache_stands_for_its_teacher) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto other = folder / "other";
  make_teacher("qwen2_tied", other);
  const std::string options = "--blocks 2 --batch 3 --length 16 --steps 6 --beta 0.1 --lr 0.01";
  const auto train = [&](const std::vector<std::string>& from, const fs::path& out, const std::string& more) {
    return arguments("train", options, more, from, "--tokens", m.tokens, "--out", out);
  };
  const auto cached = [](const fs::path& cache) { return arguments("--cache", cache); };
  for (const std::string form : {"average", "block_wise"}) {
    const std::string more = "--alignment " + form;
    done(train(arguments("--teacher", m.teacher), folder / ("live " + form), more));
    const metrics live(folder / ("live " + form));
    BOOST_REQUIRE(live.steps.size() == 6);
    for (const auto& [store, limit] : {std::pair("fp32", 1e-6), std::pair("bf16", 1e-2)}) {
      const auto cache = folder / (form + store), out = folder / (form + store + " run");
      done(arguments("cache --length 16 --store", store, more, form == "average" ? "" : "--blocks 2",
                     "--teacher", m.teacher, "--tokens", m.tokens, "--out", cache));
      done(train(cached(cache), out, more));
      const metrics got(out);
      BOOST_REQUIRE(got.steps.size() == 6);
      for (std::size_t i = 0; i < 6; ++i)
        for (const char* key : {"ce", "kl", "alignment", "total"})
          BOOST_TEST_CONTEXT(form << " " << store << " step " << i + 1 << " " << key)
      BOOST_TEST(close(number(got.steps[i], key), number(live.steps[i], key), limit));
      BOOST_TEST(fs::exists(out / "student/tokenizer.json"));
    }
  }
  const auto cache = folder / "averagefp32", none = folder / "none";
  const std::string average = "--alignment average";
  refused(arguments(train(cached(cache), none, average), "--teacher", other), 1,
          {cache.string(), "teacher_sha256"});
  refused(arguments("train --blocks 2 --batch 3 --length 8 --steps 6 --cache", cache, "--tokens", m.tokens,
                    "--out", none),
          1, {cache.string(), "length", "16", "8"});
  refused(arguments("train", options, "--cache", cache, "--tokens", m.held_out, "--out", none), 1,
          {cache.string(), "tokens_sha256"});
  refused(train(cached(cache), none, "--alignment block_wise"), 1, {cache.string(), "alignment"});
  refused(train(cached(cache), none, "--architecture heuristic"), 1, {"heuristic", "--heads"});
  fs::remove(cache / "manifest.json");
  refused(train(cached(cache), none, average), 1, {cache.string(), "not a cache"});
}

}  // namespace distil_xlstm::program
