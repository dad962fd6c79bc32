#pragma once

#include <string>
#include <string_view>

#include <distil_xlstm/comm/any.hpp>

#include "common.hpp"

namespace program {

/// The processes that work together: those that `launch`, MPI, torchrun or one like it has started, or this one alone.
dx::comm::any& processes();
/// Whether this one writes, to files and to the terminal: rank 0.
inline bool leads() { return processes().rank() == 0; }
/// The CPU threads of each where none are asked for, so that those of one machine share its cores; 0: the device's own
/// choice.
int threads_each();
/// Which of this machine's processes this one is.
int local_rank();
/// How the line ends that says why all processes of a job are ended.
std::string what_stands(std::string_view command);
/// One line on stderr, whatever std::cerr is made of now.
void say(const std::string& text);

/// The job of one process, from its beginning to its end.
class process_session {
 public:
  /// Joins the others, if there are any, to do `command`. From here on what other ranks than 0 say on stdout and stderr
  /// is not shown, and a rank that dies or hangs ends all.
  explicit process_session(std::string_view command);
  process_session(const process_session&) = delete;
  process_session& operator=(const process_session&) = delete;
  ~process_session();

  /// Throws `error` where processes were started that would not know of each other, and where several would do what
  /// `command` does in one.
  void check(std::string_view command) const;
  /// Throws `usage_error` where `option` would start several processes for what one does, or where this is one of several
  /// already.
  static void check_alone(std::string_view command, const char* option);
  /// Ends this rank's part with its exit status, and says `what` was wrong, if anything: where all ranks end together the
  /// first that failed says it; where others still work it ends them, too. What it returns is the exit status.
  int end(int status, const std::string& what);
};

}  // namespace program
