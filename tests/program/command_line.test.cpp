#include <boost/test/unit_test.hpp>

#include "material.hpp"

// `distil` and its subcommands as they explain themselves, and what they refuse.
namespace distil_xlstm::program {

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

}  // namespace distil_xlstm::program
