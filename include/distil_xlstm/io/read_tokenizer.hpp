#pragma once

#include <filesystem>

#include <distil_xlstm/io/tokenizer_data.hpp>

namespace distil_xlstm::io {

/// The tokenizer that a path holds: the keys of a GGUF file, or the tokenizer.json of a folder or of its own (its
/// name ends in .json) with what the files beside it say: more tokens, and which are special (tokenizer_config.json,
/// special_tokens_map.json, added_tokens.json), which end a text (generation_config.json, config.json), and the chat
/// template (tokenizer_config.json, chat_template.jinja). Throws `error` naming the file and what does not fit.
tokenizer_data read_tokenizer(const std::filesystem::path& path);

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/read_tokenizer.ipp>
#endif
