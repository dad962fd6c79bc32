#include <boost/test/unit_test.hpp>

#include <cmath>

#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/write_token_file.hpp>

#include "distil/token_mix.hpp"
#include "material.hpp"

namespace distil_xlstm::program {
namespace {

using io::json;

/// The material's two texts, each a token file of its own, under names that a list's own signs are in.
struct two_texts {
  temporary_folder folder;
  fs::path one = folder / "one:1,two.safetensors", other = folder / "other";
  two_texts() {
    const auto& m = material::get();
    done(arguments("tokenize --tokenizer", m.teacher, "--text", m.text, "--out", one));
    done(arguments("tokenize --tokenizer", m.teacher, "--text", m.other_text, "--out", other));
  }
  std::string mix(const std::string& a = ":0.7", const std::string& b = ":0.3") const {
    return one.string() + a + "," + other.string() + b;
  }
};
const two_texts& texts() {
  static const two_texts made;
  return made;
}

std::vector<std::string> training(const std::string& tokens, const fs::path& out,
                                  const std::string& more = "") {
  auto given =
      arguments("train --blocks 2 --batch 4 --length 16 --lr 0.01 --checkpoint-every 4", more, "--teacher",
                material::get().teacher, "--held-out", material::get().held_out, "--out", out);
  given.insert(given.end(), {"--tokens", tokens});
  if (more.find("--epochs") == more.npos) given.insert(given.end(), {"--steps", "16"});
  return given;
}

/// "one 0.7, other 0.3"
std::string parsed(const std::string& given) {
  std::string out;
  for (const auto& f : ::program::parse_token_mix(given))
    out += (out.empty() ? "" : " | ") + f.path.filename().string() + " " + ::program::short_number(f.weight);
  return out;
}
void unparsed(const std::string& given, const std::string& why) {
  BOOST_TEST_CONTEXT(given)
  BOOST_CHECK_EXCEPTION(::program::parse_token_mix(given), ::program::usage_error, [&](const auto& e) {
    BOOST_TEST_MESSAGE(e.what());
    return std::string(e.what()).find(why) != std::string::npos &&
           std::string(e.what()).starts_with("--tokens: '" + given + "'");
  });
}

}  // namespace

BOOST_AUTO_TEST_CASE(files_and_their_weights) {
  const temporary_folder folder;
  const auto in = [&](const std::string& name) { return (folder / name).string(); };
  for (const char* name : {"a", "b", "c:2", "d,e", "f:1,g:2"}) write_file(in(name), "");
  BOOST_TEST(parsed(in("a")) == "a 1");
  BOOST_TEST(parsed(in("a") + ":0.7") == "a 0.7");
  BOOST_TEST(parsed(in("a") + ":0.7," + in("b") + ":3e-1") == "a 0.7 | b 0.3");
  BOOST_TEST(parsed(in("a") + "," + in("b")) == "a 1 | b 1");
  // A name that is there is a file's, with whatever is in it.
  BOOST_TEST(parsed(in("c:2")) == "c:2 1");
  BOOST_TEST(parsed(in("c:2") + ":5") == "c:2 5");
  BOOST_TEST(parsed(in("d,e")) == "d,e 1");
  BOOST_TEST(parsed(in("d,e") + ":2," + in("a") + ":1") == "d,e 2 | a 1");
  BOOST_TEST(parsed(in("a") + ":1," + in("f:1,g:2") + ":7," + in("c:2") + ":2") == "a 1 | f:1,g:2 7 | c:2 2");
  // One that is not is named when it is opened.
  BOOST_TEST(parsed(in("none") + ":0.5," + in("a") + ":1") == "none 0.5 | a 1");
  BOOST_TEST(parsed(in("none:x") + "," + in("a")) == "none:x 1 | a 1");

  for (const char* weight : {"0", "-0.5", "nan", "inf", "1e400", "x", "", "0.5x", " 1"})
    unparsed(in("a") + ":" + weight + "," + in("b") + ":1",
             "'" + std::string(weight) + "' is no weight of " + in("a"));
  unparsed(in("a") + ":0.7," + in("b"), "either all files have a weight, or none has");
  unparsed(in("a") + "," + in("b") + "," + in("a"), in("a") + " is named twice");
  fs::create_symlink(folder / "a", folder / "link");
  unparsed(in("a") + ":1," + in("link") + ":1", in("link") + " is named twice");
  unparsed(in("a") + ":1,", "a file's name is missing");
  unparsed("," + in("a"), "a file's name is missing");
  unparsed("", "a file's name is missing");
  unparsed(in("a") + ":1,:2", "a file's name is missing");
}

BOOST_AUTO_TEST_CASE(a_run_of_one_file_is_what_it_was) {
  const temporary_folder folder;
  const auto& t = texts();
  done(training(t.one.string(), folder / "plain"));
  done(training(t.one.string() + ":0.4", folder / "weighted"));
  const json plain = io::read_json_file(folder / "plain/run.json");
  BOOST_TEST(plain["tokens_sha256"].get<std::string>() == io::token_file(t.one).data_sha256());
  BOOST_TEST(!plain.contains("tokens_shares"));
  BOOST_TEST(io::read_json_file(folder / "weighted/run.json")["tokens_sha256"] == plain["tokens_sha256"]);
  const metrics a(folder / "plain"), b(folder / "weighted");
  BOOST_TEST(a.steps == b.steps, boost::test_tools::per_element());
  BOOST_TEST((content(folder / "plain/student/model.safetensors") ==
              content(folder / "weighted/student/model.safetensors")));
}

BOOST_AUTO_TEST_CASE(a_mixture_trains_and_goes_on_bit_for_bit) {
  const temporary_folder folder;
  const auto& t = texts();
  const fs::path whole = folder / "whole", cut = folder / "cut";
  done(training(t.mix(), whole));
  const json run_json = io::read_json_file(whole / "run.json");
  BOOST_TEST(run_json["tokens_sha256"] ==
             json({io::token_file(t.one).data_sha256(), io::token_file(t.other).data_sha256()}));
  BOOST_TEST(std::abs(run_json["tokens_shares"][0].get<double>() - 0.7) < 1e-15);
  BOOST_TEST(run_json["command"]["tokens"].get<std::string>() == t.mix());
  BOOST_TEST(io::read_json_file(whole / "student/distil_xlstm.json")["tokens_sha256"] ==
             run_json["tokens_sha256"]);

  process p(training(t.mix(), cut));
  p.wait_while([&] { return checkpoints_of(cut).empty() || checkpoints_of(cut).back() < 4; });
  p.signal(SIGKILL);
  p.wait();
  done(training(t.mix(":7", ":3"), cut, "--resume"));  // weights count by their ratio
  const metrics a(cut), b(whole);
  BOOST_TEST(a.steps == b.steps, boost::test_tools::per_element());
  BOOST_TEST(a.held_out == b.held_out, boost::test_tools::per_element());
  BOOST_TEST((content(cut / "student/model.safetensors") == content(whole / "student/model.safetensors")));

  // Another mixture, or one text of it, is another run.
  const auto refuse = [&](const std::string& tokens, const std::string& why) {
    refused(training(tokens, whole, "--resume"), 1, {"checkpoints", why});
  };
  refuse(t.mix(":0.6", ":0.4"), "another tokens_shares");
  refuse(t.other.string() + ":0.3," + t.one.string() + ":0.7", "another tokens_sha256");
  refuse(t.one.string(), "another tokens_sha256");
  done(training(t.one.string(), folder / "one"));
  refused(training(t.mix(), folder / "one", "--resume"), 1, {"another tokens_sha256"});
  // What is read depends on the weights.
  done(training(t.mix(":0.1", ":0.9"), folder / "light"));
  BOOST_TEST(metrics(folder / "light").steps.front() != b.steps.front());
}

BOOST_AUTO_TEST_CASE(steps_and_epochs_of_a_mixture) {
  const temporary_folder folder;
  const auto& t = texts();
  const io::token_file one(t.one), other(t.other);
  const index windows = (one.size() - 1) / 16 + (other.size() - 1) / 16;
  done(training(t.mix(), folder / "epoch", "--epochs 1 --order sequential"));
  const metrics m(folder / "epoch");
  BOOST_TEST(std::ssize(m.steps) == windows / 4);
  BOOST_TEST(m.steps.back().at("epoch").get<index>() == 0);
  // The unigram counts that a student must beat are those of both texts.
  const json first = io::read_json_file(folder / "epoch/run.json");
  const std::vector<weighted_text> mixture = {{&one, 0.7}, {&other, 0.3}};
  BOOST_TEST(std::abs(number(m.held_out.front(), "unigram_ppl") /
                          score_unigram(mixture, io::token_file(material::get().held_out), 16).perplexity() -
                      1) <= 1e-9);
}

BOOST_AUTO_TEST_CASE(passages_come_back) {
  const temporary_folder folder;
  const std::string tokens = texts().one.string();
  done(training(tokens, folder / "none"));
  done(training(tokens, folder / "whole", "--repeats 0.25"));
  const json run_json = io::read_json_file(folder / "whole/run.json");
  BOOST_TEST(run_json["repeats"].get<double>() == 0.25);
  BOOST_TEST(!io::read_json_file(folder / "none/run.json").contains("repeats"));
  BOOST_TEST(metrics(folder / "none").steps.front() != metrics(folder / "whole").steps.front());

  process p(training(tokens, folder / "cut", "--repeats 0.25"));
  p.wait_while([&] { return checkpoints_of(folder / "cut").empty(); });
  p.signal(SIGKILL);
  p.wait();
  refused(training(tokens, folder / "cut", "--resume"), 1,
          {"checkpoints", "another repeats: 0.25, this one asks for none"});
  done(training(tokens, folder / "cut", "--resume --repeats 0.25"));
  BOOST_TEST((content(folder / "cut/student/model.safetensors") ==
              content(folder / "whole/student/model.safetensors")));

  for (const char* share : {"1", "-0.1", "nan"})
    refused(training(tokens, folder / "out", std::string("--repeats ") + share), 2, {"--repeats", "below 1"});
  auto cached = arguments("train --blocks 2 --steps 1 --repeats 0.1 --cache", folder / "cache", "--out",
                          folder / "out", "--tokens");
  cached.push_back(tokens);
  refused(cached, 2, {"--repeats", "--cache is of one text"});
}

BOOST_AUTO_TEST_CASE(what_makes_no_mixture_is_said) {
  const temporary_folder folder;
  const auto& t = texts();
  const auto& m = material::get();
  const fs::path out = folder / "out";
  refused(training(t.mix(":0.7", ":0"), out), 2,
          {"train: --tokens", "'0' is no weight of " + t.other.string()});
  refused(training(t.mix(":0.7", ""), out), 2, {"--tokens", "either all files have a weight"});
  refused(training(t.one.string() + ":1," + t.one.string() + ":2", out), 2, {"--tokens", "is named twice"});
  refused(training(t.mix(":1e308", ":1e308"), out), 2, {"--tokens", "too large"});
  refused(training(t.mix() + "," + (folder / "none").string() + ":1", out), 1, {"none"});
  const std::vector<std::int32_t> ids(100, 0);
  io::write_token_file(folder / "wide", ids, std::vector<std::int64_t>{0}, 96);
  refused(training(t.one.string() + "," + (folder / "wide").string(), out), 1, {"wide", "vocabulary of 96"});
  io::write_token_file(folder / "foreign", ids, std::vector<std::int64_t>{0},
                       io::token_file(t.one).vocab_size(), "other");
  refused(training(t.one.string() + "," + (folder / "foreign").string(), out), 1,
          {"foreign", "another tokenizer"});
  io::write_token_file(folder / "short", std::span(ids).first(9), std::vector<std::int64_t>{0},
                       io::token_file(t.one).vocab_size());
  refused(training(t.one.string() + "," + (folder / "short").string(), out), 1, {"short", "has 9 tokens"});
  // A cache is of one text.
  done(arguments("cache --length 16 --teacher", m.teacher, "--tokens", t.other, "--out", folder / "cache"));
  auto cached = arguments("train --blocks 2 --heads 4 --batch 4 --length 16 --steps 1 --cache",
                          folder / "cache", "--out", out, "--tokens");
  cached.push_back(t.mix());
  refused(cached, 2, {"--tokens: names 2 files", "--cache"});
  cached.back() = t.other.string();
  done(cached);
}

}  // namespace distil_xlstm::program
