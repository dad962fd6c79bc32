#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/model/xlstm_7b.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE index xlstm_7b_config::feed_forward() const {
  const auto m = static_cast<double>(feed_forward_multiple);
  const double x = static_cast<double>(width) * feed_forward_factor + m - 1;
  return static_cast<index>(std::round(x - std::fmod(x, m)));
}

namespace detail {

/// A layer of a stack; a template for the reasons that model/xlstm.ipp gives.
template <class Norm>
auto make_layer(const Norm& before, const mlstm_v2& cell, const xlstm_7b_ffn& ffn) {
  residual mixes{sequential{named<"norm_mlstm", Norm>{before}, named<"mlstm_layer", mlstm_v2>{cell}}};
  residual feeds{sequential{named<"norm_ffn", Norm>{before}, named<"ffn", xlstm_7b_ffn>{ffn}}};
  return sequential{named<"", decltype(mixes)>{mixes}, named<"", decltype(feeds)>{feeds}};
}

}  // namespace detail

template <class Stack>
Stack xlstm_7b_config::stack() const {
  const mlstm_v2 cell{.width = width,
                      .heads = heads,
                      .query = query(),
                      .value = value(),
                      .gate_cap = gate_cap,
                      .norm_epsilon = norm_epsilon,
                      .cell_epsilon = cell_epsilon,
                      .block_count = blocks};
  const auto layer =
      detail::make_layer(rms_norm<>{width, 1, norm_epsilon}, cell, xlstm_7b_ffn{width, feed_forward()});
  return Stack{repeated(blocks, layer), true, norm_epsilon};
}

DISTIL_XLSTM_INLINE void xlstm_7b_config::identify(fnv_hash& hash) const {
  hash.add(heads);
  for (const double x : {gate_cap, logit_cap, norm_epsilon, cell_epsilon}) hash.add(static_cast<float>(x));
}

template <class Stack>
index xlstm_7b_config::total() const {
  manifest names;
  layout<float> measure(nullptr, &names);
  stack<Stack>().params(measure);
  index n = vocabulary * width * (tied ? 1 : 2);
  for (const auto& e : names) n += e.size;
  return n;
}

DISTIL_XLSTM_INLINE void xlstm_7b_config::check(const std::string& name) const {
  require(vocabulary > 0 && width > 0 && blocks > 0 && heads > 0, name, ": vocab_size ", vocabulary,
          ", hidden_size ", width, ", num_hidden_layers ", blocks, " and num_heads ", heads,
          " must be positive");
  require(vocabulary <= (1 << 28) && width <= (1 << 20) && blocks <= 4096 && heads <= (1 << 16), name,
          ": vocab_size ", vocabulary, ", hidden_size ", width, ", num_hidden_layers ", blocks,
          " or num_heads ", heads, " is too large");
  for (const double factor : {query_factor, value_factor, feed_forward_factor})
    require(factor > 0 && factor <= 1024, name, ": a factor of ", factor,
            " (qk_dim_factor, v_dim_factor, ffn_proj_factor) is not possible");
  require(feed_forward_multiple > 0 && feed_forward_multiple <= (1 << 20) && feed_forward() > 0, name,
          ": ffn_round_up_to_multiple_of ", feed_forward_multiple, " is not possible");
  require(query() > 0 && query() % heads == 0 && value() > 0 && value() % heads == 0, name, ": num_heads ",
          heads, " does not divide the width ", query(), " of the queries or ", value(), " of the values");
  require(norm_epsilon > 0 && cell_epsilon > 0, name, ": norm_eps ", norm_epsilon, " and eps ", cell_epsilon,
          " must be positive");
}

}  // namespace distil_xlstm
