#pragma once

#include <type_traits>

#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/device/cuda/verbs.cuh>
#include <distil_xlstm/op/gated_mix/op.hpp>

namespace distil_xlstm::device {

namespace detail {

constexpr int gated_mix_threads = 256, gated_mix_heads = 2;
/// `Lanes` neighbouring threads have `gated_mix_heads` heads, of one row or two, four columns of each at a time.
template <int Lanes, class R, class H>
__global__ void __launch_bounds__(gated_mix_threads)
    gated_mix_kernel(earlier_kernels earlier, gated_mix_arguments<float, R> a, matrix_view<H> h, unsigned count,
                     int width) {
  constexpr unsigned each = gated_mix_threads / Lanes;
  earlier.wait();
  const unsigned heads = static_cast<unsigned>(a.heads),
                 first = blockIdx.x * gated_mix_heads * each + threadIdx.x / Lanes;
  const int lane = static_cast<int>(threadIdx.x % Lanes);
  for (int c = 4 * lane; c < width; c += 4 * Lanes) {
    float4 r[gated_mix_heads], w[gated_mix_heads];
    float gate[gated_mix_heads];
    const auto each_head = [&](const auto& f) {
#pragma unroll
      for (int k = 0; k < gated_mix_heads; ++k) {
        const unsigned i = first + static_cast<unsigned>(k) * each;
        if (i < count) f(k, i / heads, i % heads);
      }
    };
    each_head([&](int k, index row, index head) {
      r[k] = load4(a.r.row(row) + head * width + c), w[k] = load4(a.w.row(row) + head * width + c);
      gate[k] = a.gate.row(row)[head];
    });
    each_head([&](int k, index row, index head) {
      const float4 apart{r[k].x - w[k].x, r[k].y - w[k].y, r[k].z - w[k].z, r[k].w - w[k].w};
      store4_global(h.row(row) + head * width + c, add_product(w[k], math::sigmoid(gate[k]), apart));
    });
  }
}

/// `Lanes` neighbouring threads have a head of a row, four columns each at a time.
template <int Lanes, bool Vectorised, class H, class R>
__global__ void __launch_bounds__(gated_mix_threads)
    gated_mix_backward_kernel(gated_mix_backward_arguments<float, H, R> g, unsigned count, int width) {
  constexpr unsigned each = gated_mix_threads / Lanes;
  const gated_mix_arguments<float, R>& a = g.forward;
  const unsigned heads = static_cast<unsigned>(a.heads), part = threadIdx.x / Lanes;
  const int lane = static_cast<int>(threadIdx.x % Lanes);
  for (unsigned first = blockIdx.x * each; first < count; first += gridDim.x * each) {
    const unsigned i = first + part;
    float4 sum{0, 0, 0, 0};
    float o = 0;
    if (i < count) {
      const index row = i / heads, at = static_cast<index>(i % heads) * width;
      const R* r = a.r.row(row) + at;
      const float* w = a.w.row(row) + at;
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

/// Whether four numbers of a head are read, or written, in one access.
template <class H>
bool mixes_in_fours(matrix_view<H> m, index width) {
  return width % 4 == 0 && m.stride % 4 == 0 && is_aligned(m.data, static_cast<int>(4 * sizeof(H)));
}
/// Heads of all rows, and their columns, fit into 32 bits, and so does the number of the next block's first.
inline bool mixes_in_32_bits(index count, index width) {
  constexpr index most = index{1} << 31;
  return count < most && width < most;
}

}  // namespace detail

/// In float four columns at a time, where addresses allow it.
template <Precision P, class T, class R, class H>
void gated_mix_forward(basic_cuda<P>& device, const gated_mix_arguments<T, R>& a, matrix_view<H> h) {
  if constexpr (std::is_same_v<T, float>) {
    const index count = h.rows * a.heads;
    if (count == 0) return;
    const index width = h.cols / a.heads;
    if (detail::mixes_in_32_bits(count, width) && detail::mixes_in_fours(a.r, width) &&
        detail::mixes_in_fours(a.w, width) && detail::mixes_in_fours(h, width)) {
      const auto run = [&]<int Lanes>() {
        constexpr index each = detail::gated_mix_heads * detail::gated_mix_threads / Lanes;
        distil_xlstm::detail::tell_written(device.operand_copies(), outputs{h});
        detail::enqueue(device, "a gated mix",
                        {static_cast<unsigned>(detail::blocks_for(count, each)), detail::gated_mix_threads},
                        detail::gated_mix_kernel<Lanes, R, H>, a, h, static_cast<unsigned>(count),
                        static_cast<int>(width));
      };
      return width <= 64 ? run.template operator()<16>() : run.template operator()<32>();
    }
  }
  distil_xlstm::gated_mix_forward<basic_cuda<P>, T, R, H>(device, a, h);
}

/// In float all gradients in one pass over r, w and dh.
template <Precision P, class T, class H, class R>
void gated_mix_backward(basic_cuda<P>& device, const gated_mix_backward_arguments<T, H, R>& g) {
  if constexpr (std::is_same_v<T, float>) {
    const index heads = g.forward.heads, count = g.dh.rows * heads;
    if (count == 0) return;
    const index width = g.dh.cols / heads;
    if (detail::mixes_in_32_bits(count, width)) {
      const auto run = [&]<int Lanes, bool Vectorised>() {
        detail::enqueue(
            device, "a gated mix's gradients",
            {detail::grid_size(count, detail::gated_mix_threads / Lanes, 1 << 20), detail::gated_mix_threads},
            detail::gated_mix_backward_kernel<Lanes, Vectorised, H, R>, g, static_cast<unsigned>(count),
            static_cast<int>(width));
      };
      auto& copies = device.operand_copies();
      distil_xlstm::detail::tell_written(copies, outputs{g.dr});
      distil_xlstm::detail::tell_written(copies, outputs{g.dw, g.dgate});
      if (g.h.data) distil_xlstm::detail::tell_written(copies, outputs{g.h});
      const auto fours = [&](const auto& m) { return detail::mixes_in_fours(m, width); };
      const bool vectorised = fours(g.forward.r) && fours(g.forward.w) && fours(g.dw) && fours(g.dh) &&
                              fours(g.dr) && (!g.h.data || fours(g.h));
      if (width <= 64)
        return vectorised ? run.template operator()<16, true>() : run.template operator()<16, false>();
      return vectorised ? run.template operator()<32, true>() : run.template operator()<32, false>();
    }
  }
  distil_xlstm::gated_mix_backward<basic_cuda<P>, T, H, R>(device, g);
}

}  // namespace distil_xlstm::device
