#pragma once

#include <string>

#include <distil_xlstm/block/block.hpp>

namespace distil_xlstm {

/// What `embedded_stack::params` takes from a layout; `Stack` is what the stack's own `params` gives.
template <class Matrix, class Stack>
struct embedded_stack_params {
  Matrix embedding;  ///< [vocabulary, width]
  Stack stack;       ///< under the prefix
  Matrix head;       ///< [vocabulary, width]; the embedding where they are tied
};

/// All weights of a language model, under its family's names: embedding, stack, and a head unless it is the
/// embedding.
template <Block Stack>
struct embedded_stack {
  Stack stack{};         ///< maps the embedding's width to itself
  index vocabulary = 0;  ///< rows of embedding and head
  bool tied = false;     ///< the head is the embedding, one tensor
  /// @{
  /// Names of the tensors: the embedding's, what the stack's begin with, before a dot, and the head's.
  std::string embedding_name, prefix, head_name;
  /// @}

  /// As a block's: takes all weights from a layout, in the order of `embedded_stack_params`. Embedding and head begin
  /// with the standard deviation 0.02.
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
