#pragma once

#include <type_traits>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/math/activation.hpp>
#include <distil_xlstm/op/norm/op.hpp>

namespace distil_xlstm {

namespace detail {

/// y = (norm(h) + skip a) SiLU(z), norm(h) = scale u
struct mlstm_output {
  template <class V>
  DISTIL_XLSTM_HD V operator()(V scale, V u, V skip, V a, V z) const {
    return (scale * u + skip * a) * z * math::sigmoid(z);
  }
};
/// Its gradients by norm(h), a and z.
struct mlstm_output_gradients {
  template <class V>
  struct gradients {
    V norm, a, z;
  };
  template <class V>
  DISTIL_XLSTM_HD gradients<V> operator()(V scale, V u, V skip, V a, V z, V dy) const {
    const auto gate = math::silu(z);
    const V dnorm = dy * gate.value;
    return {dnorm, dnorm * skip, dy * (scale * u + skip * a) * gate.slope};
  }
};

}  // namespace detail

/// The gradients of y = (norm(h) + skip a) SiLU(z), all matrices [rows, inner]. `Z`: what dz is stored as.
template <class T, class Z = T>
struct mlstm_output_backward_arguments {
  norm_view<T> norm;  ///< of h; inner = groups * width
  const T* skip;      ///< [inner]
  /// @{ As forward read them.
  matrix_view<const T> h, a, z;
  /// @}
  const T* statistics;  ///< as forward left them
  matrix_view<T> dy;    ///< of y; used as scratch
  /// @{ Overwritten.
  matrix_view<T> dh, da;
  matrix_view<Z> dz;
  /// @}
  /// @{ [inner], of the norm's weight and of `skip`: added to.
  T *dweight, *dskip;
  /// @}
};

/// The default of any device.
template <class D, class T, class Z>
void mlstm_output_backward(D& d, const mlstm_output_backward_arguments<T, Z>& a) {
  if constexpr (!std::is_same_v<Z, T>) {
    const auto memory = scratch_matrices<T>(d, a.dz.rows, a.dz.cols);
    const matrix_view<T> dz = memory.views[0];
    mlstm_output_backward(d, mlstm_output_backward_arguments<T>{a.norm, a.skip, a.h, a.a, a.z, a.statistics,
                                                                a.dy, a.dh, a.da, dz, a.dweight, a.dskip});
    return transform(d, a.dz, math::identity{}, dz);
  } else {
    transform_groups(d, a.norm.groups, outputs{a.dy, a.da, a.dz}, detail::mlstm_output_gradients{},
                     norm_scale<T>{a.norm}, normalised<T>{a.h, a.statistics}, broadcast(a.skip), a.a, a.z,
                     a.dy);
    add_column_sums(d, a.dskip, math::times{}, a.dy, a.a);
    norm_backward(d, a.norm, a.h, a.statistics, matrix_view<const T>(a.dy), a.dweight, a.dh);
  }
}

}  // namespace distil_xlstm
