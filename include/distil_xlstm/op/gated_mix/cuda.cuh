#pragma once

#include <type_traits>

#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/gated_mix/op.hpp>

namespace distil_xlstm::device {

namespace detail {

constexpr int gated_mix_threads = 256;
/// `Lanes` neighbouring threads have a head of a row, four columns each at a time.
template <int Lanes, bool Vectorised, class H>
__global__ void __launch_bounds__(gated_mix_threads)
    gated_mix_backward_kernel(gated_mix_backward_arguments<float, H> g, unsigned count, int width) {
  constexpr unsigned each = gated_mix_threads / Lanes;
  const gated_mix_arguments<float>& a = g.forward;
  const unsigned heads = static_cast<unsigned>(a.heads), part = threadIdx.x / Lanes;
  const int lane = static_cast<int>(threadIdx.x % Lanes);
  for (unsigned first = blockIdx.x * each; first < count; first += gridDim.x * each) {
    const unsigned i = first + part;
    float4 sum{0, 0, 0, 0};
    float o = 0;
    if (i < count) {
      const index row = i / heads, at = static_cast<index>(i % heads) * width;
      const float *r = a.r.row(row) + at, *w = a.w.row(row) + at;
      const H* dh = g.dh.row(row) + at;
      float* dw = g.dw.row(row) + at;
      H *dr = g.dr.row(row) + at, *h = g.h.data ? g.h.row(row) + at : nullptr;
      int c = 4 * lane;
      float4 d, x, y;
      const auto load = [&] {
        if (c < width)
          d = load4(dh, c, width, Vectorised), x = load4(r, c, width, Vectorised),
          y = load4(w, c, width, Vectorised);
      };
      const auto store = [&](auto* to, float4 four) {
        if constexpr (Vectorised)
          store4_global(to + c, four);
        else
          store4(to, c, width, false, four);
      };
      load();  // on its way before the gate is waited for
      o = math::sigmoid(a.gate.row(row)[i % heads]);
#pragma unroll 1
      while (c < width) {
        store(dr, {o * d.x, o * d.y, o * d.z, o * d.w});
        store(dw, add_product(d, -o, d));
        const float4 apart{x.x - y.x, x.y - y.y, x.z - y.z, x.w - y.w};
        if (h) store(h, add_product(y, o, apart));
        sum = add_product(sum, d, apart);
        c += 4 * Lanes;
        load();
      }
    }
    const float total = warp_sum<Lanes>(sum.x + sum.y + sum.z + sum.w);
    if (i < count && lane == 0) g.dgate.row(i / heads)[i % heads] = o * (1 - o) * total;
  }
}

}  // namespace detail

/// In float all gradients in one pass over r, w and dh.
template <Precision P, class T, class H>
void gated_mix_backward(basic_cuda<P>& device, const gated_mix_backward_arguments<T, H>& g) {
  if constexpr (std::is_same_v<T, float>) {
    const index heads = g.forward.heads, count = g.dh.rows * heads;
    if (count == 0) return;
    const index width = g.dh.cols / heads;
    constexpr index most = index{1} << 31;  // a head's number and the next block's first fit into 32 bits
    if (count < most && width < most) {
      const auto run = [&]<int Lanes, bool Vectorised>() {
        detail::enqueue(
            device, "a gated mix's gradients",
            {detail::grid_size(count, detail::gated_mix_threads / Lanes, 1 << 20), detail::gated_mix_threads},
            detail::gated_mix_backward_kernel<Lanes, Vectorised, H>, g, static_cast<unsigned>(count),
            static_cast<int>(width));
      };
      auto& copies = device.operand_copies();
      distil_xlstm::detail::tell_written(copies, outputs{g.dr});
      distil_xlstm::detail::tell_written(copies, outputs{g.dw, g.dgate});
      if (g.h.data) distil_xlstm::detail::tell_written(copies, outputs{g.h});
      const auto fours = [](const auto& m) {
        return m.stride % 4 == 0 && detail::is_aligned(m.data, static_cast<int>(4 * sizeof(H)));
      };
      const bool vectorised = detail::is_vectorised(g.forward.r, width) &&
                              detail::is_vectorised(g.forward.w, width) && detail::is_vectorised(g.dw, width) &&
                              fours(g.dh) && fours(g.dr) && (!g.h.data || fours(g.h));
      if (width <= 64)
        return vectorised ? run.template operator()<16, true>() : run.template operator()<16, false>();
      return vectorised ? run.template operator()<32, true>() : run.template operator()<32, false>();
    }
  }
  distil_xlstm::gated_mix_backward<basic_cuda<P>, T, H>(device, g);
}

}  // namespace distil_xlstm::device
