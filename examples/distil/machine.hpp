#pragma once

#include <string>

namespace program {

/// Where a job runs, and in which precision.
struct machine {
  std::string device = "cpu", precision = "fp32";
  int threads = 0;              ///< of the CPU; 0: as many as there are cores to use
  int gpus = 0, processes = 0;  ///< that work together, of this machine; 0: as a launcher has it
};

}  // namespace program
