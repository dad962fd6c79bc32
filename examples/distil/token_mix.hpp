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

/// Windows in which passages of the first file come back, beside those of the files.
struct repeats {
  double share = 0;      ///< of all windows that are read, 0 <= share < 1
  dx::index length = 0;  ///< tokens of a document: the longest window
  std::uint64_t seed = 0;
};

/// The texts of --tokens, opened, and that of --repeats.
class token_mix {
 public:
  token_mix(const std::vector<weighted_file>& files, const repeats& r) : repeats_(r.share) {
    double weights = 0;
    for (const weighted_file& f : files) {
      files_.emplace_back(f.path);
      texts_.push_back({&files_.back(), f.weight});
      weights += f.weight;
    }
    shares_ = of_option("tokens", [&] { return dx::shares_of(texts_); });
    if (repeats_ == 0) return;
    // A quarter of the text, but no more memory than 64 MiB.
    const dx::index tokens = std::min(files_.front().size() / 4, dx::index{1} << 24);
    repeated_ =
        dx::repeated_passages(files_.front(), std::max<dx::index>(1, tokens / r.length), r.length, r.seed);
    repeated_.append(std::vector{repeated_.ids.front()});  // so that the last window has a last target
    texts_.push_back({&repeated_, weights * repeats_ / (1 - repeats_)});
  }
  token_mix(const token_mix&) = delete;
  token_mix& operator=(const token_mix&) = delete;

  const std::deque<dx::io::token_file>& files() const { return files_; }
  /// Refers to this.
  const std::vector<dx::weighted_text>& texts() const { return texts_; }

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
  dx::token_text repeated_;
  double repeats_;
  std::vector<double> shares_;
};

}  // namespace program
