#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/config_json.hpp>
#include <distil_xlstm/io/json_object.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>

namespace distil_xlstm {

namespace detail {

/// Reads `xlstm_cfg`, an object at a time.
class xlstm_config_reader {
  using json = io::json;

 public:
  explicit xlstm_config_reader(const std::string& name) : name_(name) {}

  xlstm_config read(const json& c) {
    read_sizes(c);
    const bool has_mlstm = !null(c, "mlstm_block"), has_slstm = !null(c, "slstm_block");
    require(has_mlstm || has_slstm, name_, ": neither mlstm_block nor slstm_block is given");
    read_places(c, has_mlstm, has_slstm);
    if (has_mlstm) read_mlstm(io::member(io::member(c, "mlstm_block", name_), "mlstm", name_));
    if (has_slstm) {
      const json& block = io::member(c, "slstm_block", name_);
      read_slstm(io::member(block, "slstm", name_));
      x_.feed_forward = !null(block, "feedforward");
      if (x_.feed_forward) read_feed_forward(io::member(block, "feedforward", name_));
    }
    return std::move(x_);
  }

 private:
  void read_sizes(const json& c) {
    x_.vocabulary = get<index>(c, "vocab_size");
    x_.width = get<index>(c, "embedding_dim");
    x_.blocks = get<index>(c, "num_blocks");
    require(x_.vocabulary > 0 && x_.width > 0 && x_.blocks > 0, name_, ": vocab_size ", x_.vocabulary,
            ", embedding_dim ", x_.width, " and num_blocks ", x_.blocks, " must be positive");
    require(x_.blocks <= 4096 && x_.width <= (1 << 20) && x_.vocabulary <= (1 << 28), name_, ": num_blocks ",
            x_.blocks, ", embedding_dim ", x_.width, " or vocab_size ", x_.vocabulary, " is too large");
    x_.context_length = get_or<index>(c, "context_length", -1);
    x_.post_blocks_norm = get_or(c, "add_post_blocks_norm", true);
    x_.tied = get_or(c, "tie_weights", false);
    x_.bias = get_or(c, "bias", false);
    no_dropout(c);
    require(!get_or(c, "add_embedding_dropout", false), name_, ": add_embedding_dropout is not supported");
  }

  /// Which blocks are sLSTM.
  void read_places(const json& c, bool has_mlstm, bool has_slstm) {
    x_.slstm_at.clear();
    if (!has_mlstm || (c.contains("slstm_at") && io::is_text(c.at("slstm_at"), "all")))
      for (index b = 0; b < x_.blocks; ++b) x_.slstm_at.push_back(b);
    else if (!null(c, "slstm_at"))
      x_.slstm_at = get<std::vector<index>>(c, "slstm_at");
    for (index b : x_.slstm_at)
      require(b >= 0 && b < x_.blocks, name_, ": slstm_at names block ", b, ", num_blocks is ", x_.blocks);
    require(has_slstm || x_.slstm_at.empty(), name_, ": slstm_at names blocks, but slstm_block is not given");
  }

  void read_mlstm(const json& m) {
    x_.mlstm_heads = get_or<index>(m, "num_heads", 4);
    x_.mlstm_conv = get_or<index>(m, "conv1d_kernel_size", 4);
    x_.qkv_block = get_or<index>(m, "qkv_proj_blocksize", 4);
    x_.mlstm_factor = get_or(m, "proj_factor", 2.0);
    x_.mlstm_round_up = get_or(m, "round_proj_up_dim_up", true);
    x_.mlstm_multiple = get_or<index>(m, "round_proj_up_to_multiple_of", 64);
    no_dropout(m);
    require(x_.mlstm_heads > 0 && x_.qkv_block > 0 && x_.mlstm_multiple > 0 && x_.mlstm_factor > 0 &&
                x_.mlstm_factor <= 1024,
            name_, ": the fields of mlstm must be positive");
    const index inner = x_.mlstm_inner();
    require(inner > 0 && inner % x_.mlstm_heads == 0, name_, ": num_heads ", x_.mlstm_heads,
            " does not divide the inner width ", inner, " of mlstm");
    require(inner % x_.qkv_block == 0, name_, ": qkv_proj_blocksize ", x_.qkv_block,
            " does not divide the inner width ", inner);
    require(x_.mlstm_conv >= 2 && x_.mlstm_conv <= 1024, name_, ": conv1d_kernel_size ", x_.mlstm_conv,
            " is not supported in mlstm (2 and more are)");
    derived(m, "embedding_dim", x_.width);
    derived(m, "_proj_up_dim", inner);
    derived(m, "_inner_embedding_dim", inner);
  }

