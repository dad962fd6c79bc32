#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/parse_tokenizer_json.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/tokenizer/byte_alphabet.hpp>
#include <distil_xlstm/io/tokenizer/pre_tokenizer.hpp>
#include <distil_xlstm/io/tokenizer/special_tokens.hpp>

namespace distil_xlstm::io {

namespace detail {

/// Reads the parts of a tokenizer.json; whatever is not of the family is refused by its name.
class tokenizer_json_reader {
 public:
  tokenizer_json_reader(const json& root, std::string_view name) : root_(root), name_(name) {
    data_.name = name;
  }

  tokenizer_data read() {
    read_model();
    read_added_tokens();
    read_normalizer();
    read_pre_tokenizer();
    read_decoder();
    read_post_processor();
    collect_end_of_text(data_);
    return std::move(data_);
  }

 private:
  static std::string type_of(const json& part) {
    const auto at = part.is_object() ? part.find("type") : part.end();
    return part.is_object() && at != part.end() && at->is_string() ? at->get<std::string>() : std::string("?");
  }
  const json* part(const char* key) const {
    require(root_.is_object(), name_, ": a JSON object is expected");
    const auto at = root_.find(key);
    return at == root_.end() || at->is_null() ? nullptr : &*at;
  }
  [[noreturn]] void refuse(std::string_view what, const json& value) const {
    fail(name_, ": ", what, " ", printable(value.dump(-1, ' ', false, json::error_handler_t::replace), 160),
         " is not supported");
  }
  std::int32_t checked_id(std::int64_t id, std::string_view token) const {
    // Every id takes memory, so that the ids must be about as many as the tokens.
    require(id >= 0 && id < most_, name_, ": token ", printable(token, 80), " has id ", id, ", there are ",
            count_, " tokens");
    return static_cast<std::int32_t>(id);
  }
  void place(std::string_view token, std::int32_t id) {
    const auto at = static_cast<std::size_t>(id);
    if (at >= data_.tokens.size()) data_.tokens.resize(at + 1);
    require(data_.tokens[at].empty() || data_.tokens[at] == token, name_, ": the tokens ",
            printable(data_.tokens[at], 80), " and ", printable(token, 80), " have the same id ", id);
    data_.tokens[at] = token;
  }

  void read_model() {
    const json& model = member(root_, "model", name_);
    const auto type = get_or<std::string>(model, "type", name_, "BPE");
    require(type == "BPE", name_, ": the model ", printable(type, 60), " is not supported, only BPE");
    const json& vocab = member(model, "vocab", name_);
    const json& merges = member(model, "merges", name_);
    if (!vocab.is_object()) refuse("the vocabulary", vocab);
    if (!merges.is_array()) refuse("the list of merges", merges);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      require(get_or<std::string>(model, key, name_, "").empty(), name_, ": model.", key, " is not supported");
    require(get_or<double>(model, "dropout", name_, 0) == 0, name_, ": model.dropout is not supported");
    require(!get_or<bool>(model, "byte_fallback", name_, false), name_,
            ": model.byte_fallback is not supported");
    data_.ignore_merges = get_or<bool>(model, "ignore_merges", name_, false);
    read_vocabulary(vocab);
    read_unknown_token(model, vocab);
    read_merges(merges);
  }
  void read_vocabulary(const json& vocab) {
    const json* added = part("added_tokens");
    count_ = static_cast<std::int64_t>(vocab.size() + (added ? added->size() : 0));
    most_ = 2 * count_ + 1024;
    for (const auto& [token, id] : vocab.items()) {
      require(!token.empty(), name_, ": the vocabulary has an empty token");
      place(token, checked_id(convert<std::int64_t>(id, token, name_), token));
    }
  }
  /// It matters only where a byte has no token.
  void read_unknown_token(const json& model, const json& vocab) {
    const auto text = get_or<std::string>(model, "unk_token", name_, "");
    if (text.empty()) return;
    const auto at = vocab.find(text);
    require(at != vocab.end(), name_, ": the unk_token ", printable(text, 80), " is not in the vocabulary");
    for (unsigned b = 0; b < 256; ++b) {
      if (vocab.contains(alphabet_character(static_cast<unsigned char>(b)))) continue;
      require(!get_or<bool>(model, "fuse_unk", name_, false), name_, ": model.fuse_unk is not supported");
      data_.unknown = at->get<std::int32_t>();
    }
  }
  void read_merges(const json& merges) {
    data_.merges.reserve(merges.size());
    for (const json& m : merges) {
      if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) {
        data_.merges.emplace_back(m[0].get<std::string>(), m[1].get<std::string>());
        continue;
      }
      const std::string text = m.is_string() ? m.get<std::string>() : "";
      if (text.starts_with("#version")) continue;
      const auto blank = text.find(' ');
      if (blank == 0 || blank == text.npos || blank + 1 == text.size() ||
          text.find(' ', blank + 1) != text.npos)
        refuse("the merge", m);
      data_.merges.emplace_back(text.substr(0, blank), text.substr(blank + 1));
    }
  }

