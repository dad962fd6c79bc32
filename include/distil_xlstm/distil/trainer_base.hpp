#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/core/layout.hpp>
#include <distil_xlstm/device/captured_graph.hpp>
#include <distil_xlstm/device/rounded_weights.hpp>
#include <distil_xlstm/distil/step_metrics.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/distil/training_counters.hpp>
#include <distil_xlstm/distil/training_options.hpp>
#include <distil_xlstm/model/require_weights.hpp>
#include <distil_xlstm/optim/adamw.hpp>
#include <distil_xlstm/optim/gradient_norm.hpp>
#include <distil_xlstm/optim/shards.hpp>

namespace distil_xlstm {

namespace detail {

/// Where a step leaves its sums; what a trainer sums beside follows.
struct step_sums {
  static constexpr index value = 0,       ///< the weighted objective
      squares = 1, first_non_finite = 2,  ///< of the gradients
      judged_squares = 3,                 ///< the squared norm; not finite where the value is not
      own = 4;
};

/// One task: the squared norm as the optimiser is to see it, which is not finite where the loss is not.
struct judge_step {
  double* sums;
  DISTIL_XLSTM_HD void operator()(index) const {
    using at = step_sums;
    sums[at::judged_squares] = sums[at::squares] + (sums[at::value] - sums[at::value]);
  }
};

/// The first number in a tensor's name, of those between dots: 3 of "blocks.3.norm.weight"; -1: none.
inline index layer_of(const std::string& name) {
  for (std::size_t from = 0; from < name.size();) {
    const std::size_t to = std::min(name.find('.', from), name.size());
    index layer = -1;
    const auto [stop, wrong] = std::from_chars(name.data() + from, name.data() + to, layer);
    if (wrong == std::errc() && stop == name.data() + to) return layer;
    from = to + 1;
  }
  return -1;
}
/// Where each layer's numbers begin, and where the last one's end. Nothing where they do not lie one after another, and
/// no other tensor's between them. What lies behind the last layer must come behind it in the forward pass, too:
/// several ranks sum its gradients first.
inline std::vector<index> layer_starts(const manifest& names, index layers) {
  std::vector<index> starts;
  index end = 0;
  bool behind = false;
  for (const auto& e : names) {
    const index layer = layer_of(e.name);
    if (layer < 0) {
      behind = !starts.empty();
      continue;
    }
    if (behind || e.offset < end) return {};
    if (layer == std::ssize(starts))
      starts.push_back(e.offset);
    else if (layer + 1 != std::ssize(starts))
      return {};
    end = e.offset + e.size;
  }
  if (starts.empty() || std::ssize(starts) != layers) return {};
  starts.push_back(end);
  return starts;
}

}  // namespace detail

/// What every trainer shares: which windows a step reads, AdamW's memory and step, what is done where a step is not
/// finite, counters, times.
///
/// A step, in order:
///
///   begin_step        ids of its windows; Derived::begin: what the schedules say
///   forward_backward  upload; then for each micro-batch (`options().accumulate` of them), as one recorded pass:
///                     gradients and sums = 0 and weights rounded (the first), Derived::run_micro_batch: teacher,
///                     student forward, objective, student backward
///   update_weights    squared norm of the gradients, clipping, AdamW
///   end_step          waits; reads the sums
///
/// Weights, gradients and moments are arenas of one layout: number i of each belongs to the same parameter (of moments
/// that are sharded, number i - first_kept()).
///
/// Several ranks of `C` train as one would. Of each batch a rank reads its share, the windows of one rank after those
/// of another; losses and gradients are summed over the ranks, each knowing how many tokens all score, and what follows
/// is the same on all: clipping, steps that are passed over, weights. So every rank calls the same, in the same order.
/// All begin with rank 0's weights.
///
/// `Derived`, which has it for a friend, adds
///
///   begin(metrics, clock, per_token)  the numbers of the coming step; per_token is 1 / its scored tokens
///   upload_inputs()                   to the device, in a buffer `inputs_` whose element has `lr` and `updates`: all
///                                     else that is asked of the device stays, so that it can be recorded
///   prepare_micro_batch(i)            before micro-batch i of the step, never recorded
///   run_micro_batch()                 asks the device for the losses of `batch_`: adds them to sums, and gradients;
///                                     of several ranks each its share of both; writes no weights
///   sums_gradients                    whether that calls `sum_gradients_from` where `sums_beside()`, down to 0
///   read(metrics, sums)               says what the sums from step_sums::own on are called
template <class Derived, class Student, Communicator C>
class trainer_base {
  static_assert(
      requires(Student & s, typename Student::scalar* numbers) { s.trained(), numbers = s.weights().data(); },
      "distil_xlstm::trainer(device, student, ...): this student is const, or a frozen model, which nothing "
      "trains; a student is model student(device, stack, teacher), or what linearise(device, teacher, ...) "
      "makes");

