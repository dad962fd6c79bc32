#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/layout.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>

namespace distil_xlstm {

/// The frozen tensors of a model, where its device reads them. A device that shares the host's memory reads
/// matrices where they are, in a mapped file for one, and as they are stored. Another gets a copy of each,
/// once: BF16 as it is where products are in bfloat16; F64 for T = double as it is; everything else, quantised kinds
/// too, as F32, and where products are in bfloat16 a bfloat16 copy beside it. Matrices that are kept one
/// after another mostly lie so, each type for itself: a device may take neighbours for one. It must outlive its
/// copies.
template <class T, class D>
class frozen_memory final : public frozen_arena<T> {
 public:
  /// Refers to `device`.
  explicit frozen_memory(D& device) : device_(&device) {}

  /// `stored` lies in the host's memory, which must live on where the device shares it. Null stays null.
  frozen_matrix keep(const frozen_matrix& stored) override {
    if constexpr (D::host_memory) {
      return stored;
    } else {
      if (!stored.data || stored.rows * stored.cols == 0) return stored;
      constexpr bool round = multiplies_in_bf16<typename D::precision, T>;
      frozen_matrix kept{nullptr, dtype::f32, stored.rows, stored.cols};
      if (stored.dtype == dtype::bf16 && round) {
        kept.dtype = dtype::bf16;
        kept.data = upload<bf16>(half_, stored, [](const void* from, index n, bf16* to) {
          std::copy_n(static_cast<const std::byte*>(from), static_cast<std::size_t>(n) * sizeof(bf16),
                      reinterpret_cast<std::byte*>(to));
        });
      } else if (stored.dtype == dtype::f64 && sizeof(T) == sizeof(double)) {
        kept.dtype = dtype::f64;
        kept.data = upload<double>(whole_, stored, unpacked_as<double>(stored.dtype));
      } else {
        kept.data = upload<float>(whole_, stored, unpacked_as<float>(stored.dtype));
        if constexpr (round) {
          std::vector<float> wide;
          kept.bf16_copy = upload<bf16>(half_, stored, [&](const void* from, index n, bf16* to) {
            wide.resize(static_cast<std::size_t>(n));
            unpack(stored.dtype, from, n, wide.data());
            std::transform(wide.begin(), wide.end(), to, [](float x) { return bf16(x); });
          });
        }
      }
      return kept;
    }
  }
  /// In memory of its own, of the device.
  const T* keep(std::vector<T>&& numbers) override {
    if constexpr (D::host_memory) {
      return numbers_.emplace_back(std::move(numbers)).data();
    } else {
      const index bytes = std::ssize(numbers) * static_cast<index>(sizeof(T));
      auto& copy = copies_.emplace_back(*device_, bytes);
      device_->upload(copy.data(), numbers.data(), bytes);
      return reinterpret_cast<const T*>(copy.data());
    }
  }

 private:
  /// Matrices one behind another, in pieces of memory that grow with the model.
  class arena {
   public:
    std::byte* take(D& device, index bytes) {
      bytes = (bytes + alignment - 1) / alignment * alignment;
      if (pieces_.empty() || used_ + bytes > pieces_.back().size()) {
        const index next = std::clamp<index>(total_, index{1} << 20, index{256} << 20);
        pieces_.emplace_back(device, std::max(bytes, next));
        total_ += pieces_.back().size(), used_ = 0;
      }
      return pieces_.back().data() + std::exchange(used_, used_ + bytes);
    }

   private:
    static constexpr index alignment = 256;
    std::vector<buffer<std::byte, D>> pieces_;
    index used_ = 0, total_ = 0;
  };
  template <class Out>
  static auto unpacked_as(dtype type) {
    return [type](const void* from, index n, Out* to) { unpack(type, from, n, to); };
  }
  /// The whole matrix as `Out`, a few rows at a time.
  template <class Out, class Convert>
  const void* upload(arena& memory, const frozen_matrix& m, const Convert& convert) {
    constexpr index size = sizeof(Out), piece = index{1} << 20;
    std::byte* copy = memory.take(*device_, m.rows * m.cols * size);
    const index rows = std::clamp<index>(piece / m.cols, 1, m.rows);
    std::vector<Out> part(static_cast<std::size_t>(rows * m.cols));
    for (index first = 0; first < m.rows; first += rows) {
      const index n = std::min(rows, m.rows - first) * m.cols;
      convert(m.row(first), n, part.data());
      device_->upload(copy + first * m.cols * size, part.data(), n * size);
    }
    return copy;
  }

  D* device_;
  arena whole_, half_;
  std::vector<buffer<std::byte, D>> copies_;  ///< of what is no matrix
  std::vector<std::vector<T>> numbers_;
};

/// Embedding and head of a student, where its device reads them, and what keeps them alive.
struct embedding_and_head {
  /// @{ [vocabulary, width]; one matrix may be both.
  frozen_matrix embedding, head;
  /// @}
  std::shared_ptr<const void> owner;  ///< both live as long as this or a copy of it
};

/// Puts an embedding and a head that lie in the host's memory, which `owner` keeps alive, where the device reads
/// them: nothing moves where it shares that memory. One matrix for both stays one.
template <class T, class D>
embedding_and_head upload_embedding_and_head(D& device, const frozen_matrix& embedding,
                                             const frozen_matrix& head, std::shared_ptr<const void> owner) {
  if constexpr (D::host_memory) {
    return {embedding, head, std::move(owner)};
  } else {
    auto memory = std::make_shared<frozen_memory<T, D>>(device);
    embedding_and_head both{memory->keep(embedding), {}, nullptr};
    both.head = head.data == embedding.data ? both.embedding : memory->keep(head);
    both.owner = std::move(memory);
    return both;
  }
}

/// Calls use(row, values) for every row of a frozen matrix of a device, its numbers widened to T.
template <class T, class D, class F>
void for_each_frozen_row(D& device, const frozen_matrix& m, const F& use) {
  const index bytes = row_bytes(m.dtype, m.cols);
  const index rows =
      std::clamp<index>((index{1} << 22) / std::max<index>(bytes, 1), 1, std::max<index>(m.rows, 1));
  host_copy<std::byte, D> part;
  std::vector<T> values(static_cast<std::size_t>(m.cols));
  for (index first = 0; first < m.rows; first += rows) {
    const index n = std::min(rows, m.rows - first);
    const std::byte* at = part.get(device, static_cast<const std::byte*>(m.row(first)), n * bytes);
    for (index r = 0; r < n; ++r) {
      unpack(m.dtype, at + r * bytes, m.cols, values.data());
      use(first + r, static_cast<const T*>(values.data()));
    }
  }
}

namespace detail {
/// The middle row of a matrix of a device, which tells it from others'; nothing of one without data.
template <class D>
std::vector<double> middle_row(D& device, const frozen_matrix& m) {
  std::vector<double> out;
  if (m.data && m.rows > 0)
    for_each_frozen_row<double>(device, frozen_matrix{m.row(m.rows / 2), m.dtype, 1, m.cols},
                                [&](index, const double* row) { out.assign(row, row + m.cols); });
  return out;
}
/// Whether two rows may be one teacher's, but for how each is stored: |a - b|² <= (|a|² + |b|²) / 4. Nothing may be
/// any.
inline bool alike(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.empty() || b.empty()) return true;
  if (a.size() != b.size()) return false;
  double apart = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    apart += (a[i] - b[i]) * (a[i] - b[i]), size += a[i] * a[i] + b[i] * b[i];
  return apart <= 0.25 * size;
}
}  // namespace detail

}  // namespace distil_xlstm
