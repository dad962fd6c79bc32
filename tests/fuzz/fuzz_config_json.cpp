// Any text as the config.json of a student, a linearised student, a teacher or an xLSTM-7B: refused with `error`, or a
// shape that can be measured.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_linearised.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>
#include <distil_xlstm/model/load_xlstm_7b.hpp>

namespace {

using namespace distil_xlstm;

template <class F>
void attempt(F&& f) {
  try {
    f();
  } catch (const error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attempt([&] {
    const io::json file = io::parse_json(text, "input");
    attempt([&] { (void)read_llama_config(file, "input"); });
    attempt([&] {
      const xlstm_7b_config c = read_xlstm_7b_config(file, "input");
      if (c.blocks <= 64 && c.total() <= 0) std::abort();
    });
    attempt([&] {
      const linearised_config c = read_linearised_config(file, "input");
      // What we write is what we read.
      const linearised_config back = read_linearised_config(write_linearised_config(c), "written");
      if (back.mixers != c.mixers || back.window != c.window || back.sinks != c.sinks ||
          back.features != c.features)
        std::abort();
    });
    attempt([&] {
      const xlstm_config c = read_xlstm_config(file, "input");
      // What we write is what we read.
      const xlstm_config back = read_xlstm_config(write_xlstm_config(c), "written");
      if (c.blocks > 64) return;
      const distil_xlstm::index trainable = c.trainable();
      if (trainable <= 0 || back.trainable() != trainable) std::abort();
    });
  });
  return 0;
}
