// Any bytes as a GGUF file: read in full, or refused with `error`.
#include <cstddef>
#include <cstdint>
#include <span>

#include <distil_xlstm/io/gguf.hpp>

namespace {

template <class F>
void attempt(F&& f) {
  try {
    f();
  } catch (const distil_xlstm::error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  attempt([&] {
    const distil_xlstm::io::gguf_file file(std::as_bytes(std::span(data, size)), "input");
    for (const auto& [key, value] : file.keys()) {
      attempt([&, k = key] { (void)file.get_u64(k); });
      attempt([&, k = key] { (void)file.get_i64(k); });
      attempt([&, k = key] { (void)file.get_f64(k); });
      attempt([&, k = key] { (void)file.get_bool(k); });
      attempt([&, k = key] { (void)file.get_string(k); });
      attempt([&, k = key] { (void)file.get_strings(k); });
      attempt([&, k = key] { (void)file.get_i32s(k); });
      attempt([&, k = key] { (void)file.get_f32s(k); });
    }
    for (const auto& t : file.tensors()) {
      (void)file.at(t.name).values<float>();
      (void)t.values<double>();
    }
  });
  return 0;
}
