#include "text.hpp"

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>

#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/read_tokenizer.hpp>
#include <distil_xlstm/io/sha256.hpp>

namespace program {

std::string read_text(const fs::path& path) {
  const auto all = [](std::istream& in) { return std::string(std::istreambuf_iterator<char>(in), {}); };
  if (path == "-") return all(std::cin);
  dx::require(!fs::is_directory(path), path.string(), ": is a folder, a text is wanted");
  std::ifstream in(path, std::ios::binary);
  dx::require(in.good(), path.string(), ": cannot be read: no such file, or no permission");
  std::string text = all(in);
  dx::require(!in.bad(), path.string(), ": cannot be read to its end");
  return text;
}

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

std::vector<std::int32_t> encode_text(const dx::io::tokenizer& tokenizer, const std::string& text,
                                      const std::string& name, bool parse_special) {
  dx::require(!text.empty(), name, ": the text is empty");
  dx::io::encoded e;
  try {
    e = tokenizer.encode(text, parse_special);
  } catch (const dx::error& why) {
    dx::fail(name, ": ", why.what());
  }
  if (e.dropped_bytes > 0)
    std::cerr << "distil: warning: " << name << ": " << e.dropped_bytes
              << " bytes have no token in this vocabulary and were dropped\n";
  return std::move(e.ids);
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
