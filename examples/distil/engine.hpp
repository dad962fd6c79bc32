#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <distil_xlstm/comm/any.hpp>

#include "common.hpp"
#include "machine.hpp"

// Names are enough here, so that a subcommand includes only what it uses.
namespace distil_xlstm {
class cache_writer;
class checkpoints;
class teacher_cache;
class token_windows;
struct continuation;
struct continuation_score;
struct divergence_score;
struct layer_range;
struct linearised_config;
struct sampling;
struct step_metrics;
struct text_score;
struct token_text;
struct training_options;
struct xlstm_config;
namespace io {
class token_file;
}
namespace loss {
struct any_objective;
struct distillation;
}  // namespace loss
namespace schedule {
struct clock;
}
}  // namespace distil_xlstm

namespace program {

/// What a student is trained to minimise: the objective of a method, or that of --objective. The former's terms are
/// known to the compiler, so that it is the faster where both say the same.
using training_objective = std::variant<dx::loss::distillation, dx::loss::any_objective>;

/// Called now and then with what is done, and of how much.
using on_progress = std::function<void(dx::index done, dx::index all)>;

/// A model of any family, ready to read and to write.
class loaded_model {
 public:
  virtual ~loaded_model() = default;
  virtual dx::index vocabulary() const = 0;
  /// A transformer: what it remembers grows with the text.
  virtual bool has_cache() const = 0;
  /// Tokens that a transformer was trained to see; 0: any, or not known.
  virtual dx::index context() const = 0;

  /// Bytes that it remembers a text of so many tokens in.
  virtual dx::index text_bytes(dx::index tokens) const = 0;
  /// Of a model that `load_windowed` gave: other layers have a window.
  virtual void mixers(const dx::linearised_config& mixers) = 0;

  /// From now on what the head reads of `text` is kept in the host's memory (`dx::kept_states`, at most 2 GiB, what is
  /// beyond is read anew): the model reads the text once in windows of each length, whatever is compared with it. `text`
  /// must stay until the model goes or keeps another.
  virtual void keep(const dx::io::token_file& text) = 0;
  /// As `dx::score_text`: `carry` goes on from window to window with the state. `ranks`, here and below, share the
  /// work.
  virtual dx::text_score score(const dx::io::token_file& text, dx::index window, bool carry,
                               dx::comm::any ranks = {}) = 0;
  virtual dx::text_score score(const dx::token_text& text, dx::index window, bool carry,
                               dx::comm::any ranks = {}) = 0;
  virtual std::vector<dx::continuation_score> score(std::span<const dx::continuation> asked,
                                                    const on_progress& progress, dx::comm::any ranks = {}) = 0;
  /// As `dx::score_divergence`, from a teacher that the same engine has loaded.
  virtual dx::divergence_score score(const dx::io::token_file& text, dx::index window, loaded_model& teacher,
                                     dx::comm::any ranks = {}) = 0;
  virtual dx::divergence_score score(const dx::token_text& text, dx::index window, loaded_model& teacher,
                                     dx::comm::any ranks = {}) = 0;

  /// Continues texts side by side, `batch` at once, each by up to `most` tokens; text i is drawn with the seed
  /// `how.seed` + numbers[i], or + i where there are no numbers. `on_token` returns whether its text goes on.
  virtual void write(std::span<const std::vector<std::int32_t>> prompts, dx::index most, dx::index batch,
                     const dx::sampling& how,
                     const std::function<bool(std::size_t text, std::int32_t id)>& on_token,
                     std::span<const std::size_t> numbers = {}) = 0;

  /// Logits and hidden states of ids [batch, time], into a safetensors file.
  virtual void write_logits(dx::index batch, dx::index time, std::span<const std::int32_t> ids,
                            const fs::path& out) = 0;
};

/// A student being trained, by all processes together: step, measure, check, score, save and restore are called by
/// all.
class training {
 public:
  virtual ~training() = default;
  /// config.json of the student.
  virtual nlohmann::json config() const = 0;
  /// "6 blocks of width 576"
  virtual std::string shape() const = 0;
  virtual dx::index trainable() const = 0;
  virtual dx::index total() const = 0;
  virtual const dx::training_options& options() const = 0;
  virtual void total_steps(dx::index n) = 0;
  virtual void warmup(dx::index steps) = 0;
  virtual dx::index steps_per_epoch() const = 0;
  virtual dx::index step_count() const = 0;
  virtual dx::index updates() const = 0;
  virtual dx::index skipped() const = 0;
  virtual dx::index empty() const = 0;
  virtual dx::schedule::clock clock() const = 0;

