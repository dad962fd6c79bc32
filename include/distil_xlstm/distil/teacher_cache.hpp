#pragma once

#include <algorithm>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <distil_xlstm/device/frozen_memory.hpp>
#include <distil_xlstm/distil/teacher_source.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>

namespace distil_xlstm {

/// What a cache is about: a student may only learn from it where all of this is the same.
struct cache_identity {
  std::string teacher;  ///< the teacher's name, for people
  std::string teacher_sha256;
  std::string tokens_sha256;  ///< token_file::data_sha256
  index windows = 0, length = 0, width = 0, layers = 0;
  std::string alignment = "average";
  index targets = 0;

  io::json json() const {
    return {{"teacher", teacher},
            {"teacher_sha256", teacher_sha256},
            {"tokens_sha256", tokens_sha256},
            {"windows", windows},
            {"length", length},
            {"width", width},
            {"layers", layers},
            {"alignment", alignment},
            {"targets", targets}};
  }
};

/// Writes a teacher's signals once: final hidden states and alignment targets of every window, d numbers a
/// token each (the student shares the frozen head, so that these are the whole vocabulary's logits), and the
/// frozen ends.
class cache_writer {
 public:
  static constexpr index format = 1;

  cache_writer(std::filesystem::path folder, cache_identity identity, dtype type)
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
  static std::string name_of(index i) {
    return i == 0 ? "last_hidden.safetensors" : "target." + std::to_string(i - 1) + ".safetensors";
  }
  /// The signals of the next windows, in the device's memory.
  template <class D, class T>
  void append(D& device, const teacher_signals<T>& s) {
    host_copy<T, D> part;
    for (std::size_t i = 0; i <= s.targets.size(); ++i) {
      const matrix_view<T>& signal = i == 0 ? s.last_hidden : s.targets[i - 1].mean;
      files_[i]->append(part.get(device, signal.data, signal.size()), signal.size());
    }
  }
  /// Embedding and head as the device uses them, then the manifest, which makes the folder a cache.
  template <class D>
  void finish(D& device, frozen_matrix embedding, frozen_matrix head) {
    for (auto& f : files_) f->commit();
    const bool tied = embedding.data == head.data;
    io::safetensors_writer ends;
    // What the writer does not write is widened: every number of it fits F32.
    const auto kind = [](dtype e) { return e == dtype::bf16 || e == dtype::f64 ? e : dtype::f32; };
    ends.declare("embedding", kind(embedding.dtype), {embedding.rows, embedding.cols});
    if (!tied) ends.declare("head", kind(head.dtype), {head.rows, head.cols});
    ends.open(folder_ / "ends.safetensors");
    for (const auto* m : {&embedding, &head}) {
      if (m == &head && tied) continue;
      for_each_frozen_row<double>(device, *m, [&](index, const double* row) { ends.append(row, m->cols); });
    }
    ends.commit();
    io::json about = identity_.json();
    about["format"] = format;
    about["precision"] = traits(kind_).name;
    io::write_text_atomically(folder_ / "manifest.json", about.dump(2) + "\n");
  }

 private:
  std::filesystem::path folder_;
  cache_identity identity_;
  dtype kind_;
  std::vector<std::unique_ptr<io::safetensors_writer>> files_;
};

/// Appends what `teacher` says of every window of `text`, as many at a time as `signals` has memory for;
/// `on_windows(n)` hears that n are written.
template <class T, class D, class OnWindows>
void append_windows(D& device, cache_writer& out, teacher_source<T, D>& teacher, const token_windows& text,
                    const signal_memory<T, D>& signals, OnWindows&& on_windows) {
  const index batch = signals.rows() / text.length();
  std::vector<index> which;
  token_batch tokens;
  device_batch<D> placed;
  for (index first = 0; first < text.count(); first += batch) {
    which.resize(static_cast<std::size_t>(std::min(batch, text.count() - first)));
    std::iota(which.begin(), which.end(), first);
    text.read(which, tokens);
    placed.put(device, tokens);
    const auto part = signals.first(std::ssize(which) * text.length());
    teacher.fill(device, which, placed, part);
    out.append(device, part);
    on_windows(first + std::ssize(which));
  }
}

/// A teacher that was written down. Opening checks that all its files are whole.
class teacher_cache {
 public:
  explicit teacher_cache(const std::filesystem::path& folder) : name_(folder.string()) {
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
    ends_ = std::make_shared<io::safetensors_file>(folder / "ends.safetensors");
  }
  const cache_identity& identity() const { return identity_; }
  /// The ends, in the file's mapped memory: `upload_embedding_and_head` puts them where a device reads them.
  frozen_matrix embedding() const { return end("embedding"); }
  frozen_matrix head() const { return ends_->find("head") ? end("head") : embedding(); }
  bool tied() const { return !ends_->find("head"); }
  std::shared_ptr<const void> owner() const { return ends_; }

