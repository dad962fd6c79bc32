#include <boost/test/unit_test.hpp>

#include <cmath>
#include <functional>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/io/write_token_file.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>

#include "../model/write_gguf.hpp"
#include "material.hpp"

namespace distil_xlstm::program {
namespace {

using io::json;

void write_ids(const fs::path& path, const std::vector<std::int32_t>& ids) {
  io::safetensors_writer file;
  file.add("ids", dtype::i32, {1, std::ssize(ids)}, ids.data());
  file.write(path);
}

/// A copy of a model's folder with other tensors.
using change = std::function<void(std::vector<tensor>&)>;
void changed_copy(const fs::path& from, const fs::path& to, const change& edit) {
  fs::create_directories(to);
  for (const auto& f : fs::directory_iterator(from))
    if (f.path().extension() == ".json") fs::copy_file(f.path(), to / f.path().filename());
  auto tensors = read_tensors(from / "model.safetensors");
  edit(tensors);
  write_tensors(to / "model.safetensors", tensors);
}
void edit_json(const fs::path& path, const std::function<void(json&)>& edit) {
  json j = io::read_json_file(path);
  edit(j);
  write_file(path, j.dump());
}

change without(const std::string& name) {
  return [name](std::vector<tensor>& all) { all.erase(all.begin() + (&find(all, name) - all.data())); };
}
change of_another_shape(const std::string& name) {
  return [name](std::vector<tensor>& all) {
    auto& t = find(all, name);
    t.shape.insert(t.shape.begin(), 1);
  };
}
change one_more(const std::string& name) {
  return [name](std::vector<tensor>& all) { all.push_back({name, {2}, {1, 2}}); };
}
change not_a_number(const std::string& name, std::size_t at = 0) {
  return [=](std::vector<tensor>& all) { find(all, name).values[at] = NAN; };
}

}  // namespace

BOOST_AUTO_TEST_CASE(files_that_are_not_there_or_empty) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto ids = folder / "ids.safetensors", out = folder / "out";
  write_ids(ids, {1, 2, 3});
  write_file(folder / "empty", "");
  write_file(folder / "empty.safetensors", "");
  write_file(folder / "empty.gguf", "");
  write_file(folder / "empty.jsonl", "");
  fs::create_directory(folder / "hollow");
  for (const auto& [bad, part] :
       {std::pair(folder / "none", "no such file"), std::pair(folder / "empty.gguf", "GGUF"),
        std::pair(folder / "hollow", "config.json")}) {
    const std::string name = bad.string();
    refused(arguments("logits --model", bad, "--ids", ids, "--out", out), 1, {name, part});
    refused(arguments("generate --prompt a --model", bad), 1, {name, part});
    refused(arguments("evaluate --tokens", m.tokens, "--model", bad), 1, {name, part});
    refused(arguments("cache --length 8 --teacher", bad, "--tokens", m.tokens, "--out", out), 1, {name});
    refused(arguments("train --steps 1 --teacher", bad, "--tokens", m.tokens, "--out", out), 1, {name});
    refused(arguments("tokenize --tokenizer", bad, "--text", m.text, "--out", out), 1, {name});
    refused(arguments("inspect", bad), 1, {name});
  }
  for (const char* bad : {"none.safetensors", "empty.safetensors"}) {
    const auto file = folder / bad;
    refused(arguments("logits --model", m.teacher, "--ids", file, "--out", out), 1, {file.string()});
    refused(arguments("evaluate --model", m.teacher, "--tokens", file), 1, {file.string()});
    refused(arguments("cache --length 8 --teacher", m.teacher, "--tokens", file, "--out", out), 1,
            {file.string()});
    refused(arguments("train --steps 1 --teacher", m.teacher, "--tokens", file, "--out", folder / "run"), 1,
            {file.string()});
    refused(arguments("train --steps 1 --teacher", m.teacher, "--tokens", m.tokens, "--held-out", file, "--out",
                      folder / "run"),
            1, {file.string()});
    refused(arguments("inspect", file), 1, {file.string()});
  }
  refused(arguments("evaluate --model", m.teacher, "--text", folder / "none"), 1, {(folder / "none").string()});
  refused(arguments("evaluate --model", m.teacher, "--text", folder / "hollow"), 1,
          {(folder / "hollow").string(), "folder"});
  refused(arguments("evaluate --model", m.teacher, "--requests", folder / "none"), 1,
          {(folder / "none").string()});
  refused(arguments("evaluate --model", m.teacher, "--requests", folder / "empty.jsonl"), 1,
          {(folder / "empty.jsonl").string(), "no request"});
  refused(arguments("train --steps 1 --cache", folder / "none", "--tokens", m.tokens, "--out", folder / "run"),
          1, {(folder / "none").string(), "not a cache"});
  refused(arguments("train --steps 1 --teacher", m.teacher, "--tokens", m.tokens, "--out", folder / "run",
                    "--init", folder / "none"),
          1, {(folder / "none").string()});
  refused(arguments("logits --model", m.teacher, "--ids", ids, "--out", folder / "none/out"), 1,
          {(folder / "none/out").string(), "cannot create"});
  refused(arguments("train --steps 1 --teacher", m.teacher, "--tokens", m.tokens, "--out", folder / "empty"), 1,
          {(folder / "empty").string()});
  // A file that is another kind of file.
  refused(arguments("evaluate --model", m.teacher, "--tokens", m.teacher / "model.safetensors"), 1,
          {"model.safetensors", "ids"});
  refused(arguments("train --steps 1 --teacher", m.student(), "--tokens", m.tokens, "--out", folder / "run"), 1,
          {m.student().string(), "model_type"});
}

