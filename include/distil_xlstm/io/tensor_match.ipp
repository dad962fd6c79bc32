#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/tensor_match.hpp>

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE void tensor_match::offer(const std::string& name, const tensor_info& tensor) {
  if (!tensors_.emplace(name, &tensor).second) complain(detail::printable(tensor.name) + " is there twice");
}

DISTIL_XLSTM_INLINE const tensor_info* tensor_match::take(const std::string& name,
                                                          const std::vector<index>& shape) {
  return take(name, detail::shape_text(shape), [&](const auto& given) { return given == shape; });
}

DISTIL_XLSTM_INLINE std::nullptr_t tensor_match::complain(const std::string& what) {
  (complaints_ += complaints_.empty() ? "" : "; ") += what;
  return nullptr;
}

DISTIL_XLSTM_INLINE void tensor_match::finish(const std::string& file) {
  for (const auto& [name, t] : tensors_) complain(detail::printable(t->name) + " is not used");
  tensors_.clear();
  require(complaints_.empty(), file, ": ", complaints_);
}

}  // namespace distil_xlstm::io
