#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/distil/trainer_base.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/model/tensor_files.hpp>

namespace distil_xlstm {

namespace detail {

/// The moments of a trainer, of one rank or spread over all, tensor by tensor: the first's, then the second's. All ranks
/// ask for each.
template <class Trainer>
class moments_in_order {
  using T = typename Trainer::student_type::scalar;

 public:
  explicit moments_in_order(const Trainer& t) : t_(&t) {}
  /// Into `values`, on every rank.
  void next(std::vector<T>& values) {
    const auto& names = t_->student().names();
    const auto& e = names[at_ % names.size()];
    const auto& moment = at_++ < names.size() ? t_->first_moment() : t_->second_moment();
    values.resize(static_cast<std::size_t>(e.size));
    auto& ranks = t_->ranks();
    const index owners = t_->sharded() ? ranks.size() : 1;
    for (index r = 0; r < owners; ++r) {
      const index begin = owners > 1 ? t_->moments_of(r) : 0,
                  end = owners > 1 ? t_->moments_of(r + 1) : moment.size(), from = std::max(e.offset, begin),
                  to = std::min(e.offset + e.size, end);
      if (from >= to) continue;
      T* there = values.data() + (from - e.offset);
      const index bytes = (to - from) * static_cast<index>(sizeof(T));
      if (owners == 1 || r == ranks.rank()) t_->device().download(there, moment.data() + (from - begin), bytes);
      if (owners > 1) ranks.broadcast({}, there, bytes, r);
    }
  }
  /// Those that are left, for ranks that ask for them.
  void rest() {
    if (!t_->sharded()) return;
    for (std::vector<T> values; at_ < 2 * t_->student().names().size();) next(values);
  }

 private:
  const Trainer* t_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// Folders step-00000042 of one run's checkpoints: everything that moves, weights, both moments and counters,
/// as safetensors beside a manifest, of a `trainer` or a `mixer_trainer`. A checkpoint is written aside, synced and
/// renamed, so that it is whole or not there.
class checkpoints {
 public:
  static constexpr index format = 1;  ///< of manifest.json; another is not restored
  /// `keep` of the newest stay. Throws `error` unless that is one or more.
  explicit checkpoints(std::filesystem::path folder, index keep = 2) : folder_(std::move(folder)), keep_(keep) {
    require(keep >= 1, "checkpoints: of ", keep, " that are kept none would stay");
  }

  /// Steps of the checkpoints that are there, oldest first.
  std::vector<index> steps() const;

  /// `run` is what must be the same when the run goes on: it is compared by `restore`. Throws `numeric_error` where a
  /// number is not finite; what was there stays. All ranks of a trainer call it, and throw what rank 0 does, which alone
  /// writes: the same file, whatever the number of ranks.
  template <class Trainer>
  void save(const Trainer& t, const io::json& run) const {
    detail::moments_in_order<Trainer> moments(t);
    if (t.ranks().rank() != 0) moments.rest();
    comm::on_root(t.ranks(), [&] {
      try {
        save(t, run, moments);
      } catch (...) {
        moments.rest();  // which the others send
        throw;
      }
    });
  }

  /// Restores the newest checkpoint and returns its `run`, or nothing where there is none. A damaged one is
  /// passed over for the one before it; `warn` is told. All ranks of a trainer call it; rank 0 alone reads.
  template <class Trainer, class Warn>
  std::optional<io::json> restore(Trainer& t, const Warn& warn) const {
    auto& ranks = t.ranks();
    std::optional<found_state> found;
    comm::on_root(ranks, [&] {
      for (auto all = steps(); !found && !all.empty(); all.pop_back()) try {
          found = look_at(t, folder_of(all.back()));
        } catch (const error& e) {
          if (all.size() == 1) throw;
          warn(std::string(e.what()));
        }
    });
    if (!comm::from_root(ranks, found.has_value())) return {};
    using T = typename Trainer::student_type::scalar;
    std::vector<T> values;
    for (int arena = 0; arena < 3; ++arena)
      for (const auto& e : t.student().names()) {
        values.resize(static_cast<std::size_t>(e.size));
        if (found) found->file.at(arenas[arena] + e.name).copy_to(values.data());
        ranks.broadcast({}, values.data(), e.size * static_cast<index>(sizeof(T)), 0);
        if (arena == 0)
          t.device().upload(t.student().weights().data() + e.offset, values.data(),
                            e.size * static_cast<index>(sizeof(T)));
        else
          keep(t, arena == 1 ? t.first_moment() : t.second_moment(), e.offset, values);
      }
    t.count(comm::from_root(ranks, found ? found->counters : training_counters{}));
    t.total_steps(comm::from_root(ranks, found ? found->total_steps : 0));
    if (ranks.size() == 1) return found->run;
    return io::json::parse(comm::from_root(ranks, found ? found->run.dump() : std::string()));
  }
  /// The manifest's `run` of the newest checkpoint that can be read: to know a run before its trainer exists.
  std::optional<io::json> newest_run() const;
  /// Where the checkpoint of a step is, or would be.
  std::filesystem::path folder_of(index step) const;

 private:
  static constexpr const char* arenas[] = {"weight.", "first_moment.", "second_moment."};

