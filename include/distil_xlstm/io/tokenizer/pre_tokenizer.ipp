#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/tokenizer/pre_tokenizer.hpp>

namespace distil_xlstm::io::detail {

DISTIL_XLSTM_INLINE const pre_tokenizer* find_pre_tokenizer(std::string_view name) {
  for (const auto& p : pre_tokenizers)
    if (p.name == name) return &p;
  return nullptr;
}

DISTIL_XLSTM_INLINE word_pattern::word_pattern(const char* pattern) {
  int code = 0;
  std::size_t at = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, &code, &at, nullptr),
              [](pcre2_code* p) { pcre2_code_free(p); });
  require(code_ != nullptr, "PCRE2 refuses the pre-tokenizer's expression: error ", code, " at ", at);
  // Where PCRE2 has no just-in-time compiler the interpreter gives the same matches.
  jit_ = pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE) == 0;
}

DISTIL_XLSTM_INLINE std::size_t word_pattern::word_length(std::string_view text, std::size_t at,
                                                          scratch& s) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  pcre2_match_data* const match = s.match_.get();
  pcre2_match_context* const limits = s.limits_.get();
  int found = PCRE2_ERROR_JIT_STACKLIMIT;
  if (jit_) found = pcre2_jit_match(code_.get(), subject, text.size(), at, 0, match, limits);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT)
    found =
        pcre2_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, limits);
  require(found > 0, "PCRE2 fails with ", found, " at byte ", at, " of the text");
  return pcre2_get_ovector_pointer(match)[1] - at;
}

}  // namespace distil_xlstm::io::detail
