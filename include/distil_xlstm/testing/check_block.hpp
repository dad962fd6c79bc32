#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>
#include <distil_xlstm/testing/law_report.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

namespace distil_xlstm::testing {

/// How a block is tried. A state of bounded capacity must hold 2 * time tokens.
struct block_options {
  /// @{ Two sequences or more, four tokens of each or more: documents begin inside.
  index batch = 2, time = 7;
  /// @}
  std::uint64_t seed = 1;     ///< of weights, inputs and output gradients
  double weight_scale = 0.4;  ///< standard deviation of the random weights
  index samples = 24;         ///< numbers of a tensor by which derivatives are taken
  /// @{ How far a gradient may be from the finite difference, and two forms from each other, relatively.
  double gradient_limit = tolerance<double>::gradient_check;
  double forms_limit = tolerance<double>::forms;
  /// @}
};

namespace detail {

/// A block with random weights and tokens, tried from one state. The second document of every sequence begins
/// in the middle where there are `documents`; the first goes on from the state in even sequences, and begins
/// with the call in odd ones.
template <Block B, class D>
class block_trial {
 public:
  block_trial(D& device, const B& block, const block_options& options, bool past, bool documents)
      : options_(options),
        start_(starts(options.batch, options.time)),
        documents_(documents),
        circumstances_(std::string(past ? "from a past" : "from an empty state") +
                       (documents ? ", with documents" : ", without documents")),
        h_(block, device, {options.batch, options.time, documents ? start_.data() : nullptr}, options.seed,
           options.weight_scale),
        empty_(state_of(h_)),
        state_(past ? a_past(options.seed + 1) : empty_),
        other_state_(a_past(options.seed + 2)) {
    h_.initial_state = state_;
  }
  // The sequence points into the trial.
  block_trial(const block_trial&) = delete;
  block_trial& operator=(const block_trial&) = delete;

  law_report finite() {
    double off = 0;
    for (double v : whole()) off = std::isfinite(v) ? off : infinity;
    return judge("outputs are finite", off, 0, circumstances_);
  }
  law_report halves() {
    const auto y = whole();
    for (const index cut : {index{2}, time() / 2, time() - 2}) {
      reader parts(h_, state_);
      numbers z(y.size());
      parts.read(0, cut, z);
      parts.read(cut, time(), z);
      const difference d = compare(z, y);
      const auto r = judge("two halves with carried state are one whole", d.relative, options_.forms_limit,
                           "halves meet at token ", cut, ", ", place(d), circumstances_);
      if (!r.ok()) return r;
    }
    return {};
  }
  law_report steps() {
    const auto y = whole();
    reader parts(h_, state_);
    numbers z(y.size());
    for (index t = 0; t < time(); ++t) parts.read(t, t + 1, z);
    const difference d = compare(z, y);
    return judge("steps of one token are one forward", d.relative, options_.forms_limit, place(d),
                 circumstances_);
  }
  law_report sequences() {
    const auto first = [](index b, index) { return b == 0; };
    numbers other = state_;
    std::copy_n(other_state_.begin(), h_.state_size, other.begin());
    return isolated("sequences of a batch do not touch", other, first, first);
  }
  law_report boundaries() {
    if (!documents_) return {};
    const char* law = "nothing crosses a document boundary";
    const auto none = [](index, index) { return false; };
    const auto past_matters = [&](index b, index t) { return b % 2 == 0 && t < begin(b); };
    const auto first_document = [&](index b, index t) { return t < begin(b); };
    if (auto r = isolated(law, other_state_, none, past_matters); !r.ok()) return r;
    if (auto r = isolated(law, other_state_, first_document, first_document); !r.ok()) return r;
    // Nor does a gradient go back.
    const numbers dy = on_host(h_.device, h_.dy);
    numbers later = dy;
    const index out = h_.block.width_out(), in = h_.block.width_in();
    each_row([&](index b, index t, index r) {
      if (t < begin(b)) std::fill_n(later.begin() + r * out, out, 0.0);
    });
    to_device(h_.device, h_.dy, later);
    numbers gradients(static_cast<std::size_t>(h_.gradients.size()));
    const numbers dx = backward(gradients);
    to_device(h_.device, h_.dy, dy);
    law_report report;
    each_row([&](index b, index t, index r) {
      for (index c = 0; c < in && t < begin(b) && report.ok(); ++c)
        report = judge(law, std::abs(dx[static_cast<std::size_t>(r * in + c)]), 0, "gradient of sequence ", b,
                       ", token ", t, ", ", circumstances_);
    });
    return report;
  }
  law_report fork() {
    const index cut = time() / 2 + 1;
    numbers y(static_cast<std::size_t>(h_.y.size())), z = y;
    reader original(h_, state_);
    original.read(0, cut, y);
    z = y;
    reader copy(h_, original.state());
    original.read(cut, time(), y);
    copy.read(cut, time(), z);
    const difference d = compare(z, y);
    return judge("a copied state goes on as the state does", d.relative, 0, place(d), circumstances_);
  }
  law_report adds() {
    const char* law = "backward adds to gradients and overwrites dx";
    numbers g(static_cast<std::size_t>(h_.gradients.size())), more = g;
    const numbers dx = backward(g);
    rng random(options_.seed + 3);
    for (double& v : more) v = random.normal();
    const numbers before = more, dx_again = backward(more);
    for (const auto& e : h_.names) {
      double off = 0, largest = 0;
      for (auto i = static_cast<std::size_t>(e.offset); i < static_cast<std::size_t>(e.offset + e.size); ++i) {
        off = worse(off, std::abs(more[i] - (before[i] + g[i])));
        largest = std::max({largest, std::abs(before[i]), std::abs(g[i])});
      }
      const auto r = judge(law, off / largest, options_.forms_limit, "tensor ", e.name, ", ", circumstances_);
      if (!r.ok()) return r;
    }
    return judge(law, relative_error(dx_again.data(), dx.data(), h_.dx.size()), options_.forms_limit, "dx, ",
                 circumstances_);
  }
  law_report gradient() {
    const auto g = check_gradients(h_, options_.samples);
    return judge("the gradient is the finite difference", g.worst_error, options_.gradient_limit, "tensor ",
                 g.worst_tensor, ", ", circumstances_);
  }

