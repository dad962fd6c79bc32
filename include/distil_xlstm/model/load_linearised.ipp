#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/config_json.hpp>
#include <distil_xlstm/io/json_object.hpp>
#include <distil_xlstm/model/load_linearised.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE bool is_linearised_config(const io::json& c) {
  return c.is_object() && c.contains("model_type") && io::is_text(c.at("model_type"), "distil_xlstm_linear");
}

DISTIL_XLSTM_INLINE io::json write_linearised_config(const linearised_config& c) {
  io::json out = write_llama_config(c);
  out.update(io::detail::json_object({{"architectures", io::detail::json_texts({"DistilLinear"})},
                                      {"teacher_model_type", c.model_type},
                                      {"model_type", "distil_xlstm_linear"},
                                      {"hidden_act", "silu"},
                                      {"torch_dtype", "float32"},
                                      {"features", c.both_signs ? "softmax_pm" : "softmax"}}));
  for (const mixer_kind k : c.mixers) out["mixers"].push_back(std::string(name_of(k)));
  out["window"] = c.window, out["sinks"] = c.sinks;
  if (c.features != c.head_dim) out["feature_count"] = c.features;
  return out;
}

DISTIL_XLSTM_INLINE linearised_config read_linearised_config(const io::json& c, const std::string& name) {
  using io::get;
  using io::get_or;
  require(is_linearised_config(c), name, ": model_type is not distil_xlstm_linear");
  io::json of_teacher = c;
  of_teacher["model_type"] = get_or<std::string>(c, "teacher_model_type", name, "llama");
  // What a family's own bias would be called is read off the tensors.
  if (!find_llama_family(of_teacher["model_type"].get<std::string>(), name + ": teacher_model_type")
           .attention_bias)
    of_teacher.erase("attention_bias");
  linearised_config x{read_llama_config(of_teacher, name)};
  for (const auto& mixer : get<std::vector<std::string>>(c, "mixers", name)) {
    try {
      x.mixers.push_back(mixer_named(mixer));
    } catch (const error& e) {
      fail(name, ": mixers: ", e.what());
    }
  }
  x.window = get_or<index>(c, "window", name, x.window), x.sinks = get_or<index>(c, "sinks", name, x.sinks);
  const auto features = get_or<std::string>(c, "features", name, "softmax_pm");
  require(features == "softmax_pm" || features == "softmax", name, ": features '",
          io::detail::printable(features), "' are not known (softmax_pm and softmax are)");
  x.both_signs = features == "softmax_pm";
  x.features = get_or<index>(c, "feature_count", name, x.head_dim);
  x.check(name);
  return x;
}

DISTIL_XLSTM_INLINE void write_linearised_config(const linearised_config& c,
                                                 const std::filesystem::path& folder) {
  io::write_text_atomically(folder / "config.json", write_linearised_config(c).dump(2) + "\n");
}

}  // namespace distil_xlstm

namespace distil_xlstm::detail {

template <class Config>
linearised_files::linearised_files(const std::filesystem::path& where) : path(where.string()), folder(where) {
  const io::config_json file(where);
  config = read_linearised_config(file.required(), file.name);
  io::tensor_match match;
  for (const auto& [name, t] : folder.tensors()) match.offer(name, *t);
  const std::string first = "model.layers.0.self_attn.";
  config.qkv_bias = match.has(first + "q_proj.bias"), config.output_bias = match.has(first + "o_proj.bias");
  config.head_norms = match.has(first + "q_norm.weight");
  if (config.tied) match.ignore(std::string(config.head_name));
  // As a Config: the stack is compiled where a loader is used.
  for (const auto& e : tensors_of(static_cast<const Config&>(config)))
    found[e.name] = match.take(e.name, e.shape);
  match.finish(path);
}

DISTIL_XLSTM_INLINE stored_tensor linearised_files::find(const std::string& name) const {
  const stored_tensor t = found.at(name)->stored();
  require_finite(t, name, path);
  return t;
}

}  // namespace distil_xlstm::detail