 public:
  using student_type = Student;                         ///< what is trained
  using communicator_type = C;                          ///< of the ranks that train it
  using weights_type = typename Student::weights_type;  ///< of gradients, too
  using counters = training_counters;                   ///< what `count` gives

  /// One optimiser step; one with nothing to score is passed over, and counted. Throws `numeric_error` when the run
  /// has diverged: the weights are not finite, or ten steps in a row had a loss or gradients that are not. It says
  /// since which step, what was not finite first, and in which tensor.
  step_metrics step() {
    step_metrics m = begin_step(step_);
    require_progress(m);
    if (m.tokens > 0) {
      forward_backward();
      update_weights();
    }
    end_step(m);
    return m;
  }
  /// Losses and gradients of the coming step, or of the next that has something to score, and no update: to time a
  /// step, or to look at gradients.
  step_metrics measure() {
    require_weights();
    step_metrics m = begin_step(step_);
    for (index s = step_; m.tokens == 0; m = begin_step(s))
      require(++s < step_ + 2 * order_.steps_per_epoch(),
              "trainer: no step of two epochs has a token to score");
    forward_backward();
    read_sums(m);
    return m;
  }
  /// Throws `numeric_error` where training would not go on well: the last step was not finite, the weights are not,
  /// or the loss or the gradients that they give.
  void check() {
    std::string trouble = unusable_ > 0 ? trouble_ : weights_trouble(step_);
    const std::string at = "diverged at step " + std::to_string(step_) + ": ";
    if (unusable_ > 0 && trouble.empty()) trouble = at + "neither its loss nor those before it were finite";
    if (trouble.empty() && updates_ > 0) {
      const bool loss = std::isfinite(measure().total);
      if (!loss || !optim::global_norm(*device_, gradients_.data(), gradients_.size()).finite())
        trouble =
            at + "with the weights that it left the " + (loss ? "gradient norm" : "loss") + " is not finite";
    }
    if (!trouble.empty()) throw numeric_error(trouble);
  }

  /// Steps finished.
  index step_count() const { return step_; }
  /// As `window_sampler` counts them.
  index steps_per_epoch() const { return order_.steps_per_epoch(); }
  /// What the schedules of the coming step read.
  schedule::clock clock() const {
    const schedule::clock c{step_, options_.total_steps, order_.steps_per_epoch()};
    return options_.restart_epochs > 0 ? c.restarted(options_.restart_epochs) : c;
  }
  /// As they were given, or changed since.
  const training_options& options() const { return options_; }
  /// Changes how many steps the run has, from the coming one on. Throws `error` as the constructor does.
  void total_steps(index n) {
    training_options changed = options_;
    changed.total_steps = n;
    options_ = possible(std::move(changed));
  }
  /// Changes over how many steps the learning rate rises. Throws `error` as the constructor does.
  void warmup(index steps) {
    training_options changed = options_;
    changed.lr.warmup = steps;
    options_ = possible(std::move(changed));
  }

  /// From now on the parts of steps are timed by `now()`, a clock of the caller's that gives seconds; null: they are
  /// not.
  void timer(double (*now)()) { now_ = now; }
  /// Of all steps that were timed.
  const step_times& times() const { return times_; }
  /// Whether the coming step is launched as the device recorded it. Where a device can record, the third step
  /// is the first such; none is while a `timer` is set.
  bool recorded() const { return !now_ && first_micro_batch_.recorded() && update_.recorded(); }

