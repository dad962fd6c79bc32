#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/model/llama.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE const llama_family& find_llama_family(const std::string& name, const std::string& what) {
  std::string known;
  for (const llama_family& f : llama_families) {
    if (f.name == name) return f;
    if (!known.empty()) known += &f == std::end(llama_families) - 1 ? " and " : ", ";
    known += f.name;
  }
  fail(what, " is not supported (", known, " are)");
}

DISTIL_XLSTM_INLINE attention llama_config::mixer_of(index i) const {
  return {.width = width,
          .heads = heads,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .theta = theta,
          .scaling = scaling,
          .bias = qkv_bias,
          .output_bias = output_bias,
          .rotates = rotates.empty() || rotates[static_cast<std::size_t>(i)],
          .head_norms = head_norms,
          .epsilon = epsilon,
          .window = window};
}

template <class Stack>
Stack llama_config::stack() const {
  Stack s{{}, true, epsilon};
  for (index i = 0; i < layers; ++i) s.blocks.blocks.push_back({mixer_of(i), intermediate, epsilon, i == 0});
  return s;
}

DISTIL_XLSTM_INLINE void llama_config::identify(fnv_hash& hash) const {
  const auto add = [&](double x) { hash.add(static_cast<float>(x)); };
  add(epsilon), add(theta);
  hash.add(static_cast<int>(scaling.type));
  if (scaling.type != rope_scaling::kind::none) add(scaling.factor);
  if (scaling.type == rope_scaling::kind::llama3) add(scaling.low), add(scaling.high), add(scaling.original);
  hash.add(heads), hash.add(kv_heads), hash.add(head_dim), hash.add(window);
  for (index i = 0; i < layers; ++i) hash.add(mixer_of(i).rotates);
}

DISTIL_XLSTM_INLINE void llama_config::check(const std::string& name) const {
  require(vocabulary > 0 && width > 0 && layers > 0 && heads > 0 && kv_heads > 0 && intermediate > 0 &&
              head_dim > 0,
          name, ": vocabulary ", vocabulary, ", width ", width, ", layers ", layers, ", heads ", heads, " and ",
          kv_heads, " of ", head_dim, " and feed-forward ", intermediate, " must be positive");
  require(vocabulary <= (1 << 28) && width <= (1 << 20) && layers <= most_layers && heads <= (1 << 16) &&
              head_dim <= (1 << 16) && intermediate <= (1 << 24),
          name, ": vocabulary ", vocabulary, ", width ", width, ", layers ", layers, ", heads ", heads, " of ",
          head_dim, " or feed-forward ", intermediate, " is too large");
  require(heads % kv_heads == 0, name, ": ", kv_heads, " key heads do not divide the ", heads, " heads");
  require(head_dim % 2 == 0, name, ": a head of ", head_dim, " has no pairs for the rotary embedding");
  require(epsilon > 0 && theta > 0, name, ": the norms' epsilon ", epsilon, " and the rotary base ", theta,
          " must be positive");
  require(window >= 0 && window <= (1 << 24), name, ": a window of ", window, " tokens is not possible");
  require(rotates.empty() || std::ssize(rotates) == layers, name, ": ", rotates.size(),
          " layers are said to have rotary positions or not, there are ", layers);
  require(scaling.factor > 0 && scaling.low > 0 && scaling.low < scaling.high && scaling.original > 0, name,
          ": rotary scaling by the factor ", scaling.factor, " from ", scaling.low, " to ", scaling.high,
          " turns over ", scaling.original, " tokens is not possible");
}

}  // namespace distil_xlstm
