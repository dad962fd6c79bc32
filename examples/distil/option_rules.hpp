#pragma once

#include <string_view>
#include <vector>

namespace program {

/// What an option's effect depends on.
struct option_condition {
  enum kind {
    given,      ///< another option is given
    not_given,  ///< it is not
    is,         ///< its value, given or not, is one of `values`
    is_not      ///< it is none of them
  };
  kind what;
  std::string_view option;
  std::vector<std::string_view> values = {};
};

/// An option of a subcommand, and what it needs to have an effect: one of `any` must hold, where there are some.
/// Several rules of one option must all hold.
struct option_rule {
  std::string_view command, option;
  std::vector<option_condition> any = {};
  std::string_view example = {};  ///< options of a command line that breaks the rule
};

/// The rules of all subcommands: every option is in here. `require_effects` applies them. --seed and --threads say how
/// a command is repeated, and are taken wherever they are listed.
inline const std::vector<option_rule>& option_rules() {
  using enum option_condition::kind;
  static const std::vector<option_rule> rules = {
      {"tokenize", "tokenizer"},
      {"tokenize", "text", {{not_given, "ids"}}, "--text a --ids"},
      {"tokenize", "text", {{not_given, "decode"}}, "--text a --decode"},
      {"tokenize", "separator", {{not_given, "ids"}}, "--separator x --ids"},
      {"tokenize", "separator", {{not_given, "decode"}}, "--separator x --decode"},
      {"tokenize", "out", {{not_given, "ids"}}, "--out b --ids"},
      {"tokenize", "out", {{not_given, "decode"}}, "--out b --decode"},
      {"tokenize", "special", {{not_given, "ids"}}, "--special --ids"},
      {"tokenize", "special", {{not_given, "decode"}}, "--special --decode"},
      {"tokenize", "no-end", {{not_given, "ids"}}, "--no-end --ids"},
      {"tokenize", "no-end", {{not_given, "decode"}}, "--no-end --decode"},
      {"tokenize", "no-end", {{not_given, "bare"}}, "--no-end --bare"},
      {"tokenize", "bare", {{not_given, "ids"}}, "--bare --ids"},
      {"tokenize", "bare", {{not_given, "decode"}}, "--bare --decode"},
      {"tokenize", "ids"},
      {"tokenize", "decode"},

      {"sample", "model"},
      {"sample", "tokens"},
      {"sample", "out"},
      {"sample", "prompts"},
      {"sample", "batch"},
      {"sample", "length"},
      {"sample", "temperature"},
      {"sample", "top-k", {{is_not, "temperature", {"0"}}}, "--top-k 3 --temperature 0"},
      {"sample", "top-p", {{is_not, "temperature", {"0"}}}, "--top-p 0.5 --temperature 0"},
      {"sample", "seed"},
      {"sample", "device"},
      {"sample", "precision"},
      {"sample", "threads"},

      {"cache", "teacher"},
      {"cache", "tokens"},
      {"cache", "length"},
      {"cache", "out"},
      {"cache", "alignment"},
      {"cache", "blocks", {{is, "alignment", {"ratio", "block_wise", "block-wise", "cosine"}}}, "--blocks 2"},
      {"cache", "batch"},
      {"cache", "store"},
      {"cache", "device"},
      {"cache", "precision"},
      {"cache", "threads"},

      {"train", "teacher"},
      {"train", "cache"},
      {"train", "tokens"},
      {"train", "held-out"},
      {"train", "out"},
      {"train", "resume"},
      {"train", "steps"},
      {"train", "minutes"},
      {"train", "epochs"},
      {"train", "architecture", {{not_given, "init"}}, "--architecture paper --init student"},
      {"train", "blocks", {{not_given, "init"}}, "--blocks 5 --init student"},
      {"train", "heads", {{not_given, "init"}}, "--heads 8 --init student"},
      {"train", "slstm-at", {{not_given, "init"}}, "--slstm-at 0 --init student"},
      {"train", "init"},
      {"train", "method"},
      {"train", "alpha", {{not_given, "objective"}}, "--alpha 1 --objective ce"},
      {"train", "beta", {{not_given, "objective"}}, "--beta 0.1 --objective ce"},
      // What weighs nothing has no effect, either: the method's schedules say it (method.cpp).
      {"train", "temperature", {{not_given, "objective"}}, "--temperature 2 --objective ce"},
      {"train", "schedule", {{not_given, "objective"}}, "--schedule cosine --objective ce"},
      {"train", "alignment", {{not_given, "objective"}}, "--alignment mse --objective ce"},
      {"train", "objective"},
      {"train", "batch"},
      {"train", "length"},
      {"train", "accumulate"},
      {"train", "lr"},
      {"train", "lr-schedule"},
      {"train", "warmup"},
      {"train", "beta1"},
      {"train", "beta2"},
      {"train", "epsilon"},
      {"train", "weight-decay"},
      {"train", "clip"},
      {"train", "order"},
      {"train", "seed"},
      {"train", "log-every"},
      {"train", "checkpoint-every"},
      {"train", "evaluate-every", {{given, "held-out"}}, "--evaluate-every 2"},
      {"train", "prompt"},
      {"train", "device"},
      {"train", "precision"},
      {"train", "threads"},

      {"linearise", "teacher"},
      {"linearise", "tokens"},
      {"linearise", "held-out"},
      {"linearise", "out"},
      {"linearise", "resume"},
      {"linearise", "align-tokens", {{not_given, "minutes"}}, "--align-tokens 64"},
      {"linearise", "distil-tokens", {{not_given, "minutes"}}, "--distil-tokens 64"},
      {"linearise", "minutes"},
      {"linearise", "long-tokens"},
      {"linearise", "long-length", {{given, "long-tokens"}}, "--long-length 64"},
      {"linearise", "mixer"},
      {"linearise", "keep-attention", {{not_given, "mixers"}}, "--keep-attention 1 --mixers 0"},
      {"linearise", "keep-kl", {{given, "keep-attention"}}, "--keep-kl 1"},
      {"linearise", "mixers"},
      {"linearise", "window"},
      {"linearise", "sinks"},
      {"linearise", "alpha", {{not_given, "objective"}}, "--alpha 1 --objective ce"},
      {"linearise", "beta", {{not_given, "objective"}}, "--beta 0.1 --objective ce"},
      {"linearise", "temperature", {{not_given, "objective"}}, "--temperature 2 --objective ce"},
      {"linearise", "schedule", {{not_given, "objective"}}, "--schedule cosine --objective ce"},
      {"linearise", "alignment", {{not_given, "objective"}}, "--alignment mse --objective ce"},
      {"linearise", "objective"},
      {"linearise", "batch"},
      {"linearise", "length"},
      {"linearise", "accumulate"},
      {"linearise", "lr"},
      {"linearise", "lr-schedule"},
      {"linearise", "warmup"},
      {"linearise", "beta1"},
      {"linearise", "beta2"},
      {"linearise", "epsilon"},
      {"linearise", "weight-decay"},
      {"linearise", "clip"},
      {"linearise", "order"},
      {"linearise", "seed"},
      {"linearise", "lr-new"},
      {"linearise", "align-lr"},
      {"linearise", "long-lr", {{given, "long-tokens"}}, "--long-lr 0.0001"},
      {"linearise", "needle"},
      {"linearise", "cases", {{is_not, "needle", {"none"}}}, "--cases 3 --needle none"},
      {"linearise", "windows", {{given, "held-out"}}, "--windows 64"},
      {"linearise", "control", {{is_not, "mixer", {"window"}}}, "--control --mixer window"},
      {"linearise", "log-every"},
      {"linearise", "checkpoint-every"},
      {"linearise", "evaluate-every", {{given, "held-out"}}, "--evaluate-every 2"},
      {"linearise", "prompt"},
      {"linearise", "device"},
      {"linearise", "precision"},
      {"linearise", "threads"},

      {"generate", "model"},
      {"generate", "prompt"},
      {"generate", "prompts"},
      {"generate", "batch", {{given, "prompts"}}, "--batch 2 --prompt a"},
      {"generate", "chat"},
      {"generate", "tokens"},
      {"generate", "temperature"},
      {"generate", "top-k", {{is_not, "temperature", {"0"}}}, "--top-k 3 --temperature 0"},
      {"generate", "top-p", {{is_not, "temperature", {"0"}}}, "--top-p 0.5 --temperature 0"},
      {"generate", "seed"},
      {"generate", "device"},
      {"generate", "precision"},
      {"generate", "threads"},

      {"evaluate", "model"},
      {"evaluate", "text"},
      {"evaluate", "special", {{given, "text"}}, "--special --tokens set"},
      {"evaluate", "tokens"},
      {"evaluate", "window", {{not_given, "requests"}}, "--window 16 --requests set"},
      {"evaluate", "window", {{given, "text"}, {given, "tokens"}}, "--window 16 --needle 256 --filler set"},
      {"evaluate", "carry", {{not_given, "requests"}}, "--carry --requests set"},
      {"evaluate", "carry", {{given, "text"}, {given, "tokens"}}, "--carry --needle 256 --filler set"},
      {"evaluate", "teacher", {{not_given, "requests"}}, "--teacher model --requests set"},
      {"evaluate",
       "teacher",
       {{given, "text"}, {given, "tokens"}},
       "--teacher model --needle 256 --filler set"},
      {"evaluate", "requests"},
      {"evaluate", "limit", {{given, "requests"}}, "--limit 3"},
      {"evaluate", "needle"},
      {"evaluate", "cases", {{given, "needle"}}, "--cases 3 --tokens set"},
      {"evaluate", "filler", {{given, "needle"}}, "--filler set --tokens set"},
      {"evaluate", "seed"},
      {"evaluate", "json"},
      {"evaluate", "device"},
      {"evaluate", "precision"},
      {"evaluate", "threads"},

      {"logits", "model"},
      {"logits", "ids"},
      {"logits", "out"},
      {"logits", "device"},
      {"logits", "precision"},
      {"logits", "threads"},

      {"inspect", "path"},
  };
  return rules;
}

}  // namespace program