BOOST_AUTO_TEST_CASE(a_truncated_gguf_file) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto whole = folder / "whole.gguf", part = folder / "part.gguf", ids = folder / "ids.safetensors";
  const auto words = tiny_tokenizer();
  testing::write_gguf(m.teacher, whole, true, &words);
  write_ids(ids, {1, 2, 3});
  const std::string bytes = content(whole);
  const auto logits = arguments("logits --ids", ids, "--out", folder / "out", "--model");
  done(arguments(logits, whole));
  // Close together in the keys and the tensors' descriptions, then further apart.
  for (std::size_t n = 0; n < bytes.size(); n += n < 40 ? 1 : n < 3000 ? 61 : bytes.size() / 25) {
    write_file(part, bytes.substr(0, n));
    refused(arguments(logits, part), 1, {part.string()});
  }
  write_file(part, bytes.substr(0, bytes.size() - 40));
  refused(arguments(logits, part), 1, {part.string(), "tensor"});
  refused(arguments("inspect", part), 1, {part.string()});
  refused(arguments("tokenize --ids --tokenizer", part), 1, {part.string()}, {.input = "a"});
  write_file(part, "GGML" + bytes.substr(4));
  refused(arguments(logits, part), 1, {part.string(), "GGUF"});
}

BOOST_AUTO_TEST_CASE(tensors_that_do_not_fit) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto ids = folder / "ids.safetensors";
  write_ids(ids, {1, 2, 3});
  const fs::path student = golden("student/base");
  struct fault {
    fs::path model;
    change edit;
    std::vector<std::string> named;
  };
  const std::string q = "model.layers.1.self_attn.q_proj.weight",
                    skip = "xlstm_block_stack.blocks.1.xlstm.learnable_skip";
  int n = 0;
  for (const auto& f : std::vector<fault>{
           {m.teacher, without(q), {q, "missing"}},
           {m.teacher, of_another_shape(q), {q, "[1, 32, 32] instead of [32, 32]"}},
           {m.teacher, one_more("model.layers.2.mlp.bias"), {"model.layers.2.mlp.bias", "not used"}},
           {student, without(skip), {skip, "missing"}},
           {student, of_another_shape(skip), {skip, "instead of"}},
           {student, one_more("xlstm_block_stack.blocks.2.xlstm.skip"), {"blocks.2.xlstm.skip", "not used"}},
           {student, without("lm_head.weight"), {"lm_head.weight", "missing"}},
           {student, not_a_number(skip, 3), {skip, "not finite"}}}) {
    const auto model = folder / std::to_string(n++);
    changed_copy(f.model, model, f.edit);
    auto named = f.named;
    named.push_back(model.string());
    refused(arguments("logits --model", model, "--ids", ids, "--out", folder / "out"), 1, named);
  }
  // All that is wrong, in one line.
  const auto model = folder / "both";
  changed_copy(student, model, [&](auto& all) {
    without(skip)(all), one_more("extra")(all), of_another_shape("lm_head.weight")(all);
  });
  refused(arguments("logits --model", model, "--ids", ids, "--out", folder / "out"), 1,
          {skip + " is missing", "extra is not used", "lm_head.weight has shape"});
  // A file cut short.
  const auto torn = folder / "torn";
  fs::copy(student, torn);
  fs::resize_file(torn / "model.safetensors", fs::file_size(torn / "model.safetensors") - 4);
  refused(arguments("logits --model", torn, "--ids", ids, "--out", folder / "out"), 1,
          {(torn / "model.safetensors").string()});
}