  void read_slstm(const json& s) {
    x_.slstm_heads = get_or<index>(s, "num_heads", 4);
    x_.slstm_conv = get_or<index>(s, "conv1d_kernel_size", 4);
    no_dropout(s);
    require(x_.slstm_heads > 0 && x_.width % x_.slstm_heads == 0, name_, ": num_heads ", x_.slstm_heads,
            " does not divide embedding_dim ", x_.width, " of slstm");
    require(x_.slstm_conv == 0 || (x_.slstm_conv >= 2 && x_.slstm_conv <= 1024), name_, ": conv1d_kernel_size ",
            x_.slstm_conv, " is not supported in slstm (0, and 2 and more are)");
    only(s, "function", "slstm");
    require(!get_or(s, "gradient_recurrent_cut", false), name_, ": gradient_recurrent_cut is not supported");
    for (const char* key : {"gradient_recurrent_clipval", "forward_clipval"})
      require(null(s, key), name_, ": ", key, " is not supported");
    require(get_or(s, "group_norm_weight", true), name_, ": group_norm_weight false is not supported");
    derived(s, "embedding_dim", x_.width);
    derived(s, "hidden_size", x_.width);
  }

  void read_feed_forward(const json& f) {
    x_.feed_forward_factor = get_or(f, "proj_factor", 1.3);
    x_.feed_forward_round_up = get_or(f, "round_proj_up_dim_up", true);
    x_.feed_forward_multiple = get_or<index>(f, "round_proj_up_to_multiple_of", 64);
    x_.act = activation_named(get_or<std::string>(f, "act_fn", "gelu"));
    x_.feed_forward_bias = get_or(f, "bias", false);
    no_dropout(f);
    only(f, "ff_type", "ffn_gated");
    require(x_.feed_forward_multiple > 0 && x_.feed_forward_factor > 0 && x_.feed_forward_factor <= 1024 &&
                x_.feed_forward_inner() > 0,
            name_, ": proj_factor of feedforward must be positive");
    derived(f, "embedding_dim", x_.width);
    derived(f, "_proj_up_dim", x_.feed_forward_inner());
  }

  template <class V>
  V get(const json& o, const char* key) const {
    return io::get<V>(o, key, name_);
  }
  template <class V>
  V get_or(const json& o, const char* key, V otherwise) const {
    return io::get_or<V>(o, key, name_, std::move(otherwise));
  }
  static bool null(const json& o, const char* key) { return !o.contains(key) || o.at(key).is_null(); }
  /// A field that other fields give: where it is positive, it must be the same.
  void derived(const json& o, const char* key, index expected) const {
    if (null(o, key)) return;
    const index given = get<index>(o, key);
    require(given <= 0 || given == expected, name_, ": ", key, " is ", given, ", the other fields give ",
            expected);
  }
  /// A field of which the library knows one value.
  void only(const json& o, const char* key, const char* known) const {
    const auto given = get_or<std::string>(o, key, known);
    require(given == known, name_, ": ", key, " ", given, " is not supported (", known, " is)");
  }
  void no_dropout(const json& o) const {
    if (!null(o, "dropout"))
      require(get<double>(o, "dropout") == 0, name_, ": dropout is not supported, set it to 0");
  }

