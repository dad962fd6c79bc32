#pragma once

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

namespace detail {

/// Rows of x seen as rows * groups short rows of `width`; statistics of each: mean and 1 / sqrt(var + eps).
template <class T>
struct norm_view {
  index groups, width;
  bool subtract_mean, residual_weight;
  T epsilon;
  const T* weight;  ///< [groups * width]; the scale is 1 + w where `residual_weight`
  DISTIL_XLSTM_HD index row(index r) const { return r / groups; }
  DISTIL_XLSTM_HD index column(index r) const { return r % groups * width; }
  template <class V>
  DISTIL_XLSTM_HD V scale(index column) const {
    return V(residual_weight ? T(1) : T(0)) + math::load<V>(weight + column);
  }
};

template <class T>
struct norm_mean {
  using scalar = T;
  norm_view<T> n;
  matrix_view<const T> x;
  T* statistics;  ///< [rows * groups, 2]
  template <class V>
  struct acc {
    V sum;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {V(0)};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    a.sum = a.sum + math::load<V>(x.row(n.row(r)) + n.column(r) + c);
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const { into.sum += from.sum; }
  DISTIL_XLSTM_HD void finish(index r, const acc<T>& a) const {
    statistics[2 * r] = a.sum / static_cast<T>(n.width);
  }
};

/// The second pass: the biased variance about the mean (two passes lose no digits when the mean is large).
template <class T>
struct norm_variance {
  using scalar = T;
  norm_view<T> n;
  matrix_view<const T> x;
  T* statistics;
  template <class V>
  struct acc {
    V sum;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {V(0)};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    const V u = math::load<V>(x.row(n.row(r)) + n.column(r) + c) - V(statistics[2 * r]);
    a.sum = a.sum + u * u;
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const { into.sum += from.sum; }
  DISTIL_XLSTM_HD void finish(index r, const acc<T>& a) const {
    using std::sqrt;
    statistics[2 * r + 1] = T(1) / sqrt(a.sum / static_cast<T>(n.width) + n.epsilon);
  }
};

template <class T>
struct norm_apply {
  using scalar = T;
  norm_view<T> n;
  matrix_view<const T> x;
  const T* statistics;
  matrix_view<T> y;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const index row = n.row(r), column = n.column(r) + c;
    const V u = (math::load<V>(x.row(row) + column) - V(statistics[2 * r])) * V(statistics[2 * r + 1]);
    math::store<V>(y.row(row) + column, n.template scale<V>(column) * u);
  }
};

/// mean(g) and mean(g u) of each short row, g = scale dy, u the normalised x.
template <class T>
struct norm_gradient_means {
  using scalar = T;
  norm_view<T> n;
  matrix_view<const T> x;
  const T* statistics;
  matrix_view<const T> dy;
  T* means;  ///< [rows * groups, 2]
  template <class V>
  struct acc {
    V g, gu;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {V(0), V(0)};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    const index row = n.row(r), column = n.column(r) + c;
    const V u = (math::load<V>(x.row(row) + column) - V(statistics[2 * r])) * V(statistics[2 * r + 1]);
    const V g = n.template scale<V>(column) * math::load<V>(dy.row(row) + column);
    a.g = a.g + g;
    a.gu = a.gu + g * u;
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const { into.g += from.g, into.gu += from.gu; }
  DISTIL_XLSTM_HD void finish(index r, const acc<T>& a) const {
    means[2 * r] = n.subtract_mean ? a.g / static_cast<T>(n.width) : T(0);
    means[2 * r + 1] = a.gu / static_cast<T>(n.width);
  }
};

template <class T>
struct norm_backward {
  using scalar = T;
  norm_view<T> n;
  matrix_view<const T> x;
  const T* statistics;
  matrix_view<const T> dy;
  const T* means;
  matrix_view<T> dx;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const index row = n.row(r), column = n.column(r) + c;
    const V rs(statistics[2 * r + 1]);
    const V u = (math::load<V>(x.row(row) + column) - V(statistics[2 * r])) * rs;
    const V g = n.template scale<V>(column) * math::load<V>(dy.row(row) + column);
    math::store<V>(dx.row(row) + column, rs * (g - V(means[2 * r]) - u * V(means[2 * r + 1])));
  }
};

/// dw[c] += sum over rows of dy u.
template <class T>
struct norm_weight_gradient {
  using scalar = T;
  norm_view<T> n;
  matrix_view<const T> x;
  const T* statistics;
  matrix_view<const T> dy;
  T* dw;
  index group;
  template <class V>
  struct acc {
    V sum;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {V(0)};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    const index column = group * n.width + c;
    const T* s = statistics + 2 * (r * n.groups + group);
    a.sum = a.sum + math::load<V>(dy.row(r) + column) * (math::load<V>(x.row(r) + column) - V(s[0])) * V(s[1]);
  }
  template <class V>
  DISTIL_XLSTM_HD void finish(index c, const acc<V>& a) const {
    T* p = dw + group * n.width + c;
    math::store<V>(p, math::load<V>(p) + a.sum);
  }
};

}  // namespace detail

template <class Pointer>
struct norm_params {
  Pointer weight;
};
template <class T>
struct norm_tape {
  T* statistics;
};

/// How a norm divides and scales.
struct norm_kind {
  bool subtract_mean;    ///< LayerNorm; false: RMSNorm
  bool residual_weight;  ///< the scale is 1 + w, w stored from 0 (Family A); false: w
};

/// y = scale (x - mean) / sqrt(variance + eps), over each of `groups` equal parts of a row; biased variance, no
/// bias. One group is the LayerNorm / RMSNorm of a row, several are the reference's MultiHeadLayerNorm.
template <norm_kind Kind, index Width = dynamic>
struct norm {
  [[no_unique_address]] extent<Width> width{};
  index groups = 1;
  double epsilon = 1e-5;

