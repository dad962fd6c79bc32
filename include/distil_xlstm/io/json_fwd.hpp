#pragma once

#include <distil_xlstm/core/config.hpp>

#if !__has_include(<nlohmann/json_fwd.hpp>)
#error \
    "distil_xlstm's files, models and training need nlohmann_json: link distil_xlstm::io (package nlohmann-json3-dev)"
#include <distil_xlstm: see the error above>
#endif
#include <nlohmann/json_fwd.hpp>

/// Files: safetensors, GGUF, JSON, tokenizers, texts, tokens.
namespace distil_xlstm::io {

using json = nlohmann::json;                  ///< members sorted by name
using ordered_json = nlohmann::ordered_json;  ///< members in the order they were given, for writing

}  // namespace distil_xlstm::io
