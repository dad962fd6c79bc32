#pragma once

#include <concepts>
#include <cstdint>

#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/pack.cuh>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm::device {

namespace detail {

template <class F>
concept CudaFunctor = std::floating_point<typename F::scalar>;

/// What a thread of a map computes at once: a pack of columns, or one column of an f with a `single_columns`, which
/// is bound by arithmetic, not by memory.
template <class F>
struct map_value {
  using type = cuda_pack<typename F::scalar>;
};
template <class F>
requires F::single_columns struct map_value<F> {
  using type = typename F::scalar;
};
template <class F>
constexpr index map_width = math::numeric_traits<typename map_value<F>::type>::width;

/// A thread has a pack of columns, or the few that are left of a row.
template <class F>
__global__ void map_kernel(earlier_kernels earlier, F f, index rows, index cols) {
  using T = typename F::scalar;
  using V = typename map_value<F>::type;
  constexpr index width = map_width<F>;
  const index first = (static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x) * width;
  const index step = static_cast<index>(gridDim.x) * blockDim.x * width;
  const index row = static_cast<index>(blockIdx.y) * blockDim.y + threadIdx.y;
  earlier.wait([&] {
    if constexpr (requires { f.prefetch(row, first); })
      if (row < rows && first < cols) f.prefetch(row, first);
  });
  for (index r = row; r < rows; r += static_cast<index>(gridDim.y) * blockDim.y)
    for (index c = first; c < cols; c += step)
      if (c + width <= cols)
        f.template operator()<V>(r, c);
      else
#pragma unroll 1
        for (index rest = c; rest < cols; ++rest) f.template operator()<T>(r, rest);
}

/// Lane `lane` of an aggregate of packs, as the aggregate of scalars.
template <class Narrow, class T, class Wide>
__device__ Narrow lane_of(const Wide& wide, int lane) {
  constexpr int width = static_cast<int>(cuda_pack<T>::width),
                members = static_cast<int>(sizeof(Narrow) / sizeof(T));
  static_assert(
      sizeof(Wide) == members * sizeof(cuda_pack<T>),
      "distil_xlstm::fold_rows(device, rows, cols, f): f's acc<V> must hold V's only; write V instead of "
      "float or int");
  Narrow narrow;
#pragma unroll
  for (int m = 0; m < members; ++m)
    reinterpret_cast<T*>(&narrow)[m] = reinterpret_cast<const T*>(&wide)[m * width + lane];
  return narrow;
}

/// `Threads` threads, whole warps, fold a row, a pack of columns each; several rows a block where a row is a
/// warp's.
template <int Threads, class F>
__global__ void fold_rows_kernel(F f, index rows, index cols) {
  using T = typename F::scalar;
  using V = cuda_pack<T>;
  using acc = typename F::template acc<T>;
  constexpr int block = Threads < 256 ? 256 : Threads, each = block / Threads;
  __shared__ alignas(acc) unsigned char memory[block * sizeof(acc)];
  acc* all = reinterpret_cast<acc*>(memory);
  const int lane = static_cast<int>(threadIdx.x) % Threads, part = static_cast<int>(threadIdx.x) / Threads;
  const index packed = cols / V::width * V::width;
  for (index first = static_cast<index>(blockIdx.x) * each; first < rows;
       first += static_cast<index>(gridDim.x) * each) {
    const index r = first + part;
    acc mine = f.template init<T>();
    if (r < rows) {
      if (lane * V::width < packed) {
        auto wide = f.template init<V>();
        for (index c = lane * V::width; c < packed; c += Threads * V::width) f.template visit<V>(wide, r, c);
        mine = lane_of<acc, T>(wide, 0);
#pragma unroll
        for (int i = 1; i < V::width; ++i) f.merge(mine, lane_of<acc, T>(wide, i));
      }
#pragma unroll 1
      for (index c = packed + lane; c < cols; c += Threads) f.template visit<T>(mine, r, c);
    }
    all[threadIdx.x] = mine;
    for (int half = Threads / 2; half > 0; half /= 2) {
      if constexpr (Threads > 32)
        __syncthreads();
      else
        __syncwarp();
      if (lane < half) {
        f.merge(mine, all[threadIdx.x + half]);
        all[threadIdx.x] = mine;
      }
    }
    if (lane == 0 && r < rows) f.finish(r, mine);
    if constexpr (Threads > 32)
      __syncthreads();
    else
      __syncwarp();
  }
}

template <class F>
using fold_acc = typename F::template acc<typename F::scalar>;

/// A block of `column_threads` threads holds `Columns` columns, side by side, and as many parts of each as fit.
/// Merges the parts, neighbours last; column x's total is in thread x.
constexpr int column_threads = 256;
template <int Columns, class F>
__device__ void join_parts(const F& f, fold_acc<F>& mine) {
  using acc = fold_acc<F>;
  __shared__ alignas(acc) unsigned char memory[column_threads * sizeof(acc)];
  acc* all = reinterpret_cast<acc*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  all[thread] = mine;
  for (int half = column_threads / 2; half >= Columns; half /= 2) {
    __syncthreads();
    if (thread >= half) continue;
    f.merge(mine, all[thread + half]);
    all[thread] = mine;
  }
}
/// A block folds its columns in a stretch of rows; the stretches' sums are left in `partial`, if there are
/// several.
template <int Columns, class F>
__global__ void __launch_bounds__(column_threads)
    fold_columns_kernel(F f, index rows, index cols, index stretch, fold_acc<F>* partial) {
  using T = typename F::scalar;
  constexpr int parts = column_threads / Columns;
  const index c = static_cast<index>(blockIdx.x) * Columns + threadIdx.x % Columns;
  const index begin = static_cast<index>(blockIdx.y) * stretch;
  const index end = begin + stretch < rows ? begin + stretch : rows;
  fold_acc<F> mine = f.template init<T>();
  if (c < cols) {
#pragma unroll 4
    for (index r = begin + threadIdx.x / Columns; r < end; r += parts) f.template visit<T>(mine, r, c);
  }
  join_parts<Columns>(f, mine);
  if (threadIdx.x >= Columns || c >= cols) return;
  if (partial)
    partial[blockIdx.y * cols + c] = mine;
  else
    f.template finish<T>(c, mine);
}
template <int Columns, class F>
__global__ void __launch_bounds__(column_threads)
    finish_columns_kernel(F f, index cols, index stretches, const fold_acc<F>* partial) {
  using T = typename F::scalar;
  const index c = static_cast<index>(blockIdx.x) * Columns + threadIdx.x % Columns;
  fold_acc<F> mine = f.template init<T>();
  if (c < cols)
    for (index p = threadIdx.x / Columns; p < stretches; p += column_threads / Columns)
      f.merge(mine, partial[p * cols + c]);
  join_parts<Columns>(f, mine);
  if (threadIdx.x < Columns && c < cols) f.template finish<T>(c, mine);
}

/// How rows are split depends on the shape alone: enough blocks for a large card, and each reads a good deal.
template <int Columns, class F>
void fold_columns_by(cuda_base& device, index rows, index cols, const F& f) {
  const index wide = blocks_for(cols, Columns);
  const index wanted = std::max<index>(1, 1056 / wide),
              longest = blocks_for(rows, 8 * column_threads / Columns);
  const index stretch = blocks_for(rows, std::clamp<index>(wanted, 1, std::max<index>(longest, 1)));
  const index stretches = std::max<index>(blocks_for(rows, std::max<index>(stretch, 1)), 1);
  auto partial = device.template scratch<fold_acc<F>>(stretches > 1 ? stretches * cols : 0);
  launch(device, "fold_columns",
         {dim3(static_cast<unsigned>(wide), static_cast<unsigned>(stretches)), column_threads},
         fold_columns_kernel<Columns, F>, f, rows, cols, stretch, stretches > 1 ? partial.data() : nullptr);
  if (stretches > 1)
    launch(device, "fold_columns", {static_cast<unsigned>(wide), column_threads},
           finish_columns_kernel<Columns, F>, f, cols, stretches, partial.data());
}

template <class F>
__global__ void parallel_for_kernel(earlier_kernels earlier, F f, index n) {
  earlier.wait();
  for (index i = static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<index>(gridDim.x) * blockDim.x)
    f(i);
}

template <class T>
__global__ void gather_rows_kernel(earlier_kernels earlier, frozen_matrix table, const std::int32_t* ids,
                                   matrix_view<T> x) {
  earlier.wait();
  const index r = blockIdx.x;
  const index from = static_cast<index>(ids[r]) * table.cols;
  T* out = x.row(r);
  for (index c = threadIdx.x; c < table.cols; c += blockDim.x) switch (table.dtype) {
      case dtype::bf16: out[c] = static_cast<T>(float(static_cast<const bf16*>(table.data)[from + c])); break;
      case dtype::f64: out[c] = static_cast<T>(static_cast<const double*>(table.data)[from + c]); break;
      default: out[c] = static_cast<T>(static_cast<const float*>(table.data)[from + c]);
    }
}

/// A row and the id that it belongs to.
struct row_of_id {
  std::int32_t id, row;
};
/// The rows by their ids, those of one id in their own order: each counts those that come before it. A block has 32
/// rows, and each of its warps looks at a part of the others.
constexpr int sort_warps = 8;
template <int Warps>
__global__ void __launch_bounds__(32 * Warps)
    sort_by_id_kernel(const std::int32_t* ids, int rows, row_of_id* sorted) {
  __shared__ int before[Warps][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int r = static_cast<int>(blockIdx.x) * 32 + lane, id = r < rows ? ids[r] : 0;
  const int each = (rows + Warps - 1) / Warps, end = min((warp + 1) * each, rows);
  int count = 0;
#pragma unroll 8
  for (int s = warp * each; s < end; ++s) {
    const int other = ids[s];
    count += other < id || (other == id && s < r);
  }
  before[warp][lane] = count;
  __syncthreads();
  if (warp > 0 || r >= rows) return;
  int place = 0;
#pragma unroll
  for (const auto& counts : before) place += counts[lane];
  sorted[place] = {id, r};
}
/// The first of an id's rows adds all of them, in order, a thread a column.
template <class T>
__global__ void __launch_bounds__(128)
    add_rows_of_ids_kernel(const row_of_id* sorted, index rows, matrix_view<const T> x, matrix_view<T> table) {
  constexpr int at_once = 16;
  const index first = blockIdx.x, c = static_cast<index>(blockIdx.y) * blockDim.x + threadIdx.x;
  const std::int32_t id = sorted[first].id;
  if (c >= x.cols || (first > 0 && sorted[first - 1].id == id)) return;
  T sum = table.row(id)[c];
  bool more = true;
  for (index at = first; more; at += at_once) {
    T values[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const row_of_id next = at + i < rows ? sorted[at + i] : row_of_id{-1, 0};
      more = next.id == id;
      values[i] = more ? x.row(next.row)[c] : T(0);
    }
#pragma unroll
    for (const T value : values) sum += value;
  }
  table.row(id)[c] = sum;
}

}  // namespace detail

/// `f.operator()<V>(r, c)` for every element, a thread a pack of columns. An f that does not say what is `written`
/// may write anything.
template <class F>
void map(cuda_base& device, index rows, index cols, const F& f) {
  static_assert(
      detail::CudaFunctor<F>,
      "distil_xlstm::map(device, rows, cols, f): f is a struct with `using scalar = float;` (or double) "
      "and `template <class V> DISTIL_XLSTM_HD void operator()(index r, index c) const`");
  if (rows == 0 || cols == 0) return;
  // A warp along a row, less where rows are shorter; one row alone has the whole block.
  const index packs = detail::blocks_for(cols, detail::map_width<F>);
  unsigned x = 1, y = 256;
  while (x < 256 && x < packs && (x < 32 || rows < y)) x *= 2, y /= 2;
  const dim3 grid(detail::grid_size(packs, x, 4096), detail::grid_size(rows, y, 16384));
  if constexpr (requires { f.written(device.operand_copies()); }) {
    detail::enqueue(device, "map", {grid, dim3(x, y)}, detail::map_kernel<F>, f, rows, cols);
    f.written(device.operand_copies());
  } else {
    detail::launch(device, "map", {grid, dim3(x, y)}, detail::map_kernel<F>, f, rows, cols);
  }
}

/// One fold a row: a warp's for short rows, a block's for long ones.
template <class F>
void fold_rows(cuda_base& device, index rows, index cols, const F& f) {
  static_assert(
      detail::CudaFunctor<F>,
      "distil_xlstm::fold_rows(device, rows, cols, f): f is a struct with `using scalar = float;` (or "
      "double), init, visit, merge and finish, as device/device.hpp says");
  if (rows == 0) return;
  if (cols <= 2048)
    detail::launch(device, "fold_rows", {detail::grid_size(rows, 8, 1 << 20), 256},
                   detail::fold_rows_kernel<32, F>, f, rows, cols);
  else
    detail::launch(device, "fold_rows", {detail::grid_size(rows, 1, 1 << 20), 512},
                   detail::fold_rows_kernel<512, F>, f, rows, cols);
}

/// One fold a column: neighbouring columns side by side, stretches of rows at once, then merged.
template <class F>
void fold_columns(cuda_base& device, index rows, index cols, const F& f) {
  static_assert(detail::CudaFunctor<F>,
                "distil_xlstm::fold_columns(device, rows, cols, f): f is a struct with `using scalar = float;` "
                "(or double), init, visit, merge and finish, as device/device.hpp says");
  if (cols == 0) return;
  if (cols <= 8)
    detail::fold_columns_by<8>(device, rows, cols, f);
  else
    detail::fold_columns_by<32>(device, rows, cols, f);
}

/// f(i) for i = 0 .. n - 1, a thread each.
template <class F>
void parallel_for(cuda_base& device, index n, const F& f) {
  if (n == 0) return;
  detail::launch(device, "parallel_for", {detail::grid_size(n, 64, 1 << 20), 64},
                 detail::parallel_for_kernel<F>, f, n);
}

/// x[r] = table[ids[r]], a block a row.
template <Precision P, class T>
void embed(basic_cuda<P>& device, frozen_matrix table, const std::int32_t* ids, matrix_view<T> x) {
  if (x.rows == 0) return;
  const unsigned threads = x.rows <= 64 ? 1024 : 128;  // of few rows all is read at once
  detail::launch(device, "embed", {static_cast<unsigned>(x.rows), threads}, detail::gather_rows_kernel<T>,
                 table, ids, x);
}
/// dtable[ids[r]] += dx[r], the rows of an id in their order: the same sums as the default's.
template <Precision P, class T>
void embed_backward(basic_cuda<P>& device, const std::int32_t* ids, const_view<T> dx, matrix_view<T> dtable) {
  const auto rows = static_cast<unsigned>(dx.rows),
             strips = static_cast<unsigned>(detail::blocks_for(dx.cols, 128));
  if (rows == 0 || strips == 0) return;
  auto sorted = device.template scratch<detail::row_of_id>(dx.rows);
  detail::launch(device, "embed's gradient",
                 {static_cast<unsigned>(detail::blocks_for(dx.rows, 32)), 32 * detail::sort_warps},
                 detail::sort_by_id_kernel<detail::sort_warps>, ids, static_cast<int>(rows), sorted.data());
  detail::launch(device, "embed's gradient", {dim3(rows, strips), 128}, detail::add_rows_of_ids_kernel<T>,
                 sorted.data(), dx.rows, dx, dtable);
}

}  // namespace distil_xlstm::device