  /// What a checkpoint holds beside weights and moments.
  counters count() const { return {step_, updates_, skipped_, unusable_, empty_}; }
  /// Goes on from there.
  void count(const counters& c) {
    step_ = c.step, updates_ = c.updates, skipped_ = c.skipped, unusable_ = c.unusable, empty_ = c.empty;
    trouble_ = {}, agreed_ = false;
  }
  /// The one that is trained.
  Student& student() const { return *student_; }
  /// Of the last step or `measure`, of all ranks together; not clipped.
  const weights_type& gradients() const { return gradients_; }
  /// The same, to be written.
  weights_type& gradients() { return gradients_; }
  /// Whether each rank keeps a part of the moments only.
  bool sharded() const { return options_.shard_optimiser && ranks_->size() > 1; }
  /// With which number of the arena a rank's part begins: rank r has numbers moments_of(r) to moments_of(r + 1) - 1.
  index moments_of(index rank) const { return shards_[static_cast<std::size_t>(rank)]; }
  /// What this rank keeps of AdamW's first moment.
  const buffer<typename Student::scalar, typename Student::device_type>& first_moment() const {
    return first_moment_;
  }
  /// And of the second.
  const buffer<typename Student::scalar, typename Student::device_type>& second_moment() const {
    return second_moment_;
  }
  /// The number of the arena with which that begins.
  index first_kept() const { return sharded() ? moments_of(ranks_->rank()) : 0; }
  /// Those that train together.
  C& ranks() const { return *ranks_; }
  /// The device of this rank.
  typename Student::device_type& device() const { return *device_; }

 protected:
  /// @cond what the two trainers have for themselves
  using T = typename Student::scalar;
  using D = typename Student::device_type;

  /// `own_sums` numbers follow detail::step_sums::own.
  trainer_base(D& device, Student& student, const token_windows& text, training_options options, index own_sums,
               C& ranks)
      : device_(&device),
        student_(&student),
        text_(&text),
        options_(possible(std::move(options))),
        ranks_(&ranks),
        order_(text.ranges(), options_.batch * options_.accumulate, options_.order, options_.seed,
               options_.window_of),
        gradients_(device, student.trained()),
        rounded_(device, gradients_.size()),
        sums_(device, detail::step_sums::own + own_sums),
        scalars_(device, 1) {
    require(options_.batch % ranks.size() == 0, "trainer: a batch of ", options_.batch,
            " windows cannot be dealt out to ", ranks.size(), " ranks: it must be a multiple of them");
    require(text.length() == options_.length, "trainer: windows of ", text.length(),
            " tokens, the options say ", options_.length);
    require(text.vocab_size() <= student.vocabulary(), "the text was made for a vocabulary of ",
            text.vocab_size(), ", the student has ", student.vocabulary());
    const index read = order_.reaches();
    require(text.scores(read), "the text has nothing to score: in its ", read, " windows of ", options_.length,
            " tokens every document is one token long");
    for (const auto& e : student.names()) {
      const double rate = options_.rate_of ? options_.rate_of(e.name) : 1.0;
      require(rate >= 0 && std::isfinite(rate), "training_options: rate_of gives ", rate, " for ", e.name,
              ", it must be 0 or more");
      ranges_.push_back({e.offset, e.size, e.decay == weight_decay::yes, rate});
    }
    const index n = gradients_.size();
    shards_ = optim::shards_of(n, ranges_, ranks.size());
    kept_ =
        sharded() ? optim::shard{moments_of(ranks.rank()), moments_of(ranks.rank() + 1)} : optim::shard{0, n};
    own_ranges_ = optim::ranges_of(kept_, ranges_);
    first_moment_ = buffer<T, D>(device, kept_.size()), second_moment_ = buffer<T, D>(device, kept_.size());
    for (index& start : shard_bytes_ = shards_) start *= static_cast<index>(sizeof(T));
  }

  /// Windows that this rank reads at once, and their tokens.
  index windows() const { return options_.batch / ranks_->size(); }
  index rows() const { return windows() * options_.length; }
  double* sums(index at) const { return sums_.data() + at; }
  /// The windows that this rank reads of a micro-batch of the step.
  const std::vector<index>& windows_of(index micro_batch) {
    order_.rows_of(reading_, micro_batch * options_.batch + ranks_->rank() * windows(), windows(), which_);
    return which_;
  }
  /// Whether ranks sum gradients beside the backward that gives them: not where micro-batches are added up first.
  bool sums_beside() const { return Derived::sums_gradients && ranks_->size() > 1 && options_.accumulate == 1; }
  /// The gradients from number `first` on are whole, and those before it not yet; 0: all are. Those that are not summed
  /// over the ranks yet are when they are many, beside what the device is asked for next, or now where all are whole.
  void sum_gradients_from(index first) {
    if (first == gradients_.size()) return;
    if (unsummed_ == 0) unsummed_ = gradients_.size();
    if (first > 0 && (unsummed_ - first) * static_cast<index>(sizeof(T)) < options_.sum_bytes) return;
    book(times_.backward);
    comm::sum_beside(*ranks_, *device_, gradients_.data() + first, unsummed_ - first);
    unsummed_ = first;
    if (first == 0) comm::join(*ranks_, *device_);
    book(times_.exchange);
  }
  /// The recorded passes are of no use any more.
  void forget_records() { first_micro_batch_.forget(), later_micro_batches_.forget(); }
  /// The time since the last call is added to `part`.
  void book(double& part) {
    if (!now_) return;
    const double t = now_();
    part += t - last_;
    last_ = t;
  }

