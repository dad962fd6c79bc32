#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/comm/single.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/loss/expression.hpp>
#include <distil_xlstm/loss/head.hpp>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm {

/// What two models say of a text: the score of the one, and how far it is from its teacher.
struct divergence_score {
  text_score text;  ///< of the model
  double kl = 0;    ///< sum over the tokens scored of KL(softmax(teacher) || softmax(model)), nats
  /// Nats a token. Throws `error` where nothing was scored.
  double mean_kl() const {
    require(text.scored > 0, "divergence: of ", text.tokens, " tokens none is scored");
    return kl / static_cast<double>(text.scored);
  }
};

/// KL(teacher || model) over the tokens that `score_text` scores, in the same windows, each from an empty state, beside
/// that score itself. `read_teacher` and `read_model` are as its `forward`: each writes the vectors that its own head
/// reads. Logits of both are alive a chunk of rows at a time, as in `loss::head`. Several ranks share the batches as
/// there. Throws `error` where the vocabularies differ, and as `score_text` does.
template <class T, class D, class Text, class ReadTeacher, class ReadModel, Communicator C = comm::single>
divergence_score score_divergence(D& device, const Text& text, index window, index batch,
                                  logit_head teacher_head, ReadTeacher&& read_teacher, logit_head head,
                                  ReadModel&& read_model, C& ranks = comm::alone) {
  require(head.rows == teacher_head.rows, "divergence: the model has a vocabulary of ", head.rows,
          ", the teacher of ", teacher_head.rows);
  const head_pair<frozen_matrix, frozen_matrix, T> heads{head.matrix, teacher_head.matrix};
  const head_pair<logit_head, logit_head, T> capped{head, teacher_head};
  const auto kl = loss::kl(1.0).template at<T>({}).logits;
  const index most = std::max<index>(1, batch * std::min(window, text.size()));
  const buffer<T, D> of_model(device, most * head.cols), of_teacher(device, most * teacher_head.cols);
  const auto read = [&](const window_batch& w) {
    const matrix_view<T> hs(of_model.data(), w.seq.rows(), head.cols),
        ht(of_teacher.data(), w.seq.rows(), teacher_head.cols);
    read_teacher(w.seq, w.ids, ht);
    read_model(w.seq, w.ids, hs);
    const auto s = loss::score_tokens(device, matrix_view<const T>(hs), head, w.targets, w.scored);
    const auto divergence = [&](const auto& with) {
      return loss::head(device, kl, hs, ht, with, w.targets, w.scored, T(1), {}).raw[0];
    };
    const double kl_sum = head.cap == 0 && teacher_head.cap == 0 ? divergence(heads) : divergence(capped);
    return std::array{s.nll, static_cast<double>(s.scored), kl_sum};
  };
  const auto [nll, scored, apart] =
      detail::sum_over_batches<3>(device, text, window, batch, head.rows, window_state::empty, read, ranks);
  const divergence_score total{{text.size(), static_cast<index>(scored), nll}, apart};
  detail::require_scored(text, total.text);
  return total;
}

}  // namespace distil_xlstm
