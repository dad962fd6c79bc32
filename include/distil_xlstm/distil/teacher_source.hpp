#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/block/repeat.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/distil/target_layers.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/math/numeric.hpp>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm {

/// What a teacher tells about a batch: its final hidden states, which its head turns into logits, and means of
/// its layers' outputs, where `layers` of each target says which.
template <class T>
struct teacher_signals {
  /// The mean of a few layers' outputs.
  struct target {
    layer_range layers;   ///< those
    matrix_view<T> mean;  ///< [rows, width]
  };
  matrix_view<T> last_hidden;   ///< [rows, width]
  std::vector<target> targets;  ///< as many as the objective compares with: `target_layers`
};

/// Memory for the signals about `rows` tokens.
template <class T, class D>
class signal_memory {
 public:
  signal_memory() = default;
  /// [rows, width] for the final hidden states, and for each of `targets`.
  signal_memory(D& device, index rows, index width, std::vector<layer_range> targets)
      : rows_(rows),
        width_(width),
        targets_(std::move(targets)),
        memory_(device, rows * width * (1 + std::ssize(targets_))) {}

  /// Tokens that there is memory for.
  index rows() const { return rows_; }
  /// As much memory of its own for the same signals.
  signal_memory another(D& device) const { return {device, rows_, width_, targets_}; }
  /// The signals about the first `rows` of them.
  teacher_signals<T> first(index rows) const {
    const auto part = [&](index i) {
      return matrix_view<T>(memory_.data() + i * rows_ * width_, rows, width_);
    };
    teacher_signals<T> signals{part(0), {}};
    for (index i = 0; i < std::ssize(targets_); ++i)
      signals.targets.push_back({targets_[static_cast<std::size_t>(i)], part(i + 1)});
    return signals;
  }

 private:
  index rows_ = 0, width_ = 0;
  std::vector<layer_range> targets_;
  buffer<T, D> memory_;
};

/// Where a teacher's signals come from: a model that runs along, a cache of what one has said, or a source of one's
/// own, which has `layers` and `fill`.
template <class T, class D>
class teacher_source {
 public:
  virtual ~teacher_source() = default;
  /// How many layers the teacher has.
  virtual index layers() const = 0;
  /// The ids that it knows are below this; 0: it does not say.
  virtual index vocabulary() const { return 0; }
  /// What turns its final hidden states into logits, for a student that has a head of its own; without data: the
  /// student's.
  virtual frozen_matrix head() const { return {}; }
  /// Throws `error` where such signals cannot be given.
  virtual void check(const teacher_signals<T>&) const {}
  /// Fills `out`, all rows of it, in the device's memory, for windows `which`, whose tokens are in `tokens`.
  virtual void fill(D& device, const std::vector<index>& which, const device_batch<D>& tokens,
                    const teacher_signals<T>& out) = 0;
  /// True where fill() reads nothing but `tokens` and asks the same work of the device for every batch of one
  /// shape: then it can be recorded.
  virtual bool repeats() const { return false; }
};

/// Stands where a teacher does for an objective that compares with none, such as cross_entropy() alone.
struct no_teacher {};

namespace detail {
/// y = (first ? 0 : y) + weight x[0] + ... + weight x[N - 1], in that order
template <class T, int N>
struct accumulate_mean {
  using scalar = T;
  matrix_view<const T> x[N];
  matrix_view<T> y;
  T weight;
  bool first;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    // All are on their way before the first is waited for.
    V sum = math::load_if<V>(!first, y.row(r) + c), values[N];
    for (int i = 0; i < N; ++i) values[i] = math::load<V>(x[i].row(r) + c);
    for (const V& value : values) sum = sum + V(weight) * value;
    math::store<V>(y.row(r) + c, sum);
  }
};