BOOST_AUTO_TEST_CASE(configurations_that_make_no_model) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto ids = folder / "ids.safetensors";
  write_ids(ids, {1, 2, 3});
  int n = 0;
  const auto with = [&](const fs::path& from, const std::function<void(json&)>& edit,
                        std::vector<std::string> named) {
    const auto model = folder / std::to_string(n++);
    fs::copy(from, model);
    edit_json(model / "config.json", edit);
    named.push_back((model / "config.json").string());
    refused(arguments("logits --model", model, "--ids", ids, "--out", folder / "out"), 1, named);
  };
  const auto student = golden("student/base");
  with(m.teacher,
       [](json& c) { c["num_attention_heads"] = 3, c["num_key_value_heads"] = 1, c.erase("head_dim"); },
       {"num_attention_heads 3", "hidden_size 32"});
  with(m.teacher, [](json& c) { c["num_key_value_heads"] = 3; }, {"3 key heads"});
  with(m.teacher, [](json& c) { c["hidden_act"] = "gelu"; }, {"hidden_act", "gelu"});
  with(m.teacher, [](json& c) { c["rope_parameters"] = {{"rope_type", "yarn"}}; }, {"rope_parameters", "yarn"});
  with(m.teacher, [](json& c) { c.erase("hidden_size"); }, {"hidden_size", "missing"});
  const auto mlstm = [](json& c) -> json& { return c["xlstm_cfg"]["mlstm_block"]["mlstm"]; };
  const auto slstm = [](json& c) -> json& { return c["xlstm_cfg"]["slstm_block"]["slstm"]; };
  with(student, [&](json& c) { mlstm(c)["num_heads"] = 3; }, {"3"});
  with(student, [&](json& c) { slstm(c)["num_heads"] = 3; }, {"3"});
  with(student, [&](json& c) { slstm(c)["gradient_recurrent_cut"] = true; }, {"gradient_recurrent_cut"});
  with(student, [&](json& c) { slstm(c)["function"] = "lstm"; }, {"function"});
  with(student, [](json& c) { c["xlstm_cfg"]["slstm_at"] = {9}; }, {"slstm_at", "9"});
  const auto broken = folder / "broken";
  fs::copy(m.teacher, broken);
  write_file(broken / "config.json", "{\"model_type\": \"llama\",");
  refused(arguments("logits --model", broken, "--ids", ids, "--out", folder / "out"), 1,
          {"config.json", "JSON"});
  // The same asked for on the command line.
  const auto train =
      arguments("train --steps 1 --teacher", m.teacher, "--tokens", m.tokens, "--out", folder / "run");
  refused(arguments(train, "--heads 3"), 1, {"3 heads", "32"});
  refused(arguments(train, "--slstm-at 0,9"), 1, {"slstm_at", "9"});
  refused(arguments(train, "--length 100000"), 1, {"too few", "100000"});
  refused(arguments(train, "--batch 100000"), 1, {"windows", "100000"});
}

BOOST_AUTO_TEST_CASE(another_vocabulary) {
  const auto& m = material::get();
  const temporary_folder folder;
  // A tokenizer of more tokens than the model has rows.
  const auto wide = folder / "wide";
  make_teacher("llama_bf16", wide);
  write_file(wide / "tokenizer.json", io::read_json_file(golden("tokenizer_smollm.json"))["tokenizer"].dump());
  fs::remove(wide / "tokenizer_config.json");
  refused(arguments("generate --prompt rain --model", wide), 1, {wide.string(), "vocabulary", "96"});
  refused(arguments("evaluate --model", wide, "--text", m.text), 1, {wide.string(), "vocabulary", "96"});
  const auto tokens = folder / "wide.safetensors", out = folder / "out";
  done(arguments("tokenize --tokenizer", wide, "--text", m.text, "--out", tokens));
  const std::vector<std::string> named = {tokens.string(), "vocabulary", "96"};
  refused(arguments("evaluate --model", m.teacher, "--tokens", tokens), 1, named);
  refused(arguments("cache --length 16 --teacher", m.teacher, "--tokens", tokens, "--out", out), 1, named);
  refused(arguments("train --steps 1 --teacher", m.teacher, "--tokens", tokens, "--out", out), 1, named);
  refused(arguments("train --steps 1 --teacher", m.teacher, "--tokens", m.tokens, "--held-out", tokens, "--out",
                    out),
          1, named);
  // As many tokens, others.
  const auto other = folder / "other";
  make_teacher("llama_rope_parameters", other);
  auto words = tiny_tokenizer();
  std::swap(words.tokens[5], words.tokens[6]);
  io::write_tokenizer(other, words);
  const auto others = folder / "others.safetensors";
  done(arguments("tokenize --tokenizer", other, "--text", m.text, "--out", others));
  const std::vector<std::string> named_too = {others.string(), "another tokenizer"};
  refused(arguments("evaluate --model", m.teacher, "--tokens", others), 1, named_too);
  refused(arguments("cache --length 16 --teacher", m.teacher, "--tokens", others, "--out", out), 1, named_too);
  refused(arguments("train --steps 1 --teacher", m.teacher, "--tokens", others, "--out", out), 1, named_too);
  refused(arguments("train --steps 1 --teacher", m.teacher, "--tokens", m.tokens, "--held-out", others, "--out",
                    out),
          1, named_too);
  // None at all.
  const auto none = golden("teacher/qwen2_tied");
  refused(arguments("generate --prompt rain --model", none), 1, {none.string(), "tokenizer.json"});
  refused(arguments("evaluate --model", none, "--text", m.text), 1, {none.string(), "tokenizer.json"});
}

