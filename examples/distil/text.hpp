#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/io/tokenizer.hpp>

#include "common.hpp"

namespace program {

/// The content of a text file as `dx::io::read_text` gives it, UTF-8 with lines that LF ends; "-" is stdin. How many
/// line ends were CR and LF is said on stderr.
std::string read_text(const fs::path& path);
/// Calls use(prompt, name) for the prompts of a file, one a line; `name` says the file and the line.
/// Throws `error` where there is none.
void for_each_prompt(const fs::path& path,
                     const std::function<void(const std::string& prompt, const std::string& name)>& use);
/// The bytes of stdin as they are.
std::string read_stdin();

/// The tokenizer that a model carries: a GGUF's keys, or the tokenizer.json of a folder; nothing where there is
/// none.
std::optional<dx::io::tokenizer_data> tokenizer_of(const fs::path& model);

/// The tokenizer of a model, or an error that names the model.
dx::io::tokenizer need_tokenizer(const fs::path& model);
/// The same; one with more ids than the model has rows belongs to another model.
dx::io::tokenizer need_tokenizer(const fs::path& model, dx::index vocabulary);

/// Throws `error` unless the tokens are of the vocabulary, and made by the tokenizer where both are known;
/// `whose` is "the teacher" or "the model".
void check_vocabulary(const dx::io::token_file& tokens, dx::index vocabulary,
                      const std::optional<dx::io::tokenizer_data>& tokenizer, const std::string& whose);

/// Running text: without tokens that begin or end documents or turns.
template <class Text>
std::vector<std::int32_t> filler_of(const Text& text, const dx::io::tokenizer& tokenizer) {
  std::vector<std::int32_t> ids;
  ids.reserve(static_cast<std::size_t>(text.size()));
  for (dx::index i = 0; i < text.size(); ++i)
    if (text[i] >= tokenizer.vocab_size() || !tokenizer.is_control(text[i])) ids.push_back(text[i]);
  return ids;
}

/// Encodes the texts of one file (`name`), which may be one. Without `parse_special` special tokens are plain text.
class text_encoder {
 public:
  text_encoder(const dx::io::tokenizer& tokenizer, std::string name, bool parse_special)
      : tokenizer_(tokenizer), name_(std::move(name)), parse_special_(parse_special) {}
  /// Throws an error that begins with the name where the text is not UTF-8.
  std::vector<std::int32_t> encode(std::string_view text);
  /// Says on stderr, each in one line, how many bytes have no token in the vocabulary and were dropped, and how many
  /// special tokens were taken for text.
  void warn() const;

 private:
  const dx::io::tokenizer& tokenizer_;
  std::string name_;
  bool parse_special_;
  dx::io::tokenizer_scratch scratch_;
  std::size_t dropped_bytes_ = 0;
  dx::index plain_specials_ = 0;
};

/// The ids of a text that is not empty, with the warnings.
std::vector<std::int32_t> encode_text(const dx::io::tokenizer& tokenizer, const std::string& text,
                                      const std::string& name, bool parse_special);

/// Says on stderr where no document of a training text ends with a token at which generation stops.
void warn_without_ends(const dx::io::token_file& tokens, const dx::io::tokenizer_data& tokenizer);

/// What tells one model from another: the hash of its file or files, or of its folder's weights and configuration.
std::string hash_of(const fs::path& model);

}  // namespace program
