#pragma once

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm {

/// Scalars of a step that travel with the kernel that reads them. Where they lie in the device's memory, so that a
/// captured graph finds those of every step, a `const S*` stands in this struct's place and is read alike.
template <class S>
struct by_value {
  S scalars;  ///< those of the step

  /// @{ They are read as through a pointer.
  DISTIL_XLSTM_HD const S& operator*() const { return scalars; }
  DISTIL_XLSTM_HD const S* operator->() const { return &scalars; }
  /// @}
};

/// The scalars of `host` as kernels of the device D read them: `there`, their copy in its memory, unless the
/// host's memory is its own.
template <class D, class S>
constexpr auto step_scalars_of(const S& host, const S* there) {
  if constexpr (D::host_memory)
    return by_value<S>{host};
  else
    return there;
}

}  // namespace distil_xlstm
