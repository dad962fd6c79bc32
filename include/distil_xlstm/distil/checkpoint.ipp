#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/json_object.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/model/tensor_files.hpp>

namespace distil_xlstm {

namespace detail {

using arena = training_state::arena;
inline constexpr std::pair<arena, const char*> checkpoint_arenas[] = {{arena::weight, "weight."},
                                                                      {arena::first_moment, "first_moment."},
                                                                      {arena::second_moment, "second_moment."}};

inline index bytes_of(const training_state& state, const manifest_entry& e) {
  return e.size * static_cast<index>(state.type() == dtype::f64 ? sizeof(double) : sizeof(float));
}

/// All tensors of all arenas, for rank 0, which writes. The others take part in reading the moments that are spread
/// over them, as often as rank 0 would have, whatever it throws.
class state_reader {
 public:
  explicit state_reader(const training_state& s) : s_(&s) {}
  void read(arena from, const manifest_entry& e, std::vector<std::byte>& values) {
    values.resize(static_cast<std::size_t>(bytes_of(*s_, e)));
    moments_ += from != arena::weight;
    s_->read(from, e, values.data());
  }
  /// The moments that are left.
  void rest() {
    if (!s_->sharded()) return;
    const manifest& all = s_->tensors();
    for (std::vector<std::byte> values; moments_ < 2 * all.size();)
      read(moments_ < all.size() ? arena::first_moment : arena::second_moment, all[moments_ % all.size()],
           values);
  }

