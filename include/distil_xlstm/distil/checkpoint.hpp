#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <distil_xlstm/distil/trainer_base.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/model/tensor_files.hpp>

namespace distil_xlstm {

/// Folders step-00000042 of one run's checkpoints: everything that moves, weights, both moments and counters,
/// as safetensors beside a manifest, of a `trainer` or a `mixer_trainer`. A checkpoint is written aside, synced and renamed, so that it is whole or
/// not there.
class checkpoints {
 public:
  static constexpr index format = 1;
  /// `keep` of the newest stay. Throws `error` unless that is one or more.
  explicit checkpoints(std::filesystem::path folder, index keep = 2) : folder_(std::move(folder)), keep_(keep) {
    require(keep >= 1, "checkpoints: of ", keep, " that are kept none would stay");
  }

  /// Steps of the checkpoints that are there, oldest first.
  std::vector<index> steps() const;

  /// `run` is what must be the same when the run goes on: it is compared by `restore`. Throws `numeric_error` where a
  /// number is not finite; what was there stays.
  template <class Trainer>
  void save(const Trainer& t, const io::json& run) const {
    const auto counters = t.count();
    const auto final_folder = folder_of(counters.step), temporary = folder_ / "writing";
    std::filesystem::create_directories(folder_);
    std::filesystem::remove_all(temporary);
    std::filesystem::create_directories(temporary);
    try {
      write(t, counters, run, temporary);
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

  /// Restores the newest checkpoint and returns its `run`, or nothing where there is none. A damaged one is
  /// passed over for the one before it; `warn` is told.
  template <class Trainer, class Warn>
  std::optional<io::json> restore(Trainer& t, const Warn& warn) const {
    auto all = steps();
    for (; !all.empty(); all.pop_back()) {
      try {
        return read(t, folder_of(all.back()));
      } catch (const error& e) {
        if (all.size() == 1) throw;
        warn(std::string(e.what()));
      }
    }
    return {};
  }
  /// The manifest's `run` of the newest checkpoint that can be read: to know a run before its trainer exists.
  std::optional<io::json> newest_run() const;
  std::filesystem::path folder_of(index step) const;

 private:
  template <class Trainer>
  static void write(const Trainer& t, const training_counters& c, const io::json& run,
                    const std::filesystem::path& folder) {
    using T = typename Trainer::student_type::scalar;
    io::safetensors_writer file;
    file.metadata("format", "distil_xlstm.checkpoint");
    const auto& names = t.student().names();
    const std::pair<const char*, const typename Trainer::weights_type*> arenas[] = {
        {"weight.", &t.student().weights()},
        {"first_moment.", &t.first_moment()},
        {"second_moment.", &t.second_moment()}};
    for (const auto& [prefix, arena] : arenas)
      for (const auto& e : names) file.declare(prefix + e.name, dtype_of<T>, e.shape);
    file.open(folder / "state.safetensors");
    std::vector<T> values;
    for (const auto& [prefix, arena] : arenas)
      for (const auto& e : names) {
        values.resize(static_cast<std::size_t>(e.size));
        t.device().download(values.data(), arena->data() + e.offset, e.size * static_cast<index>(sizeof(T)));
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

  template <class Trainer>
  static io::json read(Trainer& t, const std::filesystem::path& folder) {
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
    const io::json& run = io::member(about, "run", where);
    const io::safetensors_file file(folder / "state.safetensors");
    const auto& names = t.student().names();
    const std::pair<const char*, T*> arenas[] = {{"weight.", t.student().weights().data()},
                                                 {"first_moment.", t.first_moment().data()},
                                                 {"second_moment.", t.second_moment().data()}};
    require(file.tensors().size() == 3 * names.size(), file.path(), ": ", file.tensors().size(),
            " tensors, the student needs ", 3 * names.size());
    for (const auto& [prefix, arena] : arenas)
      for (const auto& e : names) {
        const auto& found = file.at(prefix + e.name);
        require(found.shape == e.shape && found.dtype == dtype_of<T>, file.path(), ": tensor ", prefix, e.name,
                " does not fit the student");
        require_finite(found.stored(), prefix + e.name, file.path());
      }
    std::vector<T> values;
    for (const auto& [prefix, arena] : arenas)
      for (const auto& e : names) {
        values.resize(static_cast<std::size_t>(e.size));
        file.at(prefix + e.name).copy_to(values.data());
        t.device().upload(arena + e.offset, values.data(), e.size * static_cast<index>(sizeof(T)));
      }
    t.count(counters);
    t.total_steps(total);
    return run;
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
