#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/parse_tokenizer_json.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/read_gguf_tokenizer.hpp>
#include <distil_xlstm/io/read_text.hpp>
#include <distil_xlstm/io/read_tokenizer.hpp>
#include <distil_xlstm/io/tokenizer/special_tokens.hpp>

namespace distil_xlstm::io {

namespace detail {

/// What the files beside a tokenizer.json add to it, as transformers reads them.
class tokenizer_folder {
 public:
  tokenizer_folder(std::filesystem::path folder, tokenizer_data& data)
      : folder_(std::move(folder)), data_(data) {}

  void read() {
    const json config = file("tokenizer_config.json"), map = file("special_tokens_map.json");
    add_tokens(config);
    name_tokens(config, "tokenizer_config.json");
    name_tokens(map, "special_tokens_map.json");
    read_template(config);
    read_end_of_text();
    collect_end_of_text(data_);
  }

 private:
  std::string path(const char* name) const { return (folder_ / name).string(); }
  /// The object in a file; an empty one where there is no such file.
  json file(const char* name) const {
    if (!std::filesystem::exists(folder_ / name)) return json::object();
    json root = read_json_file(folder_ / name);
    require(root.is_object(), path(name), ": a JSON object is expected");
    return root;
  }
  static bool has(const json& object, const char* key) {
    const auto at = object.find(key);
    return at != object.end() && !at->is_null();
  }
  /// A token is its text, or an object with its text.
  static std::string text_of(const json& token, std::string_view key, std::string_view name) {
    return token.is_object() ? get<std::string>(token, "content", name)
                             : convert<std::string>(token, key, name);
  }

  /// Tokens with ids of their own: `added_tokens_decoder`, or added_tokens.json of older folders.
  void add_tokens(const json& config) {
    if (has(config, "added_tokens_decoder")) {
      const auto name = path("tokenizer_config.json");
      const json& added = config["added_tokens_decoder"];
      require(added.is_object(), name, ": added_tokens_decoder must be an object");
      for (const auto& [key, token] : added.items()) {
        const auto text = get<std::string>(token, "content", name);
        for (const char* flag : {"lstrip", "rstrip", "single_word"})
          require(!get_or<bool>(token, flag, name, false), name, ": ", flag, " of the added token ",
                  printable(text, 80), " is not supported");
        std::int64_t id = -1;
        const auto [end, code] = std::from_chars(key.data(), key.data() + key.size(), id);
        require(code == std::errc() && end == key.data() + key.size(), name,
                ": added_tokens_decoder: ", printable(key, 40), " is no id");
        add_token(id, text, get_or<bool>(token, "special", name, false), name);
      }
      return;
    }
    const auto name = path("added_tokens.json");
    const json added = file("added_tokens.json");
    for (const auto& [text, id] : added.items())
      add_token(convert<std::int64_t>(id, text, name), text, false, name);
  }
  void add_token(std::int64_t id, const std::string& text, bool control, const std::string& name) {
    auto& tokens = data_.tokens;
    // Every id takes memory: a few beyond the vocabulary, not any number.
    require(!text.empty() && id >= 0 && id < static_cast<std::int64_t>(tokens.size() + 65536), name,
            ": the added token ", printable(text, 80), " has id ", id, ", the vocabulary has ", tokens.size());
    const auto there = find_token(data_, text);
    require(there < 0 || there == id, name, ": the token ", printable(text, 80), " has the ids ", there,
            " and ", id);
    const auto at = static_cast<std::size_t>(id);
    if (at >= tokens.size()) tokens.resize(at + 1);
    require(tokens[at].empty() || tokens[at] == text, name, ": the tokens ", printable(tokens[at], 80), " and ",
            printable(text, 80), " have the same id ", id);
    tokens[at] = text;
    mark_special(data_, static_cast<std::int32_t>(id), control);
  }

  /// Tokens with a part to play are control tokens. What an earlier file said about bos and eos stands.
  void name_tokens(const json& root, const char* file) {
    const auto name = path(file);
    for (const auto& [key, id] : {std::pair{"bos_token", &data_.bos}, {"eos_token", &data_.eos}}) {
      if (!has(root, key) || named_.contains(key)) continue;
      const auto text = text_of(root[key], key, name);
      const auto at = find_token(data_, text);
      require(at >= 0, name, ": the ", key, " ", printable(text, 80), " is not in the vocabulary");
      *id = at;
      named_.insert(key);
      mark_special(data_, at, true);
    }
    // One that the vocabulary lacks has no row in the model either.
    const auto control = [&](const json& token, const char* key) {
      if (const auto at = find_token(data_, text_of(token, key, name)); at >= 0) mark_special(data_, at, true);
    };
    for (const char* key : {"unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
      if (has(root, key)) control(root[key], key);
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"})
      if (has(root, key) && root[key].is_structured())
        for (const json& token : root[key]) control(token, key);
  }

  void read_template(const json& config) {
    const auto name = path("tokenizer_config.json");
    const json chat = has(config, "chat_template") ? config["chat_template"] : json();
    if (chat.is_string()) data_.chat_template = chat.get<std::string>();
    if (chat.is_array())
      for (const json& one : chat)
        if (get_or<std::string>(one, "name", name, "") == "default")
          data_.chat_template = get<std::string>(one, "template", name);
    if (const auto own = folder_ / "chat_template.jinja";
        std::filesystem::exists(own) && data_.chat_template.empty())
      data_.chat_template = read_text(own).text;
  }

  /// `eos_token_id` of generation_config.json, or else of config.json.
  void read_end_of_text() {
    for (const char* file_name : {"generation_config.json", "config.json"}) {
      const json root = file(file_name);
      if (!has(root, "eos_token_id")) continue;
      const auto name = path(file_name);
      const auto ids = root["eos_token_id"].is_array()
                           ? get<std::vector<std::int64_t>>(root, "eos_token_id", name)
                           : std::vector{get<std::int64_t>(root, "eos_token_id", name)};
      for (const auto id : ids) {
        const bool known = id >= 0 && id < static_cast<std::int64_t>(data_.tokens.size());
        // A config.json may have its class's default, which is any token of the vocabulary, or none.
        const bool ends = std::string_view(file_name) == "generation_config.json" ||
                          std::any_of(data_.specials.begin(), data_.specials.end(),
                                      [&](const special_token& s) { return s.id == id; });
        if (!ends) continue;
        require(known, name, ": eos_token_id ", id, ", the vocabulary has ", data_.tokens.size());
        data_.end_of_text.push_back(static_cast<std::int32_t>(id));
      }
      return;
    }
  }

  std::filesystem::path folder_;
  tokenizer_data& data_;
  std::set<std::string> named_;
};

}  // namespace detail

DISTIL_XLSTM_INLINE tokenizer_data read_tokenizer(const std::filesystem::path& path) {
  const bool folder = std::filesystem::is_directory(path);
  if (!folder && path.extension() != ".json") return read_gguf_tokenizer(gguf_file(path));
  const auto file = folder ? path / "tokenizer.json" : path;
  tokenizer_data d = [&] {
    const mapped_file mapped(file);
    return parse_tokenizer_json(mapped.text(), mapped.path());
  }();
  detail::tokenizer_folder(file.parent_path(), d).read();
  return d;
}

}  // namespace distil_xlstm::io
