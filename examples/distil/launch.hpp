#pragma once

#include <optional>
#include <string_view>

#include "command.hpp"

namespace program {

/// Where --gpus N or --processes N asks for several processes of this machine: starts them, each with the same command
/// line, waits for them and gives their exit status. When one ends too early the others have ten seconds to end, too.
/// Nothing where one process is enough, where this is one of those, or where the command line does not say a number.
std::optional<int> launch(std::string_view command, const arguments& given);

/// Set for the processes that `launch` starts.
inline constexpr const char* launched_by = "DISTIL_LAUNCHED_BY";
/// The socket on which the first of them listens.
inline constexpr const char* listening_at = "DISTIL_LISTENING_AT";

}  // namespace program
