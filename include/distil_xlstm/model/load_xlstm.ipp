#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE xlstm_config read_xlstm_config(const io::json& file, const std::string& name) {
  using io::get;
  using io::get_or;
  const io::json& c = file.contains("xlstm_cfg") ? io::member(file, "xlstm_cfg", name) : file;
  xlstm_config x;
  auto null = [](const io::json& o, const char* key) { return !o.contains(key) || o.at(key).is_null(); };
  auto derived = [&](const io::json& o, const char* key, index expected) {
    if (null(o, key)) return;
    const index given = get<index>(o, key, name);
    require(given <= 0 || given == expected, name, ": ", key, " is ", given, ", the other fields give ",
            expected);
  };
  auto no_dropout = [&](const io::json& o) {
    if (!null(o, "dropout"))
      require(get<double>(o, "dropout", name) == 0, name, ": dropout is not supported, set it to 0");
  };
  x.vocabulary = get<index>(c, "vocab_size", name);
  x.width = get<index>(c, "embedding_dim", name);
  x.blocks = get<index>(c, "num_blocks", name);
  require(x.vocabulary > 0 && x.width > 0 && x.blocks > 0, name, ": vocab_size ", x.vocabulary,
          ", embedding_dim ", x.width, " and num_blocks ", x.blocks, " must be positive");
  require(x.blocks <= 4096 && x.width <= (1 << 20) && x.vocabulary <= (1 << 28), name, ": num_blocks ",
          x.blocks, ", embedding_dim ", x.width, " or vocab_size ", x.vocabulary, " is too large");
  x.context_length = get_or<index>(c, "context_length", name, -1);
  x.post_blocks_norm = get_or<bool>(c, "add_post_blocks_norm", name, true);
  x.tied = get_or<bool>(c, "tie_weights", name, false);
  x.bias = get_or<bool>(c, "bias", name, false);
  no_dropout(c);
  require(!get_or<bool>(c, "add_embedding_dropout", name, false), name,
          ": add_embedding_dropout is not supported");

  const bool has_mlstm = !null(c, "mlstm_block"), has_slstm = !null(c, "slstm_block");
  require(has_mlstm || has_slstm, name, ": neither mlstm_block nor slstm_block is given");
  x.slstm_at.clear();
  const bool all = !has_mlstm || (c.contains("slstm_at") && c.at("slstm_at") == "all");
  if (all)
    for (index b = 0; b < x.blocks; ++b) x.slstm_at.push_back(b);
  else if (!null(c, "slstm_at"))
    x.slstm_at = get<std::vector<index>>(c, "slstm_at", name);
  for (index b : x.slstm_at)
    require(b >= 0 && b < x.blocks, name, ": slstm_at names block ", b, ", num_blocks is ", x.blocks);
  require(has_slstm || x.slstm_at.empty(), name, ": slstm_at names blocks, but slstm_block is not given");

  if (has_mlstm) {
    const io::json& m = io::member(io::member(c, "mlstm_block", name), "mlstm", name);
    x.mlstm_heads = get_or<index>(m, "num_heads", name, 4);
    x.mlstm_conv = get_or<index>(m, "conv1d_kernel_size", name, 4);
    x.qkv_block = get_or<index>(m, "qkv_proj_blocksize", name, 4);
    x.mlstm_factor = get_or<double>(m, "proj_factor", name, 2.0);
    x.mlstm_round_up = get_or<bool>(m, "round_proj_up_dim_up", name, true);
    x.mlstm_multiple = get_or<index>(m, "round_proj_up_to_multiple_of", name, 64);
    no_dropout(m);
    require(x.mlstm_heads > 0 && x.qkv_block > 0 && x.mlstm_multiple > 0 && x.mlstm_factor > 0 &&
                x.mlstm_factor <= 1024,
            name, ": the fields of mlstm must be positive");
    const index inner = x.mlstm_inner();
    require(inner > 0 && inner % x.mlstm_heads == 0, name, ": num_heads ", x.mlstm_heads,
            " does not divide the inner width ", inner, " of mlstm");
    require(inner % x.qkv_block == 0, name, ": qkv_proj_blocksize ", x.qkv_block,
            " does not divide the inner width ", inner);
    require(x.mlstm_conv >= 2 && x.mlstm_conv <= 1024, name, ": conv1d_kernel_size ", x.mlstm_conv,
            " is not supported in mlstm (2 and more are)");
    derived(m, "embedding_dim", x.width);
    derived(m, "_proj_up_dim", inner);
    derived(m, "_inner_embedding_dim", inner);
  }
  if (has_slstm) {
    const io::json& block = io::member(c, "slstm_block", name);
    const io::json& s = io::member(block, "slstm", name);
    x.slstm_heads = get_or<index>(s, "num_heads", name, 4);
    x.slstm_conv = get_or<index>(s, "conv1d_kernel_size", name, 4);
    no_dropout(s);
    require(x.slstm_heads > 0 && x.width % x.slstm_heads == 0, name, ": num_heads ", x.slstm_heads,
            " does not divide embedding_dim ", x.width, " of slstm");
    require(x.slstm_conv == 0 || (x.slstm_conv >= 2 && x.slstm_conv <= 1024), name, ": conv1d_kernel_size ",
            x.slstm_conv, " is not supported in slstm (0, and 2 and more are)");
    require(get_or<std::string>(s, "function", name, "slstm") == "slstm", name, ": function ",
            s.value("function", ""), " is not supported (slstm is)");
    require(!get_or<bool>(s, "gradient_recurrent_cut", name, false), name,
            ": gradient_recurrent_cut is not supported");
    for (const char* key : {"gradient_recurrent_clipval", "forward_clipval"})
      require(null(s, key), name, ": ", key, " is not supported");
    require(get_or<bool>(s, "group_norm_weight", name, true), name,
            ": group_norm_weight false is not supported");
    derived(s, "embedding_dim", x.width);
    derived(s, "hidden_size", x.width);
    x.feed_forward = !null(block, "feedforward");
    if (x.feed_forward) {
      const io::json& f = io::member(block, "feedforward", name);
      x.feed_forward_factor = get_or<double>(f, "proj_factor", name, 1.3);
      x.feed_forward_round_up = get_or<bool>(f, "round_proj_up_dim_up", name, true);
      x.feed_forward_multiple = get_or<index>(f, "round_proj_up_to_multiple_of", name, 64);
      x.act = activation_named(get_or<std::string>(f, "act_fn", name, "gelu"));
      x.feed_forward_bias = get_or<bool>(f, "bias", name, false);
      no_dropout(f);
      require(get_or<std::string>(f, "ff_type", name, "ffn_gated") == "ffn_gated", name, ": ff_type ",
              f.value("ff_type", ""), " is not supported (ffn_gated is)");
      require(x.feed_forward_multiple > 0 && x.feed_forward_factor > 0 && x.feed_forward_factor <= 1024 &&
                  x.feed_forward_inner() > 0,
              name, ": proj_factor of feedforward must be positive");
      derived(f, "embedding_dim", x.width);
      derived(f, "_proj_up_dim", x.feed_forward_inner());
    }
  }
  return x;
}