/// A live teacher's signals: what `Teacher` shows on its way becomes the means. A free function, so that its
/// `extern template` does not instantiate the whole llama model where nobody uses it.
template <class D, class Teacher, class T>
void fill_signals(D& device, const Teacher& teacher, const device_batch<D>& tokens,
                  const teacher_signals<T>& out) {
  constexpr index most = kept_outputs_of<Teacher>;
  const index top = teacher.config().layers, below = top - 1;
  std::array<matrix_view<const T>, static_cast<std::size_t>(most)> shown;  // layer i's at i % most
  // Adds layers' outputs up to `layer`'s to the means that they belong to: `most` in one pass, fewer where a mean
  // ends, and before the last layer, whose output is normed when the others are gone.
  const auto add = [&](index layer, matrix_view<const T> h) {
    shown[static_cast<std::size_t>(layer % most)] = h;
    for (const auto& t : out.targets) {
      if (layer < t.layers.first || t.layers.last < layer) continue;
      const index place = layer - t.layers.first, count = layer > below ? 1 : place % most + 1;
      if (count < most && layer < std::min(t.layers.last, below)) continue;
      const auto pass = [&]<int N>(std::integral_constant<int, N>) {
        const T weight = T(1) / static_cast<T>(t.layers.last - t.layers.first + 1);
        accumulate_mean<T, N> mean{{}, t.mean, weight, place < N};
        for (index i = 0; i < N; ++i) mean.x[i] = shown[static_cast<std::size_t>((layer - N + 1 + i) % most)];
        map(device, t.mean.rows, t.mean.cols, mean);
      };
      [&]<int... I>(std::integer_sequence<int, I...>) {
        ((count == I + 1 ? pass(std::integral_constant<int, I + 1>()) : void()), ...);
      }
      (std::make_integer_sequence<int, static_cast<int>(most)>());
    }
  };
  teacher.forward(device, tokens.view(), tokens.ids(), out.last_hidden,
                  [&](index layer, matrix_view<const T> h) {
                    if (layer < top) add(layer, h);
                  });
  add(top, out.last_hidden);
}
}  // namespace detail

/// A teacher that runs along. `Teacher` has scalar, device_type, width(), config().layers and forward(device,
/// sequence, ids, last_hidden, on_layer(i, hidden)), i = 0 the embedding, i = 1 .. layers the layers' outputs.
/// As a target the last of them counts after the final norm. With a member `kept_outputs` n, the outputs of layers
/// i - n + 1 to i are there when on_layer sees layer i's.
///
/// Windows may be longer than what a teacher was trained to see (a transformer's `config().context`; 0: not known):
/// nothing refuses them, but what it says there is not reliable.
template <class Teacher>
class live_teacher final : public teacher_source<typename Teacher::scalar, typename Teacher::device_type> {
  using T = typename Teacher::scalar;
  using D = typename Teacher::device_type;

 public:
  /// Refers to `teacher`, which must live as long.
  explicit live_teacher(const Teacher& teacher) : teacher_(&teacher) {}
  /// An error of the compiler: a temporary teacher would not live as long.
  template <std::same_as<Teacher> M>
  explicit live_teacher(const M&&) {
    static_assert(
        sizeof(M) == 0,
        "distil_xlstm::live_teacher(teacher) refers to the teacher, which must live as long: give it a "
        "name first");
  }

  index layers() const override { return teacher_->config().layers; }
  index vocabulary() const override { return head().rows; }
  frozen_matrix head() const override { return logit_head(teacher_->head()).matrix; }
  void check(const teacher_signals<T>& s) const override {
    require(s.last_hidden.cols == teacher_->width(), "the teacher's hidden states have width ",
            teacher_->width(), ", the student's ", s.last_hidden.cols);
  }
  void fill(D& device, const std::vector<index>&, const device_batch<D>& tokens,
            const teacher_signals<T>& out) override {
    detail::fill_signals(device, *teacher_, tokens, out);
  }
  bool repeats() const override { return true; }

 private:
  const Teacher* teacher_;
};

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/llama.hpp>

/// Of a precision P and its scalar T, with `keyword` extern template or template.
#define DISTIL_XLSTM_COMPILED_LLAMA_SIGNALS(keyword, P, T)                                        \
  keyword void detail::fill_signals(device::basic_cpu<P>&, const llama<T, device::basic_cpu<P>>&, \
                                    const device_batch<device::basic_cpu<P>>&, const teacher_signals<T>&);

namespace distil_xlstm {
DISTIL_XLSTM_EACH_PRECISION(DISTIL_XLSTM_COMPILED_LLAMA_SIGNALS, extern template)
}  // namespace distil_xlstm
#endif
