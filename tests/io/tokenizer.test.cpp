#include <boost/test/unit_test.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/parse_tokenizer_json.hpp>
#include <distil_xlstm/io/read_gguf_tokenizer.hpp>
#include <distil_xlstm/io/read_tokenizer.hpp>
#include <distil_xlstm/io/stream_decoder.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/tokenizer/byte_alphabet.hpp>
#include <distil_xlstm/io/tokenizer/normal_form_c.hpp>
#include <distil_xlstm/io/tokenizer/special_tokens.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>

#include "../temporary_folder.hpp"

using namespace distil_xlstm;
using namespace distil_xlstm::io;
using namespace std::string_literals;

namespace {

constexpr const char* families[] = {"gpt2", "unknown", "smollm", "qwen2", "llama"};

json golden(const std::string& name) {
  return read_json_file(std::filesystem::path(DISTIL_XLSTM_TEST_DATA) / "golden" /
                        ("tokenizer_" + name + ".json"));
}
tokenizer_data data_of(const json& tokenizer_json) {
  return parse_tokenizer_json(tokenizer_json.dump(), "test.json");
}
tokenizer family(const std::string& name) { return tokenizer(data_of(golden(name)["tokenizer"])); }

std::string utf8(std::uint32_t c) {
  const auto low = [](std::uint32_t x) { return static_cast<char>(0x80 | (x & 0x3f)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), low(c)};
  if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), low(c >> 6), low(c)};
  return {static_cast<char>(0xf0 | c >> 18), low(c >> 12), low(c >> 6), low(c)};
}

std::string random_text(rng& random, std::size_t characters) {
  static const std::uint32_t limits[] = {0x80, 0x80, 0x80, 0x250, 0x3000, 0x10000, 0x110000};
  std::string out;
  while (characters-- > 0) {
    std::uint32_t c = static_cast<std::uint32_t>(random.below(limits[random.below(7)]));
    if (c >= 0xd800 && c < 0xe000) c = ' ';
    out += utf8(c);
  }
  return out;
}

auto saying(std::vector<std::string> parts) {
  return [parts](const error& e) {
    const std::string what = e.what();
    for (const auto& part : parts)
      if (what.find(part) == what.npos) {
        BOOST_TEST_MESSAGE("not in \"" << what << "\": " << part);
        return false;
      }
    return what.find('\n') == what.npos;
  };
}

/// The bytes of a GGUF file that holds a tokenizer and no tensor.
std::string gguf_of(const tokenizer_data& d, const std::string& pre, const std::string& model = "gpt2",
                    bool add_bos_key = true) {
  std::string out;
  std::uint64_t keys = 0;
  const auto raw = [&](auto x) { out.append(reinterpret_cast<const char*>(&x), sizeof x); };
  const auto text = [&](std::string_view s) { raw(std::uint64_t{s.size()}), out += s; };
  const auto key = [&](std::string_view k, gguf_type t) {
    text(k), raw(static_cast<std::uint32_t>(t)), ++keys;
  };
  const auto array = [&](std::string_view k, gguf_type of, std::size_t n) {
    key(k, gguf_type::array), raw(static_cast<std::uint32_t>(of)), raw(std::uint64_t{n});
  };
  key("tokenizer.ggml.model", gguf_type::string), text(model);
  key("tokenizer.ggml.pre", gguf_type::string), text(pre);
  array("tokenizer.ggml.tokens", gguf_type::string, d.tokens.size() + 2);
  for (std::size_t i = 0; i < d.tokens.size(); ++i)
    text(d.tokens[i].empty() ? "[PAD" + std::to_string(i) + "]" : d.tokens[i]);
  text("[PAD]"), text("[PAD+1]");
  array("tokenizer.ggml.token_type", gguf_type::i32, d.tokens.size() + 2);
  std::vector<std::int32_t> types(d.tokens.size() + 2, 1);
  for (std::size_t i = 0; i < d.tokens.size(); ++i)
    if (d.tokens[i].empty()) types[i] = 5;
  types[d.tokens.size()] = types[d.tokens.size() + 1] = 5;
  for (const auto& s : d.specials) types[static_cast<std::size_t>(s.id)] = s.control ? 3 : 4;
  for (const auto t : types) raw(t);
  array("tokenizer.ggml.merges", gguf_type::string, d.merges.size());
  for (const auto& [a, b] : d.merges) text(a + " " + b);
  key("tokenizer.ggml.bos_token_id", gguf_type::u32), raw(std::uint32_t{1});
  key("tokenizer.ggml.eos_token_id", gguf_type::u32), raw(std::uint32_t{2});
  if (add_bos_key) key("tokenizer.ggml.add_bos_token", gguf_type::boolean), raw(std::uint8_t{0});
  key("tokenizer.chat_template", gguf_type::string), text("a template");
  std::string head = "GGUF";
  std::swap(head, out);
  raw(std::uint32_t{3}), raw(std::uint64_t{0}), raw(keys);
  return out + head;
}
tokenizer_data read_gguf(const std::string& bytes) {
  return read_gguf_tokenizer(gguf_file(std::as_bytes(std::span(bytes.data(), bytes.size())), "test.gguf"));
}

