// Any bytes as a token file: read in full, or refused with `error`.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include <distil_xlstm/io/token_file.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const distil_xlstm::io::token_file file(std::as_bytes(std::span(data, size)), "input");
    for (distil_xlstm::index i = 0; i < file.size(); ++i) {
      const auto start = file.document_start(i);
      if (file[i] < 0 || file[i] >= file.vocab_size() || start < 0 || start > i ||
          file.starts_at(i) != (start == i))
        std::abort();
    }
    (void)file.data_sha256();
  } catch (const distil_xlstm::error&) {
  }
  return 0;
}
