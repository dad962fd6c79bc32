#pragma once

#include <algorithm>
#include <concepts>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/comm/single.hpp>
#include <distil_xlstm/device/frozen_memory.hpp>
#include <distil_xlstm/distil/teacher_source.hpp>
#include <distil_xlstm/io/json_fwd.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>

namespace distil_xlstm {

/// What a cache is about: a student may only learn from it where all of this is the same.
struct cache_identity {
  std::string teacher;         ///< the teacher's name, for people
  std::string teacher_sha256;  ///< of its files, or what else tells it from others: `verify_teacher`
  std::string tokens_sha256;   ///< token_file::data_sha256
  /// @{
  /// Windows of the text, tokens of a window, numbers of a hidden state, and layers of the teacher.
  index windows = 0, length = 0, width = 0, layers = 0;
  /// @}
  std::string alignment = "average";  ///< loss::name_of the layers that the targets are of
  index targets = 0;                  ///< how many signals follow the final hidden states

  /// As manifest.json has it: a field a member.
  io::json json() const;
};

/// Writes a teacher's signals once: final hidden states and alignment targets of every window, d numbers a
/// token each (the student shares the frozen head, so that these are the whole vocabulary's logits), and the
/// frozen embedding and head.
class cache_writer {
 public:
  static constexpr index format = 1;  ///< of manifest.json: `teacher_cache` refuses another

  /// Of no folder, for `append_windows` of several ranks: all but rank 0 have one.
  cache_writer() = default;
  /// Creates the folder, and a file a signal, hidden [windows, length, width], whose numbers are stored as `type`. It
  /// is no cache before `finish`.
  cache_writer(std::filesystem::path folder, cache_identity identity, dtype type);
  /// The file of signal i: the final hidden states' (0), or that of target i - 1.
  static std::string name_of(index i);
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
    io::safetensors_writer matrices;
    // What the writer does not write is widened: every number of it fits F32.
    const auto kind = [](dtype e) { return e == dtype::bf16 || e == dtype::f64 ? e : dtype::f32; };
    matrices.declare("embedding", kind(embedding.dtype), {embedding.rows, embedding.cols});
    if (!tied) matrices.declare("head", kind(head.dtype), {head.rows, head.cols});
    matrices.open(folder_ / "ends.safetensors");
    for (const auto* m : {&embedding, &head}) {
      if (m == &head && tied) continue;
      for_each_frozen_row<double>(device, *m, [&](index, const double* row) { matrices.append(row, m->cols); });
    }
    matrices.commit();
    write_manifest();
  }

 private:
  void write_manifest() const;

  std::filesystem::path folder_;
  cache_identity identity_;
  dtype kind_ = dtype::f32;
  std::vector<std::unique_ptr<io::safetensors_writer>> files_;
};

/// Appends what `teacher` says of every window of `text`, as many at a time as `signals` has memory for;
/// `on_windows(n)` hears that n are written. Several ranks, each with its own teacher and the same text, share the
/// batches, and rank 0 writes all of them: the same bytes as one. What one rank throws all do.
template <class T, class D, class OnWindows, Communicator C = comm::single>
void append_windows(D& device, cache_writer& out, teacher_source<T, D>& teacher, const token_windows& text,
                    const signal_memory<T, D>& signals, OnWindows&& on_windows, C& ranks = comm::alone) {
  const index batch = signals.rows() / text.length();
  const auto others = ranks.size() > 1 ? signals.another(device) : signal_memory<T, D>();
  std::vector<index> which;
  token_batch tokens;
  device_batch<D> placed;
  for (index first = 0; first < text.count(); first += ranks.size() * batch) {
    const auto begin = [&](index rank) { return std::min(first + rank * batch, text.count()); };
    const auto part_of = [&](index rank) {
      const auto& memory = rank == ranks.rank() ? signals : others;
      return memory.first((begin(rank + 1) - begin(rank)) * text.length());
    };
    comm::on_every_rank(ranks, [&] {
      which.resize(static_cast<std::size_t>(begin(ranks.rank() + 1) - begin(ranks.rank())));
      if (which.empty()) return;
      std::iota(which.begin(), which.end(), begin(ranks.rank()));
      text.read(which, tokens);
      placed.put(device, tokens);
      teacher.fill(device, which, placed, part_of(ranks.rank()));
    });
    for (index rank = 0; rank < ranks.size() && begin(rank) < text.count(); ++rank) {
      const auto part = part_of(rank);
      const auto bring = [&](const matrix_view<T>& m) {
        if (rank > 0) ranks.broadcast(device, m.data, m.size() * static_cast<index>(sizeof(T)), rank);
      };
      bring(part.last_hidden);
      for (const auto& t : part.targets) bring(t.mean);
      comm::on_root(ranks, [&] { out.append(device, part); });
      on_windows(begin(rank + 1));
    }
  }
}

/// A teacher that was written down. Opening checks that all its files are whole.
class teacher_cache {
 public:
  /// Maps its files. Throws `error` naming the one that is missing, or not as the manifest says.
  explicit teacher_cache(const std::filesystem::path& folder);
  /// What it was made of.
  const cache_identity& identity() const { return identity_; }
  /// @{
  /// Both [vocabulary, width], in the file's mapped memory: `upload_embedding_and_head` puts them where a device
  /// reads them.
  frozen_matrix embedding() const { return matrix("embedding"); }
  frozen_matrix head() const { return matrices_->find("head") ? matrix("head") : embedding(); }
  /// @}
  /// The head is the embedding.
  bool tied() const { return !matrices_->find("head"); }
  /// Keeps the mapping of embedding and head alive.
  std::shared_ptr<const void> owner() const { return matrices_; }

  /// @{
  /// Throws `error` naming what differs between the cache and what the run is about.
  void verify(const std::string& tokens_sha256, index windows, index length) const;
  void verify_teacher(const std::string& sha256) const;
  /// @}

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

  /// Signal 0 (the final hidden states) or 1 + a target's number, of one window: [length, width] numbers, to host
  /// memory. Throws `error` where there is no such window; `signal` is not checked.
  template <class T>
  void read(index window, index signal, T* out) const {
    require(window < identity_.windows, name_, ": window ", window, " of ", identity_.windows);
    const auto& t = files_[static_cast<std::size_t>(signal)]->at("hidden");
    const index n = identity_.length * identity_.width;
    unpack(t.dtype, t.data + row_bytes(t.dtype, window * n), n, out);
  }

 private:
  frozen_matrix matrix(const char* name) const;
  std::string name_;
  cache_identity identity_;
  std::vector<std::shared_ptr<io::safetensors_file>> files_;
  std::shared_ptr<io::safetensors_file> matrices_;
};

/// The source that reads a cache.
template <class T, class D>
class cached_teacher final : public teacher_source<T, D> {
 public:
  /// Refers to `cache`, which must live as long.
  explicit cached_teacher(const teacher_cache& cache) : cache_(&cache) {}
  /// An error of the compiler: a temporary cache would not live as long.
  template <std::same_as<teacher_cache> C>
  explicit cached_teacher(const C&&) {
    static_assert(
        sizeof(C) == 0,
        "distil_xlstm::cached_teacher(cache) refers to the cache, which must live as long: give it a name "
        "first");
  }

  index layers() const override { return cache_->identity().layers; }
  index vocabulary() const override { return cache_->head().rows; }
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

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/distil/teacher_cache.ipp>
#endif
