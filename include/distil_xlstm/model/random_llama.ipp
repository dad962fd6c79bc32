#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/random_llama.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE void write_random_llama(const std::filesystem::path& folder, llama_config c, dtype stored,
                                            std::uint64_t seed) {
  c.tied = true;
  const llama_family& family =
      find_llama_family(c.model_type, "write_random_llama: model_type " + c.model_type);
  c.output_bias = family.attention_bias && c.qkv_bias;
  c.qkv_bias = family.qkv_bias || c.output_bias;
  c.head_norms = family.head_norms;
  c.check("write_random_llama");
  io::write_text_atomically(folder / "config.json", write_llama_config(c).dump());

  const manifest tensors = tensors_of(c);
  rng random(seed);
  std::vector<float> drawn((1 << 20) + 7), numbers(drawn.size());
  for (auto& x : drawn) x = static_cast<float>(random.normal());
  std::size_t next = 0;
  io::safetensors_writer file;
  for (const auto& t : tensors) file.declare(t.name, stored, t.shape);
  file.open(folder / "model.safetensors");
  for (const auto& t : tensors) {
    const bool norm = t.name.find("norm.") != t.name.npos;
    const float mean = norm ? 1 : 0;
    const float deviation = norm                  ? 0.2f
                            : t.shape.size() == 2 ? 1 / std::sqrt(static_cast<float>(t.shape[1]))
                                                  : 1;
    for (index left = t.size, n; left > 0; left -= n) {
      n = std::min<index>(left, std::ssize(numbers));
      for (index i = 0; i < n; ++i, next = (next + 1) % drawn.size())
        numbers[static_cast<std::size_t>(i)] = mean + deviation * drawn[next];
      file.append(numbers.data(), n);
    }
  }
  file.commit();
}

}  // namespace distil_xlstm
