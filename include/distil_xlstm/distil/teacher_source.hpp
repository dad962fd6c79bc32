#pragma once

#include <vector>

#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/distil/alignment_plan.hpp>
#include <distil_xlstm/distil/windows.hpp>

namespace distil_xlstm {

/// What a teacher tells about a batch: its final hidden states, which with the shared head are its logits, and
/// the alignment's targets.
template <class T>
struct teacher_signals {
  matrix_view<T> last_hidden;
  std::vector<matrix_view<T>> targets;
};

/// Where a student's lessons come from: a running teacher, or what one once said.
template <class T, class D>
class teacher_source {
 public:
  virtual ~teacher_source() = default;
  /// Fills `out`, in the device's memory, for windows `which`, whose tokens are in `tokens`.
  virtual void fill(D& device, const std::vector<index>& which, const device_batch<D>& tokens,
                    const teacher_signals<T>& out) = 0;
  /// True where fill() reads nothing but `tokens` and asks the same work of the device for every batch of one
  /// shape: then it can be recorded.
  virtual bool repeats() const { return false; }
};

namespace detail {
/// y = (first ? 0 : y) + weight x
template <class T>
struct accumulate_mean {
  using scalar = T;
  matrix_view<const T> x;
  matrix_view<T> y;
  T weight;
  bool first;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    math::store<V>(y.row(r) + c,
                   math::load_if<V>(!first, y.row(r) + c) + V(weight) * math::load<V>(x.row(r) + c));
  }
};
}  // namespace detail

/// A teacher that runs along. `Teacher` has scalar, device_type and forward(device, sequence, ids, last_hidden,
/// on_layer(i, hidden)), i = 0 the embedding, i = 1 .. L_t the layers' outputs; in the alignment the last of
/// them counts after the final norm.
template <class Teacher>
class live_teacher final : public teacher_source<typename Teacher::scalar, typename Teacher::device_type> {
  using T = typename Teacher::scalar;
  using D = typename Teacher::device_type;

 public:
  live_teacher(const Teacher& teacher, alignment_plan plan) : teacher_(&teacher), plan_(std::move(plan)) {}

  void fill(D& device, const std::vector<index>&, const device_batch<D>& tokens,
            const teacher_signals<T>& out) override {
    const index top = plan_.groups.empty() ? 0 : plan_.groups.back().second;
    const auto add = [&](index layer, matrix_view<const T> h) {
      for (std::size_t g = 0; g < plan_.groups.size(); ++g) {
        const auto [first, last] = plan_.groups[g];
        if (layer < first || layer > last) continue;
        map(device, h.rows, h.cols,
            detail::accumulate_mean<T>{h, out.targets[g], T(1) / static_cast<T>(last - first + 1),
                                       layer == first});
      }
    };
    teacher_->forward(device, tokens.view(), tokens.ids(), out.last_hidden,
                      [&](index layer, matrix_view<const T> h) {
                        if (layer < top) add(layer, h);
                      });
    if (top > 0) add(top, out.last_hidden);
  }
  bool repeats() const override { return true; }

 private:
  const Teacher* teacher_;
  alignment_plan plan_;
};

}  // namespace distil_xlstm
