#pragma once

#include <distil_xlstm/model/load_language_model.hpp>
#include <distil_xlstm/model/reader.hpp>

#include "shared.hpp"

namespace program {

/// The tokenizer that lies beside a model. One with more ids than the model has rows belongs to another model.
template <class T, class D>
dx::io::tokenizer tokenizer_for(const dx::language_model<T, D>& model, const fs::path& path) {
  auto t = need_tokenizer(path);
  dx::require(t.vocab_size() <= model.vocabulary(), path.string(), ": the tokenizer has a vocabulary of ",
              t.vocab_size(), ", the model one of ", model.vocabulary());
  return t;
}

}  // namespace program