  template <class Trainer>
  void save(const Trainer& t, const io::json& run, detail::moments_in_order<Trainer>& moments) const {
    const auto counters = t.count();
    const auto final_folder = folder_of(counters.step), temporary = folder_ / "writing";
    std::filesystem::create_directories(folder_);
    std::filesystem::remove_all(temporary);
    std::filesystem::create_directories(temporary);
    try {
      write(t, counters, run, temporary, moments);
      std::filesystem::remove_all(final_folder);
      std::filesystem::rename(temporary, final_folder);
    } catch (...) {
      std::error_code none;
      std::filesystem::remove_all(temporary, none);
      throw;
    }
    const auto all = steps();
    for (std::size_t i = 0; i + static_cast<std::size_t>(keep_) < all.size(); ++i)
      std::filesystem::remove_all(folder_of(all[i]));
  }

  template <class Trainer>
  static void write(const Trainer& t, const training_counters& c, const io::json& run,
                    const std::filesystem::path& folder, detail::moments_in_order<Trainer>& moments) {
    using T = typename Trainer::student_type::scalar;
    io::safetensors_writer file;
    file.metadata("format", "distil_xlstm.checkpoint");
    const auto& names = t.student().names();
    for (const char* prefix : arenas)
      for (const auto& e : names) file.declare(prefix + e.name, dtype_of<T>, e.shape);
    file.open(folder / "state.safetensors");
    std::vector<T> values;
    for (const char* prefix : arenas)
      for (const auto& e : names) {
        if (prefix == arenas[0]) {
          values.resize(static_cast<std::size_t>(e.size));
          t.device().download(values.data(), t.student().weights().data() + e.offset,
                              e.size * static_cast<index>(sizeof(T)));
        } else {
          moments.next(values);
        }
        if (!all_finite(values))
          throw numeric_error("diverged at step " + std::to_string(c.step) + ": after it " + prefix + e.name +
                              " is not finite");
        file.append(values.data(), e.size);
      }
    file.commit();
    const io::json about = {{"format", format},
                            {"step", c.step},
                            {"updates", c.updates},
                            {"skipped", c.skipped},
                            {"unusable", c.unusable},
                            {"empty", c.empty},
                            {"total_steps", t.options().total_steps},
                            {"precision", traits(dtype_of<T>).name},
                            {"run", run}};
    io::write_text_atomically(folder / "manifest.json", about.dump(2) + "\n");
  }

  /// A checkpoint that fits a trainer.
  struct found_state {
    io::safetensors_file file;
    training_counters counters;
    index total_steps;
    io::json run;
  };
  template <class Trainer>
  static found_state look_at(const Trainer& t, const std::filesystem::path& folder) {
    using T = typename Trainer::student_type::scalar;
    const std::string where = (folder / "manifest.json").string();
    const io::json about = io::read_json_file(where);
    const auto version = io::get<index>(about, "format", where);
    require(version == format, where, ": checkpoint format ", version, ", this library reads ", format);
    const auto precision = io::get<std::string>(about, "precision", where);
    require(precision == traits(dtype_of<T>).name, where, ": a checkpoint in ", precision,
            ", the run asks for ", traits(dtype_of<T>).name);
    // All is looked at before the first number is taken.
    const auto counter = [&](const char* key, bool older = false) {
      const auto n = older ? io::get_or<index>(about, key, where, 0) : io::get<index>(about, key, where);
      require(n >= 0, where, ": ", key, " is ", n);
      return n;
    };
    const training_counters counters{counter("step"), counter("updates"), counter("skipped"),
                                     counter("unusable"), counter("empty", true)};
    const index total = counter("total_steps");
    require(counters.step <= total, where, ": step ", counters.step, " of ", total);
    found_state found{io::safetensors_file(folder / "state.safetensors"), counters, total,
                      io::member(about, "run", where)};
    const auto& names = t.student().names();
    require(found.file.tensors().size() == 3 * names.size(), found.file.path(), ": ",
            found.file.tensors().size(), " tensors, the student needs ", 3 * names.size());
    for (const char* prefix : arenas)
      for (const auto& e : names) {
        const auto& tensor = found.file.at(prefix + e.name);
        require(tensor.shape == e.shape && tensor.dtype == dtype_of<T>, found.file.path(), ": tensor ", prefix,
                e.name, " does not fit the student");
        require_finite(tensor.stored(), prefix + e.name, found.file.path());
      }
    return found;
  }
  /// Of a tensor's moments, which begin at `offset` of the arena, those that the trainer keeps.
  template <class Trainer, class Buffer, class T>
  static void keep(const Trainer& t, const Buffer& moment, index offset, const std::vector<T>& values) {
    const index begin = t.first_kept(), from = std::max(offset, begin),
                to = std::min(offset + std::ssize(values), begin + moment.size());
    if (from < to)
      t.device().upload(moment.data() + (from - begin), values.data() + (from - offset),
                        (to - from) * static_cast<index>(sizeof(T)));
  }

  template <class T>
  static bool all_finite(const std::vector<T>& values) {
    return std::all_of(values.begin(), values.end(), [](T x) { return std::isfinite(x); });
  }

  std::filesystem::path folder_;
  index keep_;
};

}  // namespace distil_xlstm

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/distil/checkpoint.ipp>
#endif
