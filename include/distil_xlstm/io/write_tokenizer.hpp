#pragma once

#include <filesystem>
#include <string>

#include <distil_xlstm/io/tokenizer_data.hpp>

namespace distil_xlstm::io {

/// The text of a tokenizer.json with which Hugging Face's tokenizers gives the same ids.
std::string tokenizer_json(const tokenizer_data& d);

/// The text of a tokenizer_config.json: bos, eos and chat template.
std::string tokenizer_config_json(const tokenizer_data& d);

/// Writes tokenizer.json and tokenizer_config.json into a folder that exists.
void write_tokenizer(const std::filesystem::path& folder, const tokenizer_data& d);

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/write_tokenizer.ipp>
#endif
