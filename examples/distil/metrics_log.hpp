#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/from_chars.hpp>
#include <distil_xlstm/io/atomic_file.hpp>

#include "common.hpp"

namespace program {

/// One line of the log: an ordered list of names with numbers or strings. Non-finite numbers become null.
using record = nlohmann::ordered_json;

/// x to `digits` significant decimal digits: for speeds and other measurements whose last digits are noise.
inline double significant(double x, int digits) {
  if (!std::isfinite(x)) return x;
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, x, std::chars_format::scientific, digits - 1).ptr;
  double rounded = 0;
  distil_xlstm::from_chars(text, end, rounded);
  return rounded;
}

namespace detail {
struct metrics_text {
  std::vector<std::string_view> lines;  ///< whole lines, their ends removed
  std::vector<record> records;          ///< one for each line
};

inline std::string metrics_bytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  dx::require(in.is_open(), path.string(), ": cannot be opened: ", std::strerror(errno));
  std::string text(std::istreambuf_iterator<char>(in), {});
  dx::require(!in.bad(), path.string(), ": cannot be read");
  return text;
}

/// A stop in the middle of a write can tear only the last line: that one is left out, any other must be whole.
inline metrics_text metrics_lines(const fs::path& path, std::string_view text) {
  metrics_text found;
  std::size_t number = 0;
  while (!text.empty()) {
    ++number;
    const auto n = text.find('\n');
    if (n == std::string_view::npos) break;
    const auto line = text.substr(0, n);
    text.remove_prefix(n + 1);
    auto json = record::parse(line, nullptr, false);
    if (!json.is_object()) {
      dx::require(text.empty(), path.string(), ":", number, ": not a JSON object");
      break;
    }
    found.lines.push_back(line);
    found.records.push_back(std::move(json));
  }
  return found;
}
}  // namespace detail

/// The records of a metrics file, in order; a torn last line is left out. Errors name the file and the line.
inline std::vector<record> read_metrics(const fs::path& path) {
  return detail::metrics_lines(path, detail::metrics_bytes(path)).records;
}

/// A run's metrics.jsonl: one JSON object a line, handed to the system whole at every record, so that a killed
/// run leaves all it logged. Errors name the file.
class metrics_log {
 public:
  /// Opens the file for appending and makes it where it is missing. A torn last line is removed.
  explicit metrics_log(fs::path path) : path_(std::move(path)) {
    open();
    drop_torn_line();
  }
  metrics_log(const metrics_log&) = delete;
  metrics_log& operator=(const metrics_log&) = delete;
  ~metrics_log() {
    if (file_ >= 0) ::close(file_);
  }

  /// Appends one record, an object.
  void append(const record& line) {
    dx::require(line.is_object(), path_.string(), ": a record must be an object, not ", line.type_name());
    const std::string text = line.dump(-1, ' ', false, record::error_handler_t::replace) + "\n";
    const auto before = size();
    for (std::size_t done = 0; done < text.size();) {
      const auto n = ::write(file_, text.data() + done, text.size() - done);
      if (n >= 0) {
        done += static_cast<std::size_t>(n);
      } else if (errno != EINTR) {
        const int why = errno;
        // Half a line must not stay in front of later ones; where even this fails, a reader sees a torn line.
        [[maybe_unused]] const int undone = ::ftruncate(file_, before);
        dx::fail(path_.string(), ": cannot be written: ", std::strerror(why));
      }
    }
  }

  /// Puts all records onto the disk. Called before a checkpoint, which must not be newer than the log.
  void sync() {
    dx::require(::fdatasync(file_) == 0, path_.string(), ": cannot be synced: ", std::strerror(errno));
  }

  /// For a resume from the checkpoint of `step`: drops every record with a later step, atomically. Those
  /// without a step stay.
  void truncate_after(std::int64_t step) {
    const std::string text = detail::metrics_bytes(path_);
    const auto found = detail::metrics_lines(path_, text);
    std::string kept;
    for (std::size_t i = 0; i < found.lines.size(); ++i) {
      const auto at = found.records[i].find("step");
      if (at != found.records[i].end()) {
        dx::require(at->is_number(), path_.string(), ":", i + 1, ": step is not a number");
        if (at->get<double>() > static_cast<double>(step)) continue;
      }
      kept.append(found.lines[i]) += '\n';
    }
    if (kept == text) return;
    dx::io::write_text_atomically(path_, kept);
    ::close(std::exchange(file_, -1));
    open();
  }

  const fs::path& path() const { return path_; }

 private:
  void open() {
    file_ = ::open(path_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    dx::require(file_ >= 0, path_.string(), ": cannot be opened: ", std::strerror(errno));
  }

  off_t size() const {
    struct stat s {};
    dx::require(::fstat(file_, &s) == 0, path_.string(), ": cannot be read: ", std::strerror(errno));
    return s.st_size;
  }

  void drop_torn_line() {
    off_t end = size();
    char last = '\n';
    while (end > 0 && ::pread(file_, &last, 1, end - 1) == 1 && last != '\n') --end;
    if (end != size())
      dx::require(::ftruncate(file_, end) == 0, path_.string(), ": cannot be cut: ", std::strerror(errno));
  }

  fs::path path_;
  int file_ = -1;
};

}  // namespace program