/// A tokenizer of all bytes and a few merges.
tokenizer_data small() {
  tokenizer_data d;
  for (unsigned b = 0; b < 256; ++b)
    d.tokens.push_back(io::detail::alphabet_character(static_cast<unsigned char>(b)));
  d.merges = {{"a", "b"}, {"ab", "ab"}, {"b", "c"}};
  for (const char* t : {"ab", "abab", "bc", "<|end|>"}) d.tokens.push_back(t);
  d.specials = {{259, "<|end|>"}};
  return d;
}

}  // namespace

BOOST_AUTO_TEST_CASE(ids_of_the_reference) {
  const auto texts = golden("texts").get<std::vector<std::string>>();
  BOOST_REQUIRE(texts.size() > 100u);
  for (const std::string name : families) {
    BOOST_TEST_CONTEXT(name) {
      const json g = golden(name);
      const tokenizer t(data_of(g["tokenizer"]));
      tokenizer_scratch scratch;
      for (std::size_t i = 0; i < texts.size(); ++i) {
        const auto want = g["ids"][i].get<std::vector<std::int32_t>>();
        const auto key = std::to_string(i);
        const auto plain = g["without_control"].contains(key)
                               ? g["without_control"][key].get<std::vector<std::int32_t>>()
                               : want;
        BOOST_TEST_CONTEXT("text " << i) {
          BOOST_TEST(t.encode(texts[i]).ids == want, boost::test_tools::per_element());
          BOOST_TEST(t.encode(texts[i], false, scratch).ids == plain, boost::test_tools::per_element());
          BOOST_TEST(t.encode(texts[i], true, scratch).ids == want, boost::test_tools::per_element());
        }
      }
      for (const json& d : g["decoded"]) {
        const auto ids = d[0].get<std::vector<std::int32_t>>();
        BOOST_TEST(replace_invalid_utf8(t.decode(ids)) == d[1].get<std::string>());
        BOOST_TEST(replace_invalid_utf8(t.decode(ids, true)) == d[2].get<std::string>());
        stream_decoder stream(t);
        std::string out;
        for (const auto id : ids) {
          const std::string part = stream.put(id);
          BOOST_TEST(is_valid_utf8(part));
          out += part;
        }
        BOOST_TEST(out + stream.finish() == d[1].get<std::string>());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(round_trips) {
  rng random(5);
  for (const std::string name : families) {
    const tokenizer t = family(name);
    tokenizer_scratch scratch;
    for (int i = 0; i < 400; ++i) {
      const std::string text = random_text(random, random.below(80));
      const auto e = t.encode(text, true, scratch);
      const std::string back = t.decode(e.ids);
      std::string memory;
      const auto normal = t.data().nfc ? io::detail::normal_form_c(text, memory) : std::string_view(text);
      if (name == "unknown") continue;
      BOOST_TEST(back.size() + e.dropped_bytes == normal.size());
      if (e.dropped_bytes == 0) BOOST_TEST(back == normal);
      if (name != "smollm") BOOST_TEST(e.dropped_bytes == 0u);
    }
  }
}

BOOST_AUTO_TEST_CASE(bytes_without_a_token) {
  tokenizer_data d = small();
  d.tokens[io::detail::byte_alphabet()['x'] == 'x' ? 'x' : 0].clear();
  const tokenizer t(d);
  const auto e = t.encode("axbxx<|end|>x");  // what is left of a word moves together
  BOOST_TEST(e.ids == (std::vector<std::int32_t>{256, 259}), boost::test_tools::per_element());
  BOOST_TEST(e.dropped_bytes == 4u);
  tokenizer_scratch scratch;
  BOOST_TEST(t.encode("axbxx", true, scratch).dropped_bytes == 3u);
  BOOST_TEST(t.encode("axbxx axbxx", true, scratch).dropped_bytes == 6u);  // also from the words kept

  d.unknown = 259;
  BOOST_TEST(tokenizer(d).encode("ax").ids == (std::vector<std::int32_t>{'a', 259}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(long_words_merge_like_short_ones) {
  const tokenizer t(small());
  const std::string blanks(1 << 20, ' ');
  BOOST_TEST(t.encode(blanks + "x").ids.size() == blanks.size() + 1);
  std::string text;
  rng random(9);
  for (const std::size_t n : {1u, 20u, 48u, 49u, 200u, 100000u}) {
    text.clear();
    while (text.size() < n) text += "abc"[random.below(3)];
    // The merges by hand: all "ab" first, then neighbours of them from the left, then "bc".
    std::vector<std::int32_t> want;
    for (const char c : text) want.push_back(c);
    for (const auto& [left, right, id] : {std::tuple{97, 98, 256}, {256, 256, 257}, {98, 99, 258}}) {
      std::vector<std::int32_t> merged;
      for (std::size_t i = 0; i < want.size(); ++i) {
        const bool pair = want[i] == left && i + 1 < want.size() && want[i + 1] == right;
        merged.push_back(pair ? id : want[i]);
        i += pair;
      }
      want = merged;
    }
    BOOST_TEST(t.encode(text).ids == want, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(special_tokens) {
  tokenizer_data d = small();
  d.tokens.insert(d.tokens.end(), {"<|end|>>", "<tool>", "<|endoftext|>"});
  d.specials.push_back({260, "<|end|>>"});
  d.specials.push_back({261, "<tool>", false});
  d.specials.push_back({262, "<|endoftext|>"});
  const tokenizer t(d);
  BOOST_TEST(t.encode("<|end|>>a<|end|><tool>").ids == (std::vector<std::int32_t>{260, 97, 259, 261}),
             boost::test_tools::per_element());
  BOOST_TEST(t.encode("<|end|>>a<tool>", false).ids.size() == 10u);
  BOOST_TEST(t.find_special("<tool>") == 261);
  BOOST_TEST(t.find_special("nothing") == -1);
  BOOST_TEST(t.document_start() == 262);
  BOOST_TEST(t.count_control("<|end|>>a<|end|><tool><|end|") == 2);
  BOOST_TEST(t.count_control("") == 0);
  BOOST_TEST(t.is_control(260));
  BOOST_TEST(!t.is_control(261));
  const std::vector<std::int32_t> ids = {97, 260, 261, 98};
  BOOST_TEST(t.decode(ids) == "a<|end|>><tool>b");
  BOOST_TEST(t.decode(ids, true) == "a<tool>b");
  BOOST_CHECK_EXCEPTION(t.decode(std::vector<std::int32_t>{263}), error, saying({"263"}));
  BOOST_CHECK_EXCEPTION(t.decode(std::vector<std::int32_t>{-1}), error, saying({"-1"}));
}

BOOST_AUTO_TEST_CASE(stream_of_characters) {
  const tokenizer t(small());
  stream_decoder s(t, true);
  const std::string text = "a\u00e9\U0001f600";
  std::vector<std::string> parts;
  for (const auto id : t.encode(text).ids) parts.push_back(s.put(id));
  parts.push_back(s.put(259));
  parts.push_back(s.finish());
  BOOST_TEST(parts == (std::vector<std::string>{"a", "", "\u00e9", "", "", "", "\U0001f600", "", ""}),
             boost::test_tools::per_element());
  BOOST_TEST(s.put(0xe2) == "");
  BOOST_TEST(s.put('a') == "\ufffda");
  BOOST_TEST(s.put(0xe2) == "");
  BOOST_TEST(s.finish() == "\ufffd");
  // A model may have more rows than its tokenizer has tokens.
  BOOST_TEST(s.put(260) == "");
  BOOST_TEST(s.finish() == "");
}

BOOST_AUTO_TEST_CASE(text_that_is_not_utf8) {
  const tokenizer t(small());
  BOOST_CHECK_EXCEPTION(t.encode("good \xff bad"), error, saying({"UTF-8", "byte 5"}));
  BOOST_CHECK_EXCEPTION(t.encode("0123456789\xe2\x82"), error, saying({"byte 10"}));
}

BOOST_AUTO_TEST_CASE(scratch_goes_from_one_tokenizer_to_another) {
  const tokenizer a(small());
  tokenizer_data d = small();
  d.merges.clear();
  const tokenizer b(d);
  tokenizer_scratch scratch;
  for (int i = 0; i < 3; ++i) {
    BOOST_TEST(a.encode("abab", true, scratch).ids.size() == 1u);
    BOOST_TEST(b.encode("abab", true, scratch).ids.size() == 4u);
  }
}

BOOST_AUTO_TEST_CASE(many_threads_share_one_tokenizer) {
  const tokenizer t = family("qwen2");
  const auto texts = golden("texts").get<std::vector<std::string>>();
  const auto all = [&] {
    tokenizer_scratch scratch;
    std::vector<std::vector<std::int32_t>> out;
    for (const auto& s : texts) out.push_back(t.encode(s, true, scratch).ids);
    return out;
  };
  const auto want = all();
  std::vector<std::vector<std::vector<std::int32_t>>> got(4);
  {
    std::vector<std::thread> threads;
    for (auto& g : got) threads.emplace_back([&] { g = all(); });
    for (auto& th : threads) th.join();
  }
  for (const auto& g : got) BOOST_TEST((g == want));
}

BOOST_AUTO_TEST_CASE(written_files_read_back) {
  const auto texts = golden("texts").get<std::vector<std::string>>();
  for (const std::string name : families) {
    BOOST_TEST_CONTEXT(name) {
      tokenizer_data d = data_of(golden(name)["tokenizer"]);
      d.bos = d.specials[1].id;
      d.eos = d.specials[2].id;
      d.chat_template = "a \"template\"\n";
      const temporary_folder f;
      write_tokenizer(f.path, d);
      const tokenizer a(d), b(read_tokenizer(f.path)), c(read_tokenizer(f.path / "tokenizer.json"));
      BOOST_TEST(a.fingerprint() == b.fingerprint());
      BOOST_TEST(b.data().tokens == d.tokens, boost::test_tools::per_element());
      BOOST_TEST(b.data().bos == d.bos);
      BOOST_TEST(b.data().eos == d.eos);
      BOOST_TEST(b.data().add_bos == (name == "llama"));
      BOOST_TEST(b.data().chat_template == d.chat_template);
      BOOST_TEST(c.data().chat_template == d.chat_template);
      BOOST_TEST(b.is_end_of_text(d.eos));
      BOOST_TEST(tokenizer_json(b.data()) == tokenizer_json(d));
      for (const auto& s : texts)
        BOOST_TEST(b.encode(s).ids == a.encode(s).ids, boost::test_tools::per_element());
    }
  }
}

BOOST_AUTO_TEST_CASE(a_gguf_file_by_its_path) {
  const tokenizer_data d = small();
  const temporary_folder f;
  const std::string bytes = gguf_of(d, "gpt-2");
  std::ofstream(f.path / "model.gguf", std::ios::binary) << bytes;
  BOOST_TEST(tokenizer(read_tokenizer(f.path / "model.gguf")).fingerprint() ==
             tokenizer(read_gguf(bytes)).fingerprint());
}

BOOST_AUTO_TEST_CASE(configuration_beside_the_tokenizer) {
  const temporary_folder f;
  tokenizer_data d = small();
  const auto write = [&](const char* name, std::string_view text) {
    write_text_atomically(f.path / name, text);
  };
  write("tokenizer.json", tokenizer_json(d));
  write("tokenizer_config.json", R"({"eos_token": {"content": "<|end|>", "lstrip": false}, "bos_token": null,
    "chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]})");
  write("generation_config.json", R"({"eos_token_id": [97, 259]})");
  d = read_tokenizer(f.path);
  BOOST_TEST(d.eos == 259);
  BOOST_TEST(d.bos == -1);
  BOOST_TEST(d.chat_template == "yes");
  BOOST_TEST(d.end_of_text == (std::vector<std::int32_t>{97, 259}), boost::test_tools::per_element());
  write("generation_config.json", R"({"eos_token_id": 260})");
  BOOST_CHECK_EXCEPTION(read_tokenizer(f.path), error, saying({"generation_config.json", "260"}));
  write("generation_config.json", R"({})");
  write("tokenizer_config.json", R"({"eos_token": "</s>"})");
  BOOST_CHECK_EXCEPTION(read_tokenizer(f.path), error, saying({"tokenizer_config.json", "eos_token", "</s>"}));
  write("tokenizer_config.json", R"({})");
  write("chat_template.jinja", "a file of its own");
  BOOST_TEST(read_tokenizer(f.path).chat_template == "a file of its own");
}

BOOST_AUTO_TEST_CASE(ends_and_special_tokens_from_every_file) {
  const temporary_folder f;
  tokenizer_data base = small();
  for (const char* t : {"<|user|>", "<pad>", "stop", "<|stop|>"}) base.tokens.push_back(t);  // 260 to 263
  base.specials.push_back({263, "<|stop|>"});
  const auto write = [&](const char* name, std::string_view text) {
    write_text_atomically(f.path / name, text);
  };
  const auto clear = [&] {
    for (const auto& file : std::filesystem::directory_iterator(f.path)) std::filesystem::remove(file.path());
    write("tokenizer.json", tokenizer_json(base));
  };
  const auto ids = [&](std::string_view text) { return tokenizer(read_tokenizer(f.path)).encode(text).ids; };
  using list = std::vector<std::int32_t>;
  clear();
  BOOST_TEST(read_tokenizer(f.path).end_of_text == list{259}, boost::test_tools::per_element());  // by its name
  BOOST_TEST(ids("<|user|>").size() == 8u);

  write("special_tokens_map.json",
        R"({"eos_token": {"content": "<|stop|>"}, "pad_token": "<pad>", "unk_token": "<none>",
            "additional_special_tokens": ["<|user|>"]})");
  tokenizer_data d = read_tokenizer(f.path);
  BOOST_TEST(d.eos == 263);
  BOOST_TEST(d.end_of_text == (list{259, 263}), boost::test_tools::per_element());
  BOOST_TEST(ids("<|user|><pad>stop") == (list{260, 261, 's', 't', 'o', 'p'}),
             boost::test_tools::per_element());
  BOOST_TEST(tokenizer(d).encode("<|user|>", false).ids.size() == 8u);
  write("tokenizer_config.json", R"({"eos_token": "stop", "extra_special_tokens": {"x": "<|user|>"}})");
  BOOST_TEST(read_tokenizer(f.path).eos == 262);  // before special_tokens_map.json
  write("special_tokens_map.json", R"({"bos_token": "</s>"})");
  BOOST_CHECK_EXCEPTION(read_tokenizer(f.path), error,
                        saying({"special_tokens_map.json", "bos_token", "</s>"}));

  clear();
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"260": {"content": "<|user|>", "special": true},
    "265": {"content": "<|eot_id|>", "special": true}, "259": {"content": "<|end|>", "special": true}}})");
  write("added_tokens.json", R"({"<|other|>": 264})");  // of an older folder, and not read
  d = read_tokenizer(f.path);
  BOOST_TEST(d.tokens.size() == 266u);
  BOOST_TEST(d.end_of_text == (list{259, 265}), boost::test_tools::per_element());
  BOOST_TEST(ids("<|user|><|eot_id|>") == (list{260, 265}), boost::test_tools::per_element());
  BOOST_TEST(tokenizer(d).is_control(265));
  write("tokenizer_config.json", R"({})");
  BOOST_TEST(ids("<|other|>") == list{264}, boost::test_tools::per_element());
  BOOST_TEST(!tokenizer(read_tokenizer(f.path)).is_control(264));
  for (const auto& [text, part] : {std::pair{R"({"stop": 7})", "has the ids 262 and 7"},
                                   {R"({"xyz": 259})", "have the same id 259"},
                                   {R"({"xyz": 1000000})", "has id 1000000"},
                                   {R"({"xyz": "7"})", "xyz must be an integer"}}) {
    write("added_tokens.json", text);
    BOOST_CHECK_EXCEPTION(read_tokenizer(f.path), error, saying({"added_tokens.json", part}));
  }
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"z": {"content": "stop"}}})");
  BOOST_CHECK_EXCEPTION(read_tokenizer(f.path), error, saying({"tokenizer_config.json", "z is no id"}));
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"262": {"content": "stop", "rstrip": true}}})");
  BOOST_CHECK_EXCEPTION(read_tokenizer(f.path), error, saying({"tokenizer_config.json", "rstrip", "stop"}));

  clear();
  write("config.json", R"({"eos_token_id": [263, 2, 5000]})");  // 2: an ordinary token, a class's default
  BOOST_TEST(read_tokenizer(f.path).end_of_text == (list{259, 263}), boost::test_tools::per_element());
  write("generation_config.json", R"({"eos_token_id": 262})");  // before config.json
  BOOST_TEST(read_tokenizer(f.path).end_of_text == (list{259, 262}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(gguf_defaults) {
  tokenizer_data d = small();
  for (const char* t : {"<|eot_id|>", "<end_of_turn>"}) d.tokens.push_back(t);
  d.specials.push_back({260, "<|eot_id|>", false});
  for (const std::string pre : {"gpt-2", "smollm", "qwen2", "llama3", "llama-v3", "llama-bpe"}) {
    const bool llama = pre.starts_with("llama");
    BOOST_TEST(!read_gguf(gguf_of(d, pre)).add_bos);
    const tokenizer t(read_gguf(gguf_of(d, pre, "gpt2", false)));
    BOOST_TEST(t.data().add_bos == llama, pre);
    BOOST_TEST(t.document_start() == (llama ? 1 : 2));
    BOOST_TEST(t.document_end() == 2);
    // by their names, whatever their types say
    BOOST_TEST(t.data().end_of_text == (std::vector<std::int32_t>{2, 259, 260, 261}),
               boost::test_tools::per_element());
    BOOST_TEST((t.is_control(260) && t.is_control(261)));
  }
}

BOOST_AUTO_TEST_CASE(what_ends_a_document) {
  // What ends a document is not what ends a turn, where the tokenizer has both.
  const auto end_of = [](std::vector<std::string> names, const std::string& eos) {
    tokenizer_data d = small();
    d.eos = -1, d.end_of_text.clear();
    for (const auto& name : names) {
      const auto id = static_cast<std::int32_t>(d.tokens.size());
      d.tokens.push_back(name);
      d.specials.push_back({id, name});
      if (name == eos) d.eos = id;
    }
    io::detail::collect_end_of_text(d);
    const tokenizer t(d);
    const auto end = t.document_end();
    BOOST_TEST((end < 0 || t.is_end_of_text(end)));  // generation stops there
    BOOST_TEST(t.document_start() == end);           // where no text is expected to begin with bos
    return end < 0 ? std::string("none") : d.tokens[static_cast<std::size_t>(end)];
  };
  BOOST_TEST(end_of({"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, "<|im_end|>") ==
             "<|endoftext|>");  // SmolLM2
  BOOST_TEST(end_of({"<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"}, "<|eot_id|>") == "<|end_of_text|>");
  BOOST_TEST(end_of({"<s>", "</s>"}, "</s>") == "</s>");
  BOOST_TEST(end_of({"<|im_start|>"}, "") == "<|end|>");
}

BOOST_AUTO_TEST_CASE(gguf_and_json_have_one_fingerprint) {
  const std::pair<const char*, const char*> pairs[] = {
      {"gpt2", "gpt-2"}, {"gpt2", "default"}, {"smollm", "smollm"}, {"qwen2", "qwen2"}, {"llama", "llama-bpe"}};
  const auto texts = golden("texts").get<std::vector<std::string>>();
  for (const auto& [name, pre] : pairs) {
    BOOST_TEST_CONTEXT(name) {
      const tokenizer_data d = data_of(golden(name)["tokenizer"]);
      const tokenizer a(d), b(read_gguf(gguf_of(d, pre)));
      BOOST_TEST(a.fingerprint() == b.fingerprint());
      BOOST_TEST(b.vocab_size() == a.vocab_size() + 2);
      BOOST_TEST(b.data().bos == 1);
      BOOST_TEST(b.data().eos == 2);
      BOOST_TEST(b.data().chat_template == "a template");
      BOOST_TEST(b.decode(std::vector<std::int32_t>{static_cast<std::int32_t>(a.vocab_size())}) == "");
      for (const auto& s : texts)
        if (name != "qwen2"s || s.find("tude") == s.npos)  // a GGUF file cannot say that a token is normalised
          BOOST_TEST(b.encode(s).ids == a.encode(s).ids, boost::test_tools::per_element());
    }
  }
  tokenizer_data d = small();
  const std::string before = tokenizer(d).fingerprint();
  BOOST_TEST(before.size() == 64u);
  std::swap(d.merges[0], d.merges[2]);
  BOOST_TEST(tokenizer(d).fingerprint() != before);
  d = small();
  d.pre = "qwen2";
  BOOST_TEST(tokenizer(d).fingerprint() != before);
}

BOOST_AUTO_TEST_CASE(gguf_refusals) {
  const tokenizer_data d = small();
  BOOST_CHECK_EXCEPTION(read_gguf(gguf_of(d, "deepseek-v3")), error,
                        saying({"test.gguf", "tokenizer.ggml.pre", "deepseek-v3"}));
  BOOST_CHECK_EXCEPTION(read_gguf(gguf_of(d, "gpt-2", "llama")), error,
                        saying({"test.gguf", "tokenizer.ggml.model", "llama"}));
  tokenizer_data e = small();
  e.merges.push_back({"onepiece", ""});
  BOOST_CHECK_EXCEPTION(read_gguf(gguf_of(e, "gpt-2")), error, saying({"merges 3", "onepiece"}));
}

BOOST_AUTO_TEST_CASE(data_that_does_not_fit) {
  const auto refused = [](const std::function<void(tokenizer_data&)>& spoil, std::vector<std::string> parts) {
    tokenizer_data d = small();
    d.name = "a.json";
    spoil(d);
    parts.push_back("a.json");
    BOOST_CHECK_EXCEPTION(tokenizer(std::move(d)), error, saying(parts));
  };
  refused([](auto& d) { d.pre = "other"; }, {"other"});
  refused([](auto& d) { d.tokens.clear(); }, {"empty"});
  refused([](auto& d) { d.tokens[3] = d.tokens[4]; }, {"3", "4"});
  refused([](auto& d) { d.tokens[3] = "\xff"; }, {"token 3", "UTF-8"});
  refused([](auto& d) { d.merges.push_back({"a", "zz"}); }, {"merge 3", "zz"});
  refused([](auto& d) { d.merges.push_back({"a", "c"}); }, {"merge 3", "ac"});
  refused([](auto& d) { d.specials[0].id = 260; }, {"260"});
  refused([](auto& d) { d.specials[0].text = "<|other|>"; }, {"<|other|>", "<|end|>"});
  refused([](auto& d) { d.specials.push_back(d.specials[0]); }, {"259"});
  refused([](auto& d) { d.eos = 1000; }, {"eos", "1000"});
  refused([](auto& d) { d.end_of_text = {-7}; }, {"-7"});
}

BOOST_AUTO_TEST_CASE(json_refusals) {
  const json good = parse_json(tokenizer_json(small()), "good");
  BOOST_CHECK_NO_THROW(data_of(good));
  const auto refused = [&](const std::function<void(json&)>& spoil, std::vector<std::string> parts) {
    json j = good;
    spoil(j);
    parts.push_back("test.json");
    BOOST_CHECK_EXCEPTION(tokenizer(data_of(j)), error, saying(parts));
  };
  refused([](json& j) { j["model"]["type"] = "Unigram"; }, {"Unigram"});
  refused([](json& j) { j["model"]["dropout"] = 0.1; }, {"dropout"});
  refused([](json& j) { j["model"]["byte_fallback"] = true; }, {"byte_fallback"});
  refused([](json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }, {"end_of_word_suffix"});
  refused([](json& j) { j["model"]["merges"][0] = "a b c"; }, {"a b c"});
  refused([](json& j) { j["model"]["merges"][0] = 7; }, {"7"});
  refused([](json& j) { j["model"]["vocab"]["q"] = "x"; }, {"q"});
  refused([](json& j) { j["model"]["vocab"]["q"] = 2000000000; }, {"2000000000"});
  refused([](json& j) { j["model"]["vocab"]["q"] = 1; }, {"same id 1"});
  refused([](json& j) { j["model"].erase("vocab"); }, {"vocab"});
  refused([](json& j) { j["model"]["unk_token"] = "<unk>"; }, {"<unk>"});
  refused([](json& j) { j["normalizer"] = {{"type", "NFKC"}}; }, {"NFKC"});
  refused(
      [](json& j) {
        j["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "Lowercase"}}}}};
      },
      {"Lowercase"});
  refused([](json& j) { j["pre_tokenizer"] = {{"type", "Metaspace"}}; }, {"Metaspace"});
  refused([](json& j) { j["pre_tokenizer"] = nullptr; }, {"pre_tokenizer"});
  refused([](json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; }, {"add_prefix_space"});
  refused([](json& j) { j["pre_tokenizer"]["use_regex"] = false; }, {"ByteLevel"});
  refused(
      [](json& j) {
        const json last = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
        const json split = {
            {"type", "Split"}, {"pattern", {{"Regex", "[a-z]+"}}}, {"behavior", "Isolated"}, {"invert", false}};
        j["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, last}}};
      },
      {"[a-z]+"});
  refused([](json& j) { j["decoder"] = {{"type", "WordPiece"}}; }, {"WordPiece"});
  refused([](json& j) { j["post_processor"] = {{"type", "BertProcessing"}}; }, {"BertProcessing"});
  refused([](json& j) { j["added_tokens"][0]["lstrip"] = true; }, {"lstrip", "<|end|>"});
  refused([](json& j) { j["added_tokens"][0]["id"] = 260; }, {"<|end|>", "260"});
  refused([](json& j) { j["added_tokens"][0]["content"] = ""; }, {"empty"});
  refused([](json& j) { j = json::array(); }, {"JSON object"});
  BOOST_CHECK_EXCEPTION(parse_tokenizer_json("{\"model\": ", "test.json"), error, saying({"test.json"}));
}
