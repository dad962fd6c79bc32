#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <optional>
#include <span>
#include <sstream>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/read_tokenizer.hpp>
#include <distil_xlstm/io/tokenizer.hpp>

#include "material.hpp"

namespace distil_xlstm::program {
namespace {

using io::json;

/// As many tokens as the golden teachers have rows: a text ends by itself after a hundred tokens or so.
io::tokenizer_data whole_tokenizer() {
  auto d = tiny_tokenizer();
  while (d.tokens.size() < 96) {
    const auto id = static_cast<std::int32_t>(d.tokens.size());
    d.tokens.push_back("<|extra_" + std::to_string(id) + "|>");
    d.specials.push_back({id, d.tokens.back()});
  }
  return d;
}
const fs::path& teacher() {
  static const temporary_folder folder;
  static const fs::path made = [] {
    make_teacher("llama_rope_parameters", folder / "teacher");
    io::write_tokenizer(folder / "teacher", whole_tokenizer());
    return folder / "teacher";
  }();
  return made;
}

std::vector<std::string> sampling_of(const fs::path& model, const fs::path& out, const std::string& more = "") {
  const auto unless = [&](const std::string& option, const char* value) {
    return more.find(option) == more.npos ? option + value : std::string();
  };
  return arguments("sample --tokens 1500", unless("--length", " 40"), unless("--seed", " 3"), more, "--model",
                   model, "--out", out);
}

/// What the teacher's tokenizer and its configuration say: two of its ids end a text.
const io::tokenizer& own_tokenizer() {
  static const io::tokenizer made(io::read_tokenizer(teacher()));
  return made;
}
/// A text of up to 40 tokens, so many of them its beginning, that ends where it should.
bool ends_well(const std::vector<std::int32_t>& text, std::size_t beginning = 1) {
  const auto ends = [](std::int32_t id) { return own_tokenizer().is_end_of_text(id); };
  return std::none_of(text.begin() + static_cast<std::ptrdiff_t>(beginning), text.end() - 1, ends) &&
         (text.size() == 40 || (text.size() < 40 && ends(text.back())));
}

/// The documents of a token file.
struct documents {
  io::token_file file;
  std::vector<std::vector<std::int32_t>> texts;
  explicit documents(const fs::path& path) : file(path) {
    const auto starts = file.documents();
    for (std::size_t d = 0; d < starts.size(); ++d) {
      const index end = d + 1 < starts.size() ? starts[d + 1] : file.size();
      texts.emplace_back(static_cast<std::size_t>(end - starts[d]));
      file.copy(starts[d], std::ssize(texts.back()), texts.back().data());
    }
  }
};

/// A run that takes a few seconds.
std::vector<std::string> long_sampling(const fs::path& out, const std::string& more = "") {
  return arguments("sample --tokens 30000 --length 60 --seed 9", more, "--model", teacher(), "--out", out);
}
const std::string& long_sample() {
  static const std::string made = [] {
    const temporary_folder folder;
    done(long_sampling(folder / "whole"));
    return content(folder / "whole");
  }();
  return made;
}
std::vector<fs::path> parts_of(const fs::path& out) {
  std::vector<fs::path> found;
  std::error_code none;
  for (const auto& f : fs::directory_iterator(out.string() + ".part", none))
    if (f.path().filename().string().starts_with("texts-") && f.path().extension() == ".safetensors")
      found.push_back(f.path());
  std::sort(found.begin(), found.end());
  return found;
}
/// Lets it run until it has written so many parts, or is through. A run writes a part when 0.2 s have passed, however
/// little it did meanwhile: it is paused for as long, again and again, so that a fast machine's has as many as a slow
/// one's.
void run_until_parts(process& p, const fs::path& out, std::size_t parts) {
  while (p.running() && parts_of(out).size() < parts) {
    p.signal(SIGSTOP);
    std::this_thread::sleep_for(std::chrono::milliseconds(210));
    p.signal(SIGCONT);
    const auto before = parts_of(out).size();
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
    p.wait_while([&] { return parts_of(out).size() == before && std::chrono::steady_clock::now() < until; });
  }
}
/// Starts the long run, and stops it by a signal when it has written so many parts.
outcome stopped(const fs::path& out, int signal, std::size_t parts, const std::string& more = "") {
  process p(long_sampling(out, more));
  run_until_parts(p, out, parts);
  if (signal != SIGKILL)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // more texts than the part has
  p.signal(signal);
  return p.wait();
}
void goes_on(const fs::path& out, const std::string& more = "") {
  done(long_sampling(out, more));
  BOOST_TEST((content(out) == long_sample()));
  BOOST_TEST(!fs::exists(out.string() + ".part"));
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_token_file_of_the_models_own_text) {
  const temporary_folder folder;
  const fs::path out = folder / "own.safetensors";
  const io::tokenizer& tokenizer = own_tokenizer();
  const outcome o = run(sampling_of(teacher(), out));
  BOOST_TEST(o.status == 0);
  BOOST_TEST(o.out == "");
  BOOST_TEST(o.err.find('\n') == o.err.size() - 1);
  BOOST_TEST(o.err.starts_with(out.string() + ": 1,5"), o.err);
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& f : fs::directory_iterator(folder.path)) ++files;
  BOOST_TEST(files == 1u);

