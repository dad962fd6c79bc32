#pragma once

#include <cstdint>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/teacher_source.hpp>

namespace distil_xlstm {

/// Hidden states made of the window and the place: a teacher whose signals are known without running one.
template <class T>
struct invented_teacher final : teacher_source<T, device::cpu> {
  index number_of_layers;
  T scale = 1;  ///< of all
  explicit invented_teacher(index layers = 5) : number_of_layers(layers) {}
  index layers() const override { return number_of_layers; }
  void fill(device::cpu&, const std::vector<index>& which, const device_batch<device::cpu>& tokens,
            const teacher_signals<T>& out) override {
    for (std::size_t s = 0; s <= out.targets.size(); ++s) {
      const matrix_view<T> to = s == 0 ? out.last_hidden : out.targets[s - 1].mean;
      const index time = tokens.view().time;
      for (index r = 0; r < tokens.view().rows(); ++r)
        for (index c = 0; c < to.cols; ++c) {
          rng number(static_cast<std::uint64_t>(which[static_cast<std::size_t>(r / time)] * 1000003 +
                                                r % time * 1009 + c * 31 + static_cast<index>(s) * 7));
          to.row(r)[c] = scale * static_cast<T>(number.normal());
        }
    }
  }
};

}  // namespace distil_xlstm
