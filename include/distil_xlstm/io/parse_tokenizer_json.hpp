#pragma once

#include <string_view>

#include <distil_xlstm/io/tokenizer_data.hpp>

namespace distil_xlstm::io {

/// The tokenizer in the text of a Hugging Face tokenizer.json. Truncation and padding, which belong to a batch,
/// are not read. Throws `error` that begins with `name` and names what is not of this family.
tokenizer_data parse_tokenizer_json(std::string_view text, std::string_view name);

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/parse_tokenizer_json.ipp>
#endif
