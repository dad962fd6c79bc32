#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/model/xlstm.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE index xlstm_config::rounded(double factor, index width, index multiple, bool up) {
  const double parts = factor * static_cast<double>(width) / static_cast<double>(multiple);
  return static_cast<index>(up ? std::ceil(parts) : std::floor(parts)) * multiple;
}

DISTIL_XLSTM_INLINE index xlstm_config::feed_forward_inner() const {
  return rounded(feed_forward_factor, width, feed_forward_multiple, feed_forward_round_up);
}

DISTIL_XLSTM_INLINE bool xlstm_config::is_slstm(index block) const {
  return std::find(slstm_at.begin(), slstm_at.end(), block) != slstm_at.end();
}

template <class Stack>
Stack xlstm_config::stack() const {
  require(width > 0 && blocks > 0, "xlstm: width ", width, " and ", blocks, " blocks are not possible");
  for (index b : slstm_at) require(b >= 0 && b < blocks, "xlstm: slstm_at names block ", b, " of ", blocks);
  Stack s;
  s.post_blocks_norm = post_blocks_norm;
  // Generic, for the types that are made of `norm` to be compiled where the stack is.
  const auto add = [&]<class Norm>(const Norm& norm, index b) {
    const named<"xlstm_norm", Norm> before{norm};
    if (!is_slstm(b)) {
      const mlstm cell{.width = width,
                       .heads = mlstm_heads,
                       .inner = mlstm_inner(),
                       .conv_window = mlstm_conv,
                       .qkv_block = qkv_block,
                       .bias = bias,
                       .block_count = blocks};
      s.blocks.blocks.push_back(residual{sequential{before, named<"xlstm", mlstm>{cell}}});
      return;
    }
    residual cell{sequential{before, named<"xlstm", slstm>{slstm{width, slstm_heads, slstm_conv, b, blocks}}}};
    if (!feed_forward) {
      s.blocks.blocks.push_back(cell);
      return;
    }
    const distil_xlstm::feed_forward ffn{width, feed_forward_inner(), act, feed_forward_bias, blocks};
    residual feeds{sequential{named<"ffn_norm", Norm>{norm}, named<"ffn", distil_xlstm::feed_forward>{ffn}}};
    s.blocks.blocks.push_back(sequential{named<"", decltype(cell)>{cell}, named<"", decltype(feeds)>{feeds}});
  };
  for (index b = 0; b < blocks; ++b) add(layer_norm<>{extent<>(width)}, b);
  return s;
}

DISTIL_XLSTM_INLINE void xlstm_config::identify(fnv_hash& hash) const {
  hash.add(mlstm_heads), hash.add(slstm_heads), hash.add(qkv_block), hash.add(static_cast<int>(act));
}

template <class Stack>
index xlstm_config::trainable() const {
  manifest names;
  layout<float> measure(nullptr, &names);
  stack<Stack>().params(measure);
  index n = 0;
  for (const auto& e : names) n += e.size;
  return n;
}

DISTIL_XLSTM_INLINE xlstm_config xlstm_architecture(std::string_view name, index vocabulary, index width,
                                                    index layers, index heads, bool tied) {
  xlstm_config x;
  x.vocabulary = vocabulary, x.width = width, x.tied = tied;
  if (name == "default") return x;
  require(name == "paper" || name == "heuristic", "architecture '", name,
          "' is not known (default, paper, heuristic are)");
  x.qkv_block = 32, x.feed_forward_factor = 1.7;
  if (name == "paper") {
    x.mlstm_heads = x.slstm_heads = 16;
    return x;
  }
  x.blocks = std::max<index>(1, layers / 2);
  x.mlstm_heads = x.slstm_heads = (heads + 3) / 4 * 4;
  x.slstm_at.clear();
  for (index b = 0; b + 1 < x.blocks; b += 2) x.slstm_at.push_back(b);
  return x;
}

}  // namespace distil_xlstm
