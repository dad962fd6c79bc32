#include <boost/test/unit_test.hpp>

#include <tuple>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>

#include "material.hpp"
#include "scores.hpp"

// Texts, token files and ids.
namespace distil_xlstm::program {

BOOST_AUTO_TEST_CASE(texts_become_token_files) {
  const auto& m = material::get();
  // Each document between the tokens that begin and end it.
  ids_type want;
  std::vector<std::int64_t> documents;
  for (const auto& file : {m.text, m.other_text}) {
    documents.push_back(std::ssize(want));
    const auto ids = encode(content(file));
    want.push_back(0);
    want.insert(want.end(), ids.begin(), ids.end());
    want.push_back(0);
  }
  const auto ids_of = [](const fs::path& file) {
    const io::token_file tokens(file);
    ids_type ids(static_cast<std::size_t>(tokens.size()));
    tokens.copy(0, tokens.size(), ids.data());
    return ids;
  };
  const io::token_file tokens(m.tokens);
  BOOST_TEST(ids_of(m.tokens) == want, boost::test_tools::per_element());
  BOOST_TEST(tokens.documents() == documents, boost::test_tools::per_element());
  BOOST_TEST(tokens.vocab_size() == tokenizer().vocab_size());
  BOOST_TEST(tokens.tokenizer_sha256() == tokenizer().fingerprint());
  BOOST_TEST((tokens.end_token() == 0));

  const auto out = m.folder / "some.safetensors";
  for (const auto& [option, begin, end] : {std::tuple("--bare", 0, 0), {"--no-end", 1, 0}, {"", 1, 1}}) {
    auto one = encode(content(m.text));
    if (begin) one.insert(one.begin(), 0);
    if (end) one.push_back(0);
    const outcome o = run(arguments("tokenize", option, "--tokenizer", m.teacher / "tokenizer.json", "--text",
                                    m.text, "--out", out));
    BOOST_TEST(o.status == 0);
    BOOST_TEST(o.out == "");
    BOOST_TEST(ids_of(out) == one, boost::test_tools::per_element());
    BOOST_TEST((io::token_file(out).end_token() == (end ? 0 : -1)));
  }

  // Many documents in a file.
  const auto many = m.folder / "many.txt";
  const auto split = [&](const std::string& text, std::vector<std::string> more,
                         const std::vector<std::string>& parts, const std::string& said) {
    write_file(many, text);
    std::vector<std::string> given = arguments("tokenize --tokenizer", m.teacher, "--text", many, "--out", out);
    given.insert(given.end(), more.begin(), more.end());
    const outcome o = run(given);
    BOOST_TEST_CONTEXT(text << o.err) {
      BOOST_REQUIRE(o.status == 0);
      ids_type ids;
      std::vector<std::int64_t> starts;
      for (const auto& part : parts) {
        starts.push_back(std::ssize(ids));
        ids.push_back(0);
        const auto words = tokenizer().encode(part).ids;
        ids.insert(ids.end(), words.begin(), words.end());
        ids.push_back(0);
      }
      BOOST_TEST(ids_of(out) == ids, boost::test_tools::per_element());
      BOOST_TEST(io::token_file(out).documents() == starts, boost::test_tools::per_element());
      BOOST_TEST((o.err.find(said) != std::string::npos));
      BOOST_TEST((o.err.find("warning") != std::string::npos) == (said.find("warning") != std::string::npos));
    }
  };
  split("the rain<|endoftext|>a river\n<|endoftext|>\n", {"--separator", "<|endoftext|>"},
        {"the rain", "a river\n"}, "2 documents");
  split("the rain\r\n\r\na river\nsings\r\n\r\n\r\n\r\nlight\r\n", {"--separator", "\\n\\n"},
        {"the rain", "a river\nsings", "light\n"}, "1 empty document passed over");
  split("a\n\nb", {"--separator", "\n\n"}, {"a", "b"}, "2 documents");
  split("a\n---\nb\n---\n \n---\nc", {"--separator=\\n---\\r\\n"}, {"a", "b", "c"},
        "1 empty document passed over");
  split("the rain", {"--separator", "<|endoftext|>"}, {"the rain"}, "1 document\n");
  // Special tokens: plain text that is counted, or parsed; what ends a document by itself ends it once.
  write_file(many, "<|im_start|>a<|im_end|>");
  const outcome plain = run(arguments("tokenize --tokenizer", m.teacher, "--text", many, "--out", out));
  BOOST_TEST(
      (plain.err.find(many.string() + ": 2 special tokens are taken for plain text") != std::string::npos));
  BOOST_TEST(ids_of(out).size() > 5);
  split("<|im_start|>a<|im_end|>b", {"--special"}, {"<|im_start|>a<|im_end|>b"}, "1 document\n");
  write_file(many, "<|endoftext|>a<|endoftext|>");
  done(arguments("tokenize --special --tokenizer", m.teacher, "--text", many, "--out", out));
  BOOST_TEST(ids_of(out) == (ids_type{0, 3, 0}), boost::test_tools::per_element());
  const auto scored = [&](const char* more) {
    return json::parse(done(arguments("evaluate --json --model", m.teacher, "--text", many, more)))["tokens"]
        .get<int>();
  };
  write_file(many, "the <|im_end|> rain");
  BOOST_TEST(scored("--special") == std::ssize(tokenizer().encode("the <|im_end|> rain").ids));
  BOOST_TEST(scored("") == std::ssize(encode("the <|im_end|> rain")));

  write_file(many, " \n\n \n");
  const auto tokenize = arguments("tokenize --tokenizer", m.teacher, "--out", m.folder / "none");
  const outcome none = run(arguments(tokenize, "--text", many, "--separator=\\n\\n"));
  BOOST_TEST(none.status == 1);
  BOOST_TEST((none.err.find(many.string() + ": holds no document") != std::string::npos));
  refused(arguments(tokenize, "--text", many, "--separator=\\x"), 2, {"--separator", "'\\x'"});
  refused(arguments(tokenize, "--text", many, "--separator="), 2, {"separator"});
  for (const char* option : {"--separator=x", "--special", "--no-end", "--bare"})
    refused(arguments("tokenize --ids --tokenizer", m.teacher, option), 2,
            {option == std::string("--separator=x") ? "--separator" : option});
  refused(arguments("evaluate --special --model", m.teacher, "--tokens", m.tokens), 2, {"--special"});
  // A tokenizer that knows no end says so.
  const auto endless = m.folder / "endless";
  auto words = tiny_tokenizer();
  words.specials.clear(), words.eos = -1;
  for (std::size_t i = 0; i < 3; ++i) words.tokens[i] = "<" + std::to_string(i) + ">";
  fs::create_directories(endless);
  io::write_tokenizer(endless, words);
  write_file(many, "a");
  const outcome o = run(arguments("tokenize --tokenizer", endless, "--text", many, "--out", out));
  BOOST_TEST(o.status == 0);
  BOOST_TEST((o.err.find("names no end-of-text token") != std::string::npos));
  BOOST_TEST((io::token_file(out).end_token() == -1));
  BOOST_TEST(done(arguments("inspect", m.tokens)).find("each ends with the token 0") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(texts_are_the_same_however_they_were_written) {
  const auto& m = material::get();
  const temporary_folder folder;
  const std::string text = "The rain\nsings; a river\n", mark = "\xef\xbb\xbf";
  std::string crlf;
  for (const char c : text) crlf += c == '\n' ? "\r\n" : std::string(1, c);
  const auto file = folder / "text";
  const auto results = [&](const std::string& bytes) {
    write_file(file, bytes);
    std::vector<std::string> out;
    done(arguments("tokenize --tokenizer", m.teacher, "--text", file, "--out", folder / "tokens"));
    out.push_back(io::token_file(folder / "tokens").data_sha256());
    out.push_back(done(arguments("evaluate --json --model", m.teacher, "--text", file)));
    out.push_back(done(arguments("generate --tokens 4 --model", m.teacher, "--prompts", file)));
    out.push_back(done(arguments("generate --tokens 4 --model", m.teacher, "--prompts -"), {.input = bytes}));
    return out;
  };
  const auto want = results(text);
  for (const auto& bytes : {crlf, mark + text, mark + crlf})
    BOOST_TEST(results(bytes) == want, boost::test_tools::per_element());
  const outcome o = run(arguments("generate --tokens 1 --model", m.teacher, "--prompts", file));
  BOOST_TEST(o.err == "distil: " + file.string() + ": 2 line ends of CR and LF read as LF\n");
  // --ids takes its text as it is.
  BOOST_TEST(done(arguments("tokenize --ids --tokenizer", m.teacher), {.input = "a\nb"}) == "3 74 4\n");
  const outcome raw = run(arguments("tokenize --ids --tokenizer", m.teacher), {.input = "a\r\nb"});
  BOOST_TEST((raw.err.find("1 bytes have no token") != std::string::npos));

  using namespace std::string_literals;
  for (const auto& [bytes, part] : {std::pair{"\xff\xfe"s + "a\0"s, "UTF-16"},
                                    {"a\0b"s, "NUL"},
                                    {"\x1f\x8b"s, "gzip"},
                                    {"version https://git-lfs.github.com/spec/v1\n"s, "Git LFS pointer"}}) {
    write_file(file, bytes);
    refused(arguments("tokenize --tokenizer", m.teacher, "--text", file, "--out", folder / "out"), 1,
            {file.string(), part});
    refused(arguments("evaluate --model", m.teacher, "--text", file), 1, {file.string(), part});
    refused(arguments("generate --model", m.teacher, "--prompts", file), 1, {file.string(), part});
  }
}

BOOST_AUTO_TEST_CASE(ids_and_back) {
  const auto& m = material::get();
  const std::string text = "The other singing, the rain\n";
  const auto ids = done(arguments("tokenize --ids --tokenizer", m.teacher), {.input = text});
  std::string want;
  for (const auto id : encode(text)) want += (want.empty() ? "" : " ") + std::to_string(id);
  BOOST_TEST(ids == want + "\n");
  BOOST_TEST(done(arguments("tokenize --decode --tokenizer", m.teacher), {.input = ids}) == text);
  BOOST_TEST(done(arguments("tokenize --ids --tokenizer", m.teacher), {.input = "a<|im_end|>"}) == "3 2\n");
  BOOST_TEST(done(arguments("tokenize --ids --tokenizer", m.teacher)) == "\n");
  const outcome o = run(arguments("tokenize --ids --tokenizer", m.teacher), {.input = "a\xc3\xa9"});
  BOOST_TEST(o.status == 0);
  BOOST_TEST(o.out == "3\n");
  BOOST_TEST(o.err.starts_with("distil: warning: stdin: 2 bytes"));
}

}  // namespace distil_xlstm::program
