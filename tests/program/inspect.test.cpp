#include <boost/test/unit_test.hpp>

#include <distil_xlstm/io/json.hpp>

#include "../model/write_gguf.hpp"
#include "material.hpp"

// `distil inspect` from outside.
namespace distil_xlstm::program {

BOOST_AUTO_TEST_CASE(inspect_shows_every_kind_of_file) {
  const auto& m = material::get();
  const auto shows = [](const fs::path& path, const std::vector<std::string>& parts) {
    const std::string text = done(arguments("inspect", path));
    for (const auto& part : parts)
      BOOST_TEST_CONTEXT(path.string() << ": " << part) BOOST_TEST((text.find(part) != std::string::npos));
  };
  const auto gguf = m.folder / "inspected.gguf", cache = m.folder / "inspected";
  testing::write_gguf(m.teacher, gguf, true);
  done(arguments("cache --length 16 --teacher", m.teacher, "--tokens", m.tokens, "--out", cache));
  shows(gguf, {"general.architecture", "llama", "token_embd.weight", "Q8_0", "[96, 32]",
               "blk.1.ffn_down.weight", "a teacher of family llama: "});
  shows(m.teacher, {"\"hidden_size\": 32", "model.embed_tokens.weight", "[96, 32]", "F32"});
  shows(golden("teacher/llama_sharded_head_dim"), {"model-00001-of-00002", "model-00002-of-00002"});
  shows(golden("teacher/llama3_scaling"),
        {"a teacher of family llama: 2 layers, 4 heads of 16, 2 of keys; rotary "
         "base 100, llama3 scaling by 8 from 1 to 4 turns over 32 tokens"});
  shows(golden("teacher/llama_linear_scaling"), {"rotary base 10000, linear scaling by 2.5\n"});
  shows(golden("teacher/qwen3"), {"a teacher of family qwen3: ", "rotary base 1000000, norms of q and k\n"});
  shows(golden("teacher/smollm3"), {"a teacher of family smollm3: 4 layers", ", 1 layer without positions\n"});
  shows(golden("teacher/mistral_window"), {"a teacher of family mistral: ", ", a window of 4 tokens\n"});
  shows(golden("gguf/every_type.gguf"), {"cannot be loaded: ", "llama.embedding_length is missing"});
  shows(golden("teacher/llama_bf16") / "model.safetensors", {"BF16", "model.layers.2."});
  shows(m.tokens, {"vocab_size", "tokenizer_sha256", "U16", "a token file", "2 documents"});
  shows(m.student(),
        {"xlstm_cfg", "token_embedding.weight", "a student of 2 blocks", "trainable", "parameters"});
  shows(m.student().parent_path(), {"total_steps"});
  shows(m.student().parent_path() / "checkpoints/step-00000012", {"second_moment.", "\"step\": 12"});
  shows(cache, {"teacher_sha256", "last_hidden.safetensors", "BF16", "ends.safetensors"});
  shows(golden("student/base/expected.safetensors"), {"grad.", "F64"});
  shows(m.teacher / "tokenizer.json", {"added_tokens"});
  // The counts: the trainable numbers are those of run.json.
  const auto parameters = io::read_json_file(m.student().parent_path() / "run.json")["parameters"];
  std::string total = std::to_string(parameters["total"].get<index>());
  total.insert(total.size() - 3, ",");
  shows(m.student(), {"of " + total + " parameters"});
  BOOST_TEST(done(arguments("inspect --path", m.tokens)) == done(arguments("inspect", m.tokens)));
}

}  // namespace distil_xlstm::program
