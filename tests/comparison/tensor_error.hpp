#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/testing/gradcheck.hpp>

namespace distil_xlstm::testing {

/// How far a tensor is from what it is compared with: max |difference| / max |reference|.
struct tensor_error {
  std::string name;
  double error = 0;
};
using tensor_errors = std::vector<tensor_error>;

template <class A, class B>
double relative_error(const std::vector<A>& a, const std::vector<B>& b) {
  return a.size() == b.size() ? relative_error(a.data(), b.data(), static_cast<index>(a.size())) : INFINITY;
}

/// The worst of those whose name holds `part`.
inline tensor_error worst(const tensor_errors& errors, const std::string& part = "") {
  tensor_error w;
  for (const auto& e : errors)
    if (e.name.find(part) != e.name.npos && !(e.error <= w.error)) w = e;
  return w;
}

/// The folders below `root` that hold a model and the reference's numbers, in order.
inline std::vector<std::filesystem::path> golden_models(const std::filesystem::path& root) {
  std::vector<std::filesystem::path> out;
  for (const auto& f : std::filesystem::directory_iterator(root))
    if (std::filesystem::exists(f.path() / "expected.safetensors")) out.push_back(f.path());
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace distil_xlstm::testing
