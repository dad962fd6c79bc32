#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/device/cpu.hpp>

#include "machine.hpp"

namespace program {

namespace dx = distil_xlstm;

/// The options of `distil train`.
struct training_request {
  std::filesystem::path teacher, cache, tokens, held_out, out, init;
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

  /// Returns the exit status.
  template <class T, class D>
  int run(D& device) const;
};

extern template int training_request::run<float>(dx::device::cpu&) const;
extern template int training_request::run<double>(dx::device::cpu&) const;

}  // namespace program
