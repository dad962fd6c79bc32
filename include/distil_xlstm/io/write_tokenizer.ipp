#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/tokenizer/pre_tokenizer.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>

namespace distil_xlstm::io {

namespace detail {

inline ordered_json added_tokens_json(const tokenizer_data& d) {
  std::vector<special_token> specials = d.specials;
  std::sort(specials.begin(), specials.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  ordered_json out = ordered_json::array();
  for (const auto& s : specials)
    out.push_back({{"id", s.id},
                   {"content", s.text},
                   {"single_word", false},
                   {"lstrip", false},
                   {"rstrip", false},
                   {"normalized", s.normalized},
                   {"special", s.control}});
  return out;
}

inline ordered_json byte_level_json(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

inline ordered_json pre_tokenizer_json(const tokenizer_data& d) {
  const auto* pre = find_pre_tokenizer(d.pre);
  require(pre, d.name, ": the pre-tokenizer ", printable(d.pre, 60), " is not supported");
  if (d.pre == "gpt-2") return byte_level_json(true);
  ordered_json first = {{"type", "Digits"}, {"individual_digits", true}};
  if (d.pre != "smollm")
    first = {{"type", "Split"},
             {"pattern", {{"Regex", pre->hugging_face}}},
             {"behavior", "Isolated"},
             {"invert", false}};
  return {{"type", "Sequence"},
          {"pretokenizers", ordered_json::array({first, byte_level_json(d.pre == "smollm")})}};
}

inline ordered_json post_processor_json(const tokenizer_data& d) {
  if (!d.add_bos || d.bos < 0) return byte_level_json(true);
  const std::string& bos = d.tokens.at(static_cast<std::size_t>(d.bos));
  const auto token = [&](int type) -> ordered_json {
    return {{"SpecialToken", {{"id", bos}, {"type_id", type}}}};
  };
  const auto text = [](const char* id, int type) -> ordered_json {
    return {{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  return {
      {"type", "TemplateProcessing"},
      {"single", ordered_json::array({token(0), text("A", 0)})},
      {"pair", ordered_json::array({token(0), text("A", 0), token(1), text("B", 1)})},
      {"special_tokens",
       {{bos, {{"id", bos}, {"ids", ordered_json::array({d.bos})}, {"tokens", ordered_json::array({bos})}}}}}};
}

inline ordered_json model_json(const tokenizer_data& d) {
  // Each token is there once: appended, not looked up.
  ordered_json::object_t vocab;
  for (std::size_t i = 0; i < d.tokens.size(); ++i)
    if (!d.tokens[i].empty()) vocab.Container::emplace_back(d.tokens[i], i);
  // The older spelling, which every release reads, unless a token holds a blank.
  const bool blanks = std::any_of(d.merges.begin(), d.merges.end(), [](const auto& m) {
    return m.first.find(' ') != std::string::npos || m.second.find(' ') != std::string::npos ||
           m.first.starts_with("#version");
  });
  ordered_json merges = ordered_json::array();
  for (const auto& [left, right] : d.merges)
    merges.push_back(blanks ? ordered_json::array({left, right}) : ordered_json(left + " " + right));
  ordered_json unknown;
  if (d.unknown >= 0) unknown = d.tokens.at(static_cast<std::size_t>(d.unknown));
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", std::move(unknown)},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", d.ignore_merges},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

}  // namespace detail

DISTIL_XLSTM_INLINE std::string tokenizer_json(const tokenizer_data& d) {
  const ordered_json root = {{"version", "1.0"},
                             {"truncation", nullptr},
                             {"padding", nullptr},
                             {"added_tokens", detail::added_tokens_json(d)},
                             {"normalizer", d.nfc ? ordered_json{{"type", "NFC"}} : ordered_json()},
                             {"pre_tokenizer", detail::pre_tokenizer_json(d)},
                             {"post_processor", detail::post_processor_json(d)},
                             {"decoder", detail::byte_level_json(true)},
                             {"model", detail::model_json(d)}};
  return root.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

DISTIL_XLSTM_INLINE std::string tokenizer_config_json(const tokenizer_data& d) {
  json root = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto token = [&](const char* key, std::int32_t id) {
    if (id >= 0 && !d.tokens.at(static_cast<std::size_t>(id)).empty())
      root[key] = d.tokens[static_cast<std::size_t>(id)];
  };
  token("bos_token", d.bos);
  token("eos_token", d.eos);
  if (!d.chat_template.empty()) root["chat_template"] = d.chat_template;
  return root.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

DISTIL_XLSTM_INLINE void write_tokenizer(const std::filesystem::path& folder, const tokenizer_data& d) {
  write_text_atomically(folder / "tokenizer.json", tokenizer_json(d));
  write_text_atomically(folder / "tokenizer_config.json", tokenizer_config_json(d));
}

}  // namespace distil_xlstm::io
