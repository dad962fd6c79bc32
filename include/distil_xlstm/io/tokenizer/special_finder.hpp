#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm::io::detail {

/// Finds special tokens: the first in the text, the longest of those that begin there.
class special_finder {
 public:
  void insert(std::string text, std::int32_t id, bool control) {
    if (text.empty()) return;
    auto& bucket = buckets_[static_cast<unsigned char>(text[0])];
    const auto at = std::find_if(bucket.begin(), bucket.end(),
                                 [&](const candidate& c) { return c.text.size() < text.size(); });
    bucket.insert(at, {std::move(text), id, control});
    (control ? any_control_ : any_other_) = true;
  }
  struct hit {
    std::size_t at, length;
    std::int32_t id;
  };
  /// The next hit at or after `from`; at = text.size() and id = -1 where there is none.
  hit next(std::string_view text, std::size_t from, bool control) const {
    if (any_other_ || (control && any_control_)) {
      for (std::size_t i = from; i < text.size(); ++i)
        for (const candidate& c : buckets_[static_cast<unsigned char>(text[i])])
          if ((control || !c.control) && text.substr(i).starts_with(c.text)) return {i, c.text.size(), c.id};
    }
    return {text.size(), 0, -1};
  }

 private:
  struct candidate {
    std::string text;
    std::int32_t id;
    bool control;
  };
  std::array<std::vector<candidate>, 256> buckets_;
  bool any_control_ = false, any_other_ = false;
};

}  // namespace distil_xlstm::io::detail
