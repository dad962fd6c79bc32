#pragma once

#include <cstdint>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::io {

/// To IEEE half precision, rounded to nearest even; what is too large becomes infinite.
std::uint16_t half_of(float x);

/// Stores n numbers as `type` at `to`: F32, Q8_0 or Q4_0; n must be a multiple of the block. False where a number, or a
/// block's scale, is then not finite. `unpack` is the way back.
///
/// A block of 32 numbers x has one scale d, kept in half precision, and
///   Q8_0: d = max |x| / 127,                            q = round(x / d), half away from 0,  32 signed bytes
///   Q4_0: d = the x that is largest by magnitude / -8,  q = min(15, floor(x / d + 8.5)),     byte j: q_j + 16 q_(j+16)
/// Source: ggml's reference quantisation, bit for bit, as the Python package gguf has it.
bool store_as(dtype type, const float* x, index n, void* to);

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/store_as.ipp>
#endif
