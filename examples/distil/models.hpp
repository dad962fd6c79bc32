#pragma once

#include <distil_xlstm/model/language_model.hpp>

#include "shared.hpp"

namespace program {

/// A tokenizer with more ids than the model has rows belongs to another model.
inline void require_same_vocabulary(const dx::io::tokenizer& t, dx::index vocabulary,
                                    const std::filesystem::path& model) {
  dx::require(t.vocab_size() <= vocabulary, model.string(), ": the tokenizer has a vocabulary of ",
              t.vocab_size(), ", the model one of ", vocabulary);
}

}  // namespace program
