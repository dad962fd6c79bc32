#pragma once

#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/gguf_writer.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>

namespace distil_xlstm::io {

/// The keys of a tokenizer, as `read_gguf_tokenizer` and llama.cpp read them; ids up to `vocabulary`, the rows of the
/// embedding, that have no token are named as unused. Throws `error` where GGUF has no key for what the tokenizer does.
void write_gguf_tokenizer(gguf_writer& file, const tokenizer_data& d, index vocabulary);

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/write_gguf_tokenizer.ipp>
#endif
