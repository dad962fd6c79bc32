#pragma once

#include <algorithm>
#include <concepts>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/cpu/gemm.hpp>
#include <distil_xlstm/device/cpu/pack.hpp>
#include <distil_xlstm/device/cpu/thread_pool.hpp>
#include <distil_xlstm/device/cpu/usable_cores.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/precision.hpp>
#include <distil_xlstm/device/scratch.hpp>

namespace distil_xlstm::device {

namespace detail {
/// The host's memory, 64-byte aligned.
struct host_memory {
  void* allocate(index bytes) const {
    return ::operator new (static_cast<std::size_t>(bytes), std::align_val_t{64});
  }
  void release(void* p) const { ::operator delete (p, std::align_val_t{64}); }
};
using host_scratch = scratch_stack<host_memory>;
}  // namespace detail

/// What of the host does not depend on a precision: memory, threads, scratch.
class cpu_base {
 public:
  /// The host reads and writes this memory.
  static constexpr bool host_memory = true;
  /// Products of up to so many rows, and of more (up to 512), sum in two orders: within either, what a row
  /// gives does not depend on how many there are.
  static constexpr index few_rows = detail::direct_rows;
  /// Whether few rows of floats are multiplied with a matrix of this kind as it is stored. They are rounded to 8 bits,
  /// 32 numbers with a scale of their own: `testing::tolerance`.
  static constexpr bool multiplies_stored(dtype type) { return detail::multiplies_blocks(type); }

  /// 0 threads: as many as there are `usable_cores`. Throws `error` for a negative number.
  explicit cpu_base(int threads)
      : pool_(checked(threads) > 0 ? threads : usable_cores()),
        workers_(static_cast<std::size_t>(pool_.size())) {}

  /// Threads at work, the caller's among them.
  int threads() const { return pool_.size(); }

  /// Zeroed, 64-byte aligned.
  void* allocate(index bytes) {
    void* p = ::operator new (static_cast<std::size_t>(bytes), std::align_val_t{64});
    std::memset(p, 0, static_cast<std::size_t>(bytes));
    return p;
  }
  /// Gives back what `allocate` gave.
  void release(void* p) { ::operator delete (p, std::align_val_t{64}); }
  /// @{ Copies within the host's memory; the two may overlap.
  void upload(void* to, const void* from, index bytes) { copy(to, from, bytes); }
  void download(void* to, const void* from, index bytes) { copy(to, from, bytes); }
  void copy(void* to, const void* from, index bytes) {
    if (bytes > 0) std::memmove(to, from, static_cast<std::size_t>(bytes));
  }
  /// @}

  /// A lease of temporary memory for n numbers. Throws `error` where another thread has one.
  template <class T>
  scratch_lease<T, detail::host_memory> scratch(index n) {
    return {scratch_, n};
  }

  /// What one thread keeps for itself: packing buffers of its products and temporaries of its tasks.
  struct worker {
    /// @{ Packing buffers of products.
    detail::gemm_scratch<float> pack32;
    detail::gemm_scratch<double> pack64;
    /// @}
    detail::host_scratch stack;  ///< temporaries of tasks
    index levelled = 0;          ///< bytes when all workers had the same
    /// The packing buffer for products of T's.
    template <class T>
    detail::gemm_scratch<T>& packing() {
      if constexpr (sizeof(T) == 4)
        return pack32;
      else
        return pack64;
    }
    /// A lease of temporary memory for n numbers, while a task runs.
    template <class T>
    scratch_lease<T, detail::host_memory> scratch(index n) {
      return {stack, n};
    }
    /// Bytes at hand.
    index size() const { return stack.size() + pack32.size() + pack64.size(); }
  };
  /// What thread 0 .. threads() - 1 keeps for itself.
  worker& worker_of(int thread) { return workers_[static_cast<std::size_t>(thread)]; }

  /// f(task, worker&) for each of n tasks: the CPU's own fused kernels are written with it. Throws `error` where
  /// another thread is at work with this device.
  template <class F>
  void tasks(index n, const F& f) {
    const detail::one_caller::turn ours(scratch_.caller());
    level();
    pool_.run(n, [&](index i, int thread) { f(i, worker_of(thread)); });
  }

