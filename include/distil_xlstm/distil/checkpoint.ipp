#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/distil/checkpoint.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE std::vector<index> checkpoints::steps() const {
  std::vector<index> out;
  std::error_code none;
  for (const auto& f : std::filesystem::directory_iterator(folder_, none)) {
    const std::string name = f.path().filename().string();
    if (name.size() == 13 && name.starts_with("step-") && name.find_first_not_of("0123456789", 5) == name.npos)
      out.push_back(std::stol(name.substr(5)));
  }
  std::sort(out.begin(), out.end());
  return out;
}

DISTIL_XLSTM_INLINE std::optional<io::json> checkpoints::newest_run() const {
  auto all = steps();
  for (; !all.empty(); all.pop_back()) {
    const auto path = folder_of(all.back()) / "manifest.json";
    try {
      return io::member(io::read_json_file(path), "run", path.string());
    } catch (const error&) {
      if (all.size() == 1) throw;
    }
  }
  return {};
}

DISTIL_XLSTM_INLINE std::filesystem::path checkpoints::folder_of(index step) const {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08ld", static_cast<long>(step));
  return folder_ / name;
}

}  // namespace distil_xlstm
