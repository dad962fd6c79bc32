#pragma once

#include <cstdint>

#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/comm/single.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/model/reader.hpp>

namespace distil_xlstm {

/// How `score` reads a text.
struct score_options {
  index window = 512;  ///< tokens that are read on end: what a token is predicted from
  index batch = 8;     ///< windows at a time
};

/// What a model makes of a text, a token file or a `token_text`: nats over its tokens, and their perplexity. Windows
/// are independent, their first tokens context only, as are those of documents. Several ranks share the text's batches,
/// and errors, as in `score_text`.
template <class D, class Model, class Text, Communicator C = comm::single>
text_score score(D& device, const Model& model, const Text& text, score_options how = {},
                 C& ranks = comm::alone) {
  reader read(device, model);
  return score_text<typename Model::scalar>(
      device, text, how.window, how.batch, model.head(),
      [&](sequence_view seq, const std::int32_t* ids, matrix_view<typename Model::scalar> hidden) {
        read(seq, ids, hidden);
      },
      window_state::empty, ranks);
}

}  // namespace distil_xlstm
