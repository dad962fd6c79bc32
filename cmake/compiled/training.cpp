// distil_xlstm::compiled: of training, in each precision, the loader and the signals of a transformer as a teacher,
// what describes the memory of mLSTM and sLSTM, and AdamW.
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/distil/teacher_source.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/optim/adamw.hpp>
#include <distil_xlstm/optim/gradient_norm.hpp>

namespace distil_xlstm {
DISTIL_XLSTM_COMPILED_LOAD_LLAMA(template, fp64, double)
DISTIL_XLSTM_COMPILED_LOAD_LLAMA(template, fp32, float)
DISTIL_XLSTM_COMPILED_LOAD_LLAMA(template, bf16_mixed, float)
DISTIL_XLSTM_COMPILED_LLAMA_SIGNALS(template, fp64, double)
DISTIL_XLSTM_COMPILED_LLAMA_SIGNALS(template, fp32, float)
DISTIL_XLSTM_COMPILED_LLAMA_SIGNALS(template, bf16_mixed, float)
DISTIL_XLSTM_COMPILED_MLSTM_LAYOUTS(template, double)
DISTIL_XLSTM_COMPILED_MLSTM_LAYOUTS(template, float)
DISTIL_XLSTM_COMPILED_SLSTM_LAYOUTS(template, double)
DISTIL_XLSTM_COMPILED_SLSTM_LAYOUTS(template, float)
DISTIL_XLSTM_COMPILED_GRADIENT_NORM(template, fp64, double)
DISTIL_XLSTM_COMPILED_GRADIENT_NORM(template, fp32, float)
DISTIL_XLSTM_COMPILED_GRADIENT_NORM(template, bf16_mixed, float)
DISTIL_XLSTM_COMPILED_ADAMW(template, fp64, double)
DISTIL_XLSTM_COMPILED_ADAMW(template, fp32, float)
DISTIL_XLSTM_COMPILED_ADAMW(template, bf16_mixed, float)
}  // namespace distil_xlstm
