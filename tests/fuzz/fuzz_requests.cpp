// libFuzzer entry: whatever the lines are, the parser gives documents that hold what it promises, or an
// `error`.
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "distil/requests.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    program::request_parser parser("fuzz", 1 + data[0] % 8);
    while (!text.empty()) {
      const auto n = text.find('\n');
      if (!parser.add(text.substr(0, n)) || n == std::string_view::npos) break;
      text.remove_prefix(n + 1);
    }
    const auto file = parser.finish();
    std::vector<program::request_score> scores;
    for (const auto& d : file.documents) {
      if (d.doc_id < 0 || d.doc_id >= program::request_parser::first_unconditional) std::abort();
      if (d.label < 0 || d.label >= std::ssize(d.requests)) std::abort();
      for (const auto& r : d.requests)
        scores.push_back({-1.0, true, program::count_characters(r.continuation)});
    }
    if (file.kind == program::task_kind::cloze) {
      if (program::score_cloze(file.documents, scores).acc != 1) std::abort();
    } else if (const auto s = program::score_multiple_choice(file.documents, scores);
               !(s.acc >= 0 && s.acc <= 1)) {
      std::abort();
    }
  } catch (const distil_xlstm::error&) {
  }
  return 0;
}