DISTIL_XLSTM_INLINE io::json write_xlstm_config(const xlstm_config& x) {
  io::json mlstm_json = nullptr, slstm_json = nullptr;
  const bool any_slstm = !x.slstm_at.empty(), any_mlstm = static_cast<index>(x.slstm_at.size()) < x.blocks;
  if (any_mlstm)
    mlstm_json = {{"mlstm",
                   {{"proj_factor", x.mlstm_factor},
                    {"round_proj_up_dim_up", x.mlstm_round_up},
                    {"round_proj_up_to_multiple_of", x.mlstm_multiple},
                    {"_proj_up_dim", x.mlstm_inner()},
                    {"conv1d_kernel_size", x.mlstm_conv},
                    {"qkv_proj_blocksize", x.qkv_block},
                    {"num_heads", x.mlstm_heads},
                    {"embedding_dim", x.width},
                    {"bias", x.bias},
                    {"dropout", 0.0},
                    {"context_length", x.context_length},
                    {"_num_blocks", x.blocks},
                    {"_inner_embedding_dim", x.mlstm_inner()}}},
                  {"_num_blocks", x.blocks}};
  if (any_slstm) {
    io::json ffn = nullptr;
    if (x.feed_forward)
      ffn = {{"proj_factor", x.feed_forward_factor},
             {"round_proj_up_dim_up", x.feed_forward_round_up},
             {"round_proj_up_to_multiple_of", x.feed_forward_multiple},
             {"_proj_up_dim", 0},
             {"act_fn", name_of(x.act)},
             {"embedding_dim", -1},
             {"dropout", 0.0},
             {"bias", x.feed_forward_bias},
             {"ff_type", "ffn_gated"},
             {"_num_blocks", 1}};
    slstm_json = {{"slstm",
                   {{"hidden_size", x.width},
                    {"num_heads", x.slstm_heads},
                    {"num_states", 4},
                    {"backend", "vanilla"},
                    {"function", "slstm"},
                    {"bias_init", "powerlaw_blockdependent"},
                    {"recurrent_weight_init", "zeros"},
                    {"_num_blocks", x.blocks},
                    {"num_gates", 4},
                    {"gradient_recurrent_cut", false},
                    {"gradient_recurrent_clipval", nullptr},
                    {"forward_clipval", nullptr},
                    {"batch_size", 8},
                    {"input_shape", "BSGNH"},
                    {"internal_input_shape", "SBNGH"},
                    {"output_shape", "BNSH"},
                    {"constants", io::json::object()},
                    {"dtype", "float32"},
                    {"dtype_b", "float32"},
                    {"dtype_r", "float32"},
                    {"dtype_w", "float32"},
                    {"dtype_g", "float32"},
                    {"dtype_s", "float32"},
                    {"dtype_a", "float32"},
                    {"enable_automatic_mixed_precision", false},
                    {"initial_val", 0.0},
                    {"embedding_dim", x.width},
                    {"conv1d_kernel_size", x.slstm_conv},
                    {"group_norm_weight", true},
                    {"dropout", 0.0}}},
                  {"feedforward", ffn},
                  {"_num_blocks", x.blocks}};
  }
  std::string map;
  for (index b = 0; b < x.blocks; ++b) map += std::string(b ? "," : "") + (x.is_slstm(b) ? "1" : "0");
  return {{"architectures", {"DistilxLSTM"}},
          {"model_type", "distil_xlstm"},
          {"torch_dtype", "float32"},
          {"xlstm_cfg",
           {{"mlstm_block", mlstm_json},
            {"slstm_block", slstm_json},
            {"context_length", x.context_length},
            {"num_blocks", x.blocks},
            {"embedding_dim", x.width},
            {"add_post_blocks_norm", x.post_blocks_norm},
            {"bias", x.bias},
            {"dropout", 0.0},
            {"slstm_at", x.slstm_at},
            {"_block_map", map},
            {"vocab_size", x.vocabulary},
            {"tie_weights", x.tied},
            {"weight_decay_on_embedding", false},
            {"add_embedding_dropout", false}}}};
}

}  // namespace distil_xlstm

