#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/json_object.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE io::json cache_identity::json() const {
  return io::detail::json_object({{"teacher", teacher},
                                  {"teacher_sha256", teacher_sha256},
                                  {"tokens_sha256", tokens_sha256},
                                  {"windows", windows},
                                  {"length", length},
                                  {"width", width},
                                  {"layers", layers},
                                  {"alignment", alignment},
                                  {"targets", targets}});
}

DISTIL_XLSTM_INLINE cache_writer::cache_writer(std::filesystem::path folder, cache_identity identity,
                                               dtype type)
    : folder_(std::move(folder)), identity_(std::move(identity)), kind_(type) {
  std::filesystem::create_directories(folder_);
  std::filesystem::remove(folder_ / "manifest.json");  // what is there is no cache until all is written
  const std::vector<index> shape = {identity_.windows, identity_.length, identity_.width};
  for (index i = 0; i <= identity_.targets; ++i) {
    auto& file = *files_.emplace_back(std::make_unique<io::safetensors_writer>());
    file.declare("hidden", type, shape);
    file.open(folder_ / name_of(i));
  }
}

DISTIL_XLSTM_INLINE void cache_writer::write_manifest() const {
  io::json about = identity_.json();
  about["format"] = format;
  about["precision"] = traits(kind_).name;
  io::write_text_atomically(folder_ / "manifest.json", about.dump(2) + "\n");
}

DISTIL_XLSTM_INLINE std::string cache_writer::name_of(index i) {
  return i == 0 ? "last_hidden.safetensors" : "target." + std::to_string(i - 1) + ".safetensors";
}

DISTIL_XLSTM_INLINE teacher_cache::teacher_cache(const std::filesystem::path& folder) : name_(folder.string()) {
  const auto path = folder / "manifest.json";
  require(std::filesystem::exists(path), name_, ": not a cache: there is no manifest.json");
  const io::json m = io::read_json_file(path);
  const std::string where = path.string();
  const auto version = io::get<index>(m, "format", where);
  require(version == cache_writer::format, where, ": cache format ", version, ", this library reads ",
          cache_writer::format);
  identity_ = {io::get<std::string>(m, "teacher", where),
               io::get<std::string>(m, "teacher_sha256", where),
               io::get<std::string>(m, "tokens_sha256", where),
               io::get<index>(m, "windows", where),
               io::get<index>(m, "length", where),
               io::get<index>(m, "width", where),
               io::get<index>(m, "layers", where),
               io::get<std::string>(m, "alignment", where),
               io::get<index>(m, "targets", where)};
  require(identity_.targets >= 0 && identity_.targets <= 4096, where, ": targets ", identity_.targets,
          " is not possible");
  for (index i = 0; i <= identity_.targets; ++i) {
    const auto& file =
        *files_.emplace_back(std::make_shared<io::safetensors_file>(folder / cache_writer::name_of(i)));
    const std::vector<index> shape = {identity_.windows, identity_.length, identity_.width};
    require(file.at("hidden").shape == shape, file.path(), ": hidden is ",
            io::detail::shape_text(file.at("hidden").shape), ", the manifest says ",
            io::detail::shape_text(shape));
  }
  matrices_ = std::make_shared<io::safetensors_file>(folder / "ends.safetensors");
}

DISTIL_XLSTM_INLINE void teacher_cache::verify(const std::string& tokens_sha256, index windows,
                                               index length) const {
  require(identity_.tokens_sha256 == tokens_sha256, name_,
          ": tokens_sha256: the cache was made from another token file");
  require(identity_.length == length, name_, ": length: the cache has windows of ", identity_.length,
          " tokens, the run of ", length);
  require(identity_.windows == windows, name_, ": windows: the cache has ", identity_.windows, ", the run ",
          windows);
}

DISTIL_XLSTM_INLINE void teacher_cache::verify_teacher(const std::string& sha256) const {
  require(identity_.teacher_sha256 == sha256, name_,
          ": teacher_sha256: the cache was made by another teacher, ", identity_.teacher);
}

DISTIL_XLSTM_INLINE frozen_matrix teacher_cache::matrix(const char* name) const {
  const auto& t = matrices_->at(name);
  require(t.shape.size() == 2 && t.shape[1] == identity_.width, matrices_->path(), ": ", name, " is ",
          io::detail::shape_text(t.shape), ", the hidden states are ", identity_.width, " wide");
  return {t.data, t.dtype, t.shape[0], t.shape[1]};
}

}  // namespace distil_xlstm