 private:
  using numbers = std::vector<double>;
  static constexpr double infinity = std::numeric_limits<double>::infinity();

  /// A state of its own that reads the trial's tokens part by part.
  class reader {
   public:
    reader(harness<B, double, D>& h, const numbers& state)
        : h_(h), state_(h.device, static_cast<index>(state.size())) {
      layout<double> l(state_.data());
      l.sequence_stride(h.state_size);
      views_ = h.block.state(l);
      to_device(h.device, state_, state);
    }
    /// Tokens first .. last - 1 of every sequence; their outputs go to their rows of y.
    void read(index first, index last, numbers& y) {
      const index n = last - first, batch = h_.seq.batch, time = h_.seq.time;
      const index in = h_.block.width_in(), out = h_.block.width_out();
      std::vector<std::int32_t> start;
      for (index b = 0; b < batch; ++b)
        for (index t = first; t < last; ++t) {
          const index s = h_.seq.document_start(b, t);
          start.push_back(static_cast<std::int32_t>(s >= first ? s - first : -1));
        }
      D& device = h_.device;
      device_copy<std::int32_t, D> placed_start;
      const sequence_view seq{batch, n,
                              placed_start.put(device, h_.seq.start ? start.data() : nullptr, batch * n)};
      // No backward follows: blocks may take the ways that they keep for reading.
      layout<double> measure;
      measure.transient(true);
      h_.block.tape(measure, seq);
      buffer<double, D> tape(device, measure.size()), x(device, batch * n * in), z(device, batch * n * out);
      layout<double> bind(tape.data());
      bind.transient(true);
      const auto k = h_.block.tape(bind, seq);
      constexpr index size = sizeof(double);
      for (index b = 0; b < batch; ++b)
        device.copy(x.data() + b * n * in, h_.x.data() + (b * time + first) * in, n * in * size);
      h_.block.forward(device, seq, h_.p, views_, k, matrix_view<const double>(x.data(), batch * n, in),
                       matrix_view<double>(z.data(), batch * n, out));
      for (index b = 0; b < batch; ++b)
        device.download(y.data() + (b * time + first) * out, z.data() + b * n * out, n * out * size);
    }
    numbers state() const { return on_host(h_.device, state_); }

   private:
    harness<B, double, D>& h_;
    buffer<double, D> state_;
    state_t<B, double> views_;
  };