BOOST_AUTO_TEST_CASE(ids_out_of_range) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto ids = folder / "ids.safetensors";
  const auto logits = arguments("logits --model", m.teacher, "--out", folder / "out", "--ids", ids);
  write_ids(ids, {1, 2, 3, 96, 5});
  refused(logits, 1, {ids.string(), "position 3 is 96", "96"});
  write_ids(ids, {1, -2});
  refused(logits, 1, {ids.string(), "position 1 is -2"});
  const float numbers[] = {1, 2};
  io::safetensors_writer file;
  file.add("ids", dtype::f32, {1, 2}, numbers);
  file.write(ids);
  refused(logits, 1, {ids.string(), "ids must be I32"});
  BOOST_TEST(!fs::exists(folder / "out"));
  refused(arguments("tokenize --decode --tokenizer", m.teacher), 1, {"stdin", "id 90"}, {.input = "3 90"});
  refused(arguments("tokenize --decode --tokenizer", m.teacher), 1, {"stdin", "'rain'"}, {.input = "3 rain"});
  refused(arguments("tokenize --decode --tokenizer", m.teacher), 1, {"stdin", "'-3'"}, {.input = "-3"});
}

BOOST_AUTO_TEST_CASE(texts_that_are_none) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto empty = folder / "empty.txt", latin = folder / "latin.txt", foreign = folder / "foreign.txt";
  write_file(empty, "");
  write_file(latin, "the rain \xe9");
  write_file(foreign, "\xe6\x97\xa5\xe6\x9c\xac");
  const auto tokenize = arguments("tokenize --tokenizer", m.teacher, "--out", folder / "out", "--text");
  refused(arguments(tokenize, m.text, empty), 1, {empty.string(), "empty"});
  refused(arguments(tokenize, latin), 1, {latin.string(), "UTF-8", "byte 9"});
  refused(arguments("evaluate --model", m.teacher, "--text", empty), 1, {empty.string(), "empty"});
  refused(arguments("evaluate --model", m.teacher, "--text", latin), 1, {latin.string(), "byte 9"});
  refused(arguments("tokenize --ids --tokenizer", m.teacher), 1, {"stdin", "byte 1"}, {.input = "a\xff"});
  refused({"generate", "--model", m.teacher.string(), "--prompt", "a\xff"}, 1, {"--prompt", "byte 1"});
  BOOST_TEST(!fs::exists(folder / "out"));
  // A text without one token is said to have none, after the warning about its bytes.
  const outcome o =
      run(arguments("tokenize --bare --tokenizer", m.teacher, "--out", folder / "out", "--text", foreign));
  BOOST_TEST(o.status == 1);
  BOOST_TEST((o.err.find(foreign.string() + ": the text has no token") != std::string::npos));
  // Documents of one token: there is nothing to score, which is no perplexity.
  const auto ones = folder / "ones.safetensors";
  const std::int32_t ids[] = {3, 4, 5};
  const std::int64_t documents[] = {0, 1, 2};
  io::write_token_file(ones, ids, documents, 10);
  refused(arguments("evaluate --model", m.teacher, "--tokens", ones), 1, {ones.string(), "no token to score"});
  refused(arguments("train --steps 1 --blocks 1 --batch 1 --length 16 --teacher", m.teacher, "--tokens",
                    m.tokens, "--held-out", ones, "--out", folder / "run"),
          1, {ones.string(), "nothing to score"});
  write_file(folder / "requests.jsonl", "{\"doc_id\": 0, \"idx\": 0, \"label\": 0}\n");
  refused(arguments("evaluate --model", m.teacher, "--requests", folder / "requests.jsonl"), 1,
          {"requests.jsonl:1", "request"});
}

