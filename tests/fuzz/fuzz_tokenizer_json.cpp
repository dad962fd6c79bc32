// Any text as a tokenizer.json: refused with `error`, or a tokenizer whose texts and files read back.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include <distil_xlstm/io/parse_tokenizer_json.hpp>
#include <distil_xlstm/io/stream_decoder.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>

namespace {

using namespace distil_xlstm::io;

void check(bool good) {
  if (!good) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const tokenizer t(parse_tokenizer_json(text, "input"));
    const std::string sample =
        replace_invalid_utf8(text.substr(0, 512)) + " we'll SEE'S 123  e\u0301\r\n \u3000x";
    tokenizer_scratch scratch;
    for (const bool parse_special : {false, true}) {
      const encoded once = t.encode(sample, parse_special, scratch),
                    again = t.encode(sample, parse_special, scratch);
      check(once.ids == again.ids && once.dropped_bytes == again.dropped_bytes);
      stream_decoder stream(t);
      std::string out;
      for (const auto id : once.ids) out += stream.put(id);
      out += stream.finish();
      check(is_valid_utf8(out) && out == replace_invalid_utf8(t.decode(once.ids)));
    }
    const tokenizer back(parse_tokenizer_json(tokenizer_json(t.data()), "written"));
    check(back.encode(sample).ids == t.encode(sample).ids && back.fingerprint() == t.fingerprint());
  } catch (const distil_xlstm::error&) {
  }
  return 0;
}
