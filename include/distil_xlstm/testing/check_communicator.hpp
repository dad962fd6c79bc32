#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/testing/law_report.hpp>

namespace distil_xlstm::testing {

namespace detail {

/// Runs a communicator's calls one after another on numbers that each rank can tell of every other.
template <class C, class D>
class communicator_trial {
 public:
  communicator_trial(C& ranks, D& device) : ranks_(ranks), device_(device) {}
  law_report report;  ///< the first that is not its formula's

  void run(index largest) {
    places();
    for (const index n : {index{0}, index{1}, index{7}, index{1000}, largest / 3, largest}) {
      sums<double>(n), sums<float>(n), sums<std::int64_t>(n);
      for (index root = 0; root < ranks_.size(); ++root) broadcasts(n, root);
      gathers(n);
    }
    barriers();
  }

 private:
  template <class T>
  static std::vector<T> numbers(index rank, index n) {
    std::vector<T> out;
    rng random(static_cast<std::uint64_t>(1000 * rank + n + 1));
    // Of many sizes, so that another order gives other sums.
    for (index i = 0; i < n; ++i)
      out.push_back(static_cast<T>(std::ldexp(random.uniform(-1, 1), static_cast<int>(random.below(40)) - 20) *
                                   (std::is_integral_v<T> ? 1e6 : 1)));
    return out;
  }

  /// Device memory of n numbers, one more on either side that no call may touch.
  template <class T>
  struct guarded {
    D& device;
    buffer<T, D> memory;
    index n;
    guarded(D& d, const std::vector<T>& values)
        : device(d), memory(d, std::ssize(values) + 2), n(std::ssize(values)) {
      std::vector<T> all(1, T(77));
      all.insert(all.end(), values.begin(), values.end()), all.push_back(T(78));
      d.upload(memory.data(), all.data(), (n + 2) * static_cast<index>(sizeof(T)));
    }
    T* data() { return memory.data() + 1; }
    std::vector<T> values() {
      std::vector<T> all(static_cast<std::size_t>(n + 2));
      device.download(all.data(), memory.data(), (n + 2) * static_cast<index>(sizeof(T)));
      return all;
    }
  };
  template <class T>
  void compare(const std::string& law, guarded<T>& got, const std::vector<T>& want, index n) {
    if (!report.ok()) return;
    const std::vector<T> all = got.values();
    for (index i = -1; i <= got.n; ++i) {
      const T x = all[static_cast<std::size_t>(i + 1)], y = i < 0        ? T(77)
                                                            : i == got.n ? T(78)
                                                                         : want[static_cast<std::size_t>(i)];
      if (std::memcmp(&x, &y, sizeof(T)) == 0) continue;
      report = judge(i < 0 || i == got.n ? "nothing else is touched" : law,
                     std::abs(static_cast<double>(x) - static_cast<double>(y)), -1, "number ", i, " of ", n,
                     ", rank ", ranks_.rank(), " of ", ranks_.size(), ", numbers of ", sizeof(T), " bytes");
      return;
    }
  }

  void places() {
    const index rank = ranks_.rank(), size = ranks_.size();
    if (rank < 0 || rank >= size) {
      report = judge("ranks are 0 .. size - 1, each once", static_cast<double>(rank), -1, "of ", size);
      return;
    }
    std::vector<std::int64_t> here(static_cast<std::size_t>(size)), once(here.size(), 1);
    here[static_cast<std::size_t>(rank)] = 1;
    guarded<std::int64_t> p(device_, here);
    ranks_.sum(device_, p.data(), size);
    compare("ranks are 0 .. size - 1, each once", p, once, size);
  }
  template <class T>
  void sums(index n) {
    guarded<T> p(device_, numbers<T>(ranks_.rank(), n));
    std::vector<T> want = numbers<T>(0, n);
    for (index r = 1; r < ranks_.size(); ++r) {
      const std::vector<T> more = numbers<T>(r, n);
      for (std::size_t i = 0; i < want.size(); ++i) want[i] += more[i];
    }
    ranks_.sum(device_, p.data(), n);
    compare("sum adds up the ranks' numbers in their order", p, want, n);
  }
  void broadcasts(index n, index root) {
    guarded<float> p(device_, numbers<float>(ranks_.rank(), n));
    ranks_.broadcast(device_, p.data(), n * static_cast<index>(sizeof(float)), root);
    compare("broadcast gives the root's numbers", p, numbers<float>(root, n), n);
  }
  void gathers(index n) {
    const index size = ranks_.size();
    for (const bool even : {true, false}) {
      // Uneven: rank r has r parts of the whole; rank 0 has none.
      std::vector<index> starts(1, 0);
      for (index r = 0; r < size; ++r) starts.push_back(starts.back() + (even ? n : r * n));
      std::vector<float> want, mine(static_cast<std::size_t>(starts.back()), -1);
      for (index r = 0; r < size; ++r) {
        const auto from = static_cast<std::size_t>(r);
        const std::vector<float> part = numbers<float>(r, starts[from + 1] - starts[from]);
        if (r == ranks_.rank()) std::copy(part.begin(), part.end(), mine.begin() + starts[from]);
        want.insert(want.end(), part.begin(), part.end());
      }
      guarded<float> p(device_, mine);
      for (index& s : starts) s *= static_cast<index>(sizeof(float));
      if (even)
        ranks_.all_gather(device_, p.data(), n * static_cast<index>(sizeof(float)));
      else
        ranks_.all_gather(device_, p.data(), std::span<const index>(starts));
      compare(even ? "all_gather puts every rank's part in its place" : "all_gather takes parts of any size", p,
              want, std::ssize(want));
    }
  }
  void barriers() {
    using clock = std::chrono::steady_clock;
    const auto now = [] { return std::chrono::duration<double>(clock::now().time_since_epoch()).count(); };
    std::vector<double> times(2 * static_cast<std::size_t>(ranks_.size()));
    const auto mine = static_cast<std::size_t>(2 * ranks_.rank());
    ranks_.barrier();
    std::this_thread::sleep_for(std::chrono::milliseconds(20 * (ranks_.size() - ranks_.rank())));
    times[mine] = now();
    ranks_.barrier();
    times[mine + 1] = now();
    ranks_.all_gather({}, times.data(), 2 * static_cast<index>(sizeof(double)));
    double last_in = times[0], first_out = times[1];
    for (std::size_t i = 0; i < times.size(); i += 2)
      last_in = std::max(last_in, times[i]), first_out = std::min(first_out, times[i + 1]);
    if (report.ok())
      report = judge("no rank leaves a barrier before all have come", last_in - first_out, 0, "seconds");
  }

  C& ranks_;
  D& device_;
};

}  // namespace detail

/// Tries a communicator's calls on numbers in a device's memory, up to `largest` at once. All ranks call it, each has a
/// report of its own; they run on one machine, whose clock tells what a barrier does.
template <Communicator C, Device D>
law_report check_communicator(C& ranks, D& device, index largest = 100000) {
  detail::communicator_trial<C, D> trial(ranks, device);
  trial.run(largest);
  return trial.report;
}

}  // namespace distil_xlstm::testing
