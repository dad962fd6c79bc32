#include <algorithm>
#include <cstring>
#include <iostream>

#include <distil_xlstm/io/config_json.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/model/load_language_model.hpp>

#include "command.hpp"

namespace program {
namespace {

using dx::io::json;

constexpr const char* usage =
    "distil inspect FILE or FOLDER\n\n"
    "Lists what a GGUF file, a safetensors file (weights, tokens, logits, part of a cache or of a checkpoint) "
    "or\n"
    "a folder of them holds: metadata, tensors with shapes and types, and counts of elements.\n";

constexpr const char* examples = R"(
  # A teacher, and a checkpoint
  distil inspect smollm2.gguf
  distil inspect run/checkpoints/step-00000100
)";

void print_pair(const std::string& key, const std::string& value) {
  std::cout << "  " << dx::io::detail::printable(key, 60)
            << std::string(key.size() < 38 ? 38 - key.size() : 1, ' ') << dx::io::detail::printable(value, 100)
            << "\n";
}

/// The table of tensors of `file`. Throws, when all is printed, `error` naming the first with numbers that are not
/// finite.
void print_tensors(const std::vector<dx::io::tensor_info>& tensors, const std::string& file) {
  std::size_t wide = 8;
  for (const auto& t : tensors) wide = std::max(wide, std::min<std::size_t>(72, t.name.size()));
  dx::index elements = 0, bytes = 0;
  const dx::io::tensor_info* broken = nullptr;
  std::cout << "tensors\n";
  for (const auto& t : tensors) {
    const std::string name = dx::io::detail::printable(t.name, 72);
    std::cout << "  " << name << std::string(name.size() < wide ? wide - name.size() : 0, ' ') << "  " << t.type
              << std::string(t.type.size() < 6 ? 6 - t.type.size() : 1, ' ')
              << dx::io::detail::shape_text(t.shape);
    const bool finite = !t.readable || dx::all_finite(t.stored());
    std::cout << (finite ? "\n" : "  holds numbers that are not finite\n");
    if (!finite && !broken) broken = &t;
    elements += t.size(), bytes += t.bytes;
  }
  std::cout << grouped(static_cast<dx::index>(tensors.size())) << " tensors, " << grouped(elements)
            << " elements, " << grouped(bytes) << " bytes\n";
  if (broken) dx::require_finite(broken->stored(), dx::io::detail::printable(broken->name), file);
}

std::string text_of(const dx::io::gguf_value& v) {
  using dx::io::gguf_type;
  double x;
  switch (v.type) {
    case gguf_type::string: return std::string(v.text);
    case gguf_type::array: return "array of " + grouped(static_cast<dx::index>(v.count));
    case gguf_type::boolean: return v.bits ? "true" : "false";
    case gguf_type::f32:
    case gguf_type::f64: std::memcpy(&x, &v.bits, sizeof x); return json(x).dump();
    default: return std::to_string(static_cast<std::int64_t>(v.bits));
  }
}

/// What `read()` says of a transformer, or why it cannot be one of the teachers.
template <class Read>
void describe_teacher(const Read& read) {
  try {
    const dx::llama_config c = read();
    std::cout << "a teacher of family " << c.model_type << ": " << c.layers << " layers, " << c.heads
              << " heads of " << c.head_dim << ", " << c.kv_heads << " of keys; rotary base "
              << short_number(c.theta);
    const dx::rope_scaling& s = c.scaling;
    if (s.type == dx::rope_scaling::kind::linear) std::cout << ", linear scaling by " << short_number(s.factor);
    if (s.type == dx::rope_scaling::kind::llama3)
      std::cout << ", llama3 scaling by " << short_number(s.factor) << " from " << short_number(s.low) << " to "
                << short_number(s.high) << " turns over " << short_number(s.original) << " tokens";
    if (const auto none = std::count(c.rotates.begin(), c.rotates.end(), false))
      std::cout << ", " << none << (none == 1 ? " layer" : " layers") << " without positions";
    if (c.head_norms) std::cout << ", norms of q and k";
    if (c.window > 0) std::cout << ", a window of " << c.window << " tokens";
    std::cout << "\n";
  } catch (const dx::error& e) {
    std::cout << "cannot be loaded: " << e.what() << "\n";
  }
}

/// What the model in a file or folder is.
void describe_model(const fs::path& path) {
  const auto kind = dx::kind_of_model(path);
  const dx::io::config_json file(path);
  if (kind == dx::model_kind::xlstm) {
    const auto config = dx::read_xlstm_config(path);
    std::cout << "a student of " << config.blocks << " blocks: " << grouped(config.trainable())
              << " trainable of " << grouped(config.total()) << " parameters\n";
  } else if (kind == dx::model_kind::xlstm_7b) {
    const auto config = dx::read_xlstm_7b_config(file.root, file.name);
    std::cout << "a frozen xLSTM of " << config.blocks << " blocks and " << config.heads
              << " heads: " << grouped(config.total()) << " parameters";
    if (config.logit_cap > 0) std::cout << ", logits capped at " << short_number(config.logit_cap);
    std::cout << "\n";
  } else if (file.root.is_null()) {
    describe_teacher([&] { return dx::read_llama_config(dx::io::gguf_file(path)); });
  } else {
    describe_teacher([&] { return dx::read_llama_config(file.root, file.name); });
  }
}

void inspect_gguf(const fs::path& path) {
  const dx::io::gguf_file file(path);
  std::cout << path.string() << ": GGUF\n";
  for (const auto& [key, value] : file.keys()) print_pair(std::string(key), text_of(value));
  print_tensors(file.tensors(), path.string());
  describe_model(path);
}

void inspect_safetensors(const fs::path& path) {
  const dx::io::safetensors_file file(path);
  std::cout << path.string() << ": safetensors\n";
  for (const auto& [key, value] : file.metadata()) print_pair(key, value);
  print_tensors(file.tensors(), path.string());
  if (file.names() == std::vector<std::string>{"ids", "documents"} ||
      file.names() == std::vector<std::string>{"documents", "ids"}) {
    const dx::io::token_file tokens(path);
    std::cout << "a token file: " << grouped(tokens.size()) << " tokens in "
              << grouped(std::ssize(tokens.documents())) << " documents, vocabulary "
              << grouped(tokens.vocab_size());
    if (const auto end = tokens.end_token())
      std::cout << (*end < 0 ? ", without ends" : ", each ends with the token " + std::to_string(*end));
    std::cout << "\n";
  }
}

void inspect_json(const fs::path& path) {
  std::cout << path.string() << "\n" << dx::io::read_json_file(path).dump(2) << "\n";
}

void inspect_folder(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& f : fs::directory_iterator(folder)) files.push_back(f.path());
  std::sort(files.begin(), files.end());
  bool any = false;
  const std::string shown[] = {"config.json", "distil_xlstm.json", "manifest.json", "run.json"};
  for (const auto& f : files)
    if (std::find(std::begin(shown), std::end(shown), f.filename().string()) != std::end(shown))
      any = true, inspect_json(f);
  for (const auto& f : files)
    if (f.extension() == ".safetensors") any = true, inspect_safetensors(f);
  dx::require(any, folder.string(), ": holds neither a configuration nor tensors");
  if (fs::exists(folder / "config.json")) describe_model(folder);
}

}  // namespace

int inspect(const arguments& given) {
  fs::path path;
  po::options_description options("Options");
  options.add_options()("path", po::value(&path)->value_name("PATH"),
                        "the file or folder; --path may be left out");
  po::variables_map values;
  if (!parse(given, {usage, examples}, options, values, "path")) return 0;
  require_effects("inspect", values);
  need(path, "path");
  dx::require(fs::exists(path), path.string(), ": no such file or folder");
  if (fs::is_directory(path)) {
    inspect_folder(path);
  } else if (path.extension() == ".safetensors") {
    inspect_safetensors(path);
  } else if (path.extension() == ".json") {
    inspect_json(path);
  } else {
    inspect_gguf(path);
  }
  return 0;
}

}  // namespace program