BOOST_AUTO_TEST_CASE(numbers_that_are_none) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto teacher = folder / "teacher", student = folder / "student";
  changed_copy(m.teacher, teacher, not_a_number("model.norm.weight"));
  changed_copy(m.student(), student, not_a_number("token_embedding.weight", 40 * 32));
  for (const auto& model : {teacher, student}) {
    const std::string name = model == teacher ? "model.norm.weight" : "token_embedding.weight";
    refused(arguments("evaluate --model", model, "--text", m.text), 1, {model.string(), name, "not finite"});
    refused(arguments("evaluate --model", model, "--tokens", m.tokens), 1,
            {model.string(), name, "not finite"});
  }
  refused(arguments("generate --prompt rain --model", teacher), 1, {teacher.string(), "finite"});
  // The student's recurrent weights, in any tensor.
  const auto stack = folder / "stack";
  const std::string gate = "xlstm_block_stack.blocks.0.xlstm.igate.weight";
  changed_copy(m.student(), stack, not_a_number(gate, 7));
  refused(arguments("generate --prompt rain --model", stack), 1, {stack.string(), gate, "not finite"});
  // Nor can anything be learnt from a teacher that is finite and whose logits are not: the run stops and says where.
  const auto huge = folder / "huge";
  changed_copy(m.teacher, huge, [](std::vector<tensor>& all) {
    for (float& x : find(all, "model.norm.weight").values) x = 3e38f;
  });
  const auto train = [&](const std::string& more) {
    return arguments("train --blocks 2 --batch 2 --length 16", more, "--teacher", huge, "--tokens", m.tokens,
                     "--out", folder / "run");
  };
  refused(train("--steps 12"), 1, {"ten steps in a row", "blocks.0"});
  fs::remove_all(folder / "run");
  refused(train("--steps 3"), 1, {(folder / "run").string(), "diverged at step 1: the "});
  BOOST_TEST(!fs::exists(folder / "run/student"));
  refused(arguments("train --steps 12 --batch 2 --length 16 --teacher", m.teacher, "--tokens", m.tokens,
                    "--out", folder / "init", "--init", stack),
          1, {stack.string(), gate});
}

BOOST_AUTO_TEST_CASE(a_full_disk) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto ids = folder / "ids.safetensors", full = folder / "full", out = folder / "out";
  write_ids(ids, {1, 2, 3});
  // By another name: what replaced its target would replace the link.
  fs::create_symlink("/dev/full", full);
  refused(arguments("logits --model", m.teacher, "--ids", ids, "--out", full), 1,
          {full.string(), "No space left"});
  refused(arguments("tokenize --tokenizer", m.teacher, "--text", m.text, "--out", full), 1,
          {full.string(), "No space left"});
  BOOST_TEST(fs::is_symlink(full));
  refused(arguments("generate --prompt rain --tokens 3 --model", m.teacher), 1, {"stdout"},
          {.output = "/dev/full"});
  refused(arguments("inspect", m.teacher), 1, {"stdout"}, {.output = "/dev/full"});
  // A file that may not grow keeps what it held.
  write_file(out, "old");
  refused(arguments("logits --model", m.teacher, "--ids", ids, "--out", out), 1,
          {out.string(), "File too large"}, {.file_limit = 500});
  BOOST_TEST(content(out) == "old");
  refused(arguments("cache --length 16 --teacher", m.teacher, "--tokens", m.tokens, "--out", folder / "cache"),
          1, {"cache", "File too large"}, {.file_limit = 5000});
  BOOST_TEST(!fs::exists(folder / "cache/manifest.json"));
  refused(arguments("train --steps 2 --batch 2 --length 16 --teacher", m.teacher, "--tokens", m.tokens, "--out",
                    folder / "run"),
          1, {"state.safetensors", "File too large"}, {.file_limit = 20000});
  std::size_t left = 0;
  for (const auto& f : fs::recursive_directory_iterator(folder.path))
    left += f.path().string().find(".tmp-") != std::string::npos;
  BOOST_TEST(left == 0u);
}

}  // namespace distil_xlstm::program
