#include <boost/test/unit_test.hpp>

#include <cmath>

#include <distil_xlstm/distil/needle.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/write_token_file.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>

#include "material.hpp"
#include "scores.hpp"

// `distil evaluate` of texts and needles, against what the logits say.
namespace distil_xlstm::program {

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
  const auto itself = done(arguments("evaluate --json --model", capped, "--tokens", few, "--teacher", capped));
  BOOST_TEST(std::abs(io::json::parse(itself).at("kl").get<double>()) < 1e-6);
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

}  // namespace distil_xlstm::program
