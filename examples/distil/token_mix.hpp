#pragma once

#include <algorithm>
#include <cmath>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <distil_xlstm/core/from_chars.hpp>
#include <distil_xlstm/distil/repeated_passages.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/token_file.hpp>

#include "common.hpp"

namespace program {

/// A token file of --tokens, and what it weighs there.
struct weighted_file {
  fs::path path;
  double weight = 1;
};

namespace detail {

inline bool is_there(std::string_view path) {
  std::error_code none;
  return fs::exists(fs::path(path), none);
}

/// The number that a text is, whole.
inline std::optional<double> number_of(std::string_view text) {
  double out = 0;
  const auto [end, code] = dx::from_chars(text.data(), text.data() + text.size(), out);
  if (code != std::errc() || end != text.data() + text.size()) return {};
  return out;
}

/// "FILE" or "FILE:WEIGHT". A name that is there is a file's, whatever it has in it.
struct named_weight {
  std::string_view path;
  std::optional<std::string_view> weight;
  bool there;
  explicit named_weight(std::string_view text) : path(text), there(is_there(text)) {
    const auto colon = text.rfind(':');
    if (there || colon == text.npos || text.find(',', colon) != text.npos) return;
    there = is_there(text.substr(0, colon));
    if (there || number_of(text.substr(colon + 1)))
      path = text.substr(0, colon), weight = text.substr(colon + 1);
  }
};

/// Where the first entry of a list ends: at the last comma, or the end, before which it names a file that is there;
/// where none does, at the first comma.
inline std::size_t entry_end(std::string_view list) {
  const std::size_t first = std::min(list.find(','), list.size());
  for (std::size_t end = list.size(); end > first; end = list.rfind(',', end - 1))
    if (named_weight(list.substr(0, end)).there) return end;
  return first;
}

}  // namespace detail

/// The files that --tokens names: "FILE", or several with their weights, "FILE:0.7,FILE:0.3", which count by their
/// ratio; without weights all weigh the same. A colon or a comma may be part of a file's name: the longest name that
/// there is a file of is taken. Throws `usage_error` for a weight that is not above 0 and finite, weights for some only,
/// and a file that is named twice.
inline std::vector<weighted_file> parse_token_mix(std::string_view given) {
  const std::string_view whole = given;
  const auto refuse = [&](const std::string& why) {
    throw usage_error("--tokens: '" + std::string(whole) + "': " + why);
  };
  std::vector<weighted_file> out;
  std::size_t weights = 0;
  for (bool more = true; more;) {
    const std::size_t end = detail::entry_end(given);
    const detail::named_weight one(given.substr(0, end));
    more = end < given.size();
    given.remove_prefix(more ? end + 1 : end);

    if (one.path.empty()) refuse("a file's name is missing");
    weighted_file file{fs::path(one.path)};
    if (one.weight) {
      const auto weight = detail::number_of(*one.weight);
      if (!weight || !(*weight > 0) || !std::isfinite(*weight))
        refuse("'" + std::string(*one.weight) + "' is no weight of " + file.path.string() +
               ": it must be above 0, and a number");
      file.weight = *weight, ++weights;
    }
    for (const weighted_file& other : out) {
      std::error_code none;
      if (other.path == file.path || fs::equivalent(other.path, file.path, none))
        refuse(file.path.string() + " is named twice");
    }
    out.push_back(file);
  }
  if (weights > 0 && weights < out.size()) refuse("either all files have a weight, or none has");
  return out;
}

/// The texts of --tokens, opened, and those of --repeats.
class token_mix {
 public:
  /// `repeats`: the share of the windows in which passages of the first file come back, 0 <= repeats < 1.
  token_mix(const std::vector<weighted_file>& files, double repeats, std::uint64_t seed)
      : repeats_(repeats), seed_(seed) {
    for (const weighted_file& f : files) {
      files_.emplace_back(f.path);
      texts_.push_back({&files_.back(), f.weight});
    }
    shares_ = of_option("tokens", [&] { return dx::shares_of(texts_); });
  }
  token_mix(const token_mix&) = delete;
  token_mix& operator=(const token_mix&) = delete;

  const std::deque<dx::io::token_file>& files() const { return files_; }
  /// The files' alone. Refers to this.
  const std::vector<dx::weighted_text>& texts() const { return texts_; }
  /// What is cut into windows of `length` tokens: with --repeats also a text of documents that are as long, so that
  /// what comes back does so within a window. Refers to this.
  std::vector<dx::weighted_text> texts(dx::index length) {
    if (repeats_ == 0 || files_.front().size() == 0) return texts_;
    const double weight = repeats_ / (1 - repeats_);  // beside files that weigh 1
    double tokens = 0;
    for (const auto& f : files_) tokens += weight * static_cast<double>(f.size());
    // As many as are read while all files are; no more memory than 64 MiB.
    const double documents = std::min(tokens, 16777216.) / static_cast<double>(length);
    repeated_.push_back(dx::repeated_passages(
        files_.front(), std::max<dx::index>(1, static_cast<dx::index>(documents)), length, seed_));
    dx::token_text& made = repeated_.back();
    made.append(std::vector{made.ids.front()});  // so that the last window has a last target
    std::vector<dx::weighted_text> out;
    for (std::size_t i = 0; i < texts_.size(); ++i) out.push_back({texts_[i].text, shares_[i]});
    out.push_back({&made, weight});
    return out;
  }

  /// Adds to what a run is known by: `tokens_sha256`, of one file its hash, of several all hashes and, as
  /// `tokens_shares`, what each has of the windows that are of files; `repeats`, where there are some.
  void identify(dx::io::json& run) const {
    if (repeats_ > 0) run["repeats"] = repeats_;
    if (files_.size() == 1) {
      run["tokens_sha256"] = files_.front().data_sha256();
      return;
    }
    run["tokens_sha256"] = dx::io::json::array();
    for (const auto& f : files_) run["tokens_sha256"].push_back(f.data_sha256());
    run["tokens_shares"] = shares_;
  }

 private:
  std::deque<dx::io::token_file> files_;
  std::vector<dx::weighted_text> texts_;
  std::deque<dx::token_text> repeated_;
  double repeats_;
  std::uint64_t seed_;
  std::vector<double> shares_;
};

}  // namespace program