  index time() const { return options_.time; }
  /// Where the second document of a sequence begins.
  index begin(index b) const { return (time() + b % 2) / 2; }
  static std::vector<std::int32_t> starts(index batch, index time) {
    std::vector<std::int32_t> start;
    for (index b = 0; b < batch; ++b)
      for (index t = 0; t < time; ++t) {
        const index begin = (time + b % 2) / 2;
        start.push_back(static_cast<std::int32_t>(t >= begin ? begin : b % 2 ? 0 : -1));
      }
    return start;
  }
  static numbers state_of(const harness<B, double, D>& h) { return on_host(h.device, h.states); }
  /// What tokens that nobody else sees leave behind.
  numbers a_past(std::uint64_t seed) {
    const numbers x = on_host(h_.device, h_.x);
    const std::int32_t* start = h_.seq.start;
    h_.seq.start = nullptr;
    randomise_tokens(seed, [](index, index) { return true; });
    reader r(h_, empty_);
    numbers y(static_cast<std::size_t>(h_.y.size()));
    r.read(0, time(), y);
    h_.seq.start = start;
    to_device(h_.device, h_.x, x);
    return r.state();
  }
  template <class F>
  void each_row(const F& f) const {
    for (index b = 0; b < options_.batch; ++b)
      for (index t = 0; t < time(); ++t) f(b, t, b * time() + t);
  }
  template <class Chosen>
  void randomise_tokens(std::uint64_t seed, const Chosen& chosen) {
    rng random(seed);
    const index in = h_.block.width_in();
    numbers x = on_host(h_.device, h_.x);
    each_row([&](index b, index t, index r) {
      for (index c = 0; c < in && chosen(b, t); ++c) x[static_cast<std::size_t>(r * in + c)] = random.normal();
    });
    to_device(h_.device, h_.x, x);
  }
  numbers whole() {
    reader r(h_, state_);
    numbers y(static_cast<std::size_t>(h_.y.size()));
    r.read(0, time(), y);
    return y;
  }
  /// From gradients as given to gradients after; returns dx.
  numbers backward(numbers& gradients) {
    to_device(h_.device, h_.gradients, gradients);
    to_device(h_.device, h_.dx,
              numbers(static_cast<std::size_t>(h_.dx.size()), std::numeric_limits<double>::quiet_NaN()));
    h_.reset();
    h_.forward();
    h_.backward();
    gradients = on_host(h_.device, h_.gradients);
    return on_host(h_.device, h_.dx);
  }
  static double worse(double a, double b) { return b <= a ? a : std::isnan(b) ? infinity : b; }

  struct difference {
    double relative = 0;
    index sequence = 0, token = 0;
  };
  /// The largest difference over all rows, relative to the largest number.
  difference compare(const numbers& y, const numbers& reference) const {
    return compare(y, reference, [](index, index) { return true; });
  }
  template <class Rows>
  difference compare(const numbers& y, const numbers& reference, const Rows& rows) const {
    difference d;
    double largest = 0;
    const index out = h_.block.width_out();
    each_row([&](index b, index t, index r) {
      for (index c = 0; c < out; ++c) {
        const auto i = static_cast<std::size_t>(r * out + c);
        largest = std::max(largest, std::abs(reference[i]));
        const double off = rows(b, t) ? worse(0, std::abs(y[i] - reference[i])) : 0;
        if (off > d.relative) d = {off, b, t};
      }
    });
    if (largest > 0) d.relative /= largest;
    return d;
  }
  static std::string place(const difference& d) {
    return "sequence " + std::to_string(d.sequence) + ", token " + std::to_string(d.token) + ", ";
  }

  /// Another state, and other tokens in the `changed` rows, show in the rows that `may_show` picks only: in one
  /// call, and in two that meet before, at or after the place where a document begins.
  template <class Changed, class Shows>
  law_report isolated(const char* law, const numbers& other_state, const Changed& changed,
                      const Shows& may_show) {
    const numbers keep = on_host(h_.device, h_.x);
    for (const index cut : {time(), time() / 2 - 1, time() / 2, time() / 2 + 1}) {
      auto read = [&](const numbers& from) {
        reader parts(h_, from);
        numbers y(static_cast<std::size_t>(h_.y.size()));
        parts.read(0, cut, y);
        if (cut < time()) parts.read(cut, time(), y);
        return y;
      };
      const numbers y = read(state_);
      randomise_tokens(options_.seed + 4, changed);
      const numbers z = read(other_state);
      to_device(h_.device, h_.x, keep);
      const difference d = compare(z, y, [&](index b, index t) { return !may_show(b, t); });
      const auto r = judge(law, d.relative, 0, place(d), circumstances_);
      if (!r.ok()) return r;
    }
    return {};
  }

  block_options options_;
  std::vector<std::int32_t> start_;
  bool documents_;
  std::string circumstances_;
  harness<B, double, D> h_;
  numbers empty_, state_, other_state_;
};

}  // namespace detail

/// Tries the laws of Block on one block, in double: from an empty state and from a past, with and without
/// documents that begin inside. Throws `error` where `options` asks for too few sequences or tokens.
///
///     BOOST_TEST(report.ok(), report.text);   // report = check_block(device, my_block{...})
template <class D, Block B>
law_report check_block(D& device, const B& block, const block_options& options = {}) {
  require(options.batch >= 2 && options.time >= 4, "check_block: ", options.batch, " sequences of ",
          options.time, " tokens are too few (2 and 4 are needed)");
  using trial = detail::block_trial<B, D>;
  std::vector<std::unique_ptr<trial>> trials;
  for (const auto& [past, documents] : {std::pair{true, true}, {true, false}, {false, false}})
    trials.push_back(std::make_unique<trial>(device, block, options, past, documents));
  for (const auto law : {&trial::finite, &trial::fork, &trial::halves, &trial::steps, &trial::sequences,
                         &trial::adds, &trial::boundaries, &trial::gradient})
    for (const auto& t : trials)
      if (law_report r = ((*t).*law)(); !r.ok()) return r;
  return {};
}

}  // namespace distil_xlstm::testing
