#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/config_json.hpp>
#include <distil_xlstm/model/load_xlstm_7b.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE bool is_xlstm_7b_config(const io::json& c) {
  return c.is_object() && !c.contains("xlstm_cfg") && c.contains("model_type") &&
         io::is_text(c.at("model_type"), "xlstm");
}

DISTIL_XLSTM_INLINE xlstm_7b_config read_xlstm_7b_config(const io::json& c, const std::string& name) {
  using io::get;
  using io::get_or;
  const auto given = [&](const char* key) { return c.contains(key) && !c.at(key).is_null(); };
  const auto type = get<std::string>(c, "model_type", name);
  require(type == "xlstm", name, ": model_type '", io::detail::printable(type), "' is not xlstm");
  xlstm_7b_config x;
  const auto either = [&](const char* key, const char* also, index otherwise) {
    const index n = get_or<index>(c, key, name, get_or<index>(c, also, name, otherwise));
    require(get_or<index>(c, also, name, n) == n, name, ": ", key, " is ", n, ", ", also, " is ",
            get_or<index>(c, also, name, n));
    return n;
  };
  x.vocabulary = get_or<index>(c, "vocab_size", name, x.vocabulary);
  x.width = either("hidden_size", "embedding_dim", x.width);
  x.blocks = either("num_hidden_layers", "num_blocks", x.blocks);
  x.heads = get_or<index>(c, "num_heads", name, x.heads);
  x.query_factor = get_or<double>(c, "qk_dim_factor", name, x.query_factor);
  x.value_factor = get_or<double>(c, "v_dim_factor", name, x.value_factor);
  x.feed_forward_factor = get_or<double>(c, "ffn_proj_factor", name, x.feed_forward_factor);
  x.feed_forward_multiple = get_or<index>(c, "ffn_round_up_to_multiple_of", name, x.feed_forward_multiple);
  x.norm_epsilon = get_or<double>(c, "norm_eps", name, x.norm_epsilon);
  x.cell_epsilon = get_or<double>(c, "eps", name, x.cell_epsilon);
  x.tied = get_or<bool>(c, "tie_word_embeddings", name, false);
  const auto cap = [&](const char* key, double& to) {
    if (!c.contains(key)) return;
    to = given(key) ? get<double>(c, key, name) : 0;
    require(!given(key) || (to > 0 && std::isfinite(to)), name, ": ", key, " of ", to,
            " is not possible (null is none)");
  };
  cap("gate_soft_cap", x.gate_cap);
  cap("output_logit_soft_cap", x.logit_cap);
  require(!get_or<bool>(c, "use_bias", name, false), name, ": use_bias true is not supported");
  const auto mode = get_or<std::string>(c, "weight_mode", name, "single");
  require(mode == "single" || mode == "fused", name, ": weight_mode '", io::detail::printable(mode),
          "' is not supported (single and fused are)");
  x.fused = mode == "fused";
  require(!given("quantization_config"), name, ": quantization_config is not supported");
  x.check(name);
  return x;
}

}  // namespace distil_xlstm

namespace distil_xlstm::detail {

DISTIL_XLSTM_INLINE std::string xlstm_7b_name(std::string name) {
  if (name == "embedding.weight" || name == "backbone.embedding.weight")
    return std::string(xlstm_7b_config::embedding_name);
  for (const auto& [other, ours] : {std::pair{".query.", ".q."}, {".key.", ".k."}, {".value.", ".v."}})
    if (const auto at = name.find(std::string(".mlstm_layer") + other); at != name.npos)
      name.replace(at + 12, std::string(other).size(), ours);
  return name;
}

DISTIL_XLSTM_INLINE void split_fused(const xlstm_7b_config& c, io::tensor_match& match,
                                     std::deque<io::tensor_info>& into) {
  struct rows_of {
    std::string name;
    index rows;
  };
  const auto take = [&](const std::string& name, const std::vector<rows_of>& parts) {
    index rows = 0, first = 0;
    for (const auto& p : parts) rows += p.rows;
    const io::tensor_info* whole = match.take(name, std::to_string(rows) + " rows", [&](const auto& shape) {
      return !shape.empty() && shape[0] == rows;
    });
    if (!whole) return;
    for (const auto& p : parts) {
      io::tensor_info& part = into.emplace_back(*whole);
      part.name = p.name, part.shape[0] = p.rows;
      part.data += whole->bytes / rows * first, part.bytes = whole->bytes / rows * p.rows;
      match.offer(p.name, part);
      first += p.rows;
    }
  };
  for (index i = 0; i < c.blocks; ++i) {
    const std::string block = "backbone.blocks." + std::to_string(i) + ".", cell = block + "mlstm_layer.";
    take(cell + "qkv_opreact.weight", {{cell + "q.weight", c.query()},
                                       {cell + "k.weight", c.query()},
                                       {cell + "v.weight", c.value()},
                                       {cell + "ogate_preact.weight", c.value()}});
    for (const std::string end : {"weight", "bias"})
      take(cell + "ifgate_preact." + end,
           {{cell + "igate_preact." + end, c.heads}, {cell + "fgate_preact." + end, c.heads}});
    take(block + "ffn.proj_up_gate_z.weight", {{block + "ffn.proj_up_gate.weight", c.feed_forward()},
                                               {block + "ffn.proj_up.weight", c.feed_forward()}});
  }
}

template <class Config>
xlstm_7b_files::xlstm_7b_files(const std::filesystem::path& where) : path(where.string()), folder(where) {
  const io::config_json file(where);
  config = read_xlstm_7b_config(file.required(), file.name);
  io::tensor_match match;
  for (const auto& [name, t] : folder.tensors()) match.offer(xlstm_7b_name(name), *t);
  if (config.fused) split_fused(config, match, parts);
  // Hugging Face ties nothing where a file has a head of its own.
  config.tied = config.tied && !match.has(std::string(config.head_name));
  // As a Config: the stack is compiled where a loader is used.
  for (const auto& e : tensors_of(static_cast<const Config&>(config)))
    found[e.name] = match.take(e.name, e.shape);
  match.finish(path);
}

DISTIL_XLSTM_INLINE stored_tensor xlstm_7b_files::find(const std::string& name) const {
  const stored_tensor t = found.at(name)->stored();
  require_finite(t, name, path);
  return t;
}

}  // namespace distil_xlstm::detail