namespace distil_xlstm::detail {

DISTIL_XLSTM_INLINE xlstm_file::xlstm_file(const std::filesystem::path& path, const xlstm_config& config)
    : file_(path), config_(config) {
  io::tensor_match match;
  for (const auto& t : file_.tensors()) match.offer(canonical(t.name), t);
  if (config.tied) match.ignore(std::string(config.head_name));  // the same numbers again
  for (const auto& e : tensors_of(config)) {
    const auto fits = [&](const std::vector<index>& given) {
      const bool turned = e.name.ends_with("_recurrent_kernel_") && given.size() == 3 &&
                          given[0] == e.shape[0] && given[1] == e.shape[2] && given[2] == e.shape[1];
      cuda_ |= turned && given != e.shape;
      return given == e.shape || turned;
    };
    tensors_[e.name] = match.take(e.name, io::detail::shape_text(e.shape), fits);
  }
  match.finish(file_.path());
}

DISTIL_XLSTM_INLINE stored_tensor xlstm_file::find(const std::string& name) {
  stored_tensor t = tensors_.at(name)->stored();
  require_finite(t, name, path());
  if (cuda_ && name.ends_with("_recurrent_kernel_")) {
    // [heads, head (in), 4 head] to [heads, 4 head, head (in)]
    const index head = config_.width / config_.slstm_heads;
    reorder(t, {config_.slstm_heads, 4 * head, head},
            [&](index a, index o, index k) { return (a * head + k) * 4 * head + o; });
  } else if (cuda_ && name.ends_with("_bias_")) {
    // [heads, 4, head] to [4, heads, head]
    const index heads = config_.slstm_heads, head = config_.width / heads;
    reorder(t, {4, heads, head}, [&](index g, index a, index j) { return (a * 4 + g) * head + j; });
    t.shape = {4 * config_.width};
  }
  return t;
}

DISTIL_XLSTM_INLINE std::string xlstm_file::canonical(const std::string& name) {
  if (name == "xlstm.embedding.weight" || name == "xlstm.token_embedding.weight")
    return "token_embedding.weight";
  for (const std::string_view prefix : {"xlstm.backbone.", "xlstm.xlstm_block_stack."})
    if (name.starts_with(prefix)) return "xlstm_block_stack." + name.substr(prefix.size());
  if (name == "xlstm.lm_head.weight") return "lm_head.weight";
  return name;
}

}  // namespace distil_xlstm::detail

namespace distil_xlstm {

DISTIL_XLSTM_INLINE xlstm_config read_xlstm_config(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  return read_xlstm_config(io::read_json_file(path), path.string());
}

DISTIL_XLSTM_INLINE void write_xlstm_config(const xlstm_config& x, const std::filesystem::path& folder) {
  io::write_text_atomically(folder / "config.json", write_xlstm_config(x).dump(2) + "\n");
}

}  // namespace distil_xlstm
