#include <iostream>
#include <sstream>

#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/io/write_token_file.hpp>

#include "command.hpp"
#include "text.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil tokenize --tokenizer MODEL --text FILE... --out FILE\n"
    "distil tokenize --tokenizer MODEL --ids < TEXT      prints the ids of a text; special tokens are parsed\n"
    "distil tokenize --tokenizer MODEL --decode < IDS    prints the text of ids\n\n"
    "Makes a token file out of texts, for `cache`, `train` and `evaluate`. Each file is a document; a "
    "document\n"
    "begins with the model's token for that (<|endoftext|>, say), unless --bare. MODEL is a GGUF file, a "
    "folder\n"
    "with a tokenizer.json, or a tokenizer.json.\n";

void print_ids(const dx::io::tokenizer& t) {
  const std::string text = read_text("-");
  const auto ids = text.empty() ? std::vector<std::int32_t>() : encode_text(t, text, "stdin", true);
  for (std::size_t i = 0; i < ids.size(); ++i) std::cout << (i ? " " : "") << ids[i];
  std::cout << "\n";
}

void print_text(const dx::io::tokenizer& t) {
  std::vector<std::int32_t> ids;
  std::istringstream words(read_text("-"));
  for (std::string word; words >> word;) {
    const bool number = word.size() <= 9 && word.find_first_not_of("0123456789") == word.npos;
    dx::require(number, "stdin: '", dx::io::detail::printable(word, 40), "' is not an id");
    ids.push_back(static_cast<std::int32_t>(std::stol(word)));
    dx::require(ids.back() < t.vocab_size(), "stdin: the id ", word, " is not in the vocabulary of ",
                t.vocab_size());
  }
  std::cout << t.decode(ids);
}

}  // namespace

int tokenize(const arguments& given) {
  fs::path model, out;
  std::vector<std::string> texts;
  bool ids = false, decode = false, bare = false;
  po::options_description options("Options");
  options.add_options()                                                                      //
      ("tokenizer", po::value(&model)->value_name("MODEL"), "whose tokenizer")               //
      ("text", po::value(&texts)->multitoken()->value_name("FILE..."), "texts, UTF-8")       //
      ("out", po::value(&out)->value_name("FILE"), "the token file to write (safetensors)")  //
      ("bare", po::bool_switch(&bare), "add no token at the beginning of a document")        //
      ("ids", po::bool_switch(&ids), "print the ids of stdin")                               //
      ("decode", po::bool_switch(&decode), "print the text of the ids on stdin");
  po::variables_map values;
  if (!parse(given, usage, options, values)) return 0;
  need(model, "tokenizer");
  if (ids && decode) throw usage_error("--ids and --decode exclude each other");
  const bool to_file = !ids && !decode;
  if (to_file && texts.empty()) throw usage_error("--text is missing");
  if (to_file) need(out, "out");
  if (!to_file && !(texts.empty() && out.empty()))
    throw usage_error("--ids and --decode read stdin and write stdout: no --text, no --out");

  const auto tokenizer = need_tokenizer(model);
  if (ids) return print_ids(tokenizer), 0;
  if (decode) return print_text(tokenizer), 0;

  std::vector<std::int32_t> all;
  std::vector<std::int64_t> documents;
  for (const auto& file : texts) {
    documents.push_back(std::ssize(all));
    if (!bare && tokenizer.document_start() >= 0) all.push_back(tokenizer.document_start());
    const auto tokens = encode_text(tokenizer, read_text(file), file, false);
    all.insert(all.end(), tokens.begin(), tokens.end());
    dx::require(std::ssize(all) > documents.back(), file, ": the text has no token");
  }
  dx::io::write_token_file(out, all, documents, tokenizer.vocab_size(), tokenizer.fingerprint());
  std::cerr << out.string() << ": " << all.size() << " tokens in " << documents.size()
            << (documents.size() == 1 ? " document\n" : " documents\n");
  return 0;
}

}  // namespace program
