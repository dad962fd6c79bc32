// Two objects of one program that were compiled for different machines: it runs, and both compute the same.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include <distil_xlstm/testing/tolerances.hpp>

#include "part.hpp"

int main() {
  const std::vector<float> a = x86_64(), b = native();
  double apart = 0, largest = 0;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    apart = std::max(apart, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    largest = std::max(largest, std::abs(static_cast<double>(a[i])));
  }
  const bool same = a.size() == b.size() && largest > 0 && std::isfinite(largest) &&
                    apart <= distil_xlstm::testing::tolerance<float>::training_steps * largest;
  std::printf("%zu gradients up to %g, apart by %g: %s\n", a.size(), largest, apart,
              same ? "the same" : "different");
  return same ? 0 : 1;
}
