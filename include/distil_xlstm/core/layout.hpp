#pragma once

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/core/view.hpp>

namespace distil_xlstm {

/// Where a number of a tensor starts: a function of its flat index and a random source.
using initializer = std::function<double(index, rng&)>;

/// Where tensors start: initialisers for `layout`.
namespace initial {
/// Everywhere this number.
inline auto constant(double value) {
  return [value](index, rng&) { return value; };
}
/// 0.
inline auto zeros() { return constant(0); }
/// 1.
inline auto ones() { return constant(1); }
/// n numbers evenly spaced, from `first` to `last`.
inline auto spaced(double first, double last, index n) {
  return [=](index i, rng&) {
    return n > 1 ? first + (last - first) * static_cast<double>(i) / static_cast<double>(n - 1) : first;
  };
}
/// Normal with mean 0.
inline auto normal(double standard_deviation) {
  return [standard_deviation](index, rng& r) { return standard_deviation * r.normal(); };
}
/// Uniform in [-bound, bound).
inline auto uniform(double bound) {
  return [bound](index, rng& r) { return r.uniform(-bound, bound); };
}
}  // namespace initial

/// Whether an optimiser's weight decay shrinks a tensor: matrices, but not biases, gains of norms, and skips.
enum class weight_decay : bool { no, yes };

/// One tensor of a description: its checkpoint name, shape and place.
struct manifest_entry {
  std::string name;                       ///< with the prefixes of its scopes
  std::vector<index> shape;               ///< row-major
  index offset = 0;                       ///< in numbers from the start of the arena
  index size = 0;                         ///< numbers
  initializer initial;                    ///< null: of a cache, nobody reads a number before it is written
  weight_decay decay = weight_decay::no;  ///< whether it shrinks the tensor
};
/// All tensors of a description, in its order.
using manifest = std::vector<manifest_entry>;

namespace detail {

/// The prefix that names have inside scopes. Its functions are called wherever a block is described: no inlined copies.
class name_prefix {
 public:
  [[gnu::noinline]] std::string with(std::string_view name) const { return text_ + std::string(name); }

  /// While it lives, the prefix is longer by `name.`, if there is a name.
  class scope {
   public:
    [[gnu::noinline]] scope(name_prefix& prefix, std::string_view name)
        : text_(&prefix.text_), keep_(text_->size()) {
      if (!name.empty()) (*text_ += name) += '.';
    }
    scope(const scope&) = delete;
    scope& operator=(const scope&) = delete;
    [[gnu::noinline]] ~scope() { text_->resize(keep_); }

   private:
    std::string* text_;
    std::size_t keep_;
  };

 private:
  std::string text_;
};

/// What of a `layout` is the same for all types of numbers.
class layout_base {
 public:
  /// For the states that follow: how far apart sequences lie, the `size()` of one's whole state.
  void sequence_stride(index numbers) { stride_ = numbers; }
  /// Tokens of a text that its cache of keys and values holds, as the owner of the state declares; 0: there is
  /// no cache. A block whose state is such a cache says how many it `holds`.
  index capacity() const { return capacity_; }
  /// Declares them, before a state is described.
  void capacity(index tokens) { capacity_ = tokens; }
  /// A cache in this state holds so many tokens.
  void holds(index tokens) { held_ = held_ > 0 && held_ < tokens ? held_ : tokens; }
  /// The fewest tokens that any part of the state holds; 0: the state has one size for any text.
  index held() const { return held_; }

  /// Names taken inside `f` get the prefix `name.`; returns what f does.
  template <class F>
  auto scope(std::string_view name, F&& f) {
    const name_prefix::scope inside(prefix_, names_ ? name : std::string_view());
    return f();
  }

  /// A tape that no backward will read may reuse memory: `rewind` gives back all that was taken since `mark`.
  bool transient() const { return transient_; }
  /// Says of the tape that follows whether a backward will not read it.
  void transient(bool on) { transient_ = on; }
  /// Where a backward will read the tape, operands of products are stored in half the memory of numbers.
  bool half_operands() const { return half_operands_ && !transient_; }
  /// Says of the tape that follows whether its device's `operand_t` is so small.
  void half_operands(bool on) { half_operands_ = on; }
  /// Numbers taken now.
  index mark() const { return used_; }
  /// The next tensor starts there.
  void rewind(index mark) { used_ = mark; }

  /// Numbers needed in all, each at its time.
  index size() const { return peak_; }

 protected:
  explicit layout_base(manifest* names) : names_(names) {}
  /// Where a tensor begins; the last of the names, if they are asked for, is its.
  [[gnu::noinline]] index take(std::string_view name, std::initializer_list<index> shape, weight_decay decay,
                               index alignment) {
    index size = 1;
    for (index n : shape) {
      require(n >= 0, "layout: tensor ", prefix_.with(name), " cannot have an extent of ", n);
      size *= n;
    }
    const index at = used_;
    used_ += (size + alignment - 1) / alignment * alignment;
    if (used_ > peak_) peak_ = used_;
    if (names_) names_->push_back({prefix_.with(name), shape, at, size, nullptr, decay});
    return at;
  }
  manifest* names_;
  index stride_ = 0;

 private:
  index used_ = 0, peak_ = 0, capacity_ = 0, held_ = 0;
  bool transient_ = false, half_operands_ = false;
  name_prefix prefix_;
};

}  // namespace detail

/// Replays a block's description: over no memory it measures, over an arena it binds views, and with a
/// manifest it names every tensor. One truth for weights, gradients, moments, states, tapes and files.
template <class T>
class layout : public detail::layout_base {
 public:
  /// @name What a description binds to
  /// @{

