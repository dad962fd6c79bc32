#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/tokenizer.hpp>

#include "material.hpp"

// What `distil evaluate` says, and what the logits of `distil logits` say that it must be.
namespace distil_xlstm::program {

using io::json;
using ids_type = std::vector<std::int32_t>;

/// That of `material`.
inline const io::tokenizer& tokenizer() {
  static const io::tokenizer t(tiny_tokenizer());
  return t;
}
inline ids_type encode(const std::string& text) { return tokenizer().encode(text, false).ids; }

/// nll and tokens scored of a text in windows, from logits: a window's first token is context only.
inline std::pair<double, index> score(const fs::path& model, const ids_type& ids, index window) {
  double nll = 0;
  index scored = 0;
  const auto read = [&](std::span<const std::int32_t> part, index rows) {
    const index n = std::ssize(part) / rows;
    if (rows == 0 || n < 2) return;
    const logits_of l(model, {part.begin(), part.end()}, rows, "fp64");
    for (index b = 0; b < rows; ++b)
      for (index t = 0; t + 1 < n; ++t, ++scored)
        nll -= l.log_p(b, t, part[static_cast<std::size_t>(b * n + t + 1)]);
  };
  const std::span<const std::int32_t> all(ids);
  const auto whole = static_cast<std::size_t>(std::ssize(ids) / window * window);
  if (whole > 0) read(all.first(whole), std::ssize(ids) / window);
  if (whole < ids.size()) read(all.subspan(whole), 1);
  return {nll, scored};
}

inline json evaluate(const std::vector<std::string>& given) {
  return json::parse(done(arguments("evaluate --json", given)));
}
inline std::vector<std::string> keys(const json& object) {
  std::vector<std::string> out;
  for (const auto& [key, value] : object.items()) out.push_back(key);
  return out;
}
inline bool close(double a, double b, double limit) { return std::abs(a - b) <= limit * std::abs(b); }

}  // namespace distil_xlstm::program
