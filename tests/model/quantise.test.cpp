#include <boost/test/unit_test.hpp>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/io/store_as.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>
#include <distil_xlstm/model/load_language_model.hpp>
#include <distil_xlstm/model/quantise.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/tensor_error.hpp"
#include "../refused.hpp"
#include "../temporary_folder.hpp"

// Models of every family as one GGUF file.
namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;
fs::path golden(const std::string& name) { return fs::path(DISTIL_XLSTM_TEST_DATA) / "golden" / name; }

/// Whether a tensor's numbers are kept in few bits: the rule of quantise.hpp in words of its own.
bool in_few_bits(const io::tensor_info& t) {
  const bool gates = t.name.find("igate.") != t.name.npos || t.name.find("fgate.") != t.name.npos ||
                     t.name.find(".gates.") != t.name.npos || t.name.find("gate_preact.") != t.name.npos;
  const bool output_gate = t.name.find("ogate_preact.") != t.name.npos;
  return t.shape.size() == 2 && t.shape[1] % 32 == 0 && (!gates || output_gate);
}

/// As what: embedding and head are never coarser than Q8_0.
dtype kind_of(const io::tensor_info& t, dtype type) {
  const bool end = t.name.find("embed") != t.name.npos || t.name == "lm_head.weight";
  return end ? dtype::q8_0 : type;
}

/// A folder's model with the numbers that are left of it in `type`.
void write_rounded(const fs::path& from, dtype type, const fs::path& to) {
  fs::remove_all(to), fs::create_directories(to);
  fs::copy_file(from / "config.json", to / "config.json");
  const io::tensor_folder folder(from);
  io::safetensors_writer file;
  std::vector<std::vector<float>> all;
  for (const auto& [name, t] : folder.tensors()) {
    auto& x = all.emplace_back(t->values<float>());
    if (in_few_bits(*t)) {
      const dtype kind = kind_of(*t, type);
      std::vector<std::byte> blocks(static_cast<std::size_t>(row_bytes(kind, t->size())));
      BOOST_REQUIRE(io::store_as(kind, x.data(), t->size(), blocks.data()));
      unpack(kind, blocks.data(), t->size(), x.data());
    }
    file.declare(name, dtype::f32, t->shape);
  }
  file.open(to / "model.safetensors");
  for (const auto& x : all) file.append(x.data(), std::ssize(x));
  file.commit();
}

template <class T>
std::vector<T> hidden_of(device::cpu& cpu, const fs::path& path) {
  const auto model = load_language_model<T>(cpu, path);
  const sequence_view seq{2, 13};
  std::vector<std::int32_t> ids;
  rng random(9);
  for (index i = 0; i < seq.rows(); ++i)
    ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(model.vocabulary()))));
  std::vector<T> out(static_cast<std::size_t>(seq.rows() * model.width()));
  auto state = model.make_state(cpu, seq.batch);
  model.forward(cpu, seq, ids.data(), state, {out.data(), seq.rows(), model.width()});
  for (const auto& m : {model.embedding(), logit_head(model.head()).matrix})
    for_each_frozen_row<T>(cpu, m, [&](index, const T* row) { out.insert(out.end(), row, row + m.cols); });
  return out;
}

template <class T>
double apart(const std::vector<T>& a, const std::vector<T>& b) {
  BOOST_REQUIRE(a.size() == b.size());
  return testing::relative_error(a.data(), b.data(), static_cast<index>(a.size()));
}

/// A folder of random numbers, wide enough that there is something to quantise.
template <class Config>
fs::path write_random(const fs::path& folder, const Config& config, const io::json& written) {
  fs::create_directories(folder);
  io::write_text_atomically(folder / "config.json", written.dump());
  rng random(4);
  std::vector<float> x;
  io::safetensors_writer file;
  const manifest all = tensors_of(config);
  for (const auto& e : all) file.declare(e.name, dtype::f32, e.shape);
  file.open(folder / "model.safetensors");
  for (const auto& e : all) {
    x.resize(static_cast<std::size_t>(e.size));
    for (float& each : x) each = static_cast<float>(0.2 * random.normal());
    file.append(x.data(), e.size);
  }
  file.commit();
  return folder;
}
fs::path write_student(const fs::path& folder) {
  xlstm_config c;
  c.vocabulary = 50, c.width = 64, c.blocks = 2, c.slstm_at = {1}, c.bias = true;
  return write_random(folder, c, write_xlstm_config(c));
}
fs::path write_linearised(const fs::path& folder) {
  linearised_config c;
  c.vocabulary = 50, c.width = 64, c.layers = 3, c.heads = 4, c.kv_heads = 2, c.head_dim = 16;
  c.intermediate = 96, c.window = 5, c.sinks = 2, c.features = 16, c.tied = true;
  c.mixers = {mixer_kind::hybrid, mixer_kind::memory, mixer_kind::attention};
  return write_random(folder, c, write_linearised_config(c));
}
fs::path write_xlstm_7b(const fs::path& folder) {
  const io::json written = {{"model_type", "xlstm"},
                            {"vocab_size", 50},
                            {"hidden_size", 64},
                            {"num_hidden_layers", 2},
                            {"num_heads", 2}};
  return write_random(folder, read_xlstm_7b_config(written, "written"), written);
}

