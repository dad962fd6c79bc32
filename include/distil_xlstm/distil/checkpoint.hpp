#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/comm/any.hpp>
#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/core/layout.hpp>
#include <distil_xlstm/distil/training_counters.hpp>
#include <distil_xlstm/io/json_fwd.hpp>

namespace distil_xlstm {

namespace detail {

/// What checkpoints see of a trainer, whatever its types: the tensors of its weights and of both moments, in the host's
/// memory, and its counters.
class training_state {
 public:
  enum class arena { weight, first_moment, second_moment };
  virtual ~training_state() = default;

  virtual const manifest& tensors() const = 0;
  /// Of each number: F32 or F64.
  virtual dtype type() const = 0;
  virtual comm::any ranks() const = 0;
  /// Whether each rank keeps a part of the moments only.
  virtual bool sharded() const = 0;
  virtual training_counters count() const = 0;
  virtual index total_steps() const = 0;
  /// The tensor's numbers into `values`. Where moments are sharded every rank calls it, and has all numbers.
  virtual void read(arena from, const manifest_entry& tensor, void* values) const = 0;

  /// The tensor becomes `values`, of which this rank takes what it keeps.
  virtual void write(arena to, const manifest_entry& tensor, const void* values) = 0;
  virtual void count(const training_counters& counters, index total_steps) = 0;
};

template <class Trainer>
class trainer_state final : public training_state {
  using T = typename Trainer::student_type::scalar;

 public:
  explicit trainer_state(Trainer& t) : t_(&t) {}

  const manifest& tensors() const override { return t_->student().names(); }
  dtype type() const override { return dtype_of<T>; }
  comm::any ranks() const override { return t_->ranks(); }
  bool sharded() const override { return t_->sharded(); }
  training_counters count() const override { return t_->count(); }
  index total_steps() const override { return t_->options().total_steps; }

  void read(arena from, const manifest_entry& e, void* values) const override {
    T* const all = static_cast<T*>(values);
    if (from == arena::weight)
      return t_->device().download(all, t_->student().weights().data() + e.offset, bytes(e.size));
    const auto& moment = moment_of(from);
    auto& ranks = t_->ranks();
    const index owners = sharded() ? ranks.size() : 1;
    for (index r = 0; r < owners; ++r) {
      const index first = owners > 1 ? t_->moments_of(r) : 0,
                  last = owners > 1 ? t_->moments_of(r + 1) : moment.size(), begin = std::max(e.offset, first),
                  end = std::min(e.offset + e.size, last);
      if (begin >= end) continue;
      T* const part = all + (begin - e.offset);
      if (owners == 1 || r == ranks.rank())
        t_->device().download(part, moment.data() + (begin - first), bytes(end - begin));
      if (owners > 1) ranks.broadcast({}, part, bytes(end - begin), r);
    }
  }

  void write(arena to, const manifest_entry& e, const void* values) override {
    const T* const all = static_cast<const T*>(values);
    if (to == arena::weight)
      return t_->device().upload(t_->student().weights().data() + e.offset, all, bytes(e.size));
    const auto& moment = moment_of(to);
    const index first = t_->first_kept(), begin = std::max(e.offset, first),
                end = std::min(e.offset + e.size, first + moment.size());
    if (begin < end)
      t_->device().upload(moment.data() + (begin - first), all + (begin - e.offset), bytes(end - begin));
  }
  void count(const training_counters& counters, index total_steps) override {
    if constexpr (!std::is_const_v<Trainer>) {
      t_->count(counters);
      t_->total_steps(total_steps);
    } else {
      fail("checkpoints: a const trainer is saved, not restored");
    }
  }

 private:
  static index bytes(index n) { return n * static_cast<index>(sizeof(T)); }
  const auto& moment_of(arena a) const {
    return a == arena::first_moment ? t_->first_moment() : t_->second_moment();
  }
  Trainer* t_;
};

}  // namespace detail

/// Folders step-00000042 of one run's checkpoints: everything that moves, weights, both moments and counters, as
/// safetensors beside a manifest, of a `trainer` or a `mixer_trainer`. A checkpoint is written aside, synced and
/// renamed, so that it is whole or not there. Who saves or restores includes io/json.hpp, too.
class checkpoints {
 public:
  static constexpr index format = 1;  ///< of manifest.json; another is not restored
  /// `keep` of the newest stay. Throws `error` unless that is one or more.
  explicit checkpoints(std::filesystem::path folder, index keep = 2) : folder_(std::move(folder)), keep_(keep) {
    require(keep >= 1, "checkpoints: of ", keep, " that are kept none would stay");
  }

  /// Steps of the checkpoints that are there, oldest first.
  std::vector<index> steps() const;

  /// `run` is what must be the same when the run goes on: `restore` returns it. Throws `numeric_error` where a number
  /// is not finite; what was there stays. All ranks of a trainer call it, and throw what rank 0 does, which alone
  /// writes: the same file, whatever the number of ranks.
  template <class Trainer>
  void save(const Trainer& t, const io::json& run) const {
    save_state(detail::trainer_state<const Trainer>(t), run);
  }

  /// Restores the newest checkpoint and returns its `run`, or nothing where there is none. A damaged one is passed over
  /// for the one before it; `warn` is told. All ranks of a trainer call it; rank 0 alone reads.
  template <class Trainer, class Json = io::json>
  std::optional<Json> restore(Trainer& t, const std::function<void(const std::string&)>& warn) const {
    detail::trainer_state<Trainer> state(t);
    std::optional<Json> run;
    restore_state(state, warn, &run);
    return run;
  }
  /// The manifest's `run` of the newest checkpoint that can be read: to know a run before its trainer exists.
  std::optional<io::json> newest_run() const;
  /// Where the checkpoint of a step is, or would be.
  std::filesystem::path folder_of(index step) const;

 private:
  void save_state(const detail::training_state& state, const io::json& run) const;
  void restore_state(detail::training_state& state, const std::function<void(const std::string&)>& warn,
                     std::optional<io::json>* run) const;

  std::filesystem::path folder_;
  index keep_;
};

}  // namespace distil_xlstm

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/distil/checkpoint.ipp>
#endif
