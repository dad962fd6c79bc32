#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/model/language_model.hpp>

namespace distil_xlstm {

template <class Stack>
Stack any_config::stack() const {
  return std::visit([](const auto& c) { return Stack(c.stack()); }, family);
}

DISTIL_XLSTM_INLINE void any_config::identify(fnv_hash& hash) const {
  std::visit([&](const auto& c) { c.identify(hash); }, family);
}

}  // namespace distil_xlstm