  const documents d(out);
  BOOST_TEST(d.file.vocab_size() == tokenizer.vocab_size());
  BOOST_TEST(d.file.tokenizer_sha256() == tokenizer.fingerprint());
  BOOST_TEST(d.file.size() >= 1500);
  BOOST_TEST(d.file.size() - std::ssize(d.texts.back()) < 1500);
  std::size_t ended = 0;
  for (const auto& text : d.texts) {
    BOOST_TEST(text.front() == 0);
    BOOST_TEST(ends_well(text));
    ended += tokenizer.is_end_of_text(text.back());
  }
  BOOST_TEST(ended > 0u);
  BOOST_TEST(ended < d.texts.size());
  BOOST_TEST((o.err.find(" tokens in " + std::to_string(d.texts.size()) + " texts, " + std::to_string(ended) +
                         " of them ended by an end-of-text token\n") != o.err.npos),
             o.err);

  // Text i is the one of the seed 3 + i, as `generate` writes it.
  std::string lines;
  for (std::size_t i = 0; i < d.texts.size(); ++i) lines += "\n";
  std::istringstream generated(
      done(arguments("generate --tokens 39 --seed 3 --temperature 1 --batch 16 --prompts - --model", teacher()),
           {.input = lines}));
  for (const auto& text : d.texts) {
    std::string line;
    BOOST_REQUIRE(std::getline(generated, line));
    BOOST_TEST(json::parse(line)["text"].get<std::string>() ==
               io::replace_invalid_utf8(tokenizer.decode(text, true)));
  }

