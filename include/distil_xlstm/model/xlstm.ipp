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

namespace detail {

/// Block b of a stack; a template, so that the types that are made of `norm` are compiled where the stack is. It is
/// no lambda of `stack`: nvcc 13.0 takes no generic lambda in a member template that has a default argument.
template <class Stack, class Norm>
void add_block(const xlstm_config& c, Stack& s, const Norm& norm, index b) {
  named<"xlstm_norm", Norm> before{norm};
  before.for_products = true;
  if (!c.is_slstm(b)) {
    const mlstm cell{.width = c.width,
                     .heads = c.mlstm_heads,
                     .inner = c.mlstm_inner(),
                     .conv_window = c.mlstm_conv,
                     .qkv_block = c.qkv_block,
                     .bias = c.bias,
                     .block_count = c.blocks};
    s.blocks.blocks.push_back(residual{sequential{before, named<"xlstm", mlstm>{cell}}});
    return;
  }
  residual cell{
      sequential{before, named<"xlstm", slstm>{slstm{c.width, c.slstm_heads, c.slstm_conv, b, c.blocks}}}};
  if (!c.feed_forward) {
    s.blocks.blocks.push_back(cell);
    return;
  }
  const distil_xlstm::feed_forward ffn{c.width, c.feed_forward_inner(), c.act, c.feed_forward_bias, c.blocks};
  residual feeds{sequential{named<"ffn_norm", Norm>{norm}, named<"ffn", distil_xlstm::feed_forward>{ffn}}};
  s.blocks.blocks.push_back(sequential{named<"", decltype(cell)>{cell}, named<"", decltype(feeds)>{feeds}});
}

}  // namespace detail

template <class Stack>
Stack xlstm_config::stack() const {
  require(width > 0 && blocks > 0, "xlstm: width ", width, " and ", blocks, " blocks are not possible");
  for (index b : slstm_at) require(b >= 0 && b < blocks, "xlstm: slstm_at names block ", b, " of ", blocks);
  Stack s;
  s.post_blocks_norm = post_blocks_norm;
  for (index b = 0; b < blocks; ++b) detail::add_block(*this, s, layer_norm<>{extent<>(width)}, b);
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