 private:
  Derived& derived() { return static_cast<Derived&>(*this); }

  /// Throws `error` where a step would change nothing for good: no run to go through, one whose rate has come to 0, or
  /// weights that nobody has initialised, looked at once.
  void require_progress(const step_metrics& m) {
    const index total = options_.total_steps;
    require(total > 0, "trainer: total_steps is ", total, "; say over how many steps the learning rate falls");
    require(m.lr > 0 || step_ < total || options_.rate || !(options_.lr.peak > 0), "trainer: step ", step_ + 1,
            " of a run of ", total, ": the learning rate has come to 0; give a larger total_steps");
    require_weights();
  }
  void require_weights() {
    if (!begun_) detail::require_weights(*device_, *student_, "trainer");
    begun_ = true;
  }

  /// What is known before the device has worked: the tokens of a step, and what the schedules say now.
  step_metrics begin_step(index step) {
    reading_ = step;
    const schedule::clock clock = this->clock();
    step_metrics m;
    m.epoch = step_ / order_.steps_per_epoch();
    m.lr = options_.rate ? options_.rate(clock) : options_.lr.at(clock);
    require(m.lr >= 0 && std::isfinite(m.lr), "trainer: the learning rate of step ", step + 1, " is ", m.lr);
    if (now_) last_ = now_();
    agree();
    tokens_.resize(static_cast<std::size_t>(options_.accumulate));
    for (index i = 0; i < options_.accumulate; ++i) {
      auto& tokens = tokens_[static_cast<std::size_t>(i)];
      text_->read(windows_of(i), tokens);
      m.tokens += tokens.scored_tokens;
    }
    std::int64_t scored = m.tokens;
    ranks_->sum({}, &scored, 1);
    m.tokens = scored;
    m.empty = m.tokens == 0;
    book(times_.exchange);
    derived().begin(m, clock, m.empty ? 0.0 : 1.0 / static_cast<double>(m.tokens));
    return m;
  }

  /// All ranks have rank 0's weights.
  void agree() {
    if (std::exchange(agreed_, true) || ranks_->size() == 1) return;
    auto& w = student_->weights();
    ranks_->broadcast(*device_, w.data(), w.size() * static_cast<index>(sizeof(T)), 0);
  }
  /// Asks the device for the losses and gradients of a step, one micro-batch after another; of several ranks the sums
  /// of all.
  void forward_backward() {
    derived().upload_inputs();
    unsummed_ = 0;
    for (index i = 0; i < options_.accumulate; ++i) {
      batch_.put(*device_, tokens_[static_cast<std::size_t>(i)]);
      derived().prepare_micro_batch(i);
      run(i == 0 ? first_micro_batch_ : later_micro_batches_, [&, this] {
        if (i == 0) {
          fill(*device_, matrix_view<T>(gradients_.data(), 1, gradients_.size()));
          fill(*device_, matrix_view<double>(sums_.data(), 1, sums_.size()));
          rounded_.round(*device_, student_->weights().data());
        }
        // Nothing writes the weights between the micro-batches of a step.
        [[maybe_unused]] const auto held = rounded_.hold(*device_, student_->weights().data());
        derived().run_micro_batch();
      });
    }
    ranks_->sum(*device_, sums_.data(), sums_.size());
    if (!sums_beside()) ranks_->sum(*device_, gradients_.data(), gradients_.size());
    book(times_.exchange);
  }

