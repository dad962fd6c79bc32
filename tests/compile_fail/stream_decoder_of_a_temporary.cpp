// expect: stream_decoder(tokenizer) refers to the tokenizer, which must live as long: give it a name first
#include <distil_xlstm/io/read_tokenizer.hpp>
#include <distil_xlstm/io/stream_decoder.hpp>

namespace dx = distil_xlstm;

std::string first() {
#if defined(EXPECT_FAILURE)
  dx::io::stream_decoder text(dx::io::tokenizer(dx::io::read_tokenizer("teacher")));
#else
  const dx::io::tokenizer tokenizer(dx::io::read_tokenizer("teacher"));
  dx::io::stream_decoder text(tokenizer);
#endif
  return text.put(0);
}
