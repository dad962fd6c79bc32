#pragma once

#include <nlohmann/json_fwd.hpp>

namespace distil_xlstm::io {

using json = nlohmann::json;
using ordered_json = nlohmann::ordered_json;  ///< members in the order they were given, for writing

}  // namespace distil_xlstm::io
