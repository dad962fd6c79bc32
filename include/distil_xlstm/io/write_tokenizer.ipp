#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/json_object.hpp>
#include <distil_xlstm/io/json_text.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/tokenizer/pre_tokenizer.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>

namespace distil_xlstm::io {

namespace detail {

/// Writes the parts of a tokenizer.json.
class tokenizer_json_writer {
 public:
  explicit tokenizer_json_writer(const tokenizer_data& d) : d_(d) {}

  std::string write() {
    out_.object([&] {
      out_.member("version", "1.0");
      out_.key("truncation").null();
      out_.key("padding").null();
      out_.key("added_tokens");
      put_added_tokens();
      out_.key("normalizer");
      if (d_.nfc)
        out_.object([&] { out_.member("type", "NFC"); });
      else
        out_.null();
      out_.key("pre_tokenizer");
      put_pre_tokenizer();
      out_.key("post_processor");
      put_post_processor();
      out_.key("decoder");
      put_byte_level(true);
      out_.key("model");
      put_model();
    });
    return out_.text() + "\n";
  }

 private:
  void put_added_tokens() {
    std::vector<special_token> specials = d_.specials;
    std::sort(specials.begin(), specials.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
    out_.array([&] {
      for (const auto& s : specials)
        out_.object([&] {
          out_.member("id", s.id).member("content", s.text).member("single_word", false);
          out_.member("lstrip", false).member("rstrip", false);
          out_.member("normalized", s.normalized).member("special", s.control);
        });
    });
  }

  void put_byte_level(bool use_regex) {
    out_.object([&] {
      out_.member("type", "ByteLevel").member("add_prefix_space", false).member("trim_offsets", true);
      out_.member("use_regex", use_regex);
    });
  }

  void put_pre_tokenizer() {
    const auto* pre = find_pre_tokenizer(d_.pre);
    require(pre, d_.name, ": the pre-tokenizer ", printable(d_.pre, 60), " is not supported");
    if (d_.pre == "gpt-2") return put_byte_level(true);
    const bool digits = d_.pre == "smollm";
    out_.object([&] {
      out_.member("type", "Sequence").key("pretokenizers").array([&] {
        out_.object([&] {
          if (digits) {
            out_.member("type", "Digits").member("individual_digits", true);
            return;
          }
          out_.member("type", "Split");
          out_.key("pattern").object([&] { out_.member("Regex", pre->hugging_face); });
          out_.member("behavior", "Isolated").member("invert", false);
        });
        put_byte_level(digits);
      });
    });
  }

  void put_post_processor() {
    if (!d_.add_bos || d_.bos < 0) return put_byte_level(true);
    const std::string& bos = token(d_.bos);
    const auto put = [&](const char* kind, std::string_view id, int type) {
      out_.object([&] { out_.key(kind).object([&] { out_.member("id", id).member("type_id", type); }); });
    };
    out_.object([&] {
      out_.member("type", "TemplateProcessing");
      out_.key("single").array([&] { put("SpecialToken", bos, 0), put("Sequence", "A", 0); });
      out_.key("pair").array([&] {
        put("SpecialToken", bos, 0), put("Sequence", "A", 0);
        put("SpecialToken", bos, 1), put("Sequence", "B", 1);
      });
      out_.key("special_tokens").object([&] {
        out_.key(bos).object([&] {
          out_.member("id", bos);
          out_.key("ids").array([&] { out_.put(d_.bos); });
          out_.key("tokens").array([&] { out_.put(bos); });
        });
      });
    });
  }

  void put_model() {
    // The older spelling, which every release reads, unless a token holds a blank.
    const bool blanks = std::any_of(d_.merges.begin(), d_.merges.end(), [](const auto& m) {
      return m.first.find(' ') != std::string::npos || m.second.find(' ') != std::string::npos ||
             m.first.starts_with("#version");
    });
    out_.object([&] {
      out_.member("type", "BPE").key("dropout").null();
      out_.key("unk_token");
      if (d_.unknown >= 0)
        out_.put(token(d_.unknown));
      else
        out_.null();
      out_.key("continuing_subword_prefix").null();
      out_.key("end_of_word_suffix").null();
      out_.member("fuse_unk", false).member("byte_fallback", false).member("ignore_merges", d_.ignore_merges);
      out_.key("vocab").object([&] {
        for (std::size_t i = 0; i < d_.tokens.size(); ++i)
          if (!d_.tokens[i].empty()) out_.member(d_.tokens[i], static_cast<index>(i));
      });
      out_.key("merges").array([&] {
        for (const auto& [left, right] : d_.merges)
          if (blanks)
            out_.array([&, &l = left, &r = right] { out_.put(l).put(r); });
          else
            out_.put(left + " " + right);
      });
    });
  }

  const std::string& token(std::int32_t id) const { return d_.tokens.at(static_cast<std::size_t>(id)); }

  const tokenizer_data& d_;
  json_text out_{2};
};

}  // namespace detail

DISTIL_XLSTM_INLINE std::string tokenizer_json(const tokenizer_data& d) {
  return detail::tokenizer_json_writer(d).write();
}

DISTIL_XLSTM_INLINE std::string tokenizer_config_json(const tokenizer_data& d) {
  json root = detail::json_object(
      {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}});
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
