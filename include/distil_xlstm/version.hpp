#pragma once

/// @file
/// The version of these headers, <https://semver.org>, for `#if` and for the program. The build reads it from here.

/// @{
/// A part of the version.
#define DISTIL_XLSTM_VERSION_MAJOR 0
#define DISTIL_XLSTM_VERSION_MINOR 1
#define DISTIL_XLSTM_VERSION_PATCH 0
/// @}
/// One number to compare: 10000 major + 100 minor + patch.
#define DISTIL_XLSTM_VERSION \
  (DISTIL_XLSTM_VERSION_MAJOR * 10000 + DISTIL_XLSTM_VERSION_MINOR * 100 + DISTIL_XLSTM_VERSION_PATCH)

namespace distil_xlstm {

/// @{
/// The same for the program.
inline constexpr int version_major = DISTIL_XLSTM_VERSION_MAJOR;
inline constexpr int version_minor = DISTIL_XLSTM_VERSION_MINOR;
inline constexpr int version_patch = DISTIL_XLSTM_VERSION_PATCH;
/// @}

}  // namespace distil_xlstm