  /// Clips the gradients and takes AdamW's step, unless one of them, or the loss, is not finite.
  void update_weights() {
    run(update_, [this] {
      D& d = *device_;
      const index n = gradients_.size();
      optim::squared_norm(d, gradients_.data(), n, sums(detail::step_sums::squares));
      book(times_.backward);
      parallel_for(d, 1, detail::judge_step{sums_.data()});
      auto* in = derived().inputs_.data();
      optim::prepare_step(d, options_.optimiser, &in->lr, options_.clip,
                          sums(detail::step_sums::judged_squares), &in->updates, scalars_.data());
      optim::step(d, options_.optimiser, scalars_.data(), student_->weights().data() + kept_.from,
                  gradients_.data() + kept_.from, first_moment_.data(), second_moment_.data(), kept_.size(),
                  own_ranges_);
      book(times_.optimiser);
    });
    if (sharded())
      ranks_->all_gather(*device_, student_->weights().data(), std::span<const index>(shard_bytes_));
    book(times_.exchange);
  }

  /// Waits for what was asked; counts the step.
  void end_step(step_metrics& m) {
    m.step = ++step_;
    if (m.empty) {
      ++empty_;
      return;
    }
    const double* found = read_sums(m);
    m.grad_norm = std::sqrt(found[detail::step_sums::squares]);
    if (std::isfinite(found[detail::step_sums::judged_squares])) {
      unusable_ = 0;
      ++updates_;
      return;
    }
    m.skipped = true;
    ++skipped_;
    if (++unusable_ == 1 || trouble_.empty()) {
      trouble_ = weights_trouble(step_ - 1);
      if (trouble_.empty())
        trouble_ = "diverged at step " + std::to_string(step_) + ": the " +
                   (std::isfinite(m.total) ? "gradient norm" : "loss") + " is not finite";
    }
    if (unusable_ >= 10)
      throw numeric_error(
          trouble_ + "; ten steps in a row were not, at step " + std::to_string(step_) + " the gradients" +
          tensor_at(", first in ", static_cast<index>(found[detail::step_sums::first_non_finite])));
  }
  /// Nothing where the weights, which `step` has left, are finite.
  std::string weights_trouble(index step) const {
    const index n = student_->weights().size();
    const index first = optim::global_norm(*device_, student_->weights().data(), n).first_non_finite;
    if (first < 0 || first >= n) return {};
    return "diverged at step " + std::to_string(step) + ": the weights that it left are not finite" +
           tensor_at(", first in ", first);
  }
  /// Waits for what was asked, and gives it: what it means to `m`, all sums to the caller.
  const double* read_sums(step_metrics& m) {
    const double* found = fetched_.get(*device_, sums_.data(), sums_.size());
    derived().read(m, found + detail::step_sums::own);
    m.total = found[detail::step_sums::value];
    return found;
  }
  /// A step that is timed is done one part after another; so is one in which ranks speak and no record can hold it.
  template <class F>
  void run(captured_graph<D>& record, F&& work) {
    if (now_ || (ranks_->size() > 1 && !ranks_->recordable()))
      work();
    else
      record(*device_, gradients_.data(), work);
  }
  /// `before` and the name of the tensor that number i of the weights belongs to; nothing where there is none.
  std::string tensor_at(const char* before, index i) const {
    for (const auto& e : student_->names())
      if (i >= e.offset && i < e.offset + e.size) return before + e.name;
    return {};
  }

 protected:
  D* device_;
  Student* student_;
  const token_windows* text_;
  training_options options_;
  C* ranks_;
  device_batch<D> batch_;  ///< what the micro-batch reads
  step_times times_;
  std::int64_t updates_ = 0;

 private:
  window_sampler order_;
  weights_type gradients_;
  rounded_weights<T, D> rounded_;
  std::vector<optim::parameter_range> ranges_, own_ranges_;
  std::vector<index> shards_, shard_bytes_;  ///< where each rank's part begins, in numbers and in bytes
  optim::shard kept_;                        ///< what this rank updates
  buffer<T, D> first_moment_, second_moment_;
  buffer<double, D> sums_;
  host_copy<double, D> fetched_;
  buffer<optim::adamw_scalars<T>, D> scalars_;
  captured_graph<D> first_micro_batch_, later_micro_batches_, update_;
  std::vector<token_batch> tokens_;
  std::vector<index> which_;
  index step_ = 0, skipped_ = 0, unusable_ = 0, empty_ = 0;
  index unsummed_ = 0;   ///< gradients before this number are not summed yet; 0: none is
  index reading_ = 0;    ///< the step whose windows are read
  std::string trouble_;  ///< while steps are not finite: since which, and what of it was not first
  bool begun_ = false;
  double (*now_)() = nullptr;
  double last_ = 0;
  bool agreed_ = false;
  /// @endcond
};

}  // namespace distil_xlstm