 private:
  static int checked(int threads) {
    require(threads >= 0, "cpu: ", threads, " threads are not possible; 0: as many as there are cores to use");
    return threads;
  }
  /// Gives every worker what one of them needed: which thread gets a task is chance, and a later step shall not
  /// find one that has yet to grow.
  void level() {
    bool grown = false;
    for (const worker& w : workers_) grown |= w.size() != w.levelled;
    if (!grown || workers_.size() < 2) return;
    index stack = 0;
    detail::gemm_scratch<float>::sizes most32{};
    detail::gemm_scratch<double>::sizes most64{};
    for (const worker& w : workers_) {
      stack = std::max(stack, w.stack.size());
      w.pack32.raise(most32), w.pack64.raise(most64);
    }
    for (worker& w : workers_) {
      w.stack.reserve(stack);
      w.pack32.reserve(most32), w.pack64.reserve(most64);
      w.levelled = w.size();
    }
  }
  thread_pool pool_;
  std::vector<worker> workers_;
  detail::host_scratch scratch_;
};

/// The host: Eigen's packs, our own product kernels, a pool of threads; 0 threads: as many as there are `usable_cores`.
/// One device serves one caller at a time, and says so to a second; several share a const model through a device each.
/// Throws `error` for a negative number of threads.
///
/// `basic_cpu<bf16_mixed>` is twice as fast where the machine has AVX512-BF16.
template <Precision P = fp32>
class basic_cpu : public cpu_base {
 public:
  /// @{ As the concept `Device` says.
  using precision = P;
  using scalar = typename P::scalar;
  /// @}
  /// 0 threads: as many as there are `usable_cores`.
  explicit basic_cpu(int threads = 0) : cpu_base(threads) {}
};
/// The CPU in float.
using cpu = basic_cpu<fp32>;

namespace detail {

template <class T>
gemm_operand operand(matrix_view<T> m) {
  return {m.data, m.stride, dtype_of<std::remove_const_t<T>>, false};
}
inline gemm_operand operand(frozen_matrix m) { return {m.data, m.cols, m.dtype, false}; }
template <class M>
gemm_operand operand(transposed_matrix<M> m) {
  gemm_operand o = operand(m.matrix);
  o.transposed = true;
  return o;
}
template <class T>
index rows_of(matrix_view<T> m) {
  return m.rows;
}
inline index rows_of(frozen_matrix m) { return m.rows; }
template <class T>
index cols_of(matrix_view<T> m) {
  return m.cols;
}
inline index cols_of(frozen_matrix m) { return m.cols; }
template <class M>
index rows_of(transposed_matrix<M> m) {
  return cols_of(m.matrix);
}
template <class M>
index cols_of(transposed_matrix<M> m) {
  return rows_of(m.matrix);
}

template <class A, class B, class T>
void require_product(const char* verb, A a, B b, matrix_view<T> c) {
  const index m = rows_of(a), k = cols_of(a), n = cols_of(b);
  require(rows_of(b) == k && c.rows == m && c.cols == n, verb, ": [", m, ", ", k, "] by [", rows_of(b), ", ", n,
          "] does not give [", c.rows, ", ", c.cols, "]");
}

/// The operand's part that starts at (row, col).
inline gemm_operand at(gemm_operand o, index row, index col) {
  if (o.transposed) std::swap(row, col);
  const char* p = static_cast<const char*>(o.data) + row * row_bytes(o.dtype, o.ld);
  o.data = p + row_bytes(o.dtype, col);
  return o;
}

/// Parts of nearly equal size, none much above `limit`, which begin at a multiple of `unit` (of a quantised
/// kind's block, say); the split depends on the size alone, never on the threads.
struct even_split {
  index size, parts, unit;
  even_split(index n, index limit, index u = 1) : size(n), parts((n + limit - 1) / limit), unit(u) {}
  index begin(index part) const { return part == parts ? size : size * part / parts / unit * unit; }
};

/// One product on the calling worker.
template <Precision P, class T>
void gemm_on(cpu_base::worker& w, index m, index n, index k, gemm_operand a, gemm_operand b, T beta, T* c,
             index ldc) {
  if constexpr (multiplies_in_bf16<P, T>) {
    // A few rows wait for memory, which rounding a float matrix on the way would not save.
    if (m > direct_rows || b.dtype == dtype::bf16)
      return gemm_block_bf16(m, n, k, a, b, beta, c, ldc, w.template packing<T>());
  }
  gemm_block<T>(m, n, k, a, b, beta, c, ldc, w.template packing<T>());
}

}  // namespace detail

template <class F>
void map(cpu_base& device, index rows, index cols, const F& f);

namespace detail {
/// c = beta c + the sum of `parts` matrices, one after another in memory.
template <class T>
struct sum_parts {
  using scalar = T;
  const T* part;
  index parts, size, cols;
  T beta;
  matrix_view<T> c;
  template <class V>
  void operator()(index r, index col) const {
    T* to = c.row(r) + col;
    V sum = V(beta) * math::load_if<V>(beta != T(0), to);
    for (index p = 0; p < parts; ++p) sum = sum + math::load<V>(part + p * size + r * cols + col);
    math::store<V>(to, sum);
  }
};
}  // namespace detail

namespace detail {
/// One of the products of a few rows.
template <class T>
struct product_of_few {
  gemm_operand b;
  matrix_view<T> c;
};
/// c = beta c + a b for each of `products`, whose b are transposed and stored alike. Each row of B's memory is read by
/// itself: parts are small enough that threads end together, and those of one thread follow one another in memory.
template <Precision P, class T>
void multiply_few(basic_cpu<P>& device, index k, gemm_operand a, std::span<const product_of_few<T>> products,
                  T beta) {
  const dtype stored = products.front().b.dtype;
  gemm_rows<T> left{products.front().c.rows, k, a.dtype, stored,
                    multiplies_in_bf16<P, T> && stored == dtype::bf16};
  const auto memory = device.template scratch<std::byte>(left.bytes());
  left.prepare(a, memory.data());
  const auto split = [](const product_of_few<T>& p) {
    return even_split(p.c.cols, p.c.cols > 4096 ? 128 : 32, 16);
  };
  index tasks = 0;
  for (const auto& p : products) tasks += split(p).parts;
  device.tasks(tasks, [&](index task, cpu_base::worker& w) {
    const auto* p = products.data();
    for (; task >= split(*p).parts; ++p) task -= split(*p).parts;
    const index c0 = split(*p).begin(task), c1 = split(*p).begin(task + 1);
    left.multiply(c1 - c0, at(p->b, 0, c0), beta, p->c.data + c0, p->c.stride, w.template packing<T>());
  });
}

/// Longer sums may be taken in parts.
inline constexpr index longest_sum = 4096;
/// c = beta c + a b, of operands whose types are known no more.
template <Precision P, class T>
void multiply(basic_cpu<P>& device, index k, gemm_operand a, gemm_operand b, matrix_view<T> c, T beta) {
  const index m = c.rows, n = c.cols;
  if (m == 0 || n == 0) return;
  const bool few = m <= direct_rows && !a.transposed && b.transposed;
  const even_split rows(m, 512),
      cols = few ? even_split(n, n > 4096 ? 512 : 96, 16) : even_split(n, m <= 16 ? 512 : 2048, 256);
  // A long sum over few results (a gradient through the head): parts of it, which share no packing, then their
  // sum; of up to 512 rows, whatever their number.
  const even_split parts(k, longest_sum, 256);
  if (rows.parts * even_split(n, 2048).parts < 8 && parts.parts > 1) {
    auto partial = device.template scratch<T>(parts.parts * m * n);
    device.tasks(parts.parts * rows.parts * cols.parts, [&](index task, cpu_base::worker& w) {
      const index p = task % parts.parts, r = task / parts.parts % rows.parts,
                  q = task / parts.parts / rows.parts;
      const index r0 = rows.begin(r), r1 = rows.begin(r + 1), c0 = cols.begin(q), c1 = cols.begin(q + 1);
      const index k0 = parts.begin(p), k1 = parts.begin(p + 1);
      gemm_on<P, T>(w, r1 - r0, c1 - c0, k1 - k0, at(a, r0, k0), at(b, k0, c0), T(0),
                    partial.data() + p * m * n + r0 * n + c0, n);
    });
    return map(device, m, n, sum_parts<T>{partial.data(), parts.parts, m * n, n, beta, c});
  }
  if (few) {
    const product_of_few<T> one{b, c};
    return multiply_few<P, T>(device, k, a, {&one, 1}, beta);
  }
  device.tasks(rows.parts * cols.parts, [&](index task, cpu_base::worker& w) {
    const index r = task % rows.parts, q = task / rows.parts;
    const index r0 = rows.begin(r), r1 = rows.begin(r + 1), c0 = cols.begin(q), c1 = cols.begin(q + 1);
    gemm_on<P, T>(w, r1 - r0, c1 - c0, k, at(a, r0, 0), at(b, 0, c0), beta, c.row(r0) + c0, c.stride);
  });
}

/// c = a b for each of `products`, none of which reads what another writes.
template <Precision P, class T>
void multiply_several(basic_cpu<P>& device, index k, gemm_operand a,
                      std::span<const product_of_few<T>> products) {
  const bool few =
      k <= longest_sum && !a.transposed && std::all_of(products.begin(), products.end(), [&](const auto& p) {
        return p.c.rows > 0 && p.c.rows <= direct_rows && p.b.transposed &&
               p.b.dtype == products.front().b.dtype;
      });
  if (few) return multiply_few<P, T>(device, k, a, products, T(0));
  for (const auto& p : products) multiply<P, T>(device, k, a, p.b, p.c, T(0));
}

/// `count` such products: item i's operands start i * step numbers further on.
template <Precision P, class T>
void multiply_batched(basic_cpu<P>& device, index count, index k, gemm_operand a, index step_a, gemm_operand b,
                      index step_b, matrix_view<T> c, index step_c, T beta) {
  const even_split rows(c.rows, 512);
  device.tasks(count * rows.parts, [&](index task, cpu_base::worker& w) {
    const index i = task / rows.parts, r0 = rows.begin(task % rows.parts),
                r1 = rows.begin(task % rows.parts + 1);
    gemm_operand ai = at(a, r0, 0), bi = b;
    ai.data = static_cast<const char*>(ai.data) + row_bytes(ai.dtype, i * step_a);
    bi.data = static_cast<const char*>(bi.data) + row_bytes(bi.dtype, i * step_b);
    gemm_on<P, T>(w, r1 - r0, c.cols, k, ai, bi, beta, c.row(r0) + i * step_c, c.stride);
  });
}
}  // namespace detail

/// c = beta c + a b.
template <Precision P, class A, class B, class T>
void gemm(basic_cpu<P>& device, A a, B b, matrix_view<T> c, std::type_identity_t<T> beta = 0) {
  detail::require_product("gemm", a, b, c);
  detail::multiply<P, T>(device, detail::cols_of(a), detail::operand(a), detail::operand(b), c, beta);
}

/// `count` products of one shape: item i's operands start i * step numbers further on.
template <Precision P, class A, class B, class T>
void gemm_batched(basic_cpu<P>& device, index count, A a, index step_a, B b, index step_b, matrix_view<T> c,
                  index step_c, std::type_identity_t<T> beta = 0) {
  require(
      detail::rows_of(b) == detail::cols_of(a) && c.rows == detail::rows_of(a) && c.cols == detail::cols_of(b),
      "gemm_batched: operands do not fit");
  detail::multiply_batched<P, T>(device, count, detail::cols_of(a), detail::operand(a), step_a,
                                 detail::operand(b), step_b, c, step_c, beta);
}

namespace detail {
template <class F>
concept HasScalar = std::floating_point<typename F::scalar>;
/// Enough elements that a task is worth handing out.
inline constexpr index task_elements = 16384;
inline index rows_a_task(index cols) {
  return cols >= task_elements ? 1 : task_elements / (cols > 0 ? cols : 1);
}
}  // namespace detail

/// `f.operator()<V>(r, c)` for every element; `F::scalar` names the number type, so that the pack's width is known.
template <class F>
void map(cpu_base& device, index rows, index cols, const F& f) {
  static_assert(
      detail::HasScalar<F>,
      "distil_xlstm::map(device, rows, cols, f): f is a struct with `using scalar = float;` (or double) and "
      "`template <class V> void operator()(index r, index c) const`");
  using T = typename F::scalar;
  using V = pack<T>;
  const index block = detail::rows_a_task(cols), parts = (rows + block - 1) / block;
  device.tasks(parts, [&](index part, cpu_base::worker&) {
    const index end = std::min(rows, (part + 1) * block);
    for (index r = part * block; r < end; ++r) {
      index c = 0;
      for (; c + V::width <= cols; c += V::width) f.template operator()<V>(r, c);
      for (; c < cols; ++c) f.template operator()<T>(r, c);
    }
  });
}

namespace detail {
/// What becomes a V, and nothing else.
template <class V>
struct becomes {
  operator V() const;
};
/// Whether an aggregate is made of as many V's and nothing else; its size does not say: a V's alignment hides a number
/// beside it.
template <class Aggregate, class V, std::size_t... I>
constexpr bool made_of(std::index_sequence<I...>) {
  return !std::is_aggregate_v<Aggregate> || requires { Aggregate{(void(I), becomes<V>())...}; };
}
/// Lane `lane` of an aggregate of packs, as the aggregate of scalars.
template <class Wide, class Narrow, class T>
void lane_of(const Wide& wide, index lane, Narrow& narrow) {
  constexpr std::size_t members = sizeof(Narrow) / sizeof(T);
  static_assert(
      sizeof(Wide) == members * sizeof(pack<T>) && made_of<Wide, pack<T>>(std::make_index_sequence<members>()),
      "distil_xlstm::fold_rows(device, rows, cols, f): f's acc<V> must hold V's only; write V instead of "
      "float or int");
  auto* out = reinterpret_cast<std::byte*>(&narrow);
  const auto* in = reinterpret_cast<const std::byte*>(&wide) + static_cast<std::size_t>(lane) * sizeof(T);
  for (std::size_t m = 0; m < members; ++m)
    std::memcpy(out + m * sizeof(T), in + m * sizeof(pack<T>), sizeof(T));
}
}  // namespace detail

/// One fold a row.
template <class F>
void fold_rows(cpu_base& device, index rows, index cols, const F& f) {
  static_assert(
      detail::HasScalar<F>,
      "distil_xlstm::fold_rows(device, rows, cols, f): f is a struct with `using scalar = float;` (or double), "
      "init, visit, merge and finish, as device/device.hpp says");
  using T = typename F::scalar;
  using V = pack<T>;
  const index block = detail::rows_a_task(cols), parts = (rows + block - 1) / block;
  device.tasks(parts, [&](index part, cpu_base::worker&) {
    const index end = std::min(rows, (part + 1) * block);
    for (index r = part * block; r < end; ++r) {
      auto total = f.template init<T>();
      index c = 0;
      if (cols >= V::width) {
        auto wide = f.template init<V>();
        for (; c + V::width <= cols; c += V::width) f.template visit<V>(wide, r, c);
        for (index lane = 0; lane < V::width; ++lane) {
          auto narrow = f.template init<T>();
          detail::lane_of<decltype(wide), decltype(narrow), T>(wide, lane, narrow);
          f.merge(total, narrow);
        }
      }
      for (; c < cols; ++c) f.template visit<T>(total, r, c);
      f.finish(r, total);
    }
  });
}

/// One fold a column, rows in order.
template <class F>
void fold_columns(cpu_base& device, index rows, index cols, const F& f) {
  static_assert(
      detail::HasScalar<F>,
      "distil_xlstm::fold_columns(device, rows, cols, f): f is a struct with `using scalar = float;` (or "
      "double), init, visit and finish, as device/device.hpp says");
  using T = typename F::scalar;
  using V = pack<T>;
  constexpr index block = 4 * V::width;  // whole cache lines, and few enough accumulators for registers
  device.tasks((cols + block - 1) / block, [&](index part, cpu_base::worker&) {
    index c = part * block;
    const index end = std::min(cols, c + block);
    for (; c + V::width <= end; c += V::width) {
      auto acc = f.template init<V>();
      for (index r = 0; r < rows; ++r) f.template visit<V>(acc, r, c);
      f.template finish<V>(c, acc);
    }
    for (; c < end; ++c) {
      auto acc = f.template init<T>();
      for (index r = 0; r < rows; ++r) f.template visit<T>(acc, r, c);
      f.template finish<T>(c, acc);
    }
  });
}

/// f(i) for i = 0 .. n - 1, in any order.
template <class F>
void parallel_for(cpu_base& device, index n, const F& f) {
  device.tasks(n, [&](index i, cpu_base::worker&) { f(i); });
}

}  // namespace distil_xlstm::device
