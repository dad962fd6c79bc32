#pragma once

#include <distil_xlstm/device/cpu/machine.hpp>
#include <distil_xlstm/op/slstm/op.hpp>

namespace distil_xlstm::device {

namespace detail {

/// f.operator()<V>(c) over columns 0 .. n-1: packs, then the rest one by one.
template <class T, class F>
void columns(index n, const F& f) {
  index c = 0;
  for (; c + pack<T>::width <= n; c += pack<T>::width) f.template operator()<pack<T>>(c);
  for (; c < n; ++c) f.template operator()<T>(c);
}

}  // namespace detail

/// One head a task: its recurrent matrix stays in the core's cache, every step is one product over the batch.
template <Precision P, class T>
void slstm_forward(basic_cpu<P>& device, const slstm_arguments<T>& a) {
  const index batch = a.seq.batch, time = a.seq.time, width = a.width(), head = a.head_dim;
  device.tasks(a.heads, [&](index task, cpu_base::worker& w) {
    const index first = task * head;
    auto memory = w.template scratch<T>(5 * batch * head + 4 * head);
    T *previous = memory.data(), *product = previous + batch * head, *zeros = product + 4 * batch * head;
    std::fill(zeros, zeros + head, T(0));
    const T* r = a.recurrent + first * 4 * head;
    for (index b = 0; b < batch; ++b)
      for (index s = 0; s < 4; ++s)
        std::copy_n(a.state.of(b) + s * width + first, head, a.initial + (b * 4 + s) * width + first);
    for (index t = 0; t < time; ++t) {
      for (index b = 0; b < batch; ++b) {
        const T* before = distil_xlstm::detail::slstm_before<T>(a, b, t);
        std::copy_n(before ? before + first : zeros, head, previous + b * head);
      }
      gemm_block<T>(batch, 4 * head, head, {previous, head, dtype_of<T>, false}, {r, head, dtype_of<T>, true},
                    T(0), product, 4 * head, w.template packing<T>());
      for (index b = 0; b < batch; ++b) {
        T* raw = a.raw.row(b * time + t) + first;
        T* out = a.states.row(b * time + t) + first;
        const T* before = distil_xlstm::detail::slstm_before<T>(a, b, t);
        const T* c0 = before ? before + first + width : zeros;
        const T* n0 = before ? before + first + 2 * width : zeros;
        const T* m0 = before ? before + first + 3 * width : zeros;
        const T *ry = product + b * 4 * head, *bias = a.bias + first;
        detail::columns<T>(head, [&]<class V>(index j) {
          V pre[4];
          for (index g = 0; g < 4; ++g) {
            pre[g] = math::load<V>(raw + g * width + j) + math::load<V>(ry + g * head + j) +
                     math::load<V>(bias + g * width + j);
            math::store<V>(raw + g * width + j, pre[g]);
          }
          const auto s = math::slstm_cell<V>(pre[0], pre[1], pre[2], pre[3], math::load<V>(c0 + j),
                                             math::load<V>(n0 + j), math::load<V>(m0 + j));
          math::store<V>(out + j, s.h);
          math::store<V>(out + width + j, s.c);
          math::store<V>(out + 2 * width + j, s.n);
          math::store<V>(out + 3 * width + j, s.m);
        });
      }
    }
    for (index b = 0; b < batch; ++b)
      for (index s = 0; s < 4; ++s)
        std::copy_n(a.states.row(b * time + time - 1) + s * width + first, head,
                    a.state.of(b) + s * width + first);
  });
}

template <Precision P, class T>
void slstm_backward(basic_cpu<P>& device, const slstm_backward_arguments<T>& a, T* carry) {
  const index batch = a.seq.batch, time = a.seq.time, width = a.width(), head = a.head_dim;
  device.tasks(a.heads, [&](index task, cpu_base::worker& w) {
    const index first = task * head;
    auto memory = w.template scratch<T>(5 * batch * head + head + 4 * head * head);
    T *gates = memory.data(), *dh = gates + 4 * batch * head, *zeros = dh + batch * head,
      *transposed = zeros + head;
    std::fill(zeros, zeros + head, T(0));
    const T* r = a.recurrent + first * 4 * head;  // [4 head, head], transposed so that products read rows
    for (index o = 0; o < 4 * head; ++o)
      for (index k = 0; k < head; ++k) transposed[k * 4 * head + o] = r[o * head + k];
    for (index b = 0; b < batch; ++b) std::copy_n(carry + b * 3 * width + first, head, dh + b * head);
    for (index t = time - 1; t >= 0; --t) {
      for (index b = 0; b < batch; ++b) {
        const index row = b * time + t;
        T* raw = a.raw.row(row) + first;
        const T* above = a.dh.row(row) + first;
        const T* before = distil_xlstm::detail::slstm_before<T>(a, b, t);
        const T* c0 = before ? before + first + width : zeros;
        const T* n0 = before ? before + first + 2 * width : zeros;
        const T* m0 = before ? before + first + 3 * width : zeros;
        T *dc = carry + b * 3 * width + width + first, *dn = dc + width, *g_row = gates + b * 4 * head;
        const T keep = before ? T(1) : T(0);  // nothing flows into the document before
        const T* dh_row = dh + b * head;
        detail::columns<T>(head, [&]<class V>(index j) {
          const V c = math::load<V>(c0 + j), n = math::load<V>(n0 + j);
          const auto s = math::slstm_cell<V>(math::load<V>(raw + j), math::load<V>(raw + width + j),
                                             math::load<V>(raw + 2 * width + j),
                                             math::load<V>(raw + 3 * width + j), c, n, math::load<V>(m0 + j));
          const auto g =
              math::slstm_cell_backward<V>(s, c, n, math::load<V>(dh_row + j) + math::load<V>(above + j),
                                           math::load<V>(dc + j), math::load<V>(dn + j));
          const V each[4] = {g.i, g.f, g.z, g.o};
          for (index q = 0; q < 4; ++q) {
            math::store<V>(raw + q * width + j, each[q]);
            math::store<V>(g_row + q * head + j, V(keep) * each[q]);
          }
          math::store<V>(dc + j, V(keep) * g.c);
          math::store<V>(dn + j, V(keep) * g.n);
        });
      }
      gemm_block<T>(batch, head, 4 * head, {gates, 4 * head, dtype_of<T>, false},
                    {transposed, 4 * head, dtype_of<T>, true}, T(0), dh, head, w.template packing<T>());
    }
    for (index b = 0; b < batch; ++b) std::copy_n(dh + b * head, head, carry + b * 3 * width + first);
  });
}

}  // namespace distil_xlstm::device
