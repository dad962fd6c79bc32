#pragma once

#include <filesystem>

namespace distil_xlstm {}

/// Everything of the program `distil`.
namespace program {

namespace dx = distil_xlstm;
namespace fs = std::filesystem;

}  // namespace program