  /// Of `layout` or `frozen_layout`: its numbers, what `matrix` gives, what `tensor` gives.
  using scalar = T;
  using matrix_type = matrix_view<T>;
  using pointer = T*;
  /// @}
  /// Every tensor starts at a multiple of so many numbers, which are 64 bytes.
  static constexpr index alignment = 64 / static_cast<index>(sizeof(T));

  /// `base` is an arena of as many numbers as a layout over no memory (null) says by `size()`; that one gives null
  /// views. `names` gets an entry a tensor. Neither is owned.
  explicit layout(T* base = nullptr, manifest* names = nullptr) : layout_base(names), base_(base) {}

  /// A matrix that products read: [rows, cols], contiguous.
  template <class Init = decltype(initial::zeros())>
  matrix_view<T> matrix(std::string_view name, index rows, index cols, Init init = initial::zeros(),
                        weight_decay decay = weight_decay::yes) {
    return {tensor(name, {rows, cols}, init, decay), rows, cols};
  }

  /// Of a tape, a matrix that products alone read: where a backward will, it has no more memory than the device's
  /// `operand_t`, as which it is stored then, may need: rows and cols count operands, and who reads it as T reads
  /// beyond it.
  matrix_view<T> operand(std::string_view name, index rows, index cols) {
    if (!half_operands()) return matrix(name, rows, cols);
    return {tensor(name, {rows, (cols + 1) / 2}), rows, cols};
  }

  /// Any other tensor, row-major. Throws `error` where an extent is negative.
  template <class Init = decltype(initial::zeros())>
  T* tensor(std::string_view name, std::initializer_list<index> shape, Init init = initial::zeros(),
            weight_decay decay = weight_decay::no) {
    const index at = take(name, shape, decay, alignment);
    if (names_) names_->back().initial = init;
    return base_ ? base_ + at : nullptr;
  }

  /// A part of the recurrent state of one sequence; sequences lie `sequence_stride` numbers apart.
  template <class Init = decltype(initial::zeros())>
  batched_state<T> state(std::string_view name, std::initializer_list<index> shape,
                         Init init = initial::zeros()) {
    return {tensor(name, shape, init), stride_};
  }

 private:
  T* base_;
};

/// A tensor as a file holds it.
struct stored_tensor {
  const void* data = nullptr;              ///< of the file, or who found it: valid until it is kept
  distil_xlstm::dtype dtype = dtype::f32;  ///< how each number, or block of a row's numbers, is stored
  std::vector<index> shape;                ///< row-major
};

/// Where frozen tensors stay, as long as it lives.
template <class T>
class frozen_arena {
 public:
  virtual ~frozen_arena() = default;
  /// The matrix as a device reads it: `stored` itself, which must then live on, or a copy.
  virtual frozen_matrix keep(const frozen_matrix& stored) = 0;
  /// The numbers, where a device reads them.
  virtual const T* keep(std::vector<T>&& numbers) = 0;
};

/// Binds a description to frozen tensors found by name: matrices as they are stored (bf16, quantised), the
/// small rest widened to T, both kept by `arena`. Throws `error` naming the tensor when a shape differs.
template <class T>
class frozen_layout {
 public:
  /// @name What a description binds to
  /// @{

  /// Of `layout` or `frozen_layout`: its numbers, what `matrix` gives, what `tensor` gives.
  using scalar = T;
  using matrix_type = frozen_matrix;
  using pointer = const T*;
  /// @}
  /// Finds a tensor by its name, prefixes included; throws `error` where there is none.
  using source = std::function<stored_tensor(const std::string&)>;

  /// Refers to `arena`.
  frozen_layout(source find, frozen_arena<T>& arena) : find_(std::move(find)), arena_(&arena) {}

  /// The matrix [rows, cols] of this name, as it is stored. How a trainable one begins says nothing here.
  template <class Init = int>
  frozen_matrix matrix(std::string_view name, index rows, index cols, Init = {}, weight_decay = {}) {
    const stored_tensor t = lookup(name, {rows, cols});
    return arena_->keep(frozen_matrix{t.data, t.dtype, rows, cols});
  }
  /// Any other tensor, widened to T.
  template <class Init = int>
  const T* tensor(std::string_view name, std::initializer_list<index> shape, Init = {}, weight_decay = {}) {
    const stored_tensor t = lookup(name, shape);
    index size = 1;
    for (index n : shape) size *= n;
    std::vector<T> numbers(static_cast<std::size_t>(size));
    unpack(t.dtype, t.data, size, numbers.data());
    return arena_->keep(std::move(numbers));
  }
  /// Names looked up inside `f` get the prefix `name.`; returns what f does.
  template <class F>
  auto scope(std::string_view name, F&& f) {
    const detail::name_prefix::scope inside(prefix_, name);
    return f();
  }

 private:
  stored_tensor lookup(std::string_view name, std::initializer_list<index> shape) {
    const std::string full = prefix_.with(name);
    stored_tensor t = find_(full);
    const std::vector<index> wanted = shape;
    if (t.shape != wanted) {
      auto text = [](const std::vector<index>& s) {
        std::string out = "[";
        for (index n : s) out += (out.size() > 1 ? ", " : "") + std::to_string(n);
        return out + "]";
      };
      fail("tensor ", full, " has shape ", text(t.shape), ", the configuration asks for ", text(wanted));
    }
    return t;
  }
  source find_;
  frozen_arena<T>* arena_;
  detail::name_prefix prefix_;
};

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
/// What describes the memory of `block`, a type such as mlstm, in numbers of T, with `keyword` extern template or
/// template.
#define DISTIL_XLSTM_COMPILED_LAYOUTS(keyword, block, T) \
  keyword auto block::params(layout<T>&) const;          \
  keyword auto block::params(layout<const T>&) const;    \
  keyword auto block::state(layout<T>&) const;           \
  keyword auto block::tape(layout<T>&, sequence_view) const;
#endif