  void read_added_tokens() {
    const json* added = part("added_tokens");
    if (!added) return;
    if (!added->is_array()) refuse("added_tokens", *added);
    std::unordered_map<std::string_view, std::int32_t> ids;
    for (const auto& [token, id] : member(member(root_, "model", name_), "vocab", name_).items())
      ids.emplace(token, id.get<std::int32_t>());
    for (const json& t : *added) {
      const auto text = get<std::string>(t, "content", name_);
      require(!text.empty(), name_, ": an added token is empty");
      for (const char* key : {"lstrip", "rstrip", "single_word"})
        require(!get_or<bool>(t, key, name_, false), name_, ": ", key, " of the added token ",
                printable(text, 80), " is not supported");
      const auto id = checked_id(get<std::int64_t>(t, "id", name_), text);
      const auto [at, fresh] = ids.emplace(member(t, "content", name_).get_ref<const std::string&>(), id);
      require(at->second == id, name_, ": the token ", printable(text, 80), " has the ids ", at->second,
              " and ", id);
      place(text, id);
      data_.specials.push_back(
          {id, text, get_or<bool>(t, "special", name_, false), get_or<bool>(t, "normalized", name_, false)});
    }
  }

  void read_normalizer() {
    if (const json* n = part("normalizer")) read_normalizer(*n);
  }
  void read_normalizer(const json& n) {
    const auto type = type_of(n);
    if (type == "NFC") {
      data_.nfc = true;
    } else if (type == "Sequence" && n.contains("normalizers") && n["normalizers"].is_array()) {
      for (const json& step : n["normalizers"]) {
        if (type_of(step) != "NFC") refuse("the normalizer", step);
        data_.nfc = true;
      }
    } else {
      refuse("the normalizer", n);
    }
  }

  /// The last step: whether it has the expression of GPT-2 in it.
  bool byte_level_cuts(const json& step) const {
    if (type_of(step) != "ByteLevel" || get_or<bool>(step, "add_prefix_space", name_, true))
      refuse("the pre-tokenizer", step);
    return get_or<bool>(step, "use_regex", name_, true);
  }
  void read_pre_tokenizer() {
    const json* p = part("pre_tokenizer");
    require(p, name_, ": there is no pre_tokenizer");
    std::vector<const json*> steps;
    if (type_of(*p) == "Sequence" && p->contains("pretokenizers") && (*p)["pretokenizers"].is_array()) {
      for (const json& step : (*p)["pretokenizers"]) steps.push_back(&step);
    } else {
      steps.push_back(p);
    }
    if (steps.empty() || steps.size() > 2) refuse("the pre-tokenizer", *p);
    const bool cuts = byte_level_cuts(*steps.back());
    if (steps.size() == 1) {
      if (!cuts) refuse("the pre-tokenizer", *p);
      data_.pre = "gpt-2";
      return;
    }
    const json& first = *steps[0];
    const auto type = type_of(first);
    if (type == "Digits" && cuts && get_or<bool>(first, "individual_digits", name_, false)) {
      data_.pre = "smollm";
      return;
    }
    if (type != "Split" || cuts) refuse("the pre-tokenizer", *p);
    // The expressions leave no part of a text out, so that keeping the matches only is the same.
    const auto behavior = get_or<std::string>(first, "behavior", name_, "");
    const bool invert = get_or<bool>(first, "invert", name_, false);
    if (!(behavior == "Isolated" || (behavior == "Removed" && invert))) refuse("the pre-tokenizer", first);
    const json& pattern = member(first, "pattern", name_);
    if (!pattern.is_object() || !pattern.contains("Regex")) refuse("the pre-tokenizer", first);
    const auto expression = get<std::string>(pattern, "Regex", name_);
    for (const auto& known : pre_tokenizers) {
      if (known.hugging_face != expression) continue;
      data_.pre = known.name;
      return;
    }
    refuse("the pre-tokenizer's expression", pattern["Regex"]);
  }

  void read_decoder() const {
    if (const json* d = part("decoder"); d && type_of(*d) != "ByteLevel") refuse("the decoder", *d);
  }

  void read_post_processor() {
    const json* p = part("post_processor");
    if (!p) return;
    if (type_of(*p) == "Sequence" && p->contains("processors") && (*p)["processors"].is_array()) {
      for (const json& step : (*p)["processors"]) read_post_processor(step);
    } else {
      read_post_processor(*p);
    }
  }
  /// ByteLevel only moves offsets; a template may put one token before the text.
  void read_post_processor(const json& p) {
    const auto type = type_of(p);
    if (type == "ByteLevel") return;
    if (type != "TemplateProcessing" || !p.contains("single") || !p["single"].is_array())
      refuse("the post-processor", p);
    const json& single = p["single"];
    const auto has = [](const json& step, const char* key) { return step.is_object() && step.contains(key); };
    const bool bos = single.size() == 2 && has(single[0], "SpecialToken") && has(single[1], "Sequence");
    if (!bos && !(single.size() == 1 && has(single[0], "Sequence"))) refuse("the post-processor", p);
    if (!bos) return;
    const auto text = get<std::string>(single[0]["SpecialToken"], "id", name_);
    for (const auto& s : data_.specials)
      if (s.text == text) data_.bos = s.id;
    require(data_.bos >= 0, name_, ": the post-processor's token ", printable(text, 80),
            " is no special token");
    data_.add_bos = true;
  }

  const json& root_;
  std::string_view name_;
  tokenizer_data data_;
  std::int64_t count_ = 0, most_ = 0;
};

}  // namespace detail

DISTIL_XLSTM_INLINE tokenizer_data parse_tokenizer_json(std::string_view text, std::string_view name) {
  const json root = parse_json(text, name);
  return detail::tokenizer_json_reader(root, name).read();
}

}  // namespace distil_xlstm::io
