#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#if !__has_include(<pcre2.h>)
#error "distil_xlstm's files, models and training need PCRE2: link distil_xlstm::io (package libpcre2-dev)"
#include <distil_xlstm: see the error above>
#endif
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>

#include <distil_xlstm/core/error.hpp>

namespace distil_xlstm::io::detail {

/// Unicode's White_Space. PCRE2's own `\s` also holds U+180E, which left the property with Unicode 6.3.
#define DISTIL_XLSTM_SPACE \
  R"(\t-\r\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"

struct pre_tokenizer {
  std::string_view name;
  std::string_view hugging_face;  ///< the regular expression as a tokenizer.json spells it
  const char* pcre;
};

/// The pre-tokenizers of the family. `smollm` first cuts the text at every digit and then applies GPT-2's
/// expression to each piece; in one expression that is: digits one by one, and the blanks before a digit stay
/// together, because a piece ends there.
inline constexpr pre_tokenizer pre_tokenizers[] = {
    {"gpt-2", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" DISTIL_XLSTM_SPACE "\\p{L}\\p{N}]+|[" DISTIL_XLSTM_SPACE
     "]+(?![^" DISTIL_XLSTM_SPACE "])|[" DISTIL_XLSTM_SPACE "]+"},
    {"smollm",
     {},
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+|\\p{N}| ?[^" DISTIL_XLSTM_SPACE "\\p{L}\\p{N}]+|[" DISTIL_XLSTM_SPACE
     "]+(?![^" DISTIL_XLSTM_SPACE "\\p{N}])|[" DISTIL_XLSTM_SPACE "]+"},
    {"qwen2",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" DISTIL_XLSTM_SPACE
     "\\p{L}\\p{N}]+[\\r\\n]*|[" DISTIL_XLSTM_SPACE "]*[\\r\\n]+|[" DISTIL_XLSTM_SPACE
     "]+(?![^" DISTIL_XLSTM_SPACE "])|[" DISTIL_XLSTM_SPACE "]+"},
    {"llama-bpe",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" DISTIL_XLSTM_SPACE
     "\\p{L}\\p{N}]+[\\r\\n]*|[" DISTIL_XLSTM_SPACE "]*[\\r\\n]+|[" DISTIL_XLSTM_SPACE
     "]+(?![^" DISTIL_XLSTM_SPACE "])|[" DISTIL_XLSTM_SPACE "]+"},
};
#undef DISTIL_XLSTM_SPACE

const pre_tokenizer* find_pre_tokenizer(std::string_view name);

/// A family's expression, compiled: cuts a text into words. Const use from many threads is safe.
class word_pattern {
 public:
  /// What one thread needs to match.
  class scratch {
   public:
    scratch() : match_(pcre2_match_data_create(1, nullptr)), limits_(pcre2_match_context_create(nullptr)) {
      require(match_ && limits_, "PCRE2 has no memory left");
      // A long run of blanks may be walked back over in full; no text may fail for its length.
      constexpr auto most = std::numeric_limits<std::uint32_t>::max();
      pcre2_set_match_limit(limits_.get(), most);
      pcre2_set_depth_limit(limits_.get(), most);
      pcre2_set_heap_limit(limits_.get(), most);
    }

   private:
    friend class word_pattern;
    struct free_memory {
      void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
      void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
    };
    std::unique_ptr<pcre2_match_data, free_memory> match_;
    std::unique_ptr<pcre2_match_context, free_memory> limits_;
  };

  explicit word_pattern(const char* pattern);

  /// Length of the word that begins at `text[at]`.
  std::size_t word_length(std::string_view text, std::size_t at, scratch& s) const;

 private:
  std::shared_ptr<pcre2_code> code_;
  bool jit_ = false;
};

}  // namespace distil_xlstm::io::detail

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/tokenizer/pre_tokenizer.ipp>
#endif
