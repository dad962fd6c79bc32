#pragma once

#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>

namespace distil_xlstm::io {

/// The tokenizer of a GGUF file, with llama.cpp's defaults where it has no key. Throws `error` naming the file and
/// what is not of this family.
tokenizer_data read_gguf_tokenizer(const gguf_file& file);

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/read_gguf_tokenizer.ipp>
#endif
