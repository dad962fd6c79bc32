#include <iostream>
#include <sstream>

#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/io/write_token_file.hpp>

#include "command.hpp"
#include "text.hpp"

namespace program {
namespace {

constexpr const char* usage = R"(distil tokenize --tokenizer MODEL --text FILE... --out FILE
distil tokenize --tokenizer MODEL --ids < TEXT      prints the ids of a text; special tokens are parsed
distil tokenize --tokenizer MODEL --decode < IDS    prints the text of ids

Makes a token file out of texts, for `cache`, `train` and `evaluate`. MODEL is a GGUF file, a folder with a
tokenizer.json, or a tokenizer.json.

Each file is a document, or many with --separator: '<|endoftext|>' cuts at that text, '\n\n' at an empty line;
documents of white space alone are passed over. A document begins with the model's token for that and ends with its
end-of-text token, a target like any other: from it a student learns to stop. --no-end leaves the end out, --bare both.

Texts are UTF-8. A byte order mark is passed over, a line end of CR and LF becomes LF (--ids takes stdin as it is).
Special tokens such as <|im_start|> are plain text, counted in a warning, unless --special.
)";

constexpr const char* examples = R"(
  # Two books, each a document
  distil tokenize --tokenizer smollm2.gguf --text emma.txt persuasion.txt --out train.safetensors
  # Conversations, a line of --- between two, special tokens such as <|im_start|> parsed
  distil tokenize --tokenizer smollm2.gguf --text chats.txt --special --separator '\n---\n' --out chats.safetensors
)";

struct tokenize_options {
  fs::path out;
  std::vector<std::string> texts;
  std::string separator;
  bool bare = false, no_end = false, special = false;
};

/// A separator as it is given: \n, \t, \r and \\ are what they are in C; a line end of CR and LF is LF, as in texts.
std::string separator_of(const std::string& given) {
  std::string out;
  for (std::size_t i = 0; i < given.size(); ++i) {
    char c = given[i];
    if (c == '\\') {
      const auto at =
          i + 1 < given.size() ? std::string_view("ntr\\").find(given[i + 1]) : std::string_view::npos;
      if (at == std::string_view::npos)
        throw usage_error("--separator: '" + given + "': of a backslash only \\n, \\t, \\r and \\\\ are known");
      c = "\n\t\r\\"[at];
      ++i;
    }
    if (c == '\n' && out.ends_with('\r')) out.pop_back();
    out += c;
  }
  if (out.empty()) throw usage_error("--separator: is empty");
  if (!dx::io::is_valid_utf8(out)) throw usage_error("--separator: is not valid UTF-8");
  return out;
}

/// The documents of many files, one after another.
class document_stream {
 public:
  document_stream(const dx::io::tokenizer& tokenizer, const tokenize_options& o)
      : tokenizer_(tokenizer), o_(o) {
    if (!o.bare) begin_ = tokenizer.document_start();
    if (!o.bare && !o.no_end) end_ = tokenizer.document_end();
    if (!o.bare && !o.no_end && end_ < 0)
      std::cerr << "distil: warning: " << tokenizer.data().name
                << ": names no end-of-text token: the documents end without one\n";
  }

  void add_file(const std::string& name) {
    const std::string text = read_text(name);
    text_encoder encoder(tokenizer_, name, o_.special);
    if (o_.separator.empty()) {
      dx::require(!text.empty(), name, ": the text is empty");
      const bool any = add(encoder.encode(text));
      encoder.warn();
      dx::require(any, name, ": the text has no token");
      return;
    }
    const std::size_t before = documents_.size();
    dx::index empty = 0;
    for (std::string_view rest = text; !rest.empty();) {
      const auto at = rest.find(o_.separator);
      const auto document = rest.substr(0, at);
      const bool blank = dx::io::trailing_white_space(document) == document.size();
      rest.remove_prefix(at == rest.npos ? rest.size() : at + o_.separator.size());
      // White space behind the last separator is no document that somebody left empty.
      if (blank ? at != rest.npos : !add(encoder.encode(document))) ++empty;
    }
    encoder.warn();
    if (empty > 0)
      std::cerr << "distil: " << name << ": " << empty << (empty == 1 ? " empty document" : " empty documents")
                << " passed over\n";
    dx::require(documents_.size() > before, name, ": holds no document");
  }

  void write() const {
    dx::io::write_token_file(o_.out, ids_, documents_, tokenizer_.vocab_size(), tokenizer_.fingerprint(), end_);
    std::cerr << o_.out.string() << ": " << ids_.size() << " tokens in " << documents_.size()
              << (documents_.size() == 1 ? " document\n" : " documents\n");
  }

 private:
  /// False, and nothing is added, where there is no token. What begins or ends the document is not added twice.
  bool add(const std::vector<std::int32_t>& tokens) {
    if (tokens.empty()) return false;
    documents_.push_back(std::ssize(ids_));
    if (begin_ >= 0 && tokens.front() != begin_) ids_.push_back(begin_);
    ids_.insert(ids_.end(), tokens.begin(), tokens.end());
    if (end_ >= 0 && tokens.back() != end_) ids_.push_back(end_);
    return true;
  }

  const dx::io::tokenizer& tokenizer_;
  const tokenize_options& o_;
  std::int32_t begin_ = -1, end_ = -1;
  std::vector<std::int32_t> ids_;
  std::vector<std::int64_t> documents_;
};

void print_ids(const dx::io::tokenizer& t) {
  const std::string text = read_stdin();
  const auto ids = text.empty() ? std::vector<std::int32_t>() : encode_text(t, text, "stdin", true);
  for (std::size_t i = 0; i < ids.size(); ++i) std::cout << (i ? " " : "") << ids[i];
  std::cout << "\n";
}

void print_text(const dx::io::tokenizer& t) {
  std::vector<std::int32_t> ids;
  std::istringstream words(read_stdin());
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
  fs::path model;
  tokenize_options o;
  bool ids = false, decode = false;
  po::options_description options("Options");
  options.add_options()                                                                   //
      ("tokenizer", po::value(&model)->value_name("MODEL"), "whose tokenizer")            //
      ("text", po::value(&o.texts)->multitoken()->value_name("FILE..."), "texts, UTF-8")  //
      ("separator", po::value(&o.separator)->value_name("TEXT"),
       "what stands between the documents of a file; \\n: a line end")                          //
      ("out", po::value(&o.out)->value_name("FILE"), "the token file to write (safetensors)")   //
      ("special", po::bool_switch(&o.special), "parse special tokens in the texts")             //
      ("no-end", po::bool_switch(&o.no_end), "end no document with the end-of-text token")      //
      ("bare", po::bool_switch(&o.bare), "add no token, at a document's beginning or its end")  //
      ("ids", po::bool_switch(&ids), "print the ids of stdin")                                  //
      ("decode", po::bool_switch(&decode), "print the text of the ids on stdin");
  po::variables_map values;
  if (!parse(given, {usage, examples}, options, values)) return 0;
  require_effects("tokenize", values);
  need(model, "tokenizer");
  if (ids && decode) throw usage_error("--ids and --decode exclude each other");
  const bool to_file = !ids && !decode;
  if (to_file && o.texts.empty()) throw usage_error("--text is missing");
  if (to_file) need(o.out, "out");
  if (values.count("separator")) o.separator = separator_of(o.separator);

  const auto tokenizer = need_tokenizer(model);
  if (ids) return print_ids(tokenizer), 0;
  if (decode) return print_text(tokenizer), 0;
  document_stream documents(tokenizer, o);
  for (const auto& file : o.texts) documents.add_file(file);
  documents.write();
  return 0;
}

}  // namespace program
