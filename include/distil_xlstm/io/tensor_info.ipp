#pragma once

#include <numeric>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/tensor_info.hpp>

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE index tensor_info::size() const {
  index n = 1;
  for (index d : shape) n *= d;
  return n;
}

}  // namespace distil_xlstm::io

namespace distil_xlstm::io::detail {

DISTIL_XLSTM_INLINE std::string shape_text(const std::vector<index>& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size() && i < 8; ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + (shape.size() > 8 ? ", ...]" : "]");
}

DISTIL_XLSTM_INLINE std::vector<std::size_t> sorted_order(
    std::size_t count, const std::function<bool(std::size_t, std::size_t)>& before) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return before(a, b); });
  return order;
}

DISTIL_XLSTM_INLINE tensor_index::tensor_index(const std::vector<tensor_info>& tensors, std::string_view file) {
  by_name_ = sorted_order(tensors.size(),
                          [&](std::size_t a, std::size_t b) { return tensors[a].name < tensors[b].name; });
  for (std::size_t i = 1; i < by_name_.size(); ++i)
    require(tensors[by_name_[i - 1]].name != tensors[by_name_[i]].name, file, ": tensor ",
            printable(tensors[by_name_[i]].name), " is there twice");
}

DISTIL_XLSTM_INLINE const tensor_info* tensor_index::find(const std::vector<tensor_info>& tensors,
                                                          std::string_view name) const {
  const auto at = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                   [&](std::size_t i, std::string_view n) { return tensors[i].name < n; });
  return at != by_name_.end() && tensors[*at].name == name ? &tensors[*at] : nullptr;
}

}  // namespace distil_xlstm::io::detail
