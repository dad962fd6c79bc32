#pragma once

namespace distil_xlstm {

/// The version of these headers, <https://semver.org>. The build reads it from here.
inline constexpr int version_major = 0;
inline constexpr int version_minor = 1;
inline constexpr int version_patch = 0;

}  // namespace distil_xlstm
