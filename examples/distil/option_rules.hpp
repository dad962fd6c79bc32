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

/// An option, and what it needs to have an effect: one of `any` must hold, where there are some. Several rules of one
/// option must all hold.
struct option_effect {
  std::string_view option;
  std::vector<option_condition> any = {};
  std::string_view example = {};  ///< options of a command line that breaks the rule
};

/// Options that several subcommands list together.
using option_group = std::vector<option_effect>;

/// The rule of an option of a subcommand.
struct option_rule : option_effect {
  std::string_view command;
};

namespace detail {

/// All options of a subcommand: its own, and those of groups.
struct subcommand_options {
  std::string_view command;
  option_group own;
  std::vector<const option_group*> groups = {};
};

inline std::vector<option_rule> rules_of(const std::vector<subcommand_options>& all) {
  std::vector<option_rule> out;
  for (const auto& [command, own, groups] : all) {
    for (const option_effect& o : own) out.push_back({o, command});
    for (const option_group* group : groups)
      for (const option_effect& o : *group) out.push_back({o, command});
  }
  return out;
}

}  // namespace detail

/// The rules of all subcommands: every option is in here. `require_effects` applies them. --seed and --threads say how
/// a command is repeated, and are taken wherever they are listed.
inline const std::vector<option_rule>& option_rules() {
  using enum option_condition::kind;
  static const option_group machine = {{"device"}, {"precision"}, {"threads"}, {"gpus"}, {"processes"}};
  static const option_group sampling = {
      {"temperature"},
      {"top-k", {{is_not, "temperature", {"0"}}}, "--top-k 3 --temperature 0"},
      {"top-p", {{is_not, "temperature", {"0"}}}, "--top-p 0.5 --temperature 0"},
      {"seed"}};
  static const option_group objective = {
      {"alpha", {{not_given, "objective"}}, "--alpha 1 --objective ce"},
      {"beta", {{not_given, "objective"}}, "--beta 0.1 --objective ce"},
      // What weighs nothing has no effect, either: the method's schedules say it (method.cpp).
      {"temperature", {{not_given, "objective"}}, "--temperature 2 --objective ce"},
      {"schedule", {{not_given, "objective"}}, "--schedule cosine --objective ce"},
      {"alignment", {{not_given, "objective"}}, "--alignment mse --objective ce"},
      {"objective"}};
  static const option_group optimiser = {{"batch"},       {"length"},          {"accumulate"}, {"lr"},
                                         {"lr-schedule"}, {"warmup"},          {"beta1"},      {"beta2"},
                                         {"epsilon"},     {"weight-decay"},    {"clip"},       {"order"},
                                         {"seed"},        {"shard-optimiser"}, {"repeats"}};
  static const option_group records = {{"log-every"},
                                       {"checkpoint-every"},
                                       {"evaluate-every", {{given, "held-out"}}, "--evaluate-every 2"},
                                       {"prompt"}};
  static const auto rules = detail::rules_of(
      {{"tokenize",
        {{"tokenizer"},
         {"text", {{not_given, "ids"}}, "--text a --ids"},
         {"text", {{not_given, "decode"}}, "--text a --decode"},
         {"separator", {{not_given, "ids"}}, "--separator x --ids"},
         {"separator", {{not_given, "decode"}}, "--separator x --decode"},
         {"out", {{not_given, "ids"}}, "--out b --ids"},
         {"out", {{not_given, "decode"}}, "--out b --decode"},
         {"special", {{not_given, "ids"}}, "--special --ids"},
         {"special", {{not_given, "decode"}}, "--special --decode"},
         {"no-end", {{not_given, "ids"}}, "--no-end --ids"},
         {"no-end", {{not_given, "decode"}}, "--no-end --decode"},
         {"no-end", {{not_given, "bare"}}, "--no-end --bare"},
         {"bare", {{not_given, "ids"}}, "--bare --ids"},
         {"bare", {{not_given, "decode"}}, "--bare --decode"},
         {"ids"},
         {"decode"}},
        {}},
       {"sample", {{"model"}, {"tokens"}, {"out"}, {"prompts"}, {"batch"}, {"length"}}, {&sampling, &machine}},
       {"cache",
        {{"teacher"},
         {"tokens"},
         {"length"},
         {"out"},
         {"alignment"},
         {"blocks", {{is, "alignment", {"ratio", "block_wise", "block-wise", "cosine"}}}, "--blocks 2"},
         {"batch"},
         {"store"}},
        {&machine}},
       {"train",
        {{"teacher"},
         {"cache"},
         {"tokens"},
         {"held-out"},
         {"out"},
         {"resume"},
         {"steps"},
         {"minutes"},
         {"epochs"},
         {"architecture", {{not_given, "init"}}, "--architecture paper --init student"},
         {"blocks", {{not_given, "init"}}, "--blocks 5 --init student"},
         {"heads", {{not_given, "init"}}, "--heads 8 --init student"},
         {"slstm-at", {{not_given, "init"}}, "--slstm-at 0 --init student"},
         {"init"},
         {"method"}},
        {&objective, &optimiser, &records, &machine}},
       {"linearise",
        {{"teacher"},
         {"tokens"},
         {"held-out"},
         {"out"},
         {"resume"},
         {"align-tokens", {{not_given, "minutes"}}, "--align-tokens 64"},
         {"distil-tokens", {{not_given, "minutes"}}, "--distil-tokens 64"},
         {"minutes"},
         {"long-tokens"},
         {"long-length", {{given, "long-tokens"}}, "--long-length 64"},
         {"mixer"},
         {"keep-attention", {{not_given, "mixers"}}, "--keep-attention 1 --mixers 0"},
         {"keep-kl", {{given, "keep-attention"}}, "--keep-kl 1"},
         {"keep-cases", {{given, "keep-attention"}}, "--keep-cases 50"},
         {"mixers"},
         {"window"},
         {"sinks"},
         {"lr-new"},
         {"align-lr"},
         {"long-lr", {{given, "long-tokens"}}, "--long-lr 0.0001"},
         {"needle"},
         {"cases", {{is_not, "needle", {"none"}}}, "--cases 3 --needle none"},
         {"windows", {{given, "held-out"}}, "--windows 64"},
         {"control", {{is_not, "mixer", {"window"}}}, "--control --mixer window"}},
        {&objective, &optimiser, &records, &machine}},
       {"generate",
        {{"model"},
         {"prompt"},
         {"prompts"},
         {"batch", {{given, "prompts"}}, "--batch 2 --prompt a"},
         {"chat"},
         {"tokens"}},
        {&sampling, &machine}},
       {"evaluate",
        {{"model"},
         {"text"},
         {"special", {{given, "text"}}, "--special --tokens set"},
         {"tokens"},
         {"window", {{not_given, "requests"}}, "--window 16 --requests set"},
         {"window", {{given, "text"}, {given, "tokens"}}, "--window 16 --needle 256 --filler set"},
         {"carry", {{not_given, "requests"}}, "--carry --requests set"},
         {"carry", {{given, "text"}, {given, "tokens"}}, "--carry --needle 256 --filler set"},
         {"teacher", {{not_given, "requests"}}, "--teacher model --requests set"},
         {"teacher", {{given, "text"}, {given, "tokens"}}, "--teacher model --needle 256 --filler set"},
         {"requests"},
         {"limit", {{given, "requests"}}, "--limit 3"},
         {"needle"},
         {"cases", {{given, "needle"}}, "--cases 3 --tokens set"},
         {"filler", {{given, "needle"}}, "--filler set --tokens set"},
         {"seed"},
         {"json"}},
        {&machine}},
       {"logits", {{"model"}, {"ids"}, {"out"}}, {&machine}},
       {"quantise",
        {{"model"},
         {"type"},
         {"out"},
         {"text"},
         {"tokens"},
         {"window", {{given, "text"}, {given, "tokens"}}, "--window 16"},
         {"device", {{given, "text"}, {given, "tokens"}}, "--device cpu"},
         {"precision", {{given, "text"}, {given, "tokens"}}, "--precision fp32"},
         {"threads"},
         {"gpus"},
         {"processes"}}},
       {"inspect", {{"path"}}, {}}});
  return rules;
}

}  // namespace program