std::vector<fs::path> every_model(const fs::path& folder) {
  std::vector<fs::path> out = {write_student(folder / "student"), write_linearised(folder / "linearised"),
                               write_xlstm_7b(folder / "xlstm_7b")};
  for (const char* family : {"student", "linearised", "teacher", "large"})
    for (const auto& model : testing::golden_models(golden(family)))
      // Those two have other layers without positions than each fourth.
      if (model.filename() != "smollm3_interval" && model.filename() != "smollm3_first") out.push_back(model);
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_file_is_the_model_of_its_rounded_numbers) {
  const temporary_folder folder;
  device::cpu cpu(2);
  index few = 0;
  for (const auto& model : every_model(folder.path))
    for (const dtype type : {dtype::q8_0, dtype::q4_0})
      BOOST_TEST_CONTEXT(model.string() << " " << traits(type).name) {
        const auto file = folder.path / "model.gguf", rounded = folder.path / "rounded";
        const quantised_model written = quantise(model, type, file);
        write_rounded(model, type, rounded);
        // Keys of GGUF hold epsilon and the rotary base in single precision.
        BOOST_TEST(apart(hidden_of<double>(cpu, file), hidden_of<double>(cpu, rounded)) <= 1e-6);
        BOOST_TEST((kind_of_model(file) == kind_of_model(model)));
        const io::gguf_file gguf(file);
        index bytes = 0, numbers = 0, quantised = 0;
        for (const auto& t : gguf.tensors()) {
          bytes += t.bytes, numbers += t.size();
          if (t.dtype != dtype::f32) ++quantised, few += 1;
          BOOST_TEST((t.dtype == type || t.dtype == dtype::q8_0 || t.dtype == dtype::f32));
        }
        BOOST_TEST(written.tensors == std::ssize(gguf.tensors()));
        BOOST_TEST(written.matrices == quantised);
        BOOST_TEST(written.numbers == numbers);
        BOOST_TEST(written.bytes == bytes);
        // The file itself, again: the same bytes but for what its own order of keys makes of them.
        const auto again = folder.path / "again.gguf";
        quantise(file, type, again);
        const io::gguf_file second(again);
        BOOST_REQUIRE(second.tensors().size() == gguf.tensors().size());
        for (const auto& t : gguf.tensors()) {
          const auto& other = second.at(t.name);
          BOOST_TEST((other.dtype == t.dtype && other.shape == t.shape));
          BOOST_TEST(std::equal(t.data, t.data + t.bytes, other.data));
        }
        for (const auto& [key, value] : gguf.keys()) BOOST_TEST((second.find_key(key) != nullptr));
      }
  BOOST_TEST(few > 400);
}

BOOST_AUTO_TEST_CASE(gguf_files_of_the_reference) {
  // Numbers that GGUF files hold already: rows of q and k stay in pairs.
  const temporary_folder folder;
  device::cpu cpu(2);
  for (const auto& entry : fs::directory_iterator(golden("gguf/teacher")))
    BOOST_TEST_CONTEXT(entry.path().string()) {
      const auto file = folder.path / "model.gguf", of_folder = folder.path / "of_folder.gguf";
      quantise(entry.path(), dtype::q8_0, file);
      quantise(golden("teacher") / entry.path().stem(), dtype::q8_0, of_folder);
      BOOST_TEST(apart(hidden_of<double>(cpu, file), hidden_of<double>(cpu, of_folder)) <= 1e-6);
    }
}

/// Hidden states of one text, token by token.
template <class T>
std::vector<T> steps_of(device::cpu& cpu, const fs::path& path) {
  const auto model = load_language_model<T>(cpu, path);
  const index time = 12;
  auto state = model.make_state(cpu, 1, time);
  std::vector<T> out(static_cast<std::size_t>(time * model.width()));
  for (index t = 0; t < time; ++t) {
    const auto id = static_cast<std::int32_t>(7 * t % model.vocabulary());
    model.forward(cpu, {1, 1}, &id, state, {out.data() + t * model.width(), 1, model.width()});
  }
  return out;
}