 private:
  const training_state* s_;
  std::size_t moments_ = 0;
};

DISTIL_XLSTM_INLINE void write_checkpoint(const training_state& state, const io::json& run,
                                          const std::filesystem::path& folder, state_reader& reader) {
  const training_counters c = state.count();
  io::safetensors_writer file;
  file.metadata("format", "distil_xlstm.checkpoint");
  for (const auto& [from, prefix] : checkpoint_arenas)
    for (const auto& e : state.tensors()) file.declare(prefix + e.name, state.type(), e.shape);
  file.open(folder / "state.safetensors");
  std::vector<std::byte> values;
  for (const auto& [from, prefix] : checkpoint_arenas)
    for (const auto& e : state.tensors()) {
      reader.read(from, e, values);
      if (!all_finite({values.data(), state.type(), e.shape}))
        throw numeric_error("diverged at step " + std::to_string(c.step) + ": after it " + prefix + e.name +
                            " is not finite");
      if (state.type() == dtype::f64)
        file.append(reinterpret_cast<const double*>(values.data()), e.size);
      else
        file.append(reinterpret_cast<const float*>(values.data()), e.size);
    }
  file.commit();
  const io::json about = io::detail::json_object({{"format", checkpoints::format},
                                                  {"step", c.step},
                                                  {"updates", c.updates},
                                                  {"skipped", c.skipped},
                                                  {"unusable", c.unusable},
                                                  {"empty", c.empty},
                                                  {"total_steps", state.total_steps()},
                                                  {"precision", traits(state.type()).name},
                                                  {"run", run}});
  io::write_text_atomically(folder / "manifest.json", about.dump(2) + "\n");
}

/// A checkpoint that fits a trainer.
struct found_checkpoint {
  io::safetensors_file file;
  training_counters counters;
  index total_steps;
  io::json run;
};
/// All of it is looked at before the first number is taken.
DISTIL_XLSTM_INLINE found_checkpoint look_at(const training_state& state, const std::filesystem::path& folder) {
  const std::string where = (folder / "manifest.json").string();
  const io::json about = io::read_json_file(where);
  const auto version = io::get<index>(about, "format", where);
  require(version == checkpoints::format, where, ": checkpoint format ", version, ", this library reads ",
          checkpoints::format);
  const auto precision = io::get<std::string>(about, "precision", where);
  require(precision == traits(state.type()).name, where, ": a checkpoint in ", precision, ", the run asks for ",
          traits(state.type()).name);
  const auto counter = [&](const char* key, bool older = false) {
    const auto n = older ? io::get_or<index>(about, key, where, 0) : io::get<index>(about, key, where);
    require(n >= 0, where, ": ", key, " is ", n);
    return n;
  };
  const training_counters counters{counter("step"), counter("updates"), counter("skipped"), counter("unusable"),
                                   counter("empty", true)};
  const index total = counter("total_steps");
  require(counters.step <= total, where, ": step ", counters.step, " of ", total);
  found_checkpoint found{io::safetensors_file(folder / "state.safetensors"), counters, total,
                         io::member(about, "run", where)};
  const manifest& all = state.tensors();
  require(found.file.tensors().size() == 3 * all.size(), found.file.path(), ": ", found.file.tensors().size(),
          " tensors, the student needs ", 3 * all.size());
  for (const auto& [from, prefix] : checkpoint_arenas)
    for (const auto& e : all) {
      const auto& tensor = found.file.at(prefix + e.name);
      require(tensor.shape == e.shape && tensor.dtype == state.type(), found.file.path(), ": tensor ", prefix,
              e.name, " does not fit the student");
      require_finite(tensor.stored(), prefix + e.name, found.file.path());
    }
  return found;
}

}  // namespace detail

DISTIL_XLSTM_INLINE std::vector<index> checkpoints::steps() const {
  std::vector<index> out;
  std::error_code none;
  for (const auto& f : std::filesystem::directory_iterator(folder_, none)) {
    const std::string name = f.path().filename().string();
    if (name.size() == 13 && name.starts_with("step-") && name.find_first_not_of("0123456789", 5) == name.npos)
      out.push_back(std::stol(name.substr(5)));
  }
  std::sort(out.begin(), out.end());
  return out;
}

DISTIL_XLSTM_INLINE void checkpoints::save_state(const detail::training_state& state,
                                                 const io::json& run) const {
  detail::state_reader reader(state);
  comm::any ranks = state.ranks();
  if (ranks.rank() != 0) reader.rest();
  comm::on_root(ranks, [&] {
    const auto final_folder = folder_of(state.count().step), temporary = folder_ / "writing";
    try {
      std::filesystem::create_directories(folder_);
      std::filesystem::remove_all(temporary);
      std::filesystem::create_directories(temporary);
      detail::write_checkpoint(state, run, temporary, reader);
      std::filesystem::remove_all(final_folder);
      std::filesystem::rename(temporary, final_folder);
    } catch (...) {
      std::error_code none;
      std::filesystem::remove_all(temporary, none);
      reader.rest();
      throw;
    }
    const auto all = steps();
    for (std::size_t i = 0; i + static_cast<std::size_t>(keep_) < all.size(); ++i)
      std::filesystem::remove_all(folder_of(all[i]));
  });
}

DISTIL_XLSTM_INLINE void checkpoints::restore_state(detail::training_state& state,
                                                    const std::function<void(const std::string&)>& warn,
                                                    std::optional<io::json>* run) const {
  comm::any ranks = state.ranks();
  std::optional<detail::found_checkpoint> found;
  comm::on_root(ranks, [&] {
    for (auto all = steps(); !found && !all.empty(); all.pop_back()) try {
        found = detail::look_at(state, folder_of(all.back()));
      } catch (const error& e) {
        if (all.size() == 1) throw;
        warn(std::string(e.what()));
      }
  });
  if (!comm::from_root(ranks, found.has_value())) return;
  std::vector<std::byte> values;
  for (const auto& [to, prefix] : detail::checkpoint_arenas)
    for (const auto& e : state.tensors()) {
      values.resize(static_cast<std::size_t>(detail::bytes_of(state, e)));
      if (found) {
        const auto& tensor = found->file.at(prefix + e.name);
        if (tensor.bytes > 0) std::memcpy(values.data(), tensor.data, values.size());
      }
      ranks.broadcast({}, values.data(), std::ssize(values), 0);
      state.write(to, e, values.data());
    }
  const auto counters = comm::from_root(ranks, found ? found->counters : training_counters{});
  state.count(counters, comm::from_root(ranks, found ? found->total_steps : 0));
  *run = ranks.size() == 1
             ? found->run
             : io::parse_json(comm::from_root(ranks, found ? found->run.dump() : std::string()), "run");
}

DISTIL_XLSTM_INLINE std::optional<io::json> checkpoints::newest_run() const {
  auto all = steps();
  for (; !all.empty(); all.pop_back()) {
    const auto path = folder_of(all.back()) / "manifest.json";
    try {
      return io::member(io::read_json_file(path), "run", path.string());
    } catch (const error&) {
      if (all.size() == 1) throw;
    }
  }
  return {};
}

DISTIL_XLSTM_INLINE std::filesystem::path checkpoints::folder_of(index step) const {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08ld", static_cast<long>(step));
  return folder_ / name;
}

}  // namespace distil_xlstm
