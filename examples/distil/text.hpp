#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/io/tokenizer.hpp>

#include "common.hpp"

namespace program {

/// The content of a text file; "-" is stdin.
std::string read_text(const fs::path& path);

/// The tokenizer that a model carries: a GGUF's keys, or the tokenizer.json of a folder; nothing where there is
/// none.
std::optional<dx::io::tokenizer_data> tokenizer_of(const fs::path& model);

/// The tokenizer of a model, or an error that names the model.
dx::io::tokenizer need_tokenizer(const fs::path& model);
/// The same; one with more ids than the model has rows belongs to another model.
dx::io::tokenizer need_tokenizer(const fs::path& model, dx::index vocabulary);

/// Throws `error` unless the tokens are of the vocabulary, and made by the tokenizer where both are known;
/// `whose` is "the teacher" or "the model".
void check_vocabulary(const dx::io::token_file& tokens, dx::index vocabulary,
                      const std::optional<dx::io::tokenizer_data>& tokenizer, const std::string& whose);

/// The ids of a text. Throws an error that begins with `name` where the text is empty or not UTF-8; bytes for
/// which the vocabulary has no token are dropped, with one warning on stderr that counts them.
std::vector<std::int32_t> encode_text(const dx::io::tokenizer& tokenizer, const std::string& text,
                                      const std::string& name, bool parse_special);

/// What tells one model from another: the hash of its file or files, or of its folder's weights and configuration.
std::string hash_of(const fs::path& model);

}  // namespace program
