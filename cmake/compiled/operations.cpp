// distil_xlstm::compiled: the CPU's operations of each precision.
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/device/cpu/gemm.ipp>

namespace distil_xlstm {
template void device::detail::gemm_block(index, index, index, device::detail::gemm_operand,
                                         device::detail::gemm_operand, float, float*, index,
                                         device::detail::gemm_scratch<float>&);
template void device::detail::gemm_block(index, index, index, device::detail::gemm_operand,
                                         device::detail::gemm_operand, double, double*, index,
                                         device::detail::gemm_scratch<double>&);
template struct device::detail::gemm_rows<float>;
template struct device::detail::gemm_rows<double>;
DISTIL_XLSTM_EACH_PRECISION(DISTIL_XLSTM_COMPILED_OPERATIONS, template)
}  // namespace distil_xlstm
