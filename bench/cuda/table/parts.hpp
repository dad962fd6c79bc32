#pragma once

#include <filesystem>

#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/device/cuda.hpp>

/// The parts of the table, each compiled for both precisions in the source that is named.
namespace distil_xlstm::bench {

/// @{ cells.cu: kernels alone.
template <Precision P>
void mlstm_cells(device::basic_cuda<P>& d);
template <Precision P>
void slstm_cells(device::basic_cuda<P>& d);
/// Of a linearised transformer's layer.
template <Precision P>
void linearised_parts(device::basic_cuda<P>& d);
/// @}

/// @{ steps.cu: whole steps of training.
template <Precision P>
void step(device::basic_cuda<P>& d, const char* name, const std::filesystem::path& teacher, index batch,
          index length, const char* peer);
/// Both stages of linearisation, five of SmolLM2's layers keeping their attention.
template <Precision P>
void linearised_steps(device::basic_cuda<P>& d, const std::filesystem::path& teacher);
/// @}

/// @{ decoding.cu: texts token by token, of a student and of a transformer.
template <Precision P>
void student_decodes(device::basic_cuda<P>& d);
template <Precision P>
void teacher_decodes(device::basic_cuda<P>& d);
/// @}

}  // namespace distil_xlstm::bench
