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

namespace initial {
inline auto constant(double value) {
  return [value](index, rng&) { return value; };
}
inline auto zeros() { return constant(0); }
inline auto ones() { return constant(1); }
inline auto normal(double standard_deviation) {
  return [standard_deviation](index, rng& r) { return standard_deviation * r.normal(); };
}
inline auto uniform(double bound) {
  return [bound](index, rng& r) { return r.uniform(-bound, bound); };
}
}  // namespace initial

/// Whether an optimiser's weight decay shrinks a tensor: matrices, but not biases, gains of norms, and skips.
enum class weight_decay : bool { no, yes };

/// One tensor of a description: its checkpoint name, shape and place.
struct manifest_entry {
  std::string name;
  std::vector<index> shape;
  index offset = 0;     ///< in numbers from the start of the arena
  index size = 0;       ///< numbers
  initializer initial;  ///< null: of a cache, nobody reads a number before it is written
  weight_decay decay = weight_decay::no;
};
using manifest = std::vector<manifest_entry>;

/// Replays a block's description: over no memory it measures, over an arena it binds views, and with a
/// manifest it names every tensor. One truth for weights, gradients, moments, states, tapes and files.
template <class T>
class layout {
 public:
  using scalar = T;
  using matrix_type = matrix_view<T>;
  using pointer = T*;
  static constexpr index alignment = 64 / static_cast<index>(sizeof(T));

  explicit layout(T* base = nullptr, manifest* names = nullptr) : base_(base), names_(names) {}

  /// A matrix that products read: `rows` x `cols`, contiguous.
  template <class Init = decltype(initial::zeros())>
  matrix_view<T> matrix(std::string_view name, index rows, index cols, Init init = initial::zeros(),
                        weight_decay decay = weight_decay::yes) {
    return {tensor(name, {rows, cols}, init, decay), rows, cols};
  }

  /// Any other tensor, row-major.
  template <class Init = decltype(initial::zeros())>
  T* tensor(std::string_view name, std::initializer_list<index> shape, Init init = initial::zeros(),
            weight_decay decay = weight_decay::no) {
    index size = 1;
    for (index n : shape) {
      require(n >= 0, "layout: tensor ", prefix_, name, " cannot have an extent of ", n);
      size *= n;
    }
    const index at = used_;
    used_ += (size + alignment - 1) / alignment * alignment;
    if (used_ > peak_) peak_ = used_;
    if (names_) names_->push_back({prefix_ + std::string(name), shape, at, size, init, decay});
    return base_ ? base_ + at : nullptr;
  }

  /// A part of the recurrent state of one sequence; sequences lie `sequence_stride` numbers apart.
  template <class Init = decltype(initial::zeros())>
  batched_state<T> state(std::string_view name, std::initializer_list<index> shape,
                         Init init = initial::zeros()) {
    return {tensor(name, shape, init), stride_};
  }
  void sequence_stride(index numbers) { stride_ = numbers; }
  /// Tokens of a text that its cache of keys and values holds, as the owner of the state declares; 0: there is
  /// no cache. A block whose state is such a cache says how many it `holds`.
  index capacity() const { return capacity_; }
  void capacity(index tokens) { capacity_ = tokens; }
  void holds(index tokens) { held_ = held_ > 0 && held_ < tokens ? held_ : tokens; }
  /// The fewest tokens that any part of the state holds; 0: the state has one size for any text.
  index held() const { return held_; }

  /// Names taken inside `f` get the prefix `name.`.
  template <class F>
  auto scope(std::string_view name, F&& f) {
    const std::size_t keep = prefix_.size();
    if (names_ && !name.empty()) (prefix_ += name) += '.';
    auto result = f();
    prefix_.resize(keep);
    return result;
  }

  /// A tape that no backward will read may reuse memory: `rewind` gives back all that was taken since `mark`.
  bool transient() const { return transient_; }
  void transient(bool on) { transient_ = on; }
  index mark() const { return used_; }
  void rewind(index mark) { used_ = mark; }

  /// Numbers needed in all.
  index size() const { return peak_; }

 private:
  T* base_;
  manifest* names_;
  index used_ = 0, peak_ = 0, stride_ = 0, capacity_ = 0, held_ = 0;
  bool transient_ = false;
  std::string prefix_;
};

/// A tensor as a file holds it.
struct stored_tensor {
  const void* data = nullptr;
  distil_xlstm::dtype dtype = dtype::f32;
  std::vector<index> shape;
};

/// Where frozen tensors stay: what it returns is where a device reads them.
template <class T>
class frozen_arena {
 public:
  virtual ~frozen_arena() = default;
  virtual frozen_matrix keep(const frozen_matrix& stored) = 0;
  virtual const T* keep(std::vector<T>&& numbers) = 0;
};

/// Binds a description to frozen tensors found by name: matrices as they are stored (bf16, quantised), the
/// small rest widened to T, both kept by `arena`. Throws `error` naming the tensor when a shape differs.
template <class T>
class frozen_layout {
 public:
  using scalar = T;
  using matrix_type = frozen_matrix;
  using pointer = const T*;
  using source = std::function<stored_tensor(const std::string&)>;

  frozen_layout(source find, frozen_arena<T>& arena) : find_(std::move(find)), arena_(&arena) {}

  template <class Init = int>
  frozen_matrix matrix(std::string_view name, index rows, index cols, Init = {}, weight_decay = {}) {
    const stored_tensor t = lookup(name, {rows, cols});
    return arena_->keep(frozen_matrix{t.data, t.dtype, rows, cols});
  }
  template <class Init = int>
  const T* tensor(std::string_view name, std::initializer_list<index> shape, Init = {}, weight_decay = {}) {
    const stored_tensor t = lookup(name, shape);
    index size = 1;
    for (index n : shape) size *= n;
    std::vector<T> numbers(static_cast<std::size_t>(size));
    unpack(t.dtype, t.data, size, numbers.data());
    return arena_->keep(std::move(numbers));
  }
  template <class F>
  auto scope(std::string_view name, F&& f) {
    const std::size_t keep = prefix_.size();
    if (!name.empty()) (prefix_ += name) += '.';
    auto result = f();
    prefix_.resize(keep);
    return result;
  }

 private:
  stored_tensor lookup(std::string_view name, std::initializer_list<index> shape) {
    const std::string full = prefix_ + std::string(name);
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
  std::string prefix_;
};

}  // namespace distil_xlstm
