#pragma once

#include <csignal>

namespace program {

/// SIGINT or SIGTERM once it has come and `catch_signals` was called; else 0.
inline volatile std::sig_atomic_t caught_signal = 0;

extern "C" inline void on_signal(int signal) { caught_signal = signal; }

/// From now on the job looks at `caught_signal`, keeps what is done, and leaves with status 128 + the signal.
inline void catch_signals() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}

}  // namespace program