  virtual dx::step_metrics step() = 0;
  /// Where the mixers of layers are aligned: the last step's error of each; else nothing.
  virtual std::vector<double> layer_errors() const { return {}; }
  /// A step's work without the update.
  virtual void measure() = 0;
  /// Throws `dx::numeric_error` where the run has diverged.
  virtual void check() = 0;

  virtual void save(const dx::checkpoints& to, const nlohmann::json& run) const = 0;
  /// False where there is no checkpoint.
  virtual bool restore(const dx::checkpoints& from, const std::function<void(const std::string&)>& warn) = 0;
  virtual void save_student(const fs::path& folder) const = 0;

  virtual dx::text_score score(const dx::io::token_file& text, dx::index window) = 0;
  virtual void write(std::span<const std::int32_t> prompt, dx::index most, const dx::sampling& how,
                     const std::function<bool(std::int32_t id)>& on_token) = 0;
};

/// A teacher with other mixers in the place of its attention, in whose memory the stages train.
class linearised_student {
 public:
  virtual ~linearised_student() = default;
  virtual const dx::linearised_config& config() const = 0;
  /// Its gates begin with what the teacher's heads look at in a text.
  virtual void calibrate(const dx::token_windows& text) = 0;
  /// The stages. What they give refers to this, `text` and the teacher; one at a time.
  virtual std::unique_ptr<training> align(const dx::token_windows& text,
                                          const dx::training_options& options) = 0;
  virtual std::unique_ptr<training> distil(const dx::token_windows& text, const training_objective& objective,
                                           const dx::training_options& options) = 0;
};

/// What a student is made to fit.
struct teacher_facts {
  dx::index vocabulary = 0, width = 0, layers = 0;
  dx::index heads = 0, head_dim = 0;  ///< 0: not known
  bool tied = false;
  dx::index context = 0;  ///< tokens that it was trained to see; 0: not known
};

/// A teacher on the device: a running one, or its cache. The training that it gives refers to it.
class teacher {
 public:
  virtual ~teacher() = default;
  virtual teacher_facts facts() const = 0;
  /// By all processes together; nothing where it is a cache.
  virtual std::optional<dx::text_score> score(const dx::io::token_file& text, dx::index window) = 0;
  /// All signals about `text`, `batch` windows at a time, and the frozen embedding and head; by all processes together,
  /// of which rank 0 writes.
  virtual void write_cache(dx::cache_writer& cache, const dx::token_windows& text, dx::index batch,
                           std::span<const dx::layer_range> targets, const on_progress& progress) = 0;
  /// A new student, its weights drawn with `seed`.
  virtual std::unique_ptr<training> train(const dx::xlstm_config& student, std::uint64_t seed,
                                          const dx::token_windows& text, const training_objective& objective,
                                          const dx::training_options& options) = 0;
  /// A copy of it with other mixers, whose new tensors are drawn with `seed`. Of `mixers` the teacher's part is not
  /// read. Throws `error` where it is a cache.
  virtual std::unique_ptr<linearised_student> linearise(const dx::linearised_config& mixers,
                                                        std::uint64_t seed) = 0;
  /// A student that begins with the weights in a folder.
  virtual std::unique_ptr<training> train(const fs::path& student, const dx::token_windows& text,
                                          const training_objective& objective,
                                          const dx::training_options& options) = 0;
};

/// All that depends on the device and the precision; every other part of the program is compiled once.
class engine {
 public:
  virtual ~engine() = default;
  /// Worker threads of the CPU; 0 on other devices.
  virtual int threads() const = 0;
  virtual std::unique_ptr<loaded_model> load(const fs::path& model) = 0;
  /// A transformer whose layers have attention or a window, as `mixers` says, and nothing is trained.
  virtual std::unique_ptr<loaded_model> load_windowed(const fs::path& teacher,
                                                      const dx::linearised_config& mixers) = 0;
  virtual std::unique_ptr<teacher> open_teacher(const fs::path& model) = 0;
  /// `cache` must live as long as the teacher.
  virtual std::unique_ptr<teacher> open_cache(const dx::teacher_cache& cache) = 0;
};

std::unique_ptr<engine> make_engine(const machine& where);

// The engines, each compiled by the file of its name. Of several processes of a machine each has a GPU of its own.
std::unique_ptr<engine> cpu_fp32(int threads);
std::unique_ptr<engine> cpu_bf16(int threads);
std::unique_ptr<engine> cpu_fp64(int threads);
std::unique_ptr<engine> cuda_fp32(int rank_here);
std::unique_ptr<engine> cuda_bf16(int rank_here);
std::unique_ptr<engine> cuda_fp64(int rank_here);

}  // namespace program
