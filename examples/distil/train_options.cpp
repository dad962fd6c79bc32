#include "train_options.hpp"

#include <cmath>
#include <string>

#include "training_steps.hpp"

namespace program {

po::options_description objective_options(train_options& r) {
  po::options_description all("Objective");
  all.add_options()                                                                        //
      ("alpha", po::value(&r.alpha), "weight of the tempered KL")                          //
      ("beta", po::value(&r.beta), "weight of the alignment; cross-entropy has the rest")  //
      ("temperature", po::value(&r.temperature), "of the KL")                              //
      ("schedule", po::value(&r.schedule),
       "shape from FROM to TO: constant, linear, cosine, logarithmic, delta")                         //
      ("alignment", po::value(&r.alignment), "average, ratio, block_wise, cosine, mse, paper, none")  //
      ("objective", po::value<std::string>()->value_name("EXPRESSION")->notifier([&](const std::string& s) {
        r.objective = s;
      }),
       "a sum of weighted terms, as above");
  return all;
}

po::options_description optimiser_options(train_options& r) {
  po::options_description all("Optimiser");
  all.add_options()                                                                             //
      ("batch", po::value(&r.batch), "windows in a step")                                       //
      ("length", po::value(&r.length), "tokens in a window")                                    //
      ("accumulate", po::value(&r.accumulate), "batches accumulated in a step")                 //
      ("lr", po::value(&r.lr), "peak learning rate")                                            //
      ("lr-schedule", po::value(&r.lr_schedule), "after the warm-up: constant, cosine")         //
      ("warmup", po::value(&r.warmup), "steps of linear warm-up")                               //
      ("beta1", po::value(&r.beta1), "AdamW's decay rate of the first moment")                  //
      ("beta2", po::value(&r.beta2), "AdamW's decay rate of the second moment")                 //
      ("epsilon", po::value(&r.epsilon), "AdamW's epsilon")                                     //
      ("weight-decay", po::value(&r.weight_decay), "decoupled weight decay, of matrices only")  //
      ("clip", po::value(&r.clip), "clip the gradient to this norm; 0: never")                  //
      ("shard-optimiser", po::bool_switch(&r.shard_optimiser),
       "each of several processes keeps a part of AdamW's moments: less memory, the same numbers")      //
      ("order", po::value(&r.order)->default_value(r.order), "order of windows: shuffled, sequential")  //
      ("repeats", po::value(&r.repeats),
       "share of the windows in which passages of the text come back, which teaches recall; default: 0")  //
      ("seed", po::value(&r.seed)->default_value(r.seed), "random seed of the weights and the order");
  return all;
}

po::options_description record_options(train_options& r) {
  po::options_description all("Records");
  all.add_options()                                                                                  //
      ("log-every", po::value(&r.log_every)->default_value(r.log_every), "steps between log lines")  //
      ("checkpoint-every", po::value(&r.checkpoint_every)->default_value(r.checkpoint_every),
       "steps between checkpoints")  //
      ("evaluate-every", po::value(&r.evaluate_every),
       "steps between evaluations; default: at the end only")  //
      ("prompt", po::value(&r.prompt)->default_value(r.prompt), "what the report's sample continues");
  return all;
}

void check_prompt(const std::string& prompt) {
  if (!dx::io::is_valid_utf8(prompt)) throw usage_error("--prompt: is not valid UTF-8");
}

void check_numbers(const po::variables_map& values) {
  const auto given = [&](const char* option) { return values.count(option) && !values[option].defaulted(); };
  const auto number = [&](const char* option) { return values[option].as<double>(); };
  for (const char* option : {"batch", "length", "accumulate", "blocks", "heads", "log-every",
                             "checkpoint-every", "window", "long-length", "cases", "keep-cases"})
    if (given(option)) {
      const auto n = values[option].as<dx::index>();
      if (n < 1 || n > most_steps)
        throw usage_error(std::string("--") + option + ": " + std::to_string(n) + " is not possible");
    }
  for (const char* option : {"lr", "lr-new", "align-lr", "long-lr", "epsilon"})
    if (given(option) && !(number(option) > 0 && std::isfinite(number(option))))
      throw usage_error(std::string("--") + option + ": must be above 0, and a number");
  for (const char* option : {"beta1", "beta2"})
    if (given(option) && !(number(option) >= 0 && number(option) < 1))
      throw usage_error(std::string("--") + option + ": must be at least 0 and below 1");
  if (given("repeats") && !(number("repeats") >= 0 && number("repeats") < 1))
    throw usage_error("--repeats: must be at least 0 and below 1");
  for (const char* option : {"warmup", "evaluate-every", "sinks", "keep-attention"})
    if (given(option) && values[option].as<dx::index>() < 0)
      throw usage_error(std::string("--") + option + ": must not be negative");
  for (const char* option : {"clip", "weight-decay", "keep-kl"})
    if (given(option) && !(number(option) >= 0 && std::isfinite(number(option))))
      throw usage_error(std::string("--") + option + ": must not be negative, and a number");
}

}  // namespace program
