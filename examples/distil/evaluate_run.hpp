#pragma once

#include <unistd.h>

#include <cmath>
#include <iostream>
#include <string>

#include <distil_xlstm/distil/evaluate.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/token_file.hpp>

#include "models.hpp"
#include "options.hpp"
#include "requests.hpp"

namespace program {

/// The requests of all documents as a model reads them, one after another.
inline std::vector<dx::continuation> continuations_of(std::span<const document> documents,
                                                      const dx::io::tokenizer& tokenizer) {
  std::vector<dx::continuation> out;
  for (const auto& d : documents) try {
      for (const auto& r : d.requests)
        out.push_back(dx::tokenize_continuation(tokenizer, r.context, r.continuation));
    } catch (const dx::error& e) {
      dx::fail("document ", d.doc_id, ": ", e.what());
    }
  return out;
}

/// What the model says about them, with what is counted in their texts.
inline std::vector<request_score> request_scores(std::span<const document> documents,
                                                 std::span<const dx::continuation_score> given) {
  std::vector<request_score> out;
  for (const auto& d : documents)
    for (const auto& r : d.requests) {
      const auto& s = given[out.size()];
      out.push_back({s.sum_logprob, s.all_argmax, count_characters(r.continuation)});
    }
  return out;
}

template <class T, class D>
class evaluation {
  using json = dx::io::json;

 public:
  evaluation(D& device, const evaluate_request& r)
      : request_(r),
        device_(device),
        model_(dx::load_language_model<T>(device_, r.model)),
        read_(device_, model_) {}

  json perplexity() {
    if (!request_.tokens.empty()) {
      const dx::io::token_file text(request_.tokens);
      dx::require(text.vocab_size() <= model_.vocabulary(), request_.tokens.string(),
                  ": made with a vocabulary of ", text.vocab_size(), ", the model has ", model_.vocabulary());
      if (const auto t = tokenizer_of(request_.model); t && !text.tokenizer_sha256().empty())
        dx::require(text.tokenizer_sha256() == dx::io::tokenizer(*t).fingerprint(), request_.tokens.string(),
                    ": made with another tokenizer than the model's");
      return perplexity_of(text, request_.tokens);
    }
    const auto t = tokenizer_for(model_, request_.model);
    return perplexity_of(
        dx::token_text{encode_text(t, read_text(request_.text), request_.text.string(), false)}, request_.text);
  }

  json requests() {
    const auto t = tokenizer_for(model_, request_.model);
    const auto file = request_.limit > 0 ? read_requests(request_.requests, request_.limit)
                                         : read_requests(request_.requests);
    const auto asked = continuations_of(file.documents, t);
    const auto given =
        dx::score_continuations<T>(device_, asked, model_.head(), 8, read_, [](dx::index done, dx::index all) {
          if (::isatty(2)) std::cerr << "\r" << done << "/" << all << std::flush;
        });
    const auto scores = request_scores(file.documents, given);
    if (::isatty(2)) std::cerr << "\r\033[K";
    if (file.kind == task_kind::cloze) {
      const auto x = score_cloze(file.documents, scores);
      return {{"documents", x.documents}, {"acc", x.acc}, {"acc_norm", nullptr}, {"ppl", x.ppl}};
    }
    const auto x = score_multiple_choice(file.documents, scores);
    return {{"documents", x.documents}, {"acc", x.acc}, {"acc_norm", x.acc_norm}, {"ppl", nullptr}};
  }

 private:
  using model_type = dx::language_model<T, D>;

  template <class Text>
  json perplexity_of(const Text& text, const fs::path& name) {
    dx::require(text.size() >= 2, name.string(), ": ", text.size(), " tokens are too few to score");
    dx::text_score s;
    if (request_.carry) {
      dx::require(!model_.has_cache(), "--carry: ", request_.model.string(),
                  " is a transformer; only a recurrent model carries a state from window to window");
      s = dx::score_text<T>(
          device_, text, request_.window, 1, model_.head(), [&](auto... call) { read_.read(call...); },
          dx::window_state::carried);
    } else {
      s = dx::score_text<T>(device_, text, request_.window, 8, model_.head(), read_);
    }
    dx::require(s.scored > 0, name.string(), ": no token to score");
    dx::require(std::isfinite(s.nll), request_.model.string(), ": gives probabilities that are not numbers to ",
                name.string());
    return {{"tokens", s.tokens}, {"scored", s.scored}, {"nll", s.nll}, {"ppl", s.perplexity()}};
  }

  evaluate_request request_;
  D& device_;
  model_type model_;
  dx::reader<model_type> read_;
};

inline void print(const dx::io::json& result, bool as_json) {
  if (as_json) {
    std::cout << result.dump() << "\n";
    return;
  }
  for (const auto& [key, value] : result.items())
    if (!value.is_null())
      std::cout << key << std::string(12 - key.size(), ' ')
                << (value.is_number_float() ? short_number(value.get<double>()) : value.dump()) << "\n";
}

template <class T, class D>
int evaluate_request::run(D& device) const {
  evaluation<T, D> e(device, *this);
  print(requests.empty() ? e.perplexity() : e.requests(), as_json);
  return 0;
}

}  // namespace program
