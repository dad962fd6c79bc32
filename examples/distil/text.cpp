#include "text.hpp"

#include <algorithm>
#include <iostream>
#include <iterator>
#include <utility>

#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/read_text.hpp>
#include <distil_xlstm/io/read_tokenizer.hpp>
#include <distil_xlstm/io/sha256.hpp>

namespace program {

std::string read_text(const fs::path& path) {
  const bool from_stdin = path == "-";
  const std::string name = from_stdin ? "stdin" : path.string();
  auto content = from_stdin ? dx::io::read_text(std::cin, name) : dx::io::read_text(path);
  if (content.crlf > 0)
    std::cerr << "distil: " << name << ": " << content.crlf << " line ends of CR and LF read as LF\n";
  return std::move(content.text);
}

void for_each_prompt(const fs::path& path,
                     const std::function<void(const std::string& prompt, const std::string& name)>& use) {
  const std::string all = read_text(path);
  std::size_t number = 0;
  for (std::size_t begin = 0, end; begin < all.size(); begin = end + 1) {
    end = std::min(all.find('\n', begin), all.size());
    use(all.substr(begin, end - begin), path.string() + ": line " + std::to_string(++number));
  }
  dx::require(number > 0, path.string(), ": there is no prompt");
}

std::string read_stdin() { return {std::istreambuf_iterator<char>(std::cin), {}}; }

std::optional<dx::io::tokenizer_data> tokenizer_of(const fs::path& model) {
  if (fs::is_directory(model) && !fs::exists(model / "tokenizer.json")) return {};
  return dx::io::read_tokenizer(model);
}

dx::io::tokenizer need_tokenizer(const fs::path& model) {
  dx::require(fs::exists(model), model.string(), ": no such file or folder");
  auto data = tokenizer_of(model);
  dx::require(data.has_value(), model.string(), ": there is no tokenizer.json");
  return dx::io::tokenizer(std::move(*data));
}

dx::io::tokenizer need_tokenizer(const fs::path& model, dx::index vocabulary) {
  auto t = need_tokenizer(model);
  dx::require(t.vocab_size() <= vocabulary, model.string(), ": the tokenizer has a vocabulary of ",
              t.vocab_size(), ", the model one of ", vocabulary);
  return t;
}

void check_vocabulary(const dx::io::token_file& tokens, dx::index vocabulary,
                      const std::optional<dx::io::tokenizer_data>& tokenizer, const std::string& whose) {
  dx::require(tokens.vocab_size() <= vocabulary, tokens.path(), ": made with a vocabulary of ",
              tokens.vocab_size(), ", ", whose, " has ", vocabulary);
  if (tokenizer && !tokens.tokenizer_sha256().empty())
    dx::require(tokens.tokenizer_sha256() == dx::io::tokenizer(*tokenizer).fingerprint(), tokens.path(),
                ": made with another tokenizer than ", whose, "'s");
}

std::vector<std::int32_t> text_encoder::encode(std::string_view text) {
  dx::io::encoded e;
  try {
    e = tokenizer_.encode(text, parse_special_, scratch_);
  } catch (const dx::error& why) {
    dx::fail(name_, ": ", why.what());
  }
  dropped_bytes_ += e.dropped_bytes;
  if (!parse_special_) plain_specials_ += tokenizer_.count_control(text);
  return std::move(e.ids);
}

void text_encoder::warn() const {
  if (dropped_bytes_ > 0)
    std::cerr << "distil: warning: " << name_ << ": " << dropped_bytes_
              << " bytes have no token in this vocabulary and were dropped\n";
  if (plain_specials_ > 0)
    std::cerr << "distil: warning: " << name_ << ": " << plain_specials_
              << (plain_specials_ == 1 ? " special token is" : " special tokens are")
              << " taken for plain text; --special parses them\n";
}

std::vector<std::int32_t> encode_text(const dx::io::tokenizer& tokenizer, const std::string& text,
                                      const std::string& name, bool parse_special) {
  dx::require(!text.empty(), name, ": the text is empty");
  text_encoder encoder(tokenizer, name, parse_special);
  auto ids = encoder.encode(text);
  encoder.warn();
  return ids;
}

void warn_without_ends(const dx::io::token_file& tokens, const dx::io::tokenizer_data& tokenizer) {
  const auto& ends = tokenizer.end_of_text;
  const auto documents = tokens.documents();
  for (std::size_t d = 0; d < documents.size(); ++d) {
    const auto next = d + 1 < documents.size() ? documents[d + 1] : tokens.size();
    if (next > 0 && std::find(ends.begin(), ends.end(), tokens[next - 1]) != ends.end()) return;
  }
  std::cerr << "distil: warning: " << tokens.path()
            << ": no document ends with an end-of-text token: the student does not learn to stop\n";
}

std::string hash_of(const fs::path& model) {
  std::vector<fs::path> files;
  if (fs::is_directory(model)) {
    for (const auto& f : fs::directory_iterator(model))
      if (f.path().extension() == ".safetensors" || f.path().filename() == "config.json")
        files.push_back(f.path());
    std::sort(files.begin(), files.end());
  } else {
    files = dx::io::gguf_file(model).files();
  }
  dx::io::sha256 hash;
  for (const auto& f : files) hash.update(dx::io::mapped_file(f).bytes());
  return hash.hex();
}

}  // namespace program