  // It trains and is scored.
  BOOST_TEST(
      json::parse(done(arguments("evaluate --json --window 32 --model", teacher(), "--tokens", out)))["scored"]
          .get<index>() > 1000);
}

BOOST_AUTO_TEST_CASE(the_file_is_of_the_seed_and_the_options) {
  const temporary_folder folder;
  for (const fs::path& model : {teacher(), material::get().student()}) {
    const auto file = [&](const std::string& more) {
      fs::remove(folder / "out");
      done(sampling_of(model, folder / "out", more));
      return content(folder / "out");
    };
    const auto one = file("");
    for (const char* same : {"", "--batch 9", "--batch 40 --threads 1", "--batch 512", "--temperature 1.0"})
      BOOST_TEST_CONTEXT(same) BOOST_TEST((file(same) == one));
    for (const char* other : {"--seed 4", "--temperature 0.8", "--top-k 5", "--top-p 0.9", "--length 41"})
      BOOST_TEST_CONTEXT(other) BOOST_TEST((file(other) != one));
    for (const char* how : {"--top-k 5 --top-p 0.8", "--precision bf16"})
      BOOST_TEST_CONTEXT(how) BOOST_TEST((file(std::string(how) + " --batch 11") == file(how)));
  }
}

BOOST_AUTO_TEST_CASE(a_killed_run_goes_on) {
  const temporary_folder folder;
  int landed = 0;  // on a busy machine a run may be through before it is killed
  for (const std::size_t parts : {0, 1, 3}) {
    const fs::path out = folder / std::to_string(parts);
    const outcome o = stopped(out, SIGKILL, parts);
    landed += o.status == -SIGKILL;
    if (o.status == -SIGKILL) BOOST_TEST(!fs::exists(out));
    BOOST_TEST_CONTEXT("killed after " << parts << " parts") goes_on(out, "--batch 33");
  }
  // Twice in one run.
  const fs::path out = folder / "twice";
  landed += stopped(out, SIGKILL, 1).status == -SIGKILL;
  landed += stopped(out, SIGKILL, 2, "--batch 9").status == -SIGKILL;
  goes_on(out);
  BOOST_TEST(landed >= 3);
}

BOOST_AUTO_TEST_CASE(a_signal_keeps_what_is_finished) {
  const temporary_folder folder;
  for (const auto& [signal, status] : {std::pair(SIGINT, 130), std::pair(SIGTERM, 143)}) {
    const fs::path out = folder / std::to_string(signal);
    outcome o = stopped(out, signal, 1);
    // It was over before it was stopped, or had no text more than the part.
    for (int again = 0; again < 5 && (o.status == 0 || parts_of(out).size() < 2); ++again) {
      fs::remove_all(out.string() + ".part");
      fs::remove(out);
      o = stopped(out, signal, 1);
    }
    BOOST_TEST(o.status == status);
    BOOST_TEST(o.err.starts_with("distil: stopped by a signal; "), o.err);
    BOOST_TEST(o.err.find('\n') == o.err.size() - 1);
    BOOST_TEST(!fs::exists(out));
    BOOST_TEST(parts_of(out).size() >= 2u);
    goes_on(out);
  }
}

BOOST_AUTO_TEST_CASE(parts_that_are_damaged_or_missing_are_drawn_again) {
  const temporary_folder folder;
  for (const bool damaged : {true, false}) {
    const fs::path out = folder / (damaged ? "damaged" : "missing");
    stopped(out, SIGKILL, 3);
    const auto parts = parts_of(out);
    BOOST_REQUIRE(parts.size() >= 3);
    if (damaged)
      fs::resize_file(parts[1], fs::file_size(parts[1]) / 2);
    else
      fs::remove(parts[1]);
    const outcome o = run(long_sampling(out));
    BOOST_TEST(o.status == 0);
    BOOST_TEST((o.err.find(parts[2].string() + ": is drawn again\n") != o.err.npos), o.err);
    BOOST_TEST((o.err.find(parts[0].string()) == o.err.npos), o.err);
    BOOST_TEST((content(out) == long_sample()));
  }
}

BOOST_AUTO_TEST_CASE(another_run_is_refused) {
  const temporary_folder folder;
  const fs::path out = folder / "out", prompts = folder / "prompts";
  write_file(prompts, "rain\n");
  process running(long_sampling(out));
  run_until_parts(running, out, 1);
  running.signal(SIGSTOP);
  refused(long_sampling(out), 1, {out.string() + ".part", "another run is writing there"});
  running.signal(SIGKILL);
  running.wait();
  const auto other = [&](const std::string& given, const std::vector<std::string>& what) {
    refused(arguments("sample --model", teacher(), "--out", out, given), 1, what);
  };
  other("--tokens 30000 --length 60 --seed 8",
        {out.string() + ".part", "another seed: 9, this one asks for 8"});
  other("--tokens 30000 --length 61 --seed 9", {"another length: 60, this one asks for 61"});
  other("--tokens 30001 --length 60 --seed 9", {"another tokens: 30000, this one asks for 30001"});
  other("--tokens 30000 --length 60 --seed 9 --temperature 0.5", {"another temperature: 1.0", "0.5"});
  other("--tokens 30000 --length 60 --seed 9 --top-k 7", {"another top_k: 0", "7"});
  other("--tokens 30000 --length 60 --seed 9 --precision fp64", {"another precision: \"fp32\"", "\"fp64\""});
  refused(arguments(long_sampling(out), "--prompts", prompts), 1, {"another prompts_sha256"});
  refused(
      arguments("sample --tokens 30000 --length 60 --seed 9 --model", material::get().teacher, "--out", out), 1,
      {"another tokenizer_sha256"});
  goes_on(out);
  // What never had a text to keep is no run to go on with.
  fs::create_directories(folder / "new.part");
  write_file(folder / "new.part/options.json", "{\"seed\": 1}");
  done(sampling_of(teacher(), folder / "new"));
}

BOOST_AUTO_TEST_CASE(texts_begin_with_prompts) {
  const temporary_folder folder;
  const fs::path file = folder / "prompts", out = folder / "out";
  const std::vector<std::string> prompts = {"In the rain", "", "<|im_start|>a river<|im_end|>", "7"};
  std::string lines;
  for (const auto& p : prompts) lines += p + "\n";
  write_file(file, lines);
  const auto given = arguments(sampling_of(teacher(), out), "--prompts");
  done(arguments(given, file));
  const documents d(out);
  const io::tokenizer& tokenizer = own_tokenizer();
  BOOST_REQUIRE(d.texts.size() > 2 * prompts.size());
  for (std::size_t i = 0; i < d.texts.size(); ++i) {
    auto begin = tokenizer.encode(prompts[i % prompts.size()], true).ids;
    begin.insert(begin.begin(), 0);
    const auto& text = d.texts[i];
    BOOST_REQUIRE(text.size() > begin.size());
    BOOST_TEST(std::equal(begin.begin(), begin.end(), text.begin()));
    BOOST_TEST(ends_well(text, begin.size()));
  }
  const auto one = content(out);
  done(arguments(given, file, "--batch 9"));
  BOOST_TEST((content(out) == one));
  done(arguments(given, "-"), {.input = lines});
  BOOST_TEST((content(out) == one));
  // The likeliest text of each prompt.
  done(arguments(given, file, "--temperature 0"));
  const documents greedy(out);
  BOOST_TEST((greedy.texts[0] == greedy.texts[prompts.size()]));

  write_file(file, "rain\n" + std::string(50, 'x') + "\n");
  refused(arguments(given, file), 1, {file.string() + ": line 2", "is 51 tokens long", "--length 40"});
  write_file(file, "rain\na\xff\n");
  refused(arguments(given, file), 1, {file.string(), "line 2"});
  write_file(file, "");
  refused(arguments(given, file), 1, {file.string(), "no prompt"});
  BOOST_TEST(!fs::exists(out.string() + ".part"));
}

BOOST_AUTO_TEST_CASE(a_text_ends_before_an_id_without_a_token) {
  const temporary_folder folder;
  const auto& m = material::get();  // its teacher has 96 rows, its tokenizer fewer tokens
  done(sampling_of(m.teacher, folder / "out"));
  const documents d(folder / "out");
  const io::tokenizer tokenizer(io::read_tokenizer(m.teacher));
  BOOST_TEST(tokenizer.vocab_size() < 96);
  BOOST_TEST(d.file.vocab_size() == tokenizer.vocab_size());
  std::size_t cut = 0;
  for (const auto& text : d.texts)
    cut += text.size() < 40 && (text.size() == 1 || !tokenizer.is_end_of_text(text.back()));
  BOOST_TEST(cut > 0u);
  // So it mixes with what the tokenizer has made.
  std::string mix = (folder / "out").string() + ":0.5," + m.tokens.string() + ":0.5";
  auto train = arguments("train --blocks 2 --batch 4 --length 16 --steps 2 --teacher", m.teacher, "--out",
                         folder / "run", "--tokens");
  train.push_back(mix);
  done(train);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_sampled_is_said) {
  const temporary_folder folder;
  const fs::path out = folder / "out";
  const auto given = sampling_of(teacher(), out);
  const auto least = arguments("sample --model", teacher(), "--out", out);
  refused(least, 2, {"--tokens is missing"});
  refused(arguments("sample --tokens 5 --model", teacher()), 2, {"--out is missing"});
  refused(arguments("sample --tokens 5 --out", out), 2, {"--model is missing"});
  refused(arguments(least, "--tokens 0"), 2, {"--tokens"});
  refused(arguments(least, "--tokens 9 --length 1"), 2, {"--length"});
  refused(arguments(given, "--batch 0"), 2, {"--batch: 0", "from 9 to 512"});
  refused(arguments(given, "--batch 8"), 2, {"--batch: 8", "from 9 to 512"});
  refused(arguments(given, "--batch 513"), 2, {"--batch: 513", "from 9 to 512"});
  refused(arguments(given, "--temperature -1"), 2, {"temperature"});
  refused(arguments(given, "--temperature 0"), 2, {"every text is the same", "--prompts"});
  refused(arguments(given, "--top-k 1"), 2, {"every text is the same"});
  refused(arguments(given, "--top-p 0"), 2, {"top-p"});
  refused(arguments("sample --tokens 5 --model", teacher(), "--out", folder.path), 1, {folder.path.string()});
  refused(arguments("sample --tokens 5 --out", out, "--model", folder / "none"), 1, {"none"});
  // Nothing that begins a text, and nothing that ends one.
  auto bare = whole_tokenizer();
  bare.eos = -1;
  for (std::size_t i = 0; i < 3; ++i)
    bare.tokens[i] = bare.specials[i].text = "<|nothing_" + std::to_string(i) + "|>";
  make_teacher("llama_rope_parameters", folder / "bare");
  json config = io::read_json_file(folder / "bare/config.json");
  config["eos_token_id"] = nullptr, config["bos_token_id"] = nullptr;
  write_file(folder / "bare/config.json", config.dump());
  io::write_tokenizer(folder / "bare", bare);
  refused(sampling_of(folder / "bare", out), 1, {(folder / "bare").string(), "give --prompts"});
  write_file(folder / "prompts", "rain\n\n");
  refused(arguments(sampling_of(folder / "bare", out), "--prompts", folder / "prompts"), 1,
          {"line 2", "is empty"});
  write_file(folder / "prompts", "rain\n");
  done(arguments(sampling_of(folder / "bare", out), "--prompts", folder / "prompts"));
  for (const auto& text : documents(out).texts) BOOST_TEST(text.size() == 40u);
}

}  // namespace distil_xlstm::program
