#pragma once

#include <cuda_runtime_api.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cuda.cuh>

/// What the parts of the table share.
namespace distil_xlstm::bench {

using device::cuda_base;

/// Median milliseconds of a call, by the device's own clock.
inline double milliseconds(cuda_base& d, const std::function<void()>& call, int repeats = 30) {
  for (int i = 0; i < 3; ++i) call();
  std::vector<cudaEvent_t> marks(static_cast<std::size_t>(repeats) + 1);
  for (auto& m : marks) device::detail::check(cudaEventCreate(&m), "an event");
  cudaEventRecord(marks[0], d.stream());
  for (std::size_t i = 1; i < marks.size(); ++i) {
    call();
    cudaEventRecord(marks[i], d.stream());
  }
  d.wait();
  std::vector<double> times;
  for (std::size_t i = 1; i < marks.size(); ++i) {
    float ms = 0;
    device::detail::check(cudaEventElapsedTime(&ms, marks[i - 1], marks[i]), "timing");
    times.push_back(static_cast<double>(ms));
  }
  for (auto& m : marks) cudaEventDestroy(m);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// Random numbers on the device: `mean` + `scale` * normal.
template <class T>
class random_numbers : public buffer<T, cuda_base> {
 public:
  random_numbers(cuda_base& d, index n, double scale = 1, double mean = 0) : buffer<T, cuda_base>(d, n) {
    static rng random(7);
    // A million different numbers, again and again.
    std::vector<T> some(static_cast<std::size_t>(std::min<index>(n, (1 << 20) + 7)));
    for (auto& x : some) x = T(static_cast<float>(mean + scale * random.normal()));
    for (index at = 0; at < n; at += std::ssize(some))
      d.upload(this->data() + at, some.data(),
               std::min<index>(std::ssize(some), n - at) * static_cast<index>(sizeof(T)));
  }
  matrix_view<T> matrix(index rows) const { return {this->data(), rows, this->size() / rows}; }
};
using random_buffer = random_numbers<float>;

/// The card's own, as far as they have been measured: bytes a millisecond, operations a millisecond.
inline double copy_rate = 0, product_rate = 0;

/// A row: what it took, what the card's limits would take and how much of the time that is, what the best peer took
/// on an H100.
inline void row(const std::string& what, double ms, double bytes, double operations, const char* peer) {
  char limits[96] = "";
  if (copy_rate > 0) {
    const double moving = bytes / copy_rate, multiplying = operations / product_rate;
    std::snprintf(limits, sizeof limits, "%.3f ms (bytes), %.3f ms (products), %.0f %%", moving, multiplying,
                  100 * std::max(moving, multiplying) / ms);
  }
  std::printf("| %s | %.3f ms | limits: %s | %s |\n", what.c_str(), ms, limits, peer);
  std::fflush(stdout);
}

inline cuda_base* timed = nullptr;  ///< whose clock `now` is
/// Seconds, when all that it was asked for is done.
inline double now() {
  timed->wait();
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

}  // namespace distil_xlstm::bench
