#pragma once

#include <string>
#include <vector>

#include "train_options.hpp"

namespace program {

/// The options of `distil linearise`.
struct linearise_options : train_options {
  std::string mixers, mixer = "hybrid";
  dx::index keep_attention = -1;  ///< -1: not given
  double keep_kl = 0;
  dx::index keep_cases = 20;
  dx::index window = 64, sinks = 4;
  dx::index align_tokens = 0, distil_tokens = 0, long_tokens = 0, long_length = 2048;
  double lr_new = 3e-3, align_lr = 5e-3, long_lr = 5e-5;
  std::string needle = "512", windows = "512,2048";
  std::vector<dx::index> needle_lengths, window_lengths;
  dx::index cases = 50;
  bool control = false;
};

}  // namespace program
