#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/utf8.hpp>

namespace distil_xlstm::io {

/// Turns ids into text as they come, whole characters only; what can become none is U+FFFD.
class stream_decoder {
 public:
  /// The tokenizer must outlive the decoder. With `skip_special` control tokens are no text.
  explicit stream_decoder(const tokenizer& t, bool skip_special = false)
      : tokenizer_(&t), skip_(skip_special) {}
  /// An error of the compiler: a temporary tokenizer would not live as long.
  template <std::same_as<tokenizer> X>
  explicit stream_decoder(const X&&, bool = false) {
    static_assert(
        sizeof(X) == 0,
        "distil_xlstm::io::stream_decoder(tokenizer) refers to the tokenizer, which must live as long: give "
        "it a name first");
  }

  /// The text that one more id completes; often empty. An id beyond the vocabulary, where a model has more rows
  /// than its tokenizer has tokens, is no text.
  std::string put(std::int32_t id) {
    if (id >= tokenizer_->vocab_size()) return {};
    if (skip_ && tokenizer_->is_control(id)) return {};
    held_ += tokenizer_->bytes(id);
    const std::size_t whole = held_.size() - incomplete_utf8_tail(held_);
    std::string out = replace_invalid_utf8(std::string_view(held_).substr(0, whole));
    held_.erase(0, whole);
    return out;
  }
  /// The end: a character that stayed incomplete.
  std::string finish() { return replace_invalid_utf8(std::exchange(held_, {})); }

 private:
  const tokenizer* tokenizer_;
  bool skip_;
  std::string held_;
};

}  // namespace distil_xlstm::io