  constexpr auto width_in() const { return width; }
  constexpr auto width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(width % groups == 0, "norm: ", groups, " groups do not divide the width ", index(width));
    return norm_params<typename L::pointer>{
        l.tensor("weight", {width}, initial::constant(Kind.residual_weight ? 0.0 : 1.0))};
  }
  template <class L>
  nothing state(L&) const {
    return {};
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    return norm_tape<typename L::scalar>{l.tensor("statistics", {seq.rows(), groups, 2})};
  }

  template <class D, class P, class K, class T>
  void forward(D& d, const P& p, const K& k, matrix_view<const T> x, matrix_view<T> y) const {
    const auto n = view<T>(p.weight);
    const index rows = x.rows * groups;
    if constexpr (Kind.subtract_mean)
      fold_rows(d, rows, n.width, detail::norm_mean<T>{n, x, k.statistics});
    else
      scan(d, (rows + 4095) / 4096, zero_means<T>{rows, k.statistics});
    fold_rows(d, rows, n.width, detail::norm_variance<T>{n, x, k.statistics});
    map(d, rows, n.width, detail::norm_apply<T>{n, x, k.statistics, y});
  }
  template <class D, class P, class G, class K, class T>
  void backward(D& d, const P& p, const G& g, const K& k, matrix_view<const T> x, matrix_view<const T> dy,
                matrix_view<T> dx) const {
    const auto n = view<T>(p.weight);
    const index rows = x.rows * groups;
    auto means = d.template scratch<T>(2 * rows);
    fold_rows(d, rows, n.width, detail::norm_gradient_means<T>{n, x, k.statistics, dy, means.data()});
    for (index a = 0; a < groups; ++a)
      fold_columns(d, x.rows, n.width, detail::norm_weight_gradient<T>{n, x, k.statistics, dy, g.weight, a});
    map(d, rows, n.width, detail::norm_backward<T>{n, x, k.statistics, dy, means.data(), dx});
  }

  template <class D, class P, class S, class K, class T>
  void forward(D& d, sequence_view, const P& p, const S&, const K& k, matrix_view<const T> x,
               matrix_view<T> y) const {
    forward(d, p, k, x, y);
  }
  template <class D, class P, class G, class K, class T>
  void backward(D& d, sequence_view, const P& p, const G& g, const K& k, matrix_view<const T> x,
                matrix_view<const T> dy, matrix_view<T> dx) const {
    backward(d, p, g, k, x, dy, dx);
  }

  /// The norm as functors see it; for layers that fuse it with their own element-wise part.
  template <class T>
  detail::norm_view<T> view(const T* weight) const {
    return {groups, width / groups, Kind.subtract_mean, Kind.residual_weight, static_cast<T>(epsilon), weight};
  }

 private:
  template <class T>
  struct zero_means {
    index rows;
    T* statistics;
    DISTIL_XLSTM_HD void operator()(index part) const {
      for (index r = part * 4096; r < rows && r < (part + 1) * 4096; ++r) statistics[2 * r] = 0;
    }
  };
};

/// LayerNorm with scale 1 + w and no bias, as Family A stores it.
template <index Width = dynamic>
using layer_norm = norm<norm_kind{true, true}, Width>;
/// LayerNorm with a plain weight (Family B's head norm).
template <index Width = dynamic>
using plain_layer_norm = norm<norm_kind{true, false}, Width>;
/// RMSNorm: y = w x / sqrt(mean(x²) + eps).
template <index Width = dynamic>
using rms_norm = norm<norm_kind{false, false}, Width>;

}  // namespace distil_xlstm
