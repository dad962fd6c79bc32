// Any bytes as a safetensors file: read in full, or refused with `error`.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <distil_xlstm/io/safetensors.hpp>

namespace {

template <class F>
void attempt(F&& f) {
  try {
    f();
  } catch (const distil_xlstm::error&) {
  }
}

void read_all(std::span<const std::byte> bytes) {
  attempt([&] {
    const distil_xlstm::io::safetensors_file file(bytes, "input");
    for (const auto& t : file.tensors()) {
      attempt([&] { (void)file.at(t.name).values<double>(); });
      attempt([&] { (void)file.at(t.name).values<std::int32_t>(); });
    }
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  read_all(std::as_bytes(std::span(data, size)));
  // the input as a header of the right length in front of 64 bytes, so that mutations reach the JSON
  std::vector<std::uint8_t> framed(8 + size + 64);
  for (int i = 0; i < 8; ++i) framed[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(size >> (8 * i));
  for (std::size_t i = 0; i < size; ++i) framed[8 + i] = data[i];
  read_all(std::as_bytes(std::span(framed)));
  return 0;
}
