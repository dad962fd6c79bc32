#pragma once

#include <cstdint>
#include <string>

#include <distil_xlstm/model/sampler.hpp>

#include "machine.hpp"
#include "shared.hpp"

namespace program {

// What the jobs are asked for. run<T>(device) does one with numbers of type T and returns the exit status;
// jobs.hpp says where it is compiled.

/// What `distil cache` is asked for.
struct cache_request {
  fs::path teacher, tokens, out;
  dx::index length = 0, batch = 8, blocks = 6;
  std::string alignment = "average", store = "bf16";

  template <class T, class D>
  int run(D& device) const;
};

/// The options of `distil train`.
struct training_request {
  fs::path teacher, cache, tokens, held_out, out, init;
  std::string method = "default", architecture = "default", order = "shuffled";
  dx::index blocks = 0, heads = 0;  ///< 0: the architecture's
  std::string slstm_at;             ///< "0,2,4", "all", "none"; empty: the architecture's
  dx::index batch = 0, length = 0, accumulate = 0, steps = 0, warmup = -1;  ///< 0 or -1: the method's
  double minutes = 0, epochs = 0;
  std::string alpha, beta, temperature, schedule, alignment, lr_schedule;  ///< empty: the method's
  double lr = 0, weight_decay = -1, clip = -1;
  std::uint64_t seed = 42;
  machine where;
  dx::index log_every = 1, checkpoint_every = 100, evaluate_every = 0;
  bool resume = false;
  std::string prompt = "In the beginning";

  template <class T, class D>
  int run(D& device) const;
};

/// What `distil generate` is asked for.
struct generate_request {
  fs::path model;
  std::string prompt;
  fs::path prompts;  ///< a prompt a line, instead of `prompt`
  dx::index batch = 64;
  dx::index tokens = 100;
  dx::sampling how;
  bool chat = false;

  template <class T, class D>
  int run(D& device) const;
};

/// What `distil evaluate` is asked for.
struct evaluate_request {
  fs::path model, text, tokens, requests;
  dx::index window = 512, limit = 0;
  bool carry = false, as_json = false;

  template <class T, class D>
  int run(D& device) const;
};

/// What `distil logits` is asked for.
struct logits_request {
  fs::path model_path, ids_path, out;

  template <class T, class D>
  int run(D& device) const;
};

}  // namespace program
