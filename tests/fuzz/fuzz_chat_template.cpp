// Any text as a chat template: refused with `error` in one line, or rendered as valid UTF-8, in bounded time.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <string>
#include <string_view>
#include <utility>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/utf8.hpp>

#include "distil/jinja/interpreter.hpp"
#include "distil/jinja/parser.hpp"

namespace {

using namespace program::jinja;

void check(bool good) {
  if (!good) std::abort();
}

value message(const char* role, const char* content) {
  return make_mapping({{"role", role}, {"content", content}});
}

std::pair<bool, std::string> render(std::string_view source) {
  environment e{
      .variables = {{"messages",
                     make_list({message("system", "Be brief."), message("user", " Hello\n"),
                                message("assistant", "é <think>x</think> 世界"), message("user", "it's")})},
                    {"tools", none()},
                    {"documents", none()},
                    {"add_generation_prompt", true},
                    {"bos_token", "<s>"},
                    {"eos_token", "</s>"}},
      .unknown = {"pad_token"},
      .now = 1'722'000'000,
      .steps = 1 << 12};
  try {
    return {true, interpreter(e).run(parser(source).run())};
  } catch (const distil_xlstm::error& problem) {
    return {false, problem.what()};
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string source =
      distil_xlstm::io::replace_invalid_utf8({reinterpret_cast<const char*>(data), size});
  const auto [rendered, text] = render(source);
  check(rendered ? distil_xlstm::io::is_valid_utf8(text) : text.find('\n') == text.npos);
  return 0;
}
