#pragma once

#include <cstddef>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/op/attention/op.hpp>

namespace distil_xlstm {

/// How far back attention looks: of each query and head, over the keys at least `beyond` tokens back that are not
/// among their document's first `sinks`, the mass sum_s p_ts and sum_s p_ts (t - s).
template <class T>
struct attention_reach_arguments {
  attention_arguments<T> attention;  ///< without a window; y is not written
  /// @{ Tokens.
  index beyond = 0, sinks = 0;
  /// @}
  index from = 0;       ///< the first query of each sequence that counts; the rows before become 0
  matrix_view<T> sums;  ///< [rows, 2 heads]: a head's two side by side
};

namespace detail {

/// One token and head a task.
template <class T>
struct attention_reach_task {
  attention_reach_arguments<T> r;
  DISTIL_XLSTM_HD void operator()(index task) const {
    const auto& a = r.attention;
    const index row = task / a.shape.heads, head = task % a.shape.heads, n = a.shape.width;
    const index b = row / a.seq.time, t = row % a.seq.time, kv = head / a.shape.group(), first = a.first(b, t);
    T mass = 0, distance = 0;
    auto total = math::log_sum_exp<T>::empty();
    for (index s = first; s <= t && t >= r.from; ++s) {
      const auto p = math::push(total, a.scale() * dot_product(a.q.row(row) + head * n, a.key(b, kv, s), n));
      const T weight = t - s >= r.beyond && s - first >= r.sinks ? p.weight : T(0);
      mass = mass * p.keep + weight, distance = distance * p.keep + weight * static_cast<T>(t - s);
    }
    const T all = t >= r.from ? total.sum : T(1);
    r.sums.row(row)[2 * head] = mass / all, r.sums.row(row)[2 * head + 1] = distance / all;
  }
};

}  // namespace detail

/// Writes `sums`. The default of any device.
template <class D, class T>
void write_attention_reach(D& d, const attention_reach_arguments<T>& r) {
  parallel_for(d, r.attention.seq.rows() * r.attention.shape.heads, detail::attention_reach_task<T>{r});
}

/// How far back a head looks, on average over queries.
struct head_reach {
  /// @{ The mass of its attention, and the distance of that mass in tokens (0 where there is none).
  double mass, distance;
  /// @}
};

/// The reach of each head over the queries from `from` on. What a recurrent memory beside a window of `beyond` tokens
/// and `sinks` starts from: it takes over so much, and from so far. Waits for the device. Throws `error` where there
/// is a window already, or no query.
template <class D, class T>
std::vector<head_reach> attention_reach(D& d, const attention_arguments<T>& a, index beyond, index sinks,
                                        index from) {
  const index rows = a.seq.rows(), heads = a.shape.heads, queries = a.seq.batch * (a.seq.time - from);
  require(a.shape.window == 0, "attention_reach: attention has a window of ", a.shape.window,
          " tokens already");
  require(from >= 0 && queries > 0, "attention_reach: there is no query from token ", from, " on of ",
          a.seq.time);
  auto memory = d.template scratch<T>((rows + 1) * 2 * heads);
  const matrix_view<T> sums(memory.data(), rows, 2 * heads), totals(sums.row(rows), 1, 2 * heads);
  write_attention_reach(d, attention_reach_arguments<T>{a, beyond, sinks, from, sums});
  fill(d, totals);
  add_column_sums(d, matrix_view<const T>(sums), totals.data);
  std::vector<T> host(static_cast<std::size_t>(totals.cols));
  d.download(host.data(), totals.data, totals.cols * static_cast<index>(sizeof(T)));
  std::vector<head_reach> out;
  for (std::size_t h = 0; h < host.size(); h += 2) {
    const auto mass = static_cast<double>(host[h]), distance = static_cast<double>(host[h + 1]);
    out.push_back({mass / static_cast<double>(queries), mass > 0 ? distance / mass : 0});
  }
  return out;
}

}  // namespace distil_xlstm
