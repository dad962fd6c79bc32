#include <cmath>

#include "command.hpp"
#include "options.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil train --teacher MODEL --tokens FILE --out FOLDER (--steps N | --minutes M | --epochs E) [options]\n"
    "distil train --cache FOLDER  --tokens FILE --out FOLDER ...\n\n"
    "Trains a student: sLSTM and mLSTM blocks between the teacher's frozen embedding and head. FOLDER gets\n"
    "student/ (config.json, model.safetensors, tokenizer.json), checkpoints/, metrics.jsonl, TensorBoard "
    "events,\n"
    "run.json and report.html. A number option with a schedule is given as FROM:TO, as in --alpha 0.8:0.5.\n";

}  // namespace

int train(const arguments& given) {
  training_request r;
  common_options common;
  po::options_description what("What");
  what.add_options()                                                                                      //
      ("teacher", po::value(&r.teacher)->value_name("MODEL"), "the frozen transformer, running along")    //
      ("cache", po::value(&r.cache)->value_name("FOLDER"), "or what it once said (`distil cache`)")       //
      ("tokens", po::value(&r.tokens)->value_name("FILE"), "what to train on (`distil tokenize`)")        //
      ("held-out", po::value(&r.held_out)->value_name("FILE"), "what to be judged by")                    //
      ("out", po::value(&r.out)->value_name("FOLDER"), "where everything is written")                     //
      ("resume", po::bool_switch(&r.resume), "go on from the last checkpoint in --out, if there is one")  //
      ("steps", po::value(&r.steps), "so many optimiser steps")                                           //
      ("minutes", po::value(&r.minutes), "or as many as the first steps' speed lets fit")                 //
      ("epochs", po::value(&r.epochs), "or so many times through the text");
  po::options_description student("Student");
  student.add_options()  //
      ("architecture", po::value(&r.architecture)->default_value(r.architecture),
       "default, paper, heuristic")                                                            //
      ("blocks", po::value(&r.blocks), "how many blocks")                                      //
      ("heads", po::value(&r.heads), "heads of both kinds of block")                           //
      ("slstm-at", po::value(&r.slstm_at), "the blocks that are sLSTM: 0,2,4 or all or none")  //
      ("init", po::value(&r.init)->value_name("STUDENT"), "begin with a student's weights and shape");
  po::options_description objective("Objective");
  objective.add_options()  //
      ("method", po::value(&r.method)->default_value(r.method),
       "default; paper (arXiv 2503.18565 as printed); code (as its authors' code does it)")                  //
      ("alpha", po::value(&r.alpha), "weight of the tempered KL")                                            //
      ("beta", po::value(&r.beta), "weight of the alignment; cross-entropy takes the rest")                  //
      ("temperature", po::value(&r.temperature), "of the KL")                                                //
      ("schedule", po::value(&r.schedule), "from FROM to TO: constant, linear, cosine, logarithmic, delta")  //
      ("alignment", po::value(&r.alignment), "average, ratio, block_wise, cosine, mse, paper, none");
  po::options_description optimiser("Optimiser");
  optimiser.add_options()                                                                         //
      ("batch", po::value(&r.batch), "windows in a step")                                         //
      ("length", po::value(&r.length), "tokens in a window")                                      //
      ("accumulate", po::value(&r.accumulate), "batches in a step")                               //
      ("lr", po::value(&r.lr), "peak learning rate")                                              //
      ("lr-schedule", po::value(&r.lr_schedule), "after the warm-up: constant, cosine")           //
      ("warmup", po::value(&r.warmup), "steps")                                                   //
      ("weight-decay", po::value(&r.weight_decay), "of matrices, not of norms and biases")        //
      ("clip", po::value(&r.clip), "largest norm of the gradient; 0: any")                        //
      ("order", po::value(&r.order)->default_value(r.order), "of windows: shuffled, sequential")  //
      ("seed", po::value(&r.seed)->default_value(r.seed), "of the weights and the order");
  po::options_description records("Records");
  records.add_options()                                                                                 //
      ("log-every", po::value(&r.log_every)->default_value(r.log_every), "steps")                       //
      ("checkpoint-every", po::value(&r.checkpoint_every)->default_value(r.checkpoint_every), "steps")  //
      ("evaluate-every", po::value(&r.evaluate_every), "steps; default: at the end only")               //
      ("prompt", po::value(&r.prompt)->default_value(r.prompt), "of the report's sample");
  po::options_description options;
  options.add(what).add(student).add(objective).add(optimiser).add(records);
  options.add(common.description());
  po::variables_map values;
  if (!parse(given, usage, options, values)) return 0;
  common.check();
  r.where = common;

  if (r.teacher.empty() && r.cache.empty()) throw usage_error("--teacher or --cache is missing");
  need(r.tokens, "tokens"), need(r.out, "out");
  if ((r.steps > 0) + (r.minutes > 0) + (r.epochs > 0) != 1)
    throw usage_error("one of --steps, --minutes, --epochs is needed, above 0");
  for (const char* option :
       {"batch", "length", "accumulate", "blocks", "heads", "log-every", "checkpoint-every"})
    if (values.count(option) && values[option].as<dx::index>() < 1)
      throw usage_error(std::string("--") + option + ": " + std::to_string(values[option].as<dx::index>()) +
                        " is not possible");
  if (values.count("lr") && !(r.lr > 0 && std::isfinite(r.lr)))
    throw usage_error("--lr: must be above 0, and a number");
  for (const char* option : {"warmup", "evaluate-every"})
    if (values.count(option) && values[option].as<dx::index>() < 0)
      throw usage_error(std::string("--") + option + ": must not be negative");
  for (const char* option : {"clip", "weight-decay"})
    if (values.count(option) && !(values[option].as<double>() >= 0))
      throw usage_error(std::string("--") + option + ": must not be negative");
  return run_on(common, r);
}

}  // namespace program