  /// Throws `error` naming what differs between the cache and what the run is about.
  void verify(const std::string& tokens_sha256, index windows, index length) const {
    require(identity_.tokens_sha256 == tokens_sha256, name_,
            ": tokens_sha256: the cache was made from another token file");
    require(identity_.length == length, name_, ": length: the cache has windows of ", identity_.length,
            " tokens, the run of ", length);
    require(identity_.windows == windows, name_, ": windows: the cache has ", identity_.windows, ", the run ",
            windows);
  }
  void verify_teacher(const std::string& sha256) const {
    require(identity_.teacher_sha256 == sha256, name_,
            ": teacher_sha256: the cache was made by another teacher, ", identity_.teacher);
  }

  /// Throws `error` where the cache does not hold such signals.
  template <class T>
  void verify_signals(const teacher_signals<T>& s) const {
    require(s.last_hidden.cols == identity_.width, name_, ": width: the cache has hidden states of width ",
            identity_.width, ", the student of ", s.last_hidden.cols);
    // Their number says what they are: one is the mean of all layers, more are groups from the first one on.
    require(s.targets.empty() || identity_.targets == std::ssize(s.targets), name_,
            ": alignment: the cache holds ", identity_.targets, " targets for ", identity_.alignment,
            ", the objective needs ", s.targets.size());
  }

  template <class T>
  void read(index window, index signal, T* out) const {
    require(window < identity_.windows, name_, ": window ", window, " of ", identity_.windows);
    const auto& t = files_[static_cast<std::size_t>(signal)]->at("hidden");
    const index n = identity_.length * identity_.width;
    unpack(t.dtype, t.data + row_bytes(t.dtype, window * n), n, out);
  }

 private:
  frozen_matrix end(const char* name) const {
    const auto& t = ends_->at(name);
    require(t.shape.size() == 2 && t.shape[1] == identity_.width, ends_->path(), ": ", name, " is ",
            io::detail::shape_text(t.shape), ", the hidden states are ", identity_.width, " wide");
    return {t.data, t.dtype, t.shape[0], t.shape[1]};
  }
  std::string name_;
  cache_identity identity_;
  std::vector<std::shared_ptr<io::safetensors_file>> files_;
  std::shared_ptr<io::safetensors_file> ends_;
};

/// The source that reads a cache.
template <class T, class D>
class cached_teacher final : public teacher_source<T, D> {
 public:
  /// Refers to `cache`, which must live as long.
  explicit cached_teacher(const teacher_cache& cache) : cache_(&cache) {}

  index layers() const override { return cache_->identity().layers; }
  void check(const teacher_signals<T>& s) const override { cache_->verify_signals(s); }
  void fill(D& device, const std::vector<index>& which, const device_batch<D>& tokens,
            const teacher_signals<T>& out) override {
    const auto& id = cache_->identity();
    require(tokens.view().time == id.length, "the cache has windows of ", id.length, " tokens, the run of ",
            tokens.view().time);
    const index n = id.length * id.width;
    host_.resize(static_cast<std::size_t>(n));
    for (std::size_t b = 0; b < which.size(); ++b)
      for (std::size_t s = 0; s <= out.targets.size(); ++s) {
        cache_->read(which[b], static_cast<index>(s), host_.data());
        const matrix_view<T>& to = s == 0 ? out.last_hidden : out.targets[s - 1].mean;
        device.upload(to.data + static_cast<index>(b) * n, host_.data(), n * static_cast<index>(sizeof(T)));
      }
  }

 private:
  const teacher_cache* cache_;
  std::vector<T> host_;
};

}  // namespace distil_xlstm