  const std::string& name_;
  xlstm_config x_;
};

}  // namespace detail

DISTIL_XLSTM_INLINE xlstm_config read_xlstm_config(const io::json& file, const std::string& name) {
  return detail::xlstm_config_reader(name).read(file.contains("xlstm_cfg") ? io::member(file, "xlstm_cfg", name)
                                                                           : file);
}

namespace detail {

inline io::json mlstm_block_json(const xlstm_config& x) {
  using io::detail::json_object;
  return json_object({{"mlstm", json_object({{"proj_factor", x.mlstm_factor},
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
                                             {"_inner_embedding_dim", x.mlstm_inner()}})},
                      {"_num_blocks", x.blocks}});
}

inline io::json slstm_block_json(const xlstm_config& x) {
  using io::detail::json_object;
  io::json ffn = nullptr;
  if (x.feed_forward)
    ffn = json_object({{"proj_factor", x.feed_forward_factor},
                       {"round_proj_up_dim_up", x.feed_forward_round_up},
                       {"round_proj_up_to_multiple_of", x.feed_forward_multiple},
                       {"_proj_up_dim", 0},
                       {"act_fn", name_of(x.act)},
                       {"embedding_dim", -1},
                       {"dropout", 0.0},
                       {"bias", x.feed_forward_bias},
                       {"ff_type", "ffn_gated"},
                       {"_num_blocks", 1}});
  return json_object({{"slstm", json_object({{"hidden_size", x.width},
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
                                             {"constants", json_object({})},
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
                                             {"dropout", 0.0}})},
                      {"feedforward", ffn},
                      {"_num_blocks", x.blocks}});
}

}  // namespace detail

DISTIL_XLSTM_INLINE io::json write_xlstm_config(const xlstm_config& x) {
  using io::detail::json_object;
  const bool any_slstm = !x.slstm_at.empty(), any_mlstm = static_cast<index>(x.slstm_at.size()) < x.blocks;
  io::json mlstm_json = nullptr, slstm_json = nullptr;
  if (any_mlstm) mlstm_json = detail::mlstm_block_json(x);
  if (any_slstm) slstm_json = detail::slstm_block_json(x);
  std::string map;
  for (index b = 0; b < x.blocks; ++b) map += std::string(b ? "," : "") + (x.is_slstm(b) ? "1" : "0");
  return json_object({{"architectures", io::detail::json_texts({"DistilxLSTM"})},
                      {"model_type", "distil_xlstm"},
                      {"torch_dtype", "float32"},
                      {"xlstm_cfg", json_object({{"mlstm_block", mlstm_json},
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
                                                 {"add_embedding_dropout", false}})}});
}

}  // namespace distil_xlstm

namespace distil_xlstm::detail {

template <class Config>
xlstm_files::xlstm_files(const std::filesystem::path& model)
    : folder(model),
      config(read_xlstm_config(model)),
      path_((std::filesystem::is_directory(model) ? model / "model.safetensors" : model).string()) {
  io::tensor_match match;
  for (const auto& [name, t] : folder.tensors()) match.offer(canonical(name), *t);
  if (config.tied) match.ignore(std::string(config.head_name));  // the same numbers again
  // As a Config: the stack is compiled where a loader is used.
  for (const auto& e : tensors_of(static_cast<const Config&>(config))) {
    const auto fits = [&](const std::vector<index>& given) {
      const bool turned = e.name.ends_with("_recurrent_kernel_") && given.size() == 3 &&
                          given[0] == e.shape[0] && given[1] == e.shape[2] && given[2] == e.shape[1];
      cuda_ |= turned && given != e.shape;
      return given == e.shape || turned;
    };
    tensors_[e.name] = match.take(e.name, io::detail::shape_text(e.shape), fits);
  }
  match.finish(path_);
}

DISTIL_XLSTM_INLINE stored_tensor xlstm_files::find(const std::string& name) {
  stored_tensor t = tensors_.at(name)->stored();
  require_finite(t, name, path_);
  if (cuda_ && name.ends_with("_recurrent_kernel_")) {
    // [heads, head (in), 4 head] to [heads, 4 head, head (in)]
    const index head = config.width / config.slstm_heads;
    reorder(t, {config.slstm_heads, 4 * head, head},
            [&](index a, index o, index k) { return (a * head + k) * 4 * head + o; });
  } else if (cuda_ && name.ends_with("_bias_")) {
    // [heads, 4, head] to [4, heads, head]
    const index heads = config.slstm_heads, head = config.width / heads;
    reorder(t, {4, heads, head}, [&](index g, index a, index j) { return (a * 4 + g) * head + j; });
    t.shape = {4 * config.width};
  }
  return t;
}

DISTIL_XLSTM_INLINE std::string xlstm_files::canonical(const std::string& name) {
  if (name == "xlstm.embedding.weight" || name == "xlstm.token_embedding.weight")
    return "token_embedding.weight";
  for (const std::string_view prefix : {"xlstm.backbone.", "xlstm.xlstm_block_stack."})
    if (name.starts_with(prefix)) return "xlstm_block_stack." + name.substr(prefix.size());
  if (name == "xlstm.lm_head.weight") return "lm_head.weight";
  return name;
}

}  // namespace distil_xlstm::detail

namespace distil_xlstm {

DISTIL_XLSTM_INLINE xlstm_config read_xlstm_config(const std::filesystem::path& model) {
  const io::config_json file(model);
  return read_xlstm_config(file.required(), file.name);
}

DISTIL_XLSTM_INLINE void write_xlstm_config(const xlstm_config& x, const std::filesystem::path& folder) {
  io::write_text_atomically(folder / "config.json", write_xlstm_config(x).dump(2) + "\n");
}

}  // namespace distil_xlstm