BOOST_AUTO_TEST_CASE(weights_stay_in_their_bits) {
  const temporary_folder folder;
  device::cpu cpu(2);
  const auto file = folder.path / "model.gguf";
  for (const auto& model :
       {write_student(folder.path / "student"), write_linearised(folder.path / "linearised"),
        write_xlstm_7b(folder.path / "xlstm_7b"), golden("teacher/qwen2_tied")})
    for (const dtype type : {dtype::q8_0, dtype::q4_0})
      BOOST_TEST_CONTEXT(model.string() << " " << traits(type).name) {
        quantise(model, type, file);
        const auto kept = load_language_model<float>(cpu, file);
        BOOST_TEST((kept.embedding().dtype == dtype::q8_0));
        BOOST_TEST((logit_head(kept.head()).matrix.dtype == dtype::q8_0));
        BOOST_TEST((load_language_model<double>(cpu, file).embedding().dtype == dtype::f32));
        // One row at a time it is rounded to 8 bits, and nothing else.
        const auto wide = steps_of<double>(cpu, file);
        const auto steps = steps_of<float>(cpu, file);
        const double off = apart(std::vector<double>(steps.begin(), steps.end()), wide);
        BOOST_TEST(off <= testing::tolerance<float>::hidden_of_8_bits);
        BOOST_TEST(off > 1e-5);
      }
}

BOOST_AUTO_TEST_CASE(students_go_on_from_a_file) {
  const temporary_folder folder;
  device::cpu cpu(1);
  const auto file = folder.path / "model.gguf";
  quantise(write_student(folder.path / "of a student"), dtype::q8_0, file);
  const auto trained = load_xlstm<float>(cpu, file);
  save_xlstm(cpu, trained, folder.path / "student");
  BOOST_TEST(apart(hidden_of<float>(cpu, folder.path / "student"), hidden_of<float>(cpu, file)) == 0);
  quantise(write_linearised(folder.path / "of a linearised student"), dtype::q4_0, file);
  const auto linear = load_linearised<float>(cpu, file);
  save_linearised(cpu, linear, folder.path / "linearised");
  BOOST_TEST(apart(hidden_of<float>(cpu, folder.path / "linearised"), hidden_of<float>(cpu, file)) <=
             testing::tolerance<float>::reference_forward);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_written_is_refused) {
  const temporary_folder folder;
  const auto file = folder.path / "model.gguf";
  const auto refuses = [&](const fs::path& model, const std::string& part, dtype type = dtype::q8_0) {
    BOOST_TEST_CONTEXT(part) { BOOST_CHECK_EXCEPTION(quantise(model, type, file), error, says(part)); }
    BOOST_TEST(!fs::exists(file));
  };
  refuses(golden("teacher/smollm3_interval"), "GGUF has no key for layers without positions");
  refuses(folder.path / "none", "none: no such file or folder");
  refuses(golden("student/base"), "BF16 is not supported", dtype::bf16);
  refuses(golden("gguf/every_type.gguf"), "llama.embedding_length is missing");
  // A scale that half precision does not hold.
  const auto student = write_student(folder.path / "student"), huge = folder.path / "huge";
  fs::create_directories(huge);
  fs::copy_file(student / "config.json", huge / "config.json");
  const io::tensor_folder from(student);
  io::safetensors_writer changed;
  std::vector<std::vector<float>> all;
  all.reserve(from.tensors().size());
  for (const auto& [name, t] : from.tensors()) {
    all.push_back(t->values<float>());
    if (name == "lm_head.weight") all.back()[5] = 1e9f;
    changed.add(name, dtype::f32, t->shape, all.back().data());
  }
  changed.write(huge / "model.safetensors");
  refuses(huge, "tensor lm_head.weight holds numbers that are too large for Q8_0");
  quantise(golden("student/base"), dtype::q8_0, file);
  BOOST_CHECK_EXCEPTION(quantise(file, dtype::q4_0, file), error, says("is the model itself"));
  // A configuration of nobody's.
  std::string bytes;
  std::ifstream in(file, std::ios::binary);
  bytes.assign(std::istreambuf_iterator<char>(in), {});
  bytes.replace(bytes.find("xlstm_cfg"), 9, "xlstm_CFG");
  std::ofstream(file, std::ios::binary) << bytes;
  BOOST_CHECK_EXCEPTION(kind_of_model(file), error,
                        says("key distil_xlstm.config: is the configuration of no family"));
}

}  // namespace distil_xlstm
