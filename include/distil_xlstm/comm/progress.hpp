#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace distil_xlstm::comm {

/// What a rank has called, as another thread may look at it (comm/watch.hpp).
struct progress {
  using clock = std::chrono::steady_clock;  ///< what times are of
  std::atomic<std::int64_t> calls{0};       ///< exchanges begun
  std::atomic<clock::rep> waits_since{0};   ///< for others; 0: it does not wait
  std::atomic<clock::rep> worked{0};        ///< how long, before it began to wait
  std::atomic<bool> together{false};        ///< in a sum, to which ranks come after work of one size
};

}  // namespace distil_xlstm::comm
