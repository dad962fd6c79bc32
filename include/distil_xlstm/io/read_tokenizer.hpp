#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/parse_tokenizer_json.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/read_gguf_tokenizer.hpp>
#include <distil_xlstm/io/tokenizer/collect_ends.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>

namespace distil_xlstm::io {

namespace detail {

/// bos, eos and chat template of a tokenizer_config.json.
inline void read_tokenizer_config(const json& root, std::string_view name, tokenizer_data& d) {
  const auto token = [&](const char* key, std::int32_t& id) {
    if (!root.is_object() || !root.contains(key) || root[key].is_null()) return;
    const json& value = root[key];
    const auto text =
        value.is_object() ? get<std::string>(value, "content", name) : convert<std::string>(value, key, name);
    const auto at = std::find(d.tokens.begin(), d.tokens.end(), text);
    require(!text.empty() && at != d.tokens.end(), name, ": the ", key, " ", printable(text, 80),
            " is not in the vocabulary");
    id = static_cast<std::int32_t>(at - d.tokens.begin());
  };
  token("bos_token", d.bos);
  token("eos_token", d.eos);
  if (!root.is_object() || !root.contains("chat_template")) return;
  const json& chat = root["chat_template"];
  if (chat.is_string()) d.chat_template = chat.get<std::string>();
  if (chat.is_array())
    for (const json& one : chat)
      if (get_or<std::string>(one, "name", name, "") == "default")
        d.chat_template = get<std::string>(one, "template", name);
}

}  // namespace detail

/// The tokenizer that a path holds: the keys of a GGUF file, or the tokenizer.json of a folder or of its own
/// (its name ends in .json), with what tokenizer_config.json, generation_config.json and chat_template.jinja
/// beside it say about bos, eos and chat template.
inline tokenizer_data read_tokenizer(const std::filesystem::path& path) {
  const bool folder = std::filesystem::is_directory(path);
  if (!folder && path.extension() != ".json") return read_gguf_tokenizer(gguf_file(path));
  const auto file = folder ? path / "tokenizer.json" : path;
  tokenizer_data d = [&] {
    const mapped_file mapped(file);
    return parse_tokenizer_json(mapped.text(), mapped.path());
  }();
  const auto beside = [&](const char* name) { return file.parent_path() / name; };
  if (const auto config = beside("tokenizer_config.json"); std::filesystem::exists(config))
    detail::read_tokenizer_config(read_json_file(config), config.string(), d);
  if (const auto config = beside("generation_config.json"); std::filesystem::exists(config)) {
    const json root = read_json_file(config);
    const auto name = config.string();
    if (root.is_object() && root.contains("eos_token_id") && !root["eos_token_id"].is_null()) {
      const json& eos = root["eos_token_id"];
      const auto ids = eos.is_array() ? get<std::vector<std::int32_t>>(root, "eos_token_id", name)
                                      : std::vector{get<std::int32_t>(root, "eos_token_id", name)};
      for (const auto id : ids) {
        require(id >= 0 && id < static_cast<std::int64_t>(d.tokens.size()), name, ": eos_token_id ", id,
                ", the vocabulary has ", d.tokens.size());
        d.end_of_text.push_back(id);
      }
    }
  }
  if (const auto chat = beside("chat_template.jinja"); std::filesystem::exists(chat) && d.chat_template.empty())
    d.chat_template = mapped_file(chat).text();
  detail::collect_ends(d);
  return d;
}

}  // namespace distil_xlstm::io
