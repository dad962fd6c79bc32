#pragma once

#include <algorithm>
#include <cstdio>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace distil_xlstm::device {

/// What a Linux control group's cpu.max allows, rounded up to whole cores: "quota period" in microseconds of processor
/// time each so many. 0: "max", no bound, or no such line.
inline int cores_of_quota(const char* cpu_max) {
  long quota = 0, period = 0;
  if (std::sscanf(cpu_max, "%ld %ld", &quota, &period) != 2 || quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::max(1L, std::min((quota + period - 1) / period, 1L << 20)));
}

/// Cores that this process may use, at least 1: the machine's, of which taskset, a batch system or a container may have
/// left it a few (Linux: its affinity, and a container's quota as cgroup v2 shows it). More threads would wait for one
/// another.
inline int usable_cores() {
  int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t own;
  if (::sched_getaffinity(0, sizeof own, &own) == 0) cores = std::min(cores, std::max(1, CPU_COUNT(&own)));
  if (std::FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    char line[64];
    const int allowed = std::fgets(line, sizeof line, f) ? cores_of_quota(line) : 0;
    std::fclose(f);
    if (allowed > 0) cores = std::min(cores, allowed);
  }
#endif
  return cores;
}

}  // namespace distil_xlstm::device
