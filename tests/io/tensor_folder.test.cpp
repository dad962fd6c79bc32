#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <string>
#include <string_view>

#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>

using namespace distil_xlstm;
using namespace distil_xlstm::io;

namespace {

struct folder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("distil_xlstm_tensor_folder_" + std::to_string(::getpid()));
  folder() { std::filesystem::create_directory(path); }
  ~folder() { std::filesystem::remove_all(path); }
  void shard(const char* file, const char* tensor, float value) const {
    safetensors_writer w;
    w.add(tensor, dtype::f32, {1}, &value);
    w.write(path / file);
  }
  void list(std::string_view weights) const {
    write_text_atomically(path / "model.safetensors.index.json",
                          "{\"weight_map\": " + std::string(weights) + "}");
  }
};

auto says(std::string part) {
  return [=](const error& e) {
    BOOST_TEST_MESSAGE(e.what());
    return std::string(e.what()).find(part) != std::string::npos;
  };
}

}  // namespace

BOOST_AUTO_TEST_CASE(all_shards_of_a_set) {
  const folder f;
  BOOST_CHECK_EXCEPTION(tensor_folder(f.path), error, says("model.safetensors: cannot open"));
  f.shard("1.safetensors", "a", 1);
  f.list(R"({"a": "1.safetensors", "b": "2.safetensors"})");
  BOOST_CHECK_EXCEPTION(tensor_folder(f.path), error, says("2.safetensors: cannot open"));
  f.shard("2.safetensors", "b", 2);
  const tensor_folder both(f.path);
  BOOST_TEST(both.tensors().size() == 2u);
  BOOST_TEST(both.tensors().at("b")->values<float>()[0] == 2.0f);
  f.shard("2.safetensors", "c", 2);
  BOOST_CHECK_EXCEPTION(tensor_folder(f.path), error, says("index.json: tensor b is not in 2.safetensors"));
  f.shard("2.safetensors", "a", 2);
  BOOST_CHECK_EXCEPTION(tensor_folder(f.path), error, says("2.safetensors: tensor a is in two shards"));
  f.list(R"({"a": "../1.safetensors"})");
  BOOST_CHECK_EXCEPTION(tensor_folder(f.path), error, says("is not the name of a file in the folder"));
  f.list(R"({"a": 1})");
  BOOST_CHECK_EXCEPTION(tensor_folder(f.path), error, says("a must be a string, not 1"));
  f.shard("model.safetensors", "d", 4);  // before the list
  BOOST_TEST(tensor_folder(f.path).tensors().at("d")->values<float>()[0] == 4.0f);
}
