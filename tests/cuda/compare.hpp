#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/device/cuda.cuh>

#include "../random_numbers.hpp"
#include "gpu.hpp"

/// What tests on the GPU share: the same code runs on device::cuda and, as the reference, on device::cpu in
/// double.
namespace distil_xlstm {

/// Numbers that float holds, so that float and double start from the same.
inline std::vector<double> random_numbers(index n, std::uint64_t seed, double spread = 1) {
  const auto x = random_numbers<float>(n, seed, spread);
  return {x.begin(), x.end()};
}

/// Numbers that bfloat16 holds.
inline std::vector<double> rounded_numbers(index n, std::uint64_t seed) {
  auto x = random_numbers(n, seed);
  for (auto& v : x) v = bf16(static_cast<float>(v));
  return x;
}

/// Numbers in a device's memory, as T.
template <class T, class D>
struct on_device {
  buffer<T, D> memory;
  D* device;
  template <class U>
  on_device(D& d, const std::vector<U>& x) : memory(d, static_cast<index>(x.size())), device(&d) {
    const std::vector<T> y(x.begin(), x.end());
    d.upload(memory.data(), y.data(), bytes());
  }
  /// n numbers that are not numbers.
  on_device(D& d, index n)
      : on_device(d,
                  std::vector<double>(static_cast<std::size_t>(n), std::numeric_limits<double>::quiet_NaN())) {}
  T* data() const { return memory.data(); }
  index bytes() const { return memory.size() * static_cast<index>(sizeof(T)); }
  std::vector<double> numbers() const {
    std::vector<T> y(static_cast<std::size_t>(memory.size()));
    device->download(y.data(), memory.data(), bytes());
    return {y.begin(), y.end()};
  }
};

/// max |a - b| / max |b|, NaN where anything is not finite.
inline double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0, largest = 0;
  if (a.size() != b.size()) return std::nan("");
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return std::nan("");
    worst = std::max(worst, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return largest > 0 ? worst / largest : worst;
}

inline void check_close(const char* what, const std::vector<double>& got, const std::vector<double>& want,
                        double most) {
  const double error = relative_error(got, want);
  BOOST_TEST_MESSAGE(what << ": " << error);
  BOOST_CHECK_MESSAGE(error <= most, what << ": off by " << error << ", at most " << most);
}
/// Of several results each.
inline void check_all(const std::string& what, const std::vector<std::vector<double>>& got,
                      const std::vector<std::vector<double>>& want, double most) {
  for (std::size_t i = 0; i < got.size(); ++i)
    check_close((what + ", result " + std::to_string(i)).c_str(), got[i], want[i], most);
}

}  // namespace distil_xlstm
