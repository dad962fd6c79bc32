#include <boost/test/unit_test.hpp>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/stream_decoder.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>

#include "material.hpp"
#include "scores.hpp"

// `distil generate` from outside.
namespace distil_xlstm::program {

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

}  // namespace distil_xlstm::program
