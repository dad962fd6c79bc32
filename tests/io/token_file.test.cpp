#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/io/sha256.hpp>
#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/io/write_token_file.hpp>

using namespace distil_xlstm;
using namespace distil_xlstm::io;
namespace fs = std::filesystem;

namespace {

struct temporary {
  fs::path path =
      fs::temp_directory_path() / ("distil_xlstm_token_file_" + std::to_string(::getpid()) + ".safetensors");
  ~temporary() { fs::remove(path); }
};

auto says(std::string part) {
  return [=](const error& e) {
    const std::string what = e.what();
    BOOST_TEST_MESSAGE(what);
    return what.find(part) != what.npos && what.find("distil_xlstm_token_file_") != what.npos &&
           what.find('\n') == what.npos;
  };
}

std::string digest(const std::string& text) { return sha256().update(text.data(), text.size()).hex(); }

using ids_type = std::vector<std::int32_t>;
using starts = std::vector<std::int64_t>;

}  // namespace

BOOST_AUTO_TEST_CASE(sha256_standard_vectors) {
  BOOST_TEST(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  BOOST_TEST(digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  BOOST_TEST(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
             "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  BOOST_TEST(
      digest("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrs"
             "mnopqrstnopqrstu") == "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  BOOST_TEST(digest(std::string(1000000, 'a')) ==
             "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  // any split gives the same digest, whatever the length modulo the block
  for (std::size_t n = 0; n < 200; ++n) {
    std::string text;
    for (std::size_t i = 0; i < n; ++i) text += static_cast<char>(i * 37);
    sha256 parts;
    for (std::size_t at = 0, step = 1; at < n; at += step, step = step % 7 + 1)
      parts.update(text.data() + at, std::min(step, n - at));
    BOOST_REQUIRE(parts.hex() == digest(text));
    BOOST_REQUIRE(parts.hex() == digest(text));  // asking does not end the stream
  }
}

BOOST_AUTO_TEST_CASE(round_trip) {
  temporary t;
  ids_type ids(10000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 7919 % 49152);
  const starts documents = {0, 1, 5000, 9999};
  std::string hash;
  for (std::ptrdiff_t vocab : {49152, 65536, 65537}) {
    write_token_file(t.path, ids, documents, vocab, "cafe");
    const token_file file(t.path);
    BOOST_TEST(file.size() == 10000);
    BOOST_TEST(file.vocab_size() == vocab);
    BOOST_TEST(file.tokenizer_sha256() == "cafe");
    for (std::size_t i = 0; i < ids.size(); ++i) BOOST_REQUIRE(file[static_cast<std::ptrdiff_t>(i)] == ids[i]);
    ids_type part(3);
    file.copy(9997, 3, part.data());
    BOOST_TEST((part == ids_type{ids[9997], ids[9998], ids[9999]}));
    BOOST_TEST((starts(file.documents().begin(), file.documents().end()) == documents));
    if (hash.empty()) hash = file.data_sha256();
    BOOST_TEST(file.data_sha256() == hash);  // the same for U16 and I32
    BOOST_TEST((safetensors_file(t.path).at("ids").dtype == (vocab <= 65536 ? dtype::u16 : dtype::i32)));
    const std::pair<std::ptrdiff_t, std::ptrdiff_t> expected[] = {{0, 0},    {1, 1},    {2, 1},   {4999, 1},
                                                                  {5000, 2}, {9998, 2}, {9999, 3}};
    for (auto [i, d] : expected) {
      BOOST_TEST(file.document_of(i) == d);
      BOOST_TEST(file.document_start(i) == documents[static_cast<std::size_t>(d)]);
      BOOST_TEST(file.starts_at(i) == (i == documents[static_cast<std::size_t>(d)]));
    }
  }
  ids[17] ^= 1;
  write_token_file(t.path, ids, documents, 49152);
  BOOST_TEST(token_file(t.path).data_sha256() != hash);
  BOOST_TEST(token_file(t.path).tokenizer_sha256().empty());
  ids[17] ^= 1;
  write_token_file(t.path, ids, starts{0, 1, 5001, 9999}, 49152);
  BOOST_TEST(token_file(t.path).data_sha256() != hash);
}

BOOST_AUTO_TEST_CASE(ends_of_documents) {
  temporary t;
  const ids_type ids = {5, 1, 7, 1, 8, 9};
  write_token_file(t.path, ids, starts{0, 2}, 10);
  BOOST_TEST((token_file(t.path).end_token() == std::nullopt));  // a file of before says nothing
  write_token_file(t.path, ids, starts{0, 2}, 10, {}, -1);
  BOOST_TEST((token_file(t.path).end_token() == -1));
  const ids_type ended(ids.begin(), ids.begin() + 4);
  write_token_file(t.path, ended, starts{0, 2}, 10, {}, 1);
  BOOST_TEST((token_file(t.path).end_token() == 1));
  BOOST_CHECK_EXCEPTION(write_token_file(t.path, ids, starts{0, 2}, 10, {}, 1), error,
                        says("document 1 ends with the id 9, not with end_token 1"));
  // A file of somebody else that says what is not so.
  const auto claims = [&](const std::string& end, const std::string& part) {
    safetensors_writer writer;
    writer.metadata("vocab_size", "10");
    writer.metadata("end_token", end);
    const std::int64_t documents[] = {0, 2};
    writer.add("ids", dtype::i32, {6}, ids.data());
    writer.add("documents", dtype::i64, {2}, documents);
    writer.write(t.path);
    BOOST_CHECK_EXCEPTION(token_file{t.path}, error, says(part));
  };
  claims("1", "document 1 ends with the id 9, not with end_token 1");
  claims("9", "document 0 ends with the id 1, not with end_token 9");
  for (const char* none : {"10", "-1", "", "nothing", "1 "}) claims(none, "is neither an id nor none");
  write_token_file(t.path, {}, starts{0}, 10, {}, 3);
  BOOST_TEST((token_file(t.path).end_token() == 3));
}

BOOST_AUTO_TEST_CASE(empty) {
  temporary t;
  for (const starts& documents : {starts{}, starts{0}}) {
    write_token_file(t.path, {}, documents, 10);
    const token_file file(t.path);
    BOOST_TEST(file.size() == 0);
    BOOST_TEST(file.documents().size() == documents.size());
    BOOST_TEST(!file.data_sha256().empty());
  }
}

BOOST_AUTO_TEST_CASE(the_writer_refuses) {
  temporary t;
  const ids_type ids = {1, 2, 3};
  const auto refused = [&](const ids_type& i, const starts& d, std::ptrdiff_t vocab, const std::string& part) {
    BOOST_CHECK_EXCEPTION(write_token_file(t.path, i, d, vocab), error, says(part));
    BOOST_TEST(!fs::exists(t.path));
  };
  refused(ids, {0}, 3, "the id at position 2 is 3, the vocabulary has 3");
  refused({1, -2}, {0}, 3, "the id at position 1 is -2");
  refused(ids, {0}, 0, "vocab_size 0");
  refused(ids, {0}, std::ptrdiff_t{1} << 31, "vocab_size 2147483648");
  refused(ids, {}, 4, "3 tokens, but no document starts");
  refused(ids, {1}, 4, "the first document starts at 1");
  refused(ids, {0, 3}, 4, "document 1 starts at 3, there are 3 tokens");
  refused(ids, {0, 2, 2}, 4, "document 2 starts at 2, the one before at 2");
  refused(ids, {0, 2, 1}, 4, "document 2 starts at 1");
  refused({}, {0, 1}, 4, "2 documents, but no tokens");
}

BOOST_AUTO_TEST_CASE(the_reader_refuses) {
  temporary t;
  const ids_type ids = {1, 2, 70000};
  const starts documents = {0, 2};
  const std::vector<std::uint8_t> u8 = {1, 2, 3};
  struct file {
    std::string vocab = "70001";
    bool ids = true, documents = true, bytes = false, flat = true;
    starts where = {0, 2};
  };
  const auto write = [&](const file& f) {
    safetensors_writer w;
    if (!f.vocab.empty()) w.metadata("vocab_size", f.vocab);
    if (f.bytes)
      w.add("ids", dtype::u8, {3}, u8.data());
    else if (f.ids)
      w.add("ids", dtype::i32, f.flat ? std::vector<std::ptrdiff_t>{3} : std::vector<std::ptrdiff_t>{1, 3},
            ids.data());
    if (f.documents)
      w.add("documents", dtype::i64, {static_cast<std::ptrdiff_t>(f.where.size())}, f.where.data());
    else
      w.add("other", dtype::i64, {2}, documents.data());
    w.write(t.path);
  };
  const auto refused = [&](const file& f, const std::string& part) {
    write(f);
    BOOST_CHECK_EXCEPTION(token_file(t.path), error, says(part));
  };
  write({});
  BOOST_TEST(token_file(t.path)[2] == 70000);
  refused({.vocab = ""}, "the metadata vocab_size is missing");
  for (const char* text : {"x", "0", "-5", "70001x", " 70001", "2147483648", "99999999999999999999", "7e4"})
    refused({.vocab = text}, std::string("vocab_size \"") + text + "\" is not");
  refused({.vocab = "70000"}, "the id at position 2 is 70000, the vocabulary has 70000");
  refused({.ids = false}, "there is no tensor ids");
  refused({.documents = false}, "there is no tensor documents");
  refused({.bytes = true}, "ids must be I32 or U16 [N], not U8 [3]");
  refused({.flat = false}, "not I32 [1, 3]");
  refused({.where = {}}, "no document starts");
  refused({.where = {1}}, "the first document starts at 1");
  refused({.where = {0, -1}}, "document 1 starts at -1");
  refused({.where = {0, 3}}, "there are 3 tokens");
}

BOOST_AUTO_TEST_CASE(truncation_at_every_length) {
  temporary t;
  write_token_file(t.path, ids_type{1, 2, 3, 4, 5}, starts{0, 2}, 6, "cafe");
  const mapped_file whole(t.path);
  BOOST_CHECK_NO_THROW(token_file(whole.bytes(), "w"));
  for (std::size_t n = 0; n < whole.bytes().size(); ++n) {
    const std::vector<std::byte> cut(whole.bytes().begin(),
                                     whole.bytes().begin() + static_cast<std::ptrdiff_t>(n));
    BOOST_TEST_CONTEXT(n) { BOOST_CHECK_THROW(token_file(cut, "w"), error); }
  }
}
