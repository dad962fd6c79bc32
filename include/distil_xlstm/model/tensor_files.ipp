#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/model/tensor_files.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE bool all_finite(const stored_tensor& t) {
  index size = 1;
  for (const index n : t.shape) size *= n;
  const auto* p = static_cast<const std::uint8_t*>(t.data);
  // A number whose exponent is all ones is infinite or NaN. No early way out, so that the loop vectorises.
  const auto exponents = [&]<class U>(U mask) {
    constexpr index width = sizeof(U);
    bool good = true;
    for (index i = 0; i < size; ++i) good &= (detail::load_bytes<U>(p + i * width) & mask) != mask;
    return good;
  };
  switch (t.dtype) {
    case dtype::f64: return exponents(std::uint64_t{0x7ff0000000000000});
    case dtype::f32: return exponents(std::uint32_t{0x7f800000});
    case dtype::bf16: return exponents(std::uint16_t{0x7f80});
    case dtype::f16: return exponents(std::uint16_t{0x7c00});
    default: break;
  }
  const auto [numbers, bytes, name] = traits(t.dtype);
  if (numbers == 1) return true;
  float block[256];
  for (index i = 0; i < size; i += numbers, p += bytes) {
    unpack(t.dtype, p, numbers, block);
    if (!std::all_of(block, block + numbers, [](float x) { return std::isfinite(x); })) return false;
  }
  return true;
}

DISTIL_XLSTM_INLINE void require_finite(const stored_tensor& t, const std::string& name,
                                        const std::string& file) {
  require(all_finite(t), file, ": tensor ", name, " holds a number that is not finite");
}

}  // namespace distil_xlstm

namespace distil_xlstm::detail {

DISTIL_XLSTM_INLINE void convert_row::operator()(index r) const {
  index source = r;
  if (head_dim > 0) {
    const index half = head_dim / 2, within = r % head_dim;
    source = r - within + 2 * (within % half) + within / half;
  }
  const index cols = from.shape.size() > 1 ? from.shape[1] : 1, bytes = row_bytes(from.dtype, cols);
  const auto* row = static_cast<const std::byte*>(from.data) + source * bytes;
  if (widen)
    unpack(from.dtype, row, cols, reinterpret_cast<float*>(to) + r * cols);
  else
    std::memcpy(to + r * bytes, row, static_cast<std::size_t>(bytes));
}

}  // namespace distil_xlstm::detail
