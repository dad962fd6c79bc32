#pragma once

#include <filesystem>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// What `quantise` has written.
struct quantised_model {
  /// @{
  /// Tensors, and those of them that are quantised; their numbers.
  index tensors = 0, matrices = 0, numbers = 0, quantised_numbers = 0;
  /// @}
  index bytes = 0;  ///< of all tensors, as stored
};

/// Writes a model, whatever `load_language_model` reads, into one GGUF file: its matrices as `type`, Q8_0 or Q4_0,
/// embedding and head as Q8_0, and the rest as F32. A matrix is a tensor of two dimensions whose rows are multiples of
/// 32, but for the small ones that gate a cell (igate, fgate, gates, igate_preact, fgate_preact). What is stored as
/// that already is copied as it is.
///
/// A transformer gets the names and keys of its architecture, as llama.cpp's converter gives them; those of a GGUF
/// file are copied. Every other family keeps the names of its safetensors, and the key distil_xlstm.config holds its
/// config.json. The tokenizer is in the keys tokenizer.*, where the model has one. The file is written aside and
/// renamed. Throws `error` as the loaders do, or where GGUF has no key for what the model does.
template <class Result = quantised_model>
Result quantise(const std::filesystem::path& model, dtype type, const std::filesystem::path& out);

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
namespace distil_xlstm {
extern template quantised_model quantise(const std::filesystem::path&, dtype, const std::filesystem::path&);
}  // namespace distil_xlstm
#endif
#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/quantise.ipp>
#endif
