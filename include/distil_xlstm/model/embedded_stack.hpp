#pragma once

#include <string>

#include <distil_xlstm/block/block.hpp>

namespace distil_xlstm {

template <class Matrix, class Stack>
struct embedded_stack_params {
  Matrix embedding;  ///< [vocabulary, width]
  Stack stack;
  Matrix head;  ///< [vocabulary, width]; the embedding where they are tied
};

/// All weights of a language model, under its family's names: embedding, stack, and a head unless it is the
/// embedding.
template <Block Stack>
struct embedded_stack {
  Stack stack{};
  index vocabulary = 0;
  bool tied = false;
  std::string embedding_name, prefix, head_name;

  template <class L>
  auto params(L& l) const {
    const index width = stack.width_in();
    embedded_stack_params<typename L::matrix_type, params_t<Stack, L>> p;
    p.embedding = l.matrix(embedding_name, vocabulary, width, initial::normal(0.02));
    p.stack = l.scope(prefix, [&] { return stack.params(l); });
    p.head = tied ? p.embedding : l.matrix(head_name, vocabulary, width, initial::normal(0.02));
    return p;
  }
};

}  // namespace distil_xlstm
